"""A small world of tales in English and Chinese, whose grammar, probabilities and entropy are known exactly."""

from npgpt.data.tales.entropy import count, entropy, floor, mean_bytes, nats
from npgpt.data.tales.generate import Tale, draw_tale, styles, tales, tell, texts, uniforms
from npgpt.data.tales.grammar import Grammar, load_grammar, read_grammar
from npgpt.data.tales.parse import NotATaleError, parse
from npgpt.data.tales.words import LANGS, language_of

__all__ = [
    "LANGS",
    "Grammar",
    "NotATaleError",
    "Tale",
    "count",
    "draw_tale",
    "entropy",
    "floor",
    "language_of",
    "load_grammar",
    "mean_bytes",
    "nats",
    "parse",
    "read_grammar",
    "styles",
    "tales",
    "tell",
    "texts",
    "uniforms",
]
