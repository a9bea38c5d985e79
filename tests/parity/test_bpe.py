"""The BPE tokenizer against tiktoken, tokenizers and transformers: the same ids, the same text, the same offsets."""

import functools
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.tokenizer import BPETokenizer
from npgpt.tokenizer.fast.classes import code_point_classes
from npgpt.tokenizer.patterns import ALSO, GPT2, GPT4, PATTERNS
from tests.conftest import SHARED
from tests.parity.test_tokenizer import TEXTS
from tests.tokenizer.helpers import PARTS, as_defined, texts

WHY = "{} is not installed; the parity tests need npgpt[parity]"
tiktoken = pytest.importorskip("tiktoken", reason=WHY.format("tiktoken"))
tokenizers = pytest.importorskip("tokenizers", reason=WHY.format("tokenizers"))
transformers = pytest.importorskip("transformers", reason=WHY.format("transformers"))

# tiktoken's own way to write the patterns
GPT2_OF_TIKTOKEN, GPT4_OF_TIKTOKEN = (
    next(text for text, ours in ALSO.items() if ours == pattern and "++" in text) for pattern in (GPT2, GPT4)
)
THEIR_PATTERNS = {"gpt2": GPT2_OF_TIKTOKEN, "gpt4": GPT4_OF_TIKTOKEN}


@pytest.fixture(scope="module", params=["gpt2", "gpt4"])
def pair(request):
    """GPT-2's vocabulary under both patterns, ours and tiktoken's."""
    if not (SHARED / "gpt2").exists():
        pytest.skip(f"{SHARED / 'gpt2'} is not on this machine")
    gpt2 = Tokenizer.from_pretrained(SHARED / "gpt2")
    merges = {pair: rank for pair, (rank, _) in gpt2.merges.items()}
    ours = BPETokenizer(gpt2.tokens, merges, request.param, gpt2.special_tokens)
    ranks = {token: i for i, token in enumerate(gpt2.tokens[:50256])}
    theirs = tiktoken.Encoding(
        "gpt2",
        pat_str=THEIR_PATTERNS[request.param],
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 50256},
    )
    return ours, theirs


@functools.cache
def known_to_both() -> tuple[str, ...]:
    """Return the characters of which tiktoken's Unicode and regex's say the same: later versions know more."""
    everything = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    ranks = {bytes([byte]): byte for byte in range(256)}
    for pattern in (r"\p{L}", r"\p{N}", r"\s"):
        encoding = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        # what a pattern does not match is left out
        theirs = set(encoding.decode(encoding.encode_ordinary("".join(everything))))
        ours = set(regex.findall(pattern, "".join(everything)))
        everything = [c for c in everything if (c in theirs) == (c in ours)]
    return tuple(everything)


@pytest.mark.big
def test_tiktoken_on_every_code_point(pair):
    ours, theirs = pair
    known = known_to_both()
    assert len(known) > 0x110000 - 0x800 - 20000  # some blocks are newer than tiktoken's Unicode
    for context in ("{}", "'{}\n a"):
        batch = [context.format(character) for character in known]
        for text, ids in zip(batch, ours.encode_batch(batch), strict=True):
            assert ids.tolist() == theirs.encode_ordinary(text), ascii(text)


@pytest.mark.big
def test_tiktoken_on_pairs_around_the_borders_of_classes(pair):
    ours, theirs = pair
    classes = code_point_classes()
    borders = np.flatnonzero(np.diff(classes))
    known = set(known_to_both())
    borders = [c for c in map(chr, sorted({*borders, *(borders + 1)})) if c in known]
    chosen = [*borders[::7], *"aZ09 '.\n\r\t\u3000\u0301"]
    assert {int(classes[ord(c)]) for c in chosen} == {1, 2, 4, 12, 16}
    batch = [a + b for a in chosen for b in chosen] + [a + b for a, b in pairwise(borders)]
    for text, ids in zip(batch, ours.encode_batch(batch), strict=True):
        assert ids.tolist() == theirs.encode_ordinary(text), ascii(text)


def assigned(text: str) -> str:
    """Return the characters that Python's Unicode knows: later versions give the others a class."""
    return "".join(character for character in text if unicodedata.category(character) != "Cn")


@pytest.mark.big
@settings(max_examples=10_000)
@given(text=texts)
def test_tiktoken_on_random_texts(pair, text):
    ours, theirs = pair
    known = assigned(text)
    ids = ours.encode(known).tolist()
    assert ids == theirs.encode_ordinary(known)
    assert ours.decode(ids) == theirs.decode(ids) == known


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "tang.txt"])
def test_tiktoken_on_real_texts(pair, shared_text, name):
    ours, theirs = pair
    text = shared_text(name)
    ids = ours.encode(text)
    expected = theirs.encode_ordinary(text)
    assert ids.tolist() == expected
    assert as_defined(ours).encode(text[:300_000]).tolist()[:50_000] == expected[:50_000]
    assert ours.decode(ids) == theirs.decode(expected) == text


