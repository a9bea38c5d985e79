"""Texts and vocabularies for the tests of tokenizers."""

from hypothesis import strategies as st

from npgpt.tokenizer import BPETokenizer, definition
from npgpt.tokenizer.patterns import PATTERNS

MY_OWN = [r"[\s\S]+", r"a+|\d", r"(?<= )\w+", r"\b"]
ALL_PATTERNS = [*PATTERNS, *MY_OWN]

# what the patterns distinguish, and the borders of UTF-8's lengths
PARTS = [
    *"aazZ019 .,!'-_",
    *"\t\n\r\x0b\x1c\x85\u00a0\u2028\u3000\u200b",
    *"éſßкא中文字あ각²½٣Ⅷ\u0301\u0903",
    *"\x00\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff\ufeff\ufffd",
    *["'s", "'S", "'re", "'RE", "'ll", "'lL", "'ve", "'d", "'ſ", "' ", "''", "'l", "'r"],
    *["  ", "   ", " \n", "\n ", "\r\n", "\n\n", " the", " a", "123", "1234567"],
    *["👩\u200d👩\u200d👧", "🏳️\u200d🌈", "🇨🇳", "👍🏽", "人工智能", "，"],
]
texts = st.lists(st.sampled_from(PARTS) | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)
nearly_utf8 = st.lists(
    st.sampled_from(
        [b"a", b" ", b"'", "中".encode(), "😀".encode(), b"\xe4", b"\xb8", b"\xf0\x9f", b"\xc0\x80", b"\xff"]
    )
    | st.sampled_from([b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xc2", b"\n"])
    | st.binary(max_size=3),
    max_size=20,
).map(b"".join)


def as_defined(tokenizer: BPETokenizer) -> BPETokenizer:
    """Return the same tokenizer without its fast twin."""
    return BPETokenizer(*tokenizer.vocabulary, fast=False)


def naive_train(pieces: list[bytes], n_merges: int) -> list[tuple[bytes, bytes]]:
    """BPE on strings of bytes, written once more from its description: slow, with no ids but for the ties."""
    order = [bytes([byte]) for byte in range(256)]
    words = [[bytes([byte]) for byte in piece] for piece in pieces]
    learned = []
    for _ in range(n_merges):
        counts: dict[tuple[bytes, bytes], int] = {}
        for word in words:
            for i in range(len(word) - 1):
                pair = word[i], word[i + 1]
                counts[pair] = counts.get(pair, 0) + 1
        if not counts or max(counts.values()) < definition.LEAST_COUNT:
            break
        most = max(counts.values())
        ties = [(order.index(a), order.index(b)) for (a, b), count in counts.items() if count == most]
        a, b = (order[i] for i in min(ties))
        learned.append((a, b))
        order.append(a + b)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (a, b):
                    word[i : i + 2] = [a + b]
                i += 1
    return learned
