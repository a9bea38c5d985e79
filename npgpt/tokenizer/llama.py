"""A tokenizer as llama.cpp has it: what a GGUF file says of it, or why llama.cpp would give a text other ids.

llama.cpp finds added tokens, cuts by one of its own patterns, and merges, as npgpt does. Where it does otherwise for
some text, the tokenizer is refused: ids that differ a little would be worse than none.

Source: src/llama-vocab.cpp of llama.cpp.
"""

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Any

from npgpt.support.notices import notice
from npgpt.tokenizer.added import ends_in
from npgpt.tokenizer.base import Tokenizer
from npgpt.tokenizer.bpe import BPETokenizer
from npgpt.tokenizer.bytes import CHARACTERS, ByteTokenizer, shown
from npgpt.tokenizer.chars import CharTokenizer
from npgpt.tokenizer.definition import merge
from npgpt.tokenizer.formats import shown_merges, shown_tokens
from npgpt.tokenizer.patterns import GPT2, GPT4, PATTERNS, pattern_text

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # GGUF's numbers of token types
NEVER = CHARACTERS[255]  # a byte that UTF-8 never has
PRE = {GPT2: "gpt-2", GPT4: "llama-bpe"}  # what llama.cpp calls the patterns
MOST_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# names at which llama.cpp ends a text, whatever the file says
ENDS = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
    *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[", "< EOT >"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<fim_repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
}
# names that it takes for other control tokens, whatever the file says; or for tokens that a text may name
OTHERS = {
    *(f"<|fim_{part}|>" for part in ("prefix", "suffix", "middle")),
    *(f"<fim{sign}{part}>" for sign in "-_" for part in ("prefix", "suffix", "middle")),
    *("<PRE>", "<SUF>", "<MID>", "▁<PRE>", "▁<SUF>", "▁<MID>"),
    *(f"<|{kind}{part}|>" for kind in ("", "code_") for part in ("prefix", "suffix", "middle")),
    *("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
}
NAMED_IN_TEXTS = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}
SPACES = set(b" \t\v\f\x1c\x1d\x1e\x1f") | set(range(0x80, 0x100))  # bytes with which white space begins


def llama_vocabulary(
    tokenizer: Tokenizer, vocab_size: int, ends: Sequence[int], anyway: bool = False
) -> dict[str, Any]:
    """Return {key of GGUF after "tokenizer.ggml.": value} of a tokenizer, for a model of vocab_size tokens.

    ends    the ids that end a text
    anyway  characters beyond ASCII too, with a notice of where llama.cpp hangs

    Raises ValueError, naming it, for what llama.cpp would do otherwise.
    """
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {vocab_size}: llama.cpp needs a row of "
            "the embedding for each"
        )
    if isinstance(tokenizer, CharTokenizer):
        found = of_characters(tokenizer, anyway)
    elif isinstance(tokenizer, ByteTokenizer):
        found = of_bytes()
    elif isinstance(tokenizer, BPETokenizer):
        found = of_bpe(tokenizer)
    else:
        raise ValueError(f"llama.cpp has no tokenizer of the kind {tokenizer.kind}")
    missing = range(len(found["tokens"]), vocab_size)
    # a text could have the name of one where the longest token counts, unless the name has a byte that no text has
    found["tokens"] += [f"\\xff[PAD{i}]" if found["model"] == "rwkv" else f"[PAD{i}]" for i in missing]
    found["token_type"] += [UNUSED for _ in missing]
    return found | end_keys(found, ends) | {"add_bos_token": False, "add_space_prefix": False}


