"""The files beside a tokenizer.json, or beside vocab.json and merges.txt, which name further tokens and their roles."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from npgpt.support.files import read_json
from npgpt.tokenizer.added import FLAGS, is_text
from npgpt.tokenizer.document import added_token

ADDED, MAP, CONFIG = "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")

Tokens = dict[str, dict[str, Any]]  # {name: what added_tokens of a tokenizer.json say of it}


def with_neighbours(content: dict[str, Any], folder: Path) -> tuple[dict[str, Any], str | None]:
    """Return a tokenizer.json with what the files beside it say of added tokens, and the name of its end token.

    A token that has a role but no id gets the next one, as in transformers. Raises ValueError, naming the file, for one
    that contradicts the tokenizer.json.
    """
    if not is_sound(content):
        return content, None  # from_json refuses it, and says why
    model, added = content["model"], content.get("added_tokens") or []
    vocab: dict[str, int] = model["vocab"]
    files = {name: read_json(folder / name) for name in (ADDED, MAP, CONFIG) if (folder / name).is_file()}
    if files.get(CONFIG, {}).get("add_prefix_space"):
        raise ValueError(f"{folder / CONFIG}: add_prefix_space=true is not supported, only false")
    tokens: Tokens = {token["content"]: token for token in added}
    for name, file in files.items():
        try:
            add_tokens(tokens, vocab, [*legacy_tokens(file)] if name == ADDED else [*decoder_tokens(file)])
        except ValueError as error:
            raise ValueError(f"{folder / name}: {error}") from None
    end = None
    for name in (MAP, CONFIG):  # what the second says counts
        for role, token in named_tokens(files.get(name, {})):
            if token not in tokens and token not in vocab:  # transformers gives it the next id
                tokens[token] = added_token(next_id(tokens, vocab), token, special=True)
            make_special(tokens, token, model)
            end = token if role == "eos_token" else end
    return content | {"added_tokens": list(tokens.values())}, end


def next_id(tokens: Tokens, vocab: Mapping[str, int]) -> int:
    """Return the id that `tokenizers` gives to the next added token: after the number of tokens and all added ids."""
    return max([len(vocab), *(token["id"] + 1 for token in tokens.values())])


def make_special(tokens: Tokens, name: str, model: Mapping[str, Any]) -> None:
    """Make a token special. One of the vocabulary that is no token of text becomes an added token."""
    if name in tokens:
        tokens[name] = tokens[name] | {"special": True}
    elif not is_text(name, model.get("merges")):
        tokens[name] = added_token(model["vocab"][name], name, special=True)


def is_sound(content: Mapping[str, Any]) -> bool:
    """Say whether a tokenizer.json has a vocabulary {name: id} and added tokens with names and ids."""
    model, added = content.get("model"), content.get("added_tokens") or []
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not (isinstance(vocab, dict) and all(type(i) is int for i in vocab.values()) and isinstance(added, list)):
        return False
    return all(
        isinstance(token, dict) and isinstance(token.get("content"), str) and type(token.get("id")) is int
        for token in added
    )


def add_tokens(tokens: Tokens, vocab: Mapping[str, int], more: list[dict[str, Any]]) -> None:
    """Add more tokens to `tokens`. Raises ValueError for one that does not fit them and the vocabulary."""
    if not more:
        return
    names = {i: name for name, i in vocab.items()} | {token["id"]: name for name, token in tokens.items()}
    for token in more:
        name, i = token.get("content"), token["id"]
        if not isinstance(name, str) or type(i) is not int:
            raise ValueError(f"the added token {name!r} with id {i!r} is not a name with a number")
        before = tokens.get(name, {})
        if before.get("id", vocab.get(name, i)) != i:
            raise ValueError(f"{name!r} has the id {i}, but another one in the vocabulary")
        if names.setdefault(i, name) != name:
            raise ValueError(f"{name!r} has the id {i}, which is that of {names[i]!r} in the vocabulary")
        for flag in (*FLAGS, "special"):
            if bool(before.get(flag, token.get(flag))) != bool(token.get(flag, before.get(flag))):
                raise ValueError(f"{name!r} has {flag}={token[flag]!r}, but {before[flag]!r} in tokenizer.json")
        tokens.setdefault(name, token)


def legacy_tokens(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tokens of added_tokens.json, which is {name: id}."""
    for name, i in content.items():
        yield {"content": name, "id": i}


def decoder_tokens(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tokens of the added_tokens_decoder in tokenizer_config.json, which is {id: token}."""
    decoder = content.get("added_tokens_decoder")
    if decoder is not None and not isinstance(decoder, dict):
        raise ValueError("added_tokens_decoder must be an object of ids and tokens")
    for i, token in decoder.items() if decoder else ():
        yield (token if isinstance(token, dict) else {}) | {"id": int(i) if i.isdecimal() else i}


def named_tokens(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (role, name) of the tokens that special_tokens_map.json or tokenizer_config.json give a role."""
    roles = [(role, content.get(role)) for role in ROLES]
    for role in LISTS:
        value = content.get(role)
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        roles += [(role, value) for value in values]
    for role, value in roles:
        name = value.get("content") if isinstance(value, dict) else value
        if isinstance(name, str):
            yield role, name
