"""Learn a byte-level BPE tokenizer from text files, encode and decode text with it, and inspect its tokens."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.cli.checks import out_folder, out_picture, require_given
from npgpt.cli.parser import add_action, add_actions
from npgpt.cli.reading import TEXT_FILES, add_text_flags, open_named
from npgpt.cli.texts import add_text, given_text, read_input

if TYPE_CHECKING:
    from npgpt.tokenizer import Tokenizer

EXAMPLES = (
    "npgpt tokenizer train poems.txt --vocab-size 4096 --out tokenizers/poems",
    'npgpt tokenizer show tokenizers/poems "the theme of 人工智能"',
)
TRAIN = (EXAMPLES[0], "npgpt tokenizer train 唐诗.txt --pattern chinese --vocab-size 2000 --out tokenizers/tang")
ENCODE = (
    'npgpt tokenizer encode tokenizers/poems "Shall I compare thee"',
    "npgpt tokenizer encode runs/poems --file plays.txt",
)
DECODE = ("npgpt tokenizer decode tokenizers/poems 84 104 101", "npgpt tokenizer decode runs/poems 229 186 138")
SHOW = (EXAMPLES[1], "npgpt tokenizer show tokenizers/poems 'The end<|endoftext|>' --special")
STATS = (
    "npgpt tokenizer stats tokenizers/poems plays.txt",
    "npgpt tokenizer stats tokenizers/poems plays.txt --plot counts.png",
)
COLOURS = (44, 42, 45, 43, 46)  # background colours of the terminal, used in turn


def add_flags(parser: argparse.ArgumentParser) -> None:
    actions = add_actions(parser)
    add_train(actions)
    encode = add_action(actions, "encode", "print the ids of a text", *ENCODE)
    add_folder(encode)
    add_text(encode)

    decode = add_action(actions, "decode", "print the text that ids stand for", *DECODE)
    add_folder(decode)
    decode.add_argument("ids", nargs="*", metavar="ID", help="ids to decode (default: standard input)")

    show = add_action(actions, "show", "show the tokens of a text with their ids and lengths", *SHOW)
    add_folder(show)
    add_text(show)

    stats = add_action(actions, "stats", "print how well a vocabulary fits a text", *STATS)
    add_folder(stats)
    stats.add_argument("file", metavar="FILE", help=f"{TEXT_FILES}; of any size")
    stats.add_argument(
        "--plot", metavar="PICTURE", help="also draw how often each token occurs, into this file; needs npgpt[plot]"
    )
    add_text_flags(stats)


def add_train(actions: Any) -> None:
    train = add_action(actions, "train", "learn a vocabulary from text files", *TRAIN)
    train.add_argument("files", nargs="+", metavar="FILE", help=f"{TEXT_FILES}; of any size")
    train.add_argument("--vocab-size", type=int, default=4096, metavar="N", help="number of tokens (default: 4096)")
    train.add_argument(
        "--pattern",
        default="gpt2",
        metavar="NAME",
        help="how text is cut into pieces before merging: gpt2, gpt4, chinese, or a regular expression (default: gpt2)",
    )
    train.add_argument(
        "--special",
        nargs="+",
        action="extend",
        metavar="TOKEN",
        help="special tokens, which get the last ids (default: the token that ends a text)",
    )
    train.add_argument(
        "--end-token", metavar="TOKEN", help="special token that ends a text, such as '</s>' (default: <|endoftext|>)"
    )
    train.add_argument("--out", required=True, metavar="FOLDER", help="folder to write tokenizer.json into")
    add_text_flags(train)


def add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="a run folder, or a folder with tokenizer.json or GPT-2's two files"
    )


def run(args: argparse.Namespace) -> int:
    actions = {"train": train, "encode": encode, "decode": decode, "show": show, "stats": stats}
    actions[args.action](args)
    return 0


def open_folder(name: str) -> "Tokenizer":
    from npgpt.tokenizer import Tokenizer

    if not Path(name).exists():
        raise FileNotFoundError(f"{name}: no such folder")
    return Tokenizer.from_pretrained(name)


def train(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from npgpt.support.files import begun, is_begun, remove_files, remove_parts
    from npgpt.support.lock import locked
    from npgpt.tokenizer import Tokenizer
    from npgpt.tokenizer.base import FILES
    from npgpt.tokenizer.stream import END, TextFile

    require_given("--end-token", args.end_token, "the name of a special token")
    out = out_folder(args.out)
    texts = open_named(args.files, args)  # all of them, before work on the first begins
    special = list(args.special or [])
    end = args.end_token or (END if args.special is None or END in special else None)
    if end is not None and end not in special:
        special.append(end)
    with (
        locked(out),
        tqdm(total=sum(file.size for file in texts.files), unit="B", unit_scale=True, disable=None) as bar,
    ):
        remove_parts(out, FILES)
        if is_begun(out):  # by a process that was killed
            remove_files(out, FILES)
        if (out / "tokenizer.json").exists():
            raise ValueError(f"{out} already holds a tokenizer: choose another --out")

        def files() -> Iterator[TextFile]:
            yield from (file.ending(end) for file in texts.files)
            bar.set_description("merging pairs")

        tokenizer = Tokenizer.train(files(), args.vocab_size, args.pattern, special, progress=bar.update)
        if end is not None:
            tokenizer = tokenizer.ending_with(end)
        with begun(out, FILES):
            tokenizer.save_pretrained(out)
    texts.report(end)
    print(f"{out}: {tokenizer.vocab_size:,} tokens")
    if tokenizer.vocab_size < args.vocab_size:
        print(f"fewer than {args.vocab_size:,}: no more pairs of tokens occur twice in this text")
    print(f"inspect it with: npgpt tokenizer stats {out} {args.files[0]}")


def ids_of(tokenizer: "Tokenizer", args: argparse.Namespace) -> list[int]:
    """Return the ids of the text that is given. A line on stderr says so if there is none."""
    text = given_text(args)
    if not text:
        print("the text is empty: it has no ids", file=sys.stderr)
    return tokenizer.encode_prompt(text, args.special)


def encode(args: argparse.Namespace) -> None:
    print(*ids_of(open_folder(args.folder), args))


def decode(args: argparse.Namespace) -> None:
    tokenizer = open_folder(args.folder)
    ids = []
    for word in args.ids or read_input("give ids as arguments, or pipe them in").split():
        if not word.lstrip("-").isdecimal():
            raise ValueError(f"{word!r} is not an id, which is a whole number")
        ids.append(int(word))
    data = tokenizer.decode_bytes(ids)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)  # bytes, because ids may stand for text that is not UTF-8
    sys.stdout.buffer.flush()


def show(args: argparse.Namespace) -> None:
    tokenizer = open_folder(args.folder)
    ids = ids_of(tokenizer, args)
    pieces = [tokenizer.decode_bytes([i]) for i in ids]
    print(
        "".join(coloured(piece, k) if sys.stdout.isatty() else f"[{visible(piece)}]" for k, piece in enumerate(pieces))
    )
    print()
    print("    id  bytes  token")
    for i, piece in zip(ids, pieces, strict=True):
        print(f"{i:>6}  {len(piece):>5}  {visible(piece)}")


def visible(piece: bytes) -> str:
    r"""Return a token's text, with incomplete characters shown as \x.., and line ends and other controls as \n etc."""
    text = piece.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def coloured(piece: bytes, k: int) -> str:
    return f"\033[{COLOURS[k % len(COLOURS)]};30m{visible(piece)}\033[0m"