def of_bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    """Return a byte-level BPE's part of llama_vocabulary."""
    pattern = pattern_text(tokenizer.pattern)
    if pattern not in PRE:
        names = [name for name, text in PATTERNS.items() if text == pattern]
        raise ValueError(
            f"llama.cpp has no pattern like {names[0] if names else pattern!r}, and would cut a text into other "
            "tokens; it has those that npgpt calls gpt2 and gpt4 (npgpt tokenizer train --pattern)"
        )
    require_findable(tokenizer)
    say_what_is_lacking(tokenizer)
    require_reached(tokenizer, PRE[pattern])
    if pattern == GPT4:
        require_cut_at_line_ends(tokenizer)
    by_id = {i: text for text, i in shown_tokens(tokenizer.vocabulary).items()}
    kinds = dict.fromkeys(tokenizer.special_tokens.values(), CONTROL)
    kinds |= dict.fromkeys(tokenizer.added_tokens.values(), USER_DEFINED)
    ids = range(tokenizer.vocab_size)
    return {
        "model": "gpt2",
        "pre": PRE[pattern],
        "tokens": [by_id.get(i, f"[PAD{i}]") for i in ids],
        "token_type": [kinds.get(i, NORMAL if i in by_id else UNUSED) for i in ids],
        # llama.cpp needs a list: without merges, one of two bytes that no text has
        "merges": [f"{left} {right}" for left, right in shown_merges(tokenizer.vocabulary)] or [f"{NEVER} {NEVER}"],
    }


def say_what_is_lacking(tokenizer: BPETokenizer) -> None:
    """Report tokens that the model lacks, and a vocabulary without all bytes: llama.cpp reads a text without them."""
    if tokenizer.beyond:
        notice(
            f"the file lacks the tokens beyond the model's, such as {next(iter(tokenizer.beyond.values()))!r}: "
            "llama.cpp reads a text that has one as other tokens, and npgpt refuses it"
        )
    of_text = {token for i, token in enumerate(tokenizer.tokens) if i not in {*tokenizer.special_tokens.values()}}
    for byte in range(256):
        if bytes([byte]) not in of_text:
            notice(
                f"the vocabulary lacks the byte 0x{byte:02X}, and perhaps others: llama.cpp leaves them out of a text, "
                "which npgpt refuses"
            )
            return


def require_findable(tokenizer: BPETokenizer) -> None:
    """Raise ValueError for special and added tokens that llama.cpp would find elsewhere in a text, or not at all."""
    named = [*tokenizer.special_tokens, *tokenizer.added_tokens]
    for one, other in permutations(named, 2):
        if ends_in(one, other):
            raise ValueError(
                f"the tokens {one!r} and {other!r} can overlap in a text, where llama.cpp takes the longer one and "
                "npgpt the first"
            )
    special = {*tokenizer.special_tokens}
    # the file has no token beyond the model's, such as a [PAD] without a row
    names = {text for text, i in shown_tokens(tokenizer.vocabulary).items() if i < tokenizer.vocab_size} - special
    for name in sorted((names & (ENDS | OTHERS)) | (special & NAMED_IN_TEXTS)):
        raise ValueError(f"llama.cpp gives the token {name!r} a meaning of its own, by its name: rename it")


def require_reached(tokenizer: BPETokenizer, pre: str) -> None:
    """Raise ValueError if it matters whether a pre-token that is a token skips the merges.

    In llama.cpp it does so for llama-bpe and not for gpt-2, whatever the file says. It does not matter where the merges
    lead to every token.
    """
    if tokenizer.whole == (pre == "llama-bpe"):
        return
    outside = {*tokenizer.special_tokens.values(), *tokenizer.added_tokens.values()}
    of_bytes = {token: i for i, token in enumerate(tokenizer.tokens) if len(token) == 1 and i not in outside}
    for i, token in enumerate(tokenizer.tokens):
        if not token or i in outside or any(bytes([byte]) not in of_bytes for byte in token):
            continue
        ids = [of_bytes[bytes([byte])] for byte in token]
        if len(ids) > 1 and list(merge(ids, tokenizer.merges)) != [i]:
            raise ValueError(
                f"no merges lead to the token {shown(token)!r}, and llama.cpp's {pre} "
                + ("merges every pre-token" if tokenizer.whole else "takes such a token whole")
            )


