"""Added tokens, ids with holes, alphabets without some bytes, and the files beside a tokenizer.json."""

import json

import pytest

from npgpt import Tokenizer
from npgpt.tokenizer import BPETokenizer, stream
from tests.tokenizer.helpers import as_defined

TEXT = "the theme of these themes: 人工智能，人工。 don't, 12345 👍🏽\n" * 3
END = "<|endoftext|>"
PLAIN = Tokenizer.train([TEXT], 290, special_tokens=[END, "</s>"])
NEIGHBOURS = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")


def with_added(*names):
    """Return the vocabulary with these added tokens, from id 290 on, as it is read from a file."""
    tokens = [*PLAIN.tokens, *(name.encode() for name in names)]
    ids = {name: 290 + i for i, name in enumerate(names)}
    return BPETokenizer(tokens, PLAIN.vocabulary.merges, "gpt2", PLAIN.special_tokens, added_tokens=ids)


def write(folder, content=None, **files):
    """Write a tokenizer.json and its neighbours, and no others; return the folder."""
    PLAIN.save_pretrained(folder)
    (folder / "tokenizer_config.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(json.dumps(content))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def added(i, name, **flags):
    return {"id": i, "content": name, "special": False, "normalized": True} | flags


ADDED = with_added("人工", "<x>", "  ", "hem", "e\u0301", "👍🏽")


@pytest.mark.parametrize("tokenizer", [ADDED, as_defined(ADDED)], ids=["fast", "as defined"])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a人工b", [97, 290, 98]),
        ("人工人工智能", [290, 290, *PLAIN.encode("智能")]),
        ("themes", [ord("t"), 293, *PLAIN.encode("es")]),  # also inside a word
        ("Ahem<x>", [65, 293, 291]),
        ("é👍🏽e\u0301", [*PLAIN.encode("é"), 295, 294]),
        ("   ", [292, ord(" ")]),
        ("a<x", [97, *b"<x"]),
        ("", []),
    ],
)
def test_added_tokens_are_found_anywhere_and_kept_in_text(tokenizer, text, found):
    assert tokenizer.encode(text).tolist() == found
    assert tokenizer.decode(found) == text
    assert "".join(tokenizer.decode_stream(found)) == text
    assert tokenizer.encode(text, [END]).tolist() == found


def test_special_tokens_come_first():
    tokenizer = with_added("s>")
    assert tokenizer.encode("</s>").tolist() == [*b"</", 290]
    assert tokenizer.encode("</s>", "all").tolist() == [PLAIN.special_tokens["</s>"]]
    assert tokenizer.encode("</s>s>", ["</s>", "s>"]).tolist() == [PLAIN.special_tokens["</s>"], 290]


def test_added_tokens_survive_files(tmp_path):
    ADDED.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.to_json() == ADDED.to_json()
    assert again.added_tokens == ADDED.added_tokens
    assert again.encode(TEXT).tolist() == ADDED.encode(TEXT).tolist()
    assert again.fingerprint() == ADDED.fingerprint() != PLAIN.fingerprint()


@pytest.mark.parametrize("part", [1, 7, 64])
def test_added_tokens_across_the_parts_of_a_file(tmp_path, monkeypatch, part):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(stream, "PART", part)
    monkeypatch.setattr(stream.read_parts, "__defaults__", (part,))
    ids = [i for part in ADDED.encode_file(tmp_path / "a.txt") for i in part.tolist()]
    assert ids == ADDED.encode(TEXT).tolist()


def test_a_token_that_is_learned_may_be_added_too(tmp_path):
    content = PLAIN.to_json()
    i = content["model"]["vocab"]["the"]
    content["added_tokens"].append(added(i, "the"))
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, content))
    assert tokenizer.encode("thethe").tolist() == [i, i]
    assert tokenizer.encode(" hem").tolist() == PLAIN.encode(" hem").tolist()
    assert tokenizer.to_json()["model"] == PLAIN.to_json()["model"]


# --- holes, and bytes that are missing


