"""Data: from files to batches. Texts, token shards, prompts and completions, packing, downloads, and the tales.

Imports of npgpt: config, support, tokenizer.
"""

from npgpt.data.batch import IGNORED, Batch, Dataset, Text
from npgpt.data.packing import Packed, pack, too_long
from npgpt.data.shards import Prepared, is_prepared, open_prepared, prepare
from npgpt.data.splitting import encoded, require_enough
from npgpt.data.text import Texts, open_texts, read_text
from npgpt.data.vocabulary import make_tokenizer

__all__ = [
    "IGNORED",
    "Batch",
    "Dataset",
    "Packed",
    "Prepared",
    "Text",
    "Texts",
    "encoded",
    "is_prepared",
    "make_tokenizer",
    "open_prepared",
    "open_texts",
    "pack",
    "prepare",
    "read_text",
    "require_enough",
    "too_long",
]