def require_cut_at_line_ends(tokenizer: BPETokenizer) -> None:
    """Raise ValueError if it matters that llama-bpe cuts the white space that ends a text after its last line end.

    npgpt's gpt4 does not: it makes the line ends and spaces that end a text one pre-token. Where no token has spaces
    after its last line end, no merge joins the two sides, so the ids are the same.
    """
    outside = {*tokenizer.special_tokens.values(), *tokenizer.added_tokens.values()}
    for i, token in enumerate(tokenizer.tokens):
        after = re.split(rb"[\r\n]", token)[1:]
        if i not in outside and after and after[-1][:1] and after[-1][0] in SPACES:
            raise ValueError(
                f"the token {token!r} has spaces after its last line end. At the end of a text llama.cpp cuts between "
                "the two, where gpt4 does not, and no pattern of llama.cpp is equal to it"
            )


def of_bytes() -> dict[str, Any]:
    """Return the byte tokenizer's part: llama.cpp finds the longest token, and each is one byte."""
    return greedy([bytes([byte]) for byte in range(256)])


def of_characters(tokenizer: CharTokenizer, anyway: bool) -> dict[str, Any]:
    """Return a character vocabulary's part: no character's bytes begin another's, so llama.cpp finds just these.

    llama.cpp refuses a text with an unknown character, unless the first bytes begin a known one: then it starts again
    at the beginning of the text, and never ends.
    """
    if beyond := next((character for character in tokenizer.characters if not character.isascii()), None):
        what = (
            f"the vocabulary has characters beyond ASCII, such as {beyond!r}: llama.cpp hangs, and fills the memory, "
            "at a text with an unknown character whose first byte is also that of a known one"
        )
        if not anyway:
            raise ValueError(f"{what}. Train with --tokenizer bytes or bpe:SIZE, or export with --anyway")
        notice(what)
    return greedy([character.encode() for character in tokenizer.characters])


def greedy(tokens: Sequence[bytes]) -> dict[str, Any]:
    """Return the part of a vocabulary whose longest token is taken at each place of a text, RWKV's kind of tokenizer.

    Unlike a BPE it may be without an end token: llama.cpp takes id 11 for that of a BPE whose file names none.
    """
    escaped = ["".join(f"\\x{byte:02x}" for byte in token) for token in tokens]
    return {"model": "rwkv", "tokens": escaped, "token_type": [NORMAL for _ in tokens]}


def end_keys(found: dict[str, Any], ends: Sequence[int]) -> dict[str, Any]:
    """Return the keys of the tokens that end a text. Raises ValueError if llama.cpp cannot end at all of them."""
    if outside := [i for i in ends if not 0 <= i < len(found["tokens"])]:
        raise ValueError(f"the end token {outside[0]} is outside the vocabulary of {len(found['tokens'])}")
    known = [i for i, text in enumerate(found["tokens"]) if found["token_type"][i] == CONTROL and text in ENDS]
    if more := [found["tokens"][i] for i in known if i not in ends]:
        notice(f"llama.cpp ends a text at {', '.join(more)}, by the name, although the model does not")
    wanted = list(dict.fromkeys(ends))
    wanted = [i for i in wanted if i not in known] or wanted[:1]
    if not wanted and found["model"] == "gpt2":
        wanted = [no_end(found["tokens"])]
    if len(wanted) > len(MOST_ENDS):
        raise ValueError(f"a text ends at {len(wanted)} tokens, and a GGUF file can name {len(MOST_ENDS)}: {wanted}")
    keys = dict(zip(MOST_ENDS, wanted, strict=False))
    return keys | ({"bos_token_id": wanted[0]} if wanted else {})


def no_end(tokens: Sequence[str]) -> int:
    """Return an id that no text has, for a model without an end token: that of the byte 0xFF, which UTF-8 never has.

    Without one, llama.cpp would end texts at the token 11.
    """
    if NEVER not in tokens:
        raise ValueError(
            "the model has no end token, which llama.cpp needs, and its vocabulary lacks the byte 0xFF, which could be "
            "one because no text has it"
        )
    return tokens.index(NEVER)
