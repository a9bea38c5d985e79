"""Learn a byte-level BPE tokenizer from text files, encode and decode with it, and look at what it does."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npgpt.tokenizer import Tokenizer

COLOURS = (44, 42, 45, 43, 46)  # backgrounds of the terminal, one after another


def add_flags(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    train = actions.add_parser("train", help="learn a vocabulary from text files", allow_abbrev=False)
    train.add_argument("files", nargs="+", metavar="FILE", help="UTF-8 text files, of any size")
    train.add_argument("--vocab-size", type=int, default=4096, metavar="N", help="tokens in all (default: 4096)")
    train.add_argument(
        "--pattern",
        default="gpt2",
        metavar="NAME",
        help="where a text is cut before merging: gpt2, gpt4, chinese, or a regular expression (default: gpt2)",
    )
    train.add_argument(
        "--special",
        nargs="+",
        action="extend",
        metavar="TOKEN",
        help="special tokens, with the ids after all others (default: <|endoftext|>)",
    )
    train.add_argument("--out", required=True, metavar="FOLDER", help="where to write tokenizer.json")

    encode = actions.add_parser("encode", help="print the ids of a text", allow_abbrev=False)
    add_folder(encode)
    encode.add_argument("text", nargs="?", metavar="TEXT", help="(default: what is piped in)")
    encode.add_argument("--special", action="store_true", help="take special tokens in the text as such")

    decode = actions.add_parser("decode", help="print the text of ids", allow_abbrev=False)
    add_folder(decode)
    decode.add_argument("ids", nargs="*", metavar="ID", help="(default: what is piped in)")

    show = actions.add_parser("show", help="show the tokens of a text, their ids and bytes", allow_abbrev=False)
    add_folder(show)
    show.add_argument("text", metavar="TEXT")
    show.add_argument("--special", action="store_true", help="take special tokens in the text as such")

    stats = actions.add_parser("stats", help="how well a vocabulary fits a text", allow_abbrev=False)
    add_folder(stats)
    stats.add_argument("file", metavar="FILE", help="a UTF-8 text file, of any size")
    stats.add_argument("--plot", metavar="PICTURE", help="draw how often each token occurs; needs npgpt[plot]")


def add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="a run, or a folder with a tokenizer.json or GPT-2's two files"
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

    from npgpt.tokenizer import Tokenizer
    from npgpt.tokenizer.stream import require_file

    out = Path(args.out)
    if not args.out or out.is_file():
        raise ValueError(f"--out {args.out}: give a folder")
    if (out / "tokenizer.json").exists():
        raise ValueError(f"{out} already holds a tokenizer: choose another --out")
    for file in args.files:  # before the work on the first
        require_file(file)
    n_bytes = sum(Path(file).stat().st_size for file in args.files)
    if not n_bytes:
        raise ValueError(f"{', '.join(args.files)}: there is no text to learn from")
    special = ("<|endoftext|>",) if args.special is None else args.special
    with tqdm(total=n_bytes, unit="B", unit_scale=True, disable=None) as bar:

        def files() -> Iterator[Path]:
            yield from map(Path, args.files)
            bar.set_description("all read, merging")

        tokenizer = Tokenizer.train(files(), args.vocab_size, args.pattern, special, progress=bar.update)
    tokenizer.save_pretrained(out)
    print(f"{out}: {tokenizer.vocab_size:,} tokens")
    if tokenizer.vocab_size < args.vocab_size:
        print(f"fewer than {args.vocab_size:,}: no pair occurs twice any more in this text")
    print(f"look at it with: npgpt tokenizer stats {out} {args.files[0]}")


def ids_of(tokenizer: "Tokenizer", text: str, special: bool) -> Any:
    """Return the ids of a text, in which special tokens are taken as such if that is asked for."""
    options: dict[str, Any] = {"allowed_special": "all"} if special else {}
    if special and tokenizer.kind != "bpe":
        raise ValueError(f"--special: a vocabulary of {tokenizer.kind} has no special tokens")
    return tokenizer.encode(text, **options)


def encode(args: argparse.Namespace) -> None:
    tokenizer = open_folder(args.folder)
    text = piped() if args.text is None else args.text
    print(*ids_of(tokenizer, text, args.special))


def piped() -> str:
    """Return what is piped in. Raises ValueError if nobody pipes, or what comes is not UTF-8."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError("give a text, or pipe one in")
    data = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"standard input is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from None


def decode(args: argparse.Namespace) -> None:
    tokenizer = open_folder(args.folder)
    ids = []
    for word in args.ids or piped().split():
        if not word.lstrip("-").isdecimal():
            raise ValueError(f"{word!r} is not an id")
        ids.append(int(word))
    data = tokenizer.decode_bytes(ids)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)  # what is not UTF-8 too
    sys.stdout.buffer.flush()


def show(args: argparse.Namespace) -> None:
    tokenizer = open_folder(args.folder)
    ids = [int(i) for i in ids_of(tokenizer, args.text, args.special)]
    pieces = [tokenizer.decode_bytes([i]) for i in ids]
    print(
        "".join(coloured(piece, k) if sys.stdout.isatty() else f"[{visible(piece)}]" for k, piece in enumerate(pieces))
    )
    print()
    print("    id  bytes  token")
    for i, piece in zip(ids, pieces, strict=True):
        print(f"{i:>6}  {len(piece):>5}  {visible(piece)}")


def visible(piece: bytes) -> str:
    r"""Return a token's text; bytes that are not whole characters, and what cannot be seen, as \x.. and \n."""
    text = piece.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def coloured(piece: bytes, k: int) -> str:
    return f"\033[{COLOURS[k % len(COLOURS)]};30m{visible(piece)}\033[0m"


def stats(args: argparse.Namespace) -> None:
    tokenizer = open_folder(args.folder)
    counts: Counter[int] = Counter()
    for ids in tokenizer.encode_file(args.file):
        counts.update(ids.tolist())
    total = counts.total()
    if not total:
        raise ValueError(f"{args.file}: the file is empty")
    sizes = {i: len(tokenizer.decode_bytes([i])) for i in counts}
    n_bytes = sum(sizes[i] * n for i, n in counts.items())
    print(f"{total:,} tokens for {n_bytes:,} bytes: {n_bytes / total:.2f} bytes a token")
    print(f"{len(counts):,} of {tokenizer.vocab_size:,} tokens are used: {len(counts) / tokenizer.vocab_size:.1%}")
    print("\nlongest tokens in it")
    for i in sorted(sizes, key=lambda i: (-sizes[i], i))[:10]:
        print(f"{i:>6}  {sizes[i]:>3} bytes  {counts[i]:>8,} times  {visible(tokenizer.decode_bytes([i]))}")
    if args.plot:
        plot(sorted(counts.values(), reverse=True), args.plot)
        print(f"\nhow often each token occurs: {args.plot}")


def plot(counts: list[int], path: str) -> None:
    """Draw counts by rank on doubly logarithmic axes, where Zipf's law is a straight line."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'npgpt[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.loglog(range(1, len(counts) + 1), counts)
    axes.set_xlabel("token, the most frequent first")
    axes.set_ylabel("times in the text")
    try:
        figure.savefig(path)
    except ValueError as error:  # of a picture format that it does not know
        raise ValueError(f"--plot {path}: {error}") from None
    finally:
        pyplot.close(figure)