def stats(args: argparse.Namespace) -> None:
    from npgpt.data.splitting import encoded, end_of

    picture = None if args.plot is None else out_picture(args.plot, "--plot")  # before the counting
    tokenizer = open_folder(args.folder)
    counts: Counter[int] = Counter()
    texts = open_named([args.file], args)
    for file in texts.files:
        for ids in encoded(file, tokenizer):
            counts.update(ids.tolist())
    texts.report(end_of(tokenizer))
    total = counts.total()
    if not total:
        raise ValueError(f"{args.file}: the file is empty")
    sizes = {i: len(tokenizer.decode_bytes([i])) for i in counts}
    n_bytes = sum(sizes[i] * n for i, n in counts.items())
    print(f"{total:,} tokens for {n_bytes:,} bytes: {n_bytes / total:.2f} bytes per token")
    print(f"{len(counts):,} of {tokenizer.vocab_size:,} tokens are used: {len(counts) / tokenizer.vocab_size:.1%}")
    print("\nlongest tokens in the text")
    for i in sorted(sizes, key=lambda i: (-sizes[i], i))[:10]:
        print(f"{i:>6}  {sizes[i]:>3} bytes  {counts[i]:>8,} times  {visible(tokenizer.decode_bytes([i]))}")
    if picture:
        plot(sorted(counts.values(), reverse=True), picture)
        print(f"\nhow often each token occurs: {args.plot}")


def plot(counts: list[int], path: Path) -> None:
    """Draw counts by rank on logarithmic axes, where Zipf's law is a straight line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from npgpt.support.files import write_atomically

    figure, axes = pyplot.subplots()
    axes.loglog(range(1, len(counts) + 1), counts)
    axes.set_xlabel("rank of the token by frequency")
    axes.set_ylabel("occurrences in the text")
    try:
        write_atomically(path, lambda part: figure.savefig(part, format=path.suffix[1:] or "png"))
    finally:
        pyplot.close(figure)
