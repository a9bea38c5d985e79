"""The numbers of docs/tokenizer.md, section by section. Plain Python: every line can be followed by hand."""

from itertools import pairwise

from npgpt import Tokenizer
from npgpt.tokenizer import definition
from npgpt.tokenizer.patterns import GPT2, PATTERNS


def title(name: str) -> None:
    print(f"\n## {name}")


def shown(token: bytes) -> str:
    """Return a token's text, and bytes that are not whole characters in hexadecimal."""
    try:
        return token.decode("utf-8").replace("\n", "\\n")
    except UnicodeDecodeError:
        return "<" + token.hex(" ") + ">"


def trace(tokenizer: Tokenizer, piece: bytes) -> None:
    """Print a pre-token after each merge, as definition.merge does them."""
    ids = list(piece)  # in a trained vocabulary the ids 0..255 are the bytes
    print("start     ", "|".join(shown(tokenizer.tokens[i]) for i in ids))
    while True:
        ranked = [(tokenizer.merges[pair], k) for k, pair in enumerate(pairwise(ids)) if pair in tokenizer.merges]
        if not ranked:
            return
        (rank, new), k = min(ranked)
        ids[k : k + 2] = [new]
        print(f"merge {rank:>3} ", "|".join(shown(tokenizer.tokens[i]) for i in ids))


title("bytes")
for text in ("a", "é", "中", "😀"):
    print(f"{text}  {text.encode().hex(' ')}")

title("pre-tokens")
sentence = "The theme's these: 12 人工智能!"
for name, pattern in PATTERNS.items():
    print(f"{name:<8}", "|".join(piece.decode() for piece in definition.split(sentence.encode(), pattern)))

title("learning")
words = "low low low low low lower lower newest newest newest newest newest newest widest widest widest"
tokenizer = Tokenizer.train([words], 256 + 10, special_tokens=())
for (left, right), (rank, new) in tokenizer.merges.items():
    a, b = tokenizer.tokens[left], tokenizer.tokens[right]
    print(f"merge {rank}: {shown(a)!r:>6} + {shown(b)!r:<6} -> {new} {shown(a + b)!r}")
print("a word that was not there:", [shown(tokenizer.tokens[i]) for i in tokenizer.encode(" lowest")])

title("an English sentence")
english = "the theme of these themes is there, and then the others gather together to see whether they are the same. "
tokenizer = Tokenizer.train([english * 3], 256 + 60, special_tokens=())
for piece in definition.split(b"the other theme", GPT2):
    trace(tokenizer, piece)
print([int(i) for i in tokenizer.encode("the other theme")])

title("人工智能")
chinese = "人工智能是计算机科学的一个分支。人工智能研究智能机器。机器学习是人工智能的核心。人工与智能。"
tokenizer = Tokenizer.train([chinese], 256 + 60, "chinese", special_tokens=())
trace(tokenizer, "人工智能".encode())
print([int(i) for i in tokenizer.encode("人工智能")])
print("a character that was not there:", [shown(tokenizer.tokens[i]) for i in tokenizer.encode("猫")])

title("streaming")
ids = [int(i) for i in tokenizer.encode("猫!")]
print("token by token:", [tokenizer.decode([i]) for i in ids])
print("as a stream:   ", list(tokenizer.decode_stream(ids)))

title("offsets")
in_bytes, in_characters = tokenizer.offsets(ids)
print("in bytes:     ", in_bytes.tolist())
print("in characters:", in_characters.tolist())

title("special tokens")
tokenizer = Tokenizer.train([english * 3], 256 + 60)
text = "see<|endoftext|>"
print("as text:", [shown(tokenizer.tokens[i]) for i in tokenizer.encode(text)])
print("allowed:", [shown(tokenizer.tokens[i]) for i in tokenizer.encode(text, allowed_special="all")])
