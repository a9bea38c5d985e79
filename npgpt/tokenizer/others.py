"""Vocabulary files of other kinds, recognised so that an error can say what to do with them."""

import base64
import binascii
from pathlib import Path

FOLDER = "give the folder that it is in"
LEARN = "npgpt reads byte-level BPE only, and learns one with npgpt tokenizer train"
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


def seems(path: Path) -> str:
    """Return what a file that is no tokenizer.json seems to be, and what to do with it; "" if nothing is known."""
    if path.name in NAMES:
        return NAMES[path.name]
    with path.open("rb") as file:
        head = file.read(1 << 14)
    lines = head.splitlines()[:50]
    if b"[UNK]" in lines or b"[CLS]" in lines or sum(line.startswith(b"##") for line in lines) > 1:
        return f"a vocabulary of WordPiece, {TYPES['WordPiece']}: {LEARN}"
    if head.startswith(b"\n") and b"<unk>" in head[:200]:
        return f"a model of SentencePiece: {LEARN}"
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
    return ""
