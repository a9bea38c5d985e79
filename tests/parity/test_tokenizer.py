"""npgpt's tokenizer.json, read by `tokenizers` and `transformers`: the same ids, the same text."""

from pathlib import Path

import numpy as np
import pytest

from npgpt.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer

WHY = "{} is not installed; the parity tests need npgpt[parity]"
tokenizers = pytest.importorskip("tokenizers", reason=WHY.format("tokenizers"))
transformers = pytest.importorskip("transformers", reason=WHY.format("transformers"))

TEXTS = {
    "empty": "",
    "plain": "First Citizen:\nBefore we proceed any further, hear me speak.",
    "Chinese": "中文，没有空格。",
    "emoji with joiners": "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 👍🏽 🇨🇳",
    "combining marks": "e\u0301 a\u0328\u0301 q\u0307\u0323 각",
    "what normalisation would change": "é ﬁ Å Å ² ｆ가",
    "NUL and controls": "a\0b\x01\x1b\x7f\x80\x9f",
    "line ends": "a\r\nb\rc\n\nd\u2028e\u2029f\x85g\x0bh\x0ci\x1cj",
    "spaces": "  two   three    four\u00a0\u2003\u3000\u200b",
    "tabs": "\t\ta\t \tb",
    "leading space": " a",
    "trailing space": "a ",
    "only spaces": "   ",
    "what clean-up would change": "do n't , no . yes ! ca n't ' s",
    "what looks like special tokens": "<|endoftext|> [UNK] [CLS]</s> ##ing ▁a Ġb @@ <0x0A>",
    "every byte-valued code point": "".join(map(chr, range(256))),
    "astral planes": "𝔘𐍈𠀀\U0001f9ea\U000e0041\U0010ffff",
    "ends of the UTF-8 lengths": "\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff",
    "byte order mark and noncharacters": "\ufeffa\ufffe\uffff\ufffd\ufdd0",
    "right to left": "שלום \u202eabc\u202c عربى",
    "long": "ab c" * 2000,
}
every_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


@pytest.fixture(scope="module", params=["bytes", "chars"])
def ours(request: pytest.FixtureRequest) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else CharTokenizer(TEXTS.values())


@pytest.fixture(scope="module")
def folder(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def auto(folder: Path):
    return transformers.AutoTokenizer.from_pretrained(folder)


@every_text
def test_text_to_ids_and_back(ours: Tokenizer, theirs, auto, text: str) -> None:
    ids = ours.encode(text).tolist()
    assert theirs.encode(text).ids == ids
    assert auto.encode(text) == ids
    assert auto([text, text])["input_ids"] == [ids, ids]
    assert ours.decode(ids) == theirs.decode(ids) == auto.decode(ids) == text
    assert auto.decode(ids, skip_special_tokens=True) == text


def test_vocabulary(ours: Tokenizer, theirs, auto) -> None:
    assert theirs.get_vocab_size() == len(auto) == ours.vocab_size
    assert sorted(theirs.get_vocab().values()) == list(range(ours.vocab_size))
    assert auto.all_special_tokens == []


def test_any_ids_to_text(ours: Tokenizer, theirs, auto) -> None:
    rng = np.random.default_rng(0)
    sequences = [[i] for i in range(ours.vocab_size)]
    sequences += [rng.integers(0, ours.vocab_size, size).tolist() for size in range(1, 200)]
    if isinstance(ours, ByteTokenizer):
        # no UTF-8: all three must put as many U+FFFD in the same places
        sequences += [rng.integers(0x80, 0x100, size).tolist() for size in range(1, 200)]
        sequences += [[0xE4, 0xB8], [0xF0, 0x9F, 0x91]]  # cut off
        sequences += [[0xC0, 0x80], [0xF4, 0x90, 0x80, 0x80]]  # overlong, above U+10FFFF
        sequences += [[0xED, 0xA0, 0x80]]  # a surrogate
    for ids in sequences:
        assert theirs.decode(ids) == auto.decode(ids) == ours.decode(ids), ids


def test_characters_of_every_plane(tmp_path: Path) -> None:
    codes = [*range(0x3100), *range(0x3100, 0x110000, 997)]
    text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
    for tokenizer in (ByteTokenizer(), CharTokenizer([text])):
        tokenizer.save_pretrained(tmp_path)
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        ids = tokenizer.encode(text).tolist()
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids) == tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["b", "aab", "中", "[UNK]", "a\n"])
def test_an_unknown_character_is_an_error_on_both_sides(text: str, tmp_path: Path) -> None:
    ours = CharTokenizer(["a é"])
    ours.save_pretrained(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not among the 3 characters"):
        ours.encode(text)
    for encode in (theirs.encode, auto.encode, auto):
        with pytest.raises(Exception, match=r"Missing \[UNK\] token from the vocabulary"):
            encode(text)


def saved_by_tokenizers(folder: Path, out: Path) -> None:
    out.mkdir()
    tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).save(str(out / "tokenizer.json"))


def saved_by_transformers(folder: Path, out: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(out)


def saved_after_truncation(folder: Path, out: Path) -> None:
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    auto(["a b"], truncation=True, max_length=2)  # `tokenizers` keeps this setting, and saves it
    auto.save_pretrained(out)


@pytest.mark.parametrize("save", [saved_by_tokenizers, saved_by_transformers, saved_after_truncation])
def test_what_others_saved_again(save, ours: Tokenizer, folder: Path, tmp_path: Path) -> None:
    save(folder, tmp_path / "again")
    again = Tokenizer.from_pretrained(tmp_path / "again")
    assert type(again) is type(ours)
    for text in TEXTS.values():
        assert again.encode(text).tolist() == ours.encode(text).tolist()
    assert again.vocab_size == ours.vocab_size