def with_holes():
    content = PLAIN.to_json()
    content["model"]["vocab"] = {token: i + 10 * (i > 270) for token, i in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        token["id"] += 10
    return content


def test_ids_with_holes(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, with_holes()))
    assert tokenizer.vocab_size == 300
    assert tokenizer.end_id == PLAIN.end_id + 10
    for one, other in (tokenizer, PLAIN), (as_defined(tokenizer), as_defined(PLAIN)):
        assert one.encode(TEXT).tolist() == [i + 10 * (i > 270) for i in other.encode(TEXT).tolist()]
    assert tokenizer.decode([97, 271, 275, 98]) == "ab"  # as in `tokenizers`
    assert tokenizer.decode([97, 275] * 50) == "a" * 50
    assert tokenizer.sizes([97, 275]).tolist() == [1, 0]
    again = tmp_path / "again"
    tokenizer.save_pretrained(again)
    assert Tokenizer.from_pretrained(again).to_json() == tokenizer.to_json()


def without(*characters):
    content = PLAIN.to_json()
    for character in characters:
        del content["model"]["vocab"][character]
    return content


@pytest.mark.parametrize("fast", [True, False])
def test_a_missing_byte_is_named_when_it_is_met(tmp_path, fast):
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, without("z", "Z", "Ã", "Ð")))  # the bytes 0xc3 and 0xd0
    tokenizer = tokenizer if fast else as_defined(tokenizer)
    assert tokenizer.encode("the theme").tolist() == PLAIN.encode("the theme").tolist()
    for text, byte, piece in (("a fuzzy", "0x7a", "' fuzzy'"), ("café", "0xc3", "'café'"), ("人，ж", "0xd0", "'ж'")):
        with pytest.raises(ValueError, match=f"the byte {byte} in {piece} is not in .* 252 of the 256 bytes"):
            tokenizer.encode(text)
    with pytest.raises(ValueError, match="0x7a"):
        tokenizer.encode_batch(["a", "z"])


def test_a_missing_byte_in_a_file_is_named(tmp_path, monkeypatch):
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, without("z")))
    (tmp_path / "a.txt").write_text("the theme " * 50 + "fizz")
    monkeypatch.setattr(stream.read_parts, "__defaults__", (64,))
    with pytest.raises(ValueError, match="the byte 0x7a in ' fizz'"):
        list(tokenizer.encode_file(tmp_path / "a.txt"))


def test_a_missing_byte_inside_a_token_of_its_own_is_no_mistake():
    tokens = [*(bytes([byte]) for byte in range(256) if byte != 0xF0), "😀".encode(), b"<z>"]
    for fast in True, False:
        whole = BPETokenizer(tokens, [], "gpt2", whole=True, fast=fast)
        assert whole.encode("a😀").tolist() == [97, 255] or whole.encode("a 😀").size
        named = BPETokenizer(tokens, [], "gpt2", added_tokens={"😀": 255, "<z>": 256}, fast=fast)
        assert named.encode("a😀<z>").tolist() == [97, 255, 256]
        with pytest.raises(ValueError, match="0xf0 in '👍'"):
            named.encode("a😀👍")


# --- the files beside a tokenizer.json


def test_added_tokens_beside_are_read(tmp_path):
    write(
        tmp_path, added_tokens={"<new>": 290, "新词": 291}, special_tokens_map={"additional_special_tokens": ["<new>"]}
    )
    for file in "tokenizer.json", None:
        if file is None:  # GPT-2's two files have the same neighbours
            (tmp_path / "tokenizer.json").unlink()
        tokenizer = Tokenizer.from_pretrained(tmp_path)
        assert tokenizer.special_tokens == PLAIN.special_tokens | {"<new>": 290}
        assert tokenizer.added_tokens == {"新词": 291}
        assert tokenizer.encode("a新词<new>").tolist() == [97, 291, *PLAIN.encode("<new>")]
        assert tokenizer.encode("新词<new>", "all").tolist() == [291, 290]
        assert tokenizer.decode([291, 290]) == "新词<new>"


