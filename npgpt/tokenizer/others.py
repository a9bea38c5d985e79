"""Vocabulary files of other kinds, recognised so that an error can say what to do with them."""

import base64
import binascii
from pathlib import Path
from typing import Any

from npgpt.support.files import read_json

FOLDER = "give the folder that it is in"
LEARN = "npgpt reads byte-level BPE only, and learns one with npgpt tokenizer train"
WAY_OUT = (
    "many Chinese GPT-2s of the hub have such a vocabulary: npgpt.GPT.from_pretrained opens the model without it, for "
    "the ids that transformers' tokenizer gives"
)
TYPES = {
    "WordPiece": "as BERT has it",
    "Unigram": "as SentencePiece makes it for T5, XLNet or ALBERT",
    "WordLevel": "of whole words",
}
NAMES = {
    "vocab.json": f"one of GPT-2's two files, and merges.txt belongs to it: {FOLDER}",
    "merges.txt": f"one of GPT-2's two files, and vocab.json belongs to it: {FOLDER}",
    "tokenizer_config.json": f"beside a tokenizer.json, and without the vocabulary: {FOLDER}",
    "encoder.json": "OpenAI's name of GPT-2's vocab.json: give it that name, and vocab.bpe the name merges.txt",
    "vocab.bpe": "OpenAI's name of GPT-2's merges.txt: give it that name, and encoder.json the name vocab.json",
}
KNOWN = ("vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "encoder.json", "vocab.bpe")


# the kind of vocabulary by the beginning of a tokenizer_class of transformers
CLASSES = {
    **dict.fromkeys(("Bert", "Electra", "DistilBert"), "WordPiece"),
    **dict.fromkeys(
        ("T5", "XLNet", "Albert", "XLMRoberta", "Cpm", "Llama", "MBart", "Camembert", "DebertaV2"), "Unigram"
    ),
}


def kind_by_class(folder: Path) -> str:
    """Return what the tokenizer_class in a folder's configuration says of its vocabulary; "" if nothing is known.

    It may be all that there is to see, because vocab.txt and tokenizer.model are not downloaded from the hub.
    """
    for name in ("tokenizer_config.json", "config.json"):
        content: dict[str, Any] = read_json(folder / name) if (folder / name).is_file() else {}
        made_by = content.get("tokenizer_class")
        for start, kind in CLASSES.items():
            if isinstance(made_by, str) and made_by.startswith(start):
                return f"{name} says {made_by}, whose vocabulary is {kind}, {TYPES[kind]}: {LEARN}; {WAY_OUT}"
    return ""


def seems(path: Path) -> str:
    """Return what a file that is no tokenizer.json seems to be, and what to do with it; "" if nothing is known."""
    if path.name in NAMES:
        return NAMES[path.name]
    with path.open("rb") as file:
        head = file.read(1 << 14)
    lines = head.splitlines()[:50]
    if b"[UNK]" in lines or b"[CLS]" in lines or sum(line.startswith(b"##") for line in lines) > 1:
        return f"a vocabulary of WordPiece, {TYPES['WordPiece']}: {LEARN}; {WAY_OUT}"
    if head.startswith(b"\n") and b"<unk>" in head[:200]:
        return f"a model of SentencePiece: {LEARN}; {WAY_OUT}"
    if lines and all(map(is_rank, lines[:-1] or lines)):
        return (
            "a file of tiktoken's ranks: npgpt.tokenizer.BPETokenizer.from_tiktoken reads it, and save_pretrained of "
            "what it returns writes a tokenizer.json"
        )
    if head.startswith(b"#version"):
        return NAMES["merges.txt"]
    return ""


def is_rank(line: bytes) -> bool:
    """Say whether a line is a token in base64 and its rank, as in tiktoken's files."""
    try:
        token, rank = line.split()
        return bool(base64.b64decode(token, validate=True)) and rank.isdigit()
    except (ValueError, binascii.Error):
        return False


def seen_in(folder: Path) -> str:
    """Return what a folder without a tokenizer that npgpt knows has instead; "" if nothing is known."""
    ranks = sorted(path.name for path in folder.glob("*.tiktoken"))
    for name in (*KNOWN, *ranks):
        if (folder / name).is_file() and (what := seems(folder / name)):
            return f"; {name} is {what}"
    what = kind_by_class(folder)
    return f", and {what}" if what else ""
