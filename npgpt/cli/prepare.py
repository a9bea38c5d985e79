"""Tokenize text files once, into a folder that `npgpt train --data DIR` maps into memory, whatever its size. The first
90% of each file's tokens are for training, the rest for validation."""

import argparse

from npgpt.cli.checks import out_folder
from npgpt.cli.reading import TEXT_FILES, add_text_flags, open_named

EXAMPLES = (
    "npgpt prepare poems.txt plays.txt --out data/english",
    "npgpt prepare 唐诗.txt --tokenizer chars --out data/tang",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help=f"{TEXT_FILES}; of any size")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to write; it must not hold tokenized text yet"
    )
    parser.add_argument(
        "--tokenizer",
        default="bpe:4096",
        metavar="NAME",
        help="chars, bytes, bpe:SIZE (learned from the files), or a folder with a tokenizer (default: bpe:4096)",
    )
    parser.add_argument(
        "--end-token",
        metavar="TOKEN",
        help="special token that ends a text: bpe:SIZE learns it, a folder has it (default: the tokenizer's own)",
    )
    add_text_flags(parser)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from npgpt.data import is_prepared, make_tokenizer, prepare
    from npgpt.data.shards import remove_unfinished
    from npgpt.data.splitting import end_of
    from npgpt.support.lock import locked

    out = out_folder(args.out)
    texts = open_named(args.files, args)
    with locked(out):
        remove_unfinished(out)
        if is_prepared(out) or (out / "tokenizer.json").exists():
            raise ValueError(f"{out} already holds a tokenizer or tokenized text: choose another --out")
        tokenizer = make_tokenizer(args.tokenizer, texts.files, args.end_token)
        with tqdm(unit=" tokens", unit_scale=True, disable=None) as bar:
            train, val = prepare(texts.files, out, tokenizer, bar.update)
    texts.report(end_of(tokenizer))
    size = sum(file.size for file in texts.files)
    print(
        f"{out}: {train:,} tokens to train on, {val:,} for validation, {tokenizer.vocab_size:,} in the vocabulary, "
        f"{size / (train + val):.2f} bytes per token"
    )
    print(f"train on it with: npgpt train --data {out}")
    return 0