def test_an_added_tokens_decoder_is_read(tmp_path):
    decoder = {
        "288": {"content": END, "special": True, "normalized": False},
        "290": {"content": "新词", "special": False, "normalized": True, "lstrip": False},
        "295": {"content": "<eos>", "special": True},
    }
    write(tmp_path, tokenizer_config={"added_tokens_decoder": decoder, "eos_token": {"content": "<eos>"}})
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.added_tokens == {"新词": 290}
    assert tokenizer.end_token, tokenizer.end_id == ("<eos>", 295)
    assert tokenizer.vocab_size == 296


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens": {"<new>": 5}}, r"added_tokens\.json: '<new>' has the id 5, which is that of"),
        ({"added_tokens": {"</s>": 290}}, r"added_tokens\.json: '</s>' has the id 290, but another one"),
        ({"added_tokens": {"<new>": "x"}}, r"added_tokens\.json: the added token '<new>' with id 'x' is not a name"),
        ({"added_tokens": ["<new>"]}, r"added_tokens\.json: expected a JSON object"),
        ({"tokenizer_config": {"eos_token": "e"}}, "'e' is no special token, which could end a text"),
        ({"tokenizer_config": {"add_prefix_space": True}}, r"tokenizer_config\.json: add_prefix_space=true is not"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "<n>"}}}}, "'<n>' with id 'x' is not a name"),
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, r"_config\.json: added_tokens_decoder must be an object"),
        ({"tokenizer": {"model": {"type": ["BPE"], "vocab": {}}}}, r'of the kind \["BPE"\] is not supported'),
        ({"tokenizer_config": {"added_tokens_decoder": {"290": 3}}}, "None with id 290 is not a name"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"290": {"content": "<n>", "lstrip": True}}}},
            "the added token '<n>' has lstrip=True, which is not supported",
        ),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"289": {"content": "</s>", "special": False}}}},
            "'</s>' has special=False, but True in tokenizer.json",
        ),
    ],
)
def test_what_does_not_fit_beside_is_refused(tmp_path, files, message):
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(write(tmp_path, **files))
    assert "\n" not in str(caught.value)


def test_a_token_of_the_vocabulary_with_a_role_is_special(tmp_path):
    content = PLAIN.to_json() | {"added_tokens": []}
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, content, special_tokens_map={"eos_token": "</s>"}))
    assert tokenizer.special_tokens == {"</s>": 289}
    assert tokenizer.end_id == 289
    assert tokenizer.encode(END).tolist() == PLAIN.encode(END).tolist()


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_broken_file_of_gpt2_is_named(tmp_path, file):
    write(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    path = tmp_path / file
    if file == "vocab.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 5}))
    else:
        path.write_text(path.read_text() + "q q\n")
    with pytest.raises(ValueError, match=r"like b'\\x05'" if file == "vocab.json" else "makes b'qq'") as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


# --- the end token


def test_the_end_token_may_have_any_name(tmp_path):
    tokenizer = PLAIN.ending_with("</s>")
    assert (PLAIN.end_id, tokenizer.end_id, tokenizer.require_end_id()) == (288, 289, 289)
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "</s>"
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.end_id == 289
    assert again.fingerprint() == tokenizer.fingerprint() != PLAIN.fingerprint()
    assert again.ending_with(END).fingerprint() == PLAIN.fingerprint()
    (tmp_path / "tokenizer.json").unlink()
    assert Tokenizer.from_pretrained(tmp_path).end_id == 289


def test_an_end_token_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"'<s>' is no special token.*<\|endoftext\|>, </s>"):
        PLAIN.ending_with("<s>")
    other = Tokenizer.train([TEXT], 260, special_tokens=["[SEP]", "<eos>"])
    with pytest.raises(ValueError, match=r"no token that ends an example.*\[SEP\], <eos> with --end-token"):
        other.require_end_id()


def test_the_first_known_id_becomes_the_end_token():
    assert PLAIN.ending_with_id([5, 289]).end_id == 289
    assert PLAIN.ending_with_id([289, 288]) is PLAIN  # its own is among them
    assert PLAIN.ending_with_id([5, 999]) is PLAIN
    assert PLAIN.ending_with_id([]) is PLAIN


def test_files_of_npgpt_keep_their_ids_and_fingerprints(tmp_path):
    """A vocabulary as it was written before there were added tokens and other end tokens."""
    tokenizer = Tokenizer.train(["the theme of these themes: 人工智能。\n" * 3], 270, "gpt4", [END, "<中>"])
    tokenizer.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).fingerprint() == tokenizer.fingerprint()
    assert tokenizer.fingerprint() == "13f5fa324e3bf40200cff2aa8d623978c5120edd772d10cb1f462646b0a8b153"


@pytest.mark.parametrize("name", ["special_tokens_map", "tokenizer_config"])
def test_a_token_of_a_role_without_an_id_gets_the_next_one(tmp_path, name):
    PLAIN.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    content = {"mask_token": {"content": "<mask>"}, "eos_token": "<eos>", "additional_special_tokens": ["<a>"]}
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    n = PLAIN.vocab_size
    expected = {"<eos>": n, "<mask>": n + 1, "<a>": n + 2}  # in the order of the roles, as transformers gives them
    assert {i: tokenizer.special_tokens[i] for i in expected} == expected
    assert tokenizer.end_id == n