def test_tiktoken_on_this_repository(pair):
    ours, theirs = pair
    for path in sorted(Path(__file__).parents[2].rglob("*.*")):
        if path.suffix in (".py", ".md", ".toml"):
            text = path.read_text(encoding="utf-8")
            assert ours.encode(text).tolist() == theirs.encode_ordinary(text), path


def test_tiktoken_with_special_tokens(pair):
    ours, theirs = pair
    text = "a <|endoftext|> b<|endoftext|><|endoftext|>\n<|endoftext|"
    assert ours.encode(text, "all").tolist() == theirs.encode(text, allowed_special="all")
    assert ours.encode(text).tolist() == theirs.encode(text, disallowed_special=())


def test_tiktoken_on_long_runs(pair):
    ours, theirs = pair
    for unit in ("a", " ", "中", "ab", "\n", "1", "!", "é", "😀", "aA"):
        for n in (63, 64, 65, 500, 3000):
            text = "x " + unit * n + "y"
            assert ours.encode(text).tolist() == theirs.encode_ordinary(text), (unit, n)


SPECIAL = ("<|endoftext|>", "<中>", "<中>!")


@pytest.fixture(
    scope="module", params=[*PATTERNS, r"[\s\S]+", r"\p{Ll}+|\s"]
)  # \w would differ: Hugging Face's engine has joiners in it
def saved(request, tmp_path_factory):
    """A trained tokenizer, its folder, and what Hugging Face makes of it."""
    ours = Tokenizer.train(["".join(PARTS) * 2, *TEXTS.values()], 400, request.param, SPECIAL)
    folder = tmp_path_factory.mktemp("bpe")
    ours.save_pretrained(folder)
    return ours, folder, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_hugging_face_reads_what_we_write(saved):
    ours, folder, theirs = saved
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.get_vocab_size() == len(auto) == ours.vocab_size
    assert theirs.get_vocab() == auto.get_vocab()
    special = "a<|endoftext|> <中>!b <中> <|endoftext|><|endoftext"
    for text in (*TEXTS.values(), special, "".join(PARTS)):
        ids = ours.encode(text, "all").tolist()
        found = theirs.encode(text)
        assert found.ids == ids
        assert auto.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False) == auto.decode(ids) == text
        assert found.offsets == [tuple(span) for span in ours.offsets(ids)[1].tolist()]
    again = Tokenizer.from_pretrained(save_with(auto, folder))
    assert again.encode(special, "all").tolist() == ours.encode(special, "all").tolist()


def test_a_run_folder_opens_in_transformers(tmp_path):
    """With a model's config.json beside the tokenizer, by which transformers might choose another class."""
    ours = Tokenizer.train(["".join(PARTS) * 2, *TEXTS.values()], 400)
    GPT(GPTConfig(vocab_size=400, n_positions=4, n_embd=4, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    ours.save_pretrained(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS.values(), "a<|endoftext|> b"):
        ids = ours.encode(text, "all").tolist()
        assert auto.encode(text) == ids
        assert auto.decode(ids) == text


def save_with(auto, folder):
    """Save with transformers, and return the folder."""
    auto.save_pretrained(folder / "again")
    return folder / "again"


@given(text=texts)
def test_hugging_face_on_random_texts(saved, text):
    ours, _, theirs = saved
    known = assigned(text)
    assert theirs.encode(known).ids == ours.encode(known, "all").tolist()


def test_gpt2_of_transformers_reads_our_vocab_and_merges(tmp_path):
    ours = Tokenizer.train(["".join(PARTS) * 2, *TEXTS.values()], 400)
    ours.save_pretrained(tmp_path)
    bpe = tokenizers.models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    theirs = tokenizers.Tokenizer(bpe)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in TEXTS.values():
        if "<|endoftext|>" not in text:
            assert theirs.encode(text).ids == ours.encode(text).tolist()


def test_we_read_what_hugging_face_trains(tmp_path):
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(TEXTS.values(), trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_pretrained(tmp_path)
    for text in TEXTS.values():
        assert ours.encode(text, "all").tolist() == theirs.encode(text).ids


@given(strings=st.lists(st.binary(min_size=2, max_size=4), unique=True, max_size=30), data=st.data())
def test_tiktoken_under_any_ranks(strings, data):
    """Also those that no training would give."""
    from npgpt.tokenizer import BPETokenizer

    made = data.draw(st.lists(st.text("ab", min_size=2, max_size=5).map(str.encode), unique=True, max_size=20))
    tokens = [*(bytes([byte]) for byte in range(256)), *dict.fromkeys([*made, *strings])]
    ranks = {token: rank for rank, token in enumerate(data.draw(st.permutations(tokens)))}
    theirs = tiktoken.Encoding("any", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})
    ours = BPETokenizer.from_ranks(ranks, r"[\s\S]+")
    text = data.draw(st.text("ab", max_size=90) | st.text(max_size=30))
    assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
    assert np.array_equal(as_defined(ours).encode(text), ours.encode(text))
