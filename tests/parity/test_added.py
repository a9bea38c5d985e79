"""Added tokens as `tokenizers` and `transformers` find them: anywhere in a text, special ones if they are allowed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer

WHY = "{} is not installed; the parity tests need npgpt[parity]"
tokenizers = pytest.importorskip("tokenizers", reason=WHY.format("tokenizers"))
transformers = pytest.importorskip("transformers", reason=WHY.format("transformers"))

TEXT = "the theme of these themes: 人工智能，人工。 don't, 12345 👍🏽\n" * 3
END = "<|endoftext|>"
SPECIAL = (END, "</s>", "<中>")
# the whole of a word, parts of one, of Chinese words and of emoji, white space, and some that overlap
ADDED = (
    "theme",
    "hes",
    "人工",
    "工智能",
    "👍",
    "\U0001f3fd",
    "  ",
    "\n\n",
    "<x>",
    "<x>y",
    "s><",
    "👩\u200d👩",
    "öl",
    "e\u0301",
)
PARTS = [
    *ADDED,
    *SPECIAL,
    "the",
    " ",
    "\n",
    "m",
    "智",
    "能",
    "，",
    "e",
    "\u0301",
    "y",
    "s>",
    "<",
    "👩",
    "\u200d",
    "é",
    "o\u0308",
]
texts = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


def saved_by_tokenizers(folder, **flags):
    """Return the tokenizer of `tokenizers` with added tokens, and ours from the file that it writes."""
    Tokenizer.train([TEXT], 300, special_tokens=SPECIAL).save_pretrained(folder)
    (folder / "tokenizer_config.json").unlink()
    path = str(folder / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(path)
    theirs.add_tokens([tokenizers.AddedToken(name, **flags) for name in ADDED])
    theirs.save(path)
    return theirs, Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return saved_by_tokenizers(tmp_path_factory.mktemp("added"))


def test_the_file_is_read_as_it_was_meant(both):
    theirs, ours = both
    assert ours.added_tokens == {name: theirs.token_to_id(name) for name in ADDED}
    assert ours.special_tokens == {name: theirs.token_to_id(name) for name in SPECIAL}
    assert ours.vocab_size == theirs.get_vocab_size()


@given(text=texts)
def test_every_text_has_the_same_ids(both, text):
    theirs, ours = both
    theirs.encode_special_tokens = False
    expected = theirs.encode(text).ids
    assert ours.encode(text, "all").tolist() == expected
    assert ours.decode(expected) == text
    theirs.encode_special_tokens = True  # special tokens are plain text, and what is added is found in them, too
    assert ours.encode(text).tolist() == theirs.encode(text).ids


@given(text=texts)
def test_text_is_decoded_the_same(both, text):
    """But for "öl": `tokenizers` writes the bytes that its characters stand for in a file."""
    theirs, ours = both
    ids = ours.encode(text.replace("öl", ""), "all").tolist()
    assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)


@given(text=texts)
def test_our_file_is_read_by_tokenizers_the_same(both, text):
    _, ours = both
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))
    theirs.encode_special_tokens = True
    assert theirs.encode(text).ids == ours.encode(text).tolist()


def test_a_file_with_our_added_tokens_is_opened_by_transformers(both, tmp_path):
    _, ours = both
    ours = ours.ending_with("</s>")
    ours.save_pretrained(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the人工智能👍🏽</s><x>y <中>人"
    assert auto(text)["input_ids"] == ours.encode(text, "all").tolist()
    assert auto.eos_token_id == ours.end_id
    auto.save_pretrained(tmp_path / "again")
    again = Tokenizer.from_pretrained(tmp_path / "again")
    assert again.added_tokens == ours.added_tokens
    assert again.special_tokens == ours.special_tokens
    assert again.to_json() == ours.to_json()
    assert again.end_id == ours.end_id


def test_an_added_token_that_is_also_a_byte_is_refused(tmp_path):
    """`tokenizers` gives "é" the id of the byte 0xe9, so that both would be one token."""
    Tokenizer.train([TEXT], 300, special_tokens=SPECIAL).save_pretrained(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(path)
    theirs.add_tokens(["é"])
    theirs.save(path)
    with pytest.raises(ValueError, match=r"'é' has the id of the byte or bytes b'\\xe9' of text"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": False}])
def test_flags_that_change_the_ids_are_refused(tmp_path, flags):
    with pytest.raises(ValueError, match=r"tokenizer\.json: the added token.*(not supported)"):
        saved_by_tokenizers(tmp_path, **flags)


def test_normalized_makes_no_difference_where_nothing_overlaps(tmp_path):
    names = ("theme", "人工", "👍")
    Tokenizer.train([TEXT], 300, special_tokens=SPECIAL).save_pretrained(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(path)
    theirs.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in names])
    theirs.add_special_tokens([tokenizers.AddedToken("[pad]", normalized=True)])
    theirs.save(path)
    ours = Tokenizer.from_pretrained(tmp_path)
    for text in ("the theme人工智能👍🏽", "[pad]theme</s>人[pad]工", "them人人工👍👍[pad"):
        assert ours.encode(text, "all").tolist() == theirs.encode(text).ids


@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.json"])
def test_legacy_neighbours_give_the_ids_of_transformers(tmp_path, kind):
    """added_tokens.json and special_tokens_map.json, as transformers 4 wrote them."""
    Tokenizer.train([TEXT], 300, special_tokens=SPECIAL).save_pretrained(tmp_path)
    if kind == "vocab.json":
        (tmp_path / "tokenizer.json").unlink()
    files = {
        "added_tokens": {"<new>": 300, "新词": 301, "👍": 302},
        "special_tokens_map": {"eos_token": "</s>", "additional_special_tokens": ["<new>"]},
        "tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_pretrained(tmp_path)
    for text in ("a<new>新词b</s>", "新词新👍🏽词", "<new"):
        assert ours.encode(text, "all").tolist() == auto(text)["input_ids"]
    assert ours.end_id == auto.eos_token_id


def test_holes_are_decoded_to_nothing_by_both(tmp_path):
    content = Tokenizer.train([TEXT], 300, special_tokens=SPECIAL).to_json()
    content["model"]["vocab"] = {token: i + 9 * (i > 270) for token, i in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        token["id"] += 9
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    theirs, ours = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), Tokenizer.from_pretrained(tmp_path)
    assert ours.encode(TEXT + END, "all").tolist() == theirs.encode(TEXT + END).ids
    assert ours.decode([97, 274, 98]) == theirs.decode([97, 274, 98]) == "ab"
