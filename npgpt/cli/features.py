"""Turn each line of a file into a vector, the hidden states of a layer of a model, and write them as a NumPy array. Row
i is that of line i, the first being 0; with --pool none there is a row for each token, with the fields line (from 1),
id and vector. A line has the same bits whatever stands beside it. A line is a text, or a JSON object with "text"."""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from npgpt.cli.checks import out_file, require_at_least, require_given
from npgpt.cli.opening import add_run, find_run
from npgpt.cli.options import announce_compiling
from npgpt.cli.reading import add_text_flags, open_named
from npgpt.cli.texts import END_TOKEN, SPECIAL

if TYPE_CHECKING:
    import numpy as np

    from npgpt.generation.prompts import Framed
    from npgpt.models.base import Model
    from npgpt.tokenizer import Tokenizer
    from npgpt.tokenizer.stream import TextFile

EXAMPLES = (
    "npgpt features runs/poems unseen.txt --out vectors.npy",
    "npgpt features runs/tang 句.txt --pool last --layer -2 --out vectors.npy",
    "npgpt features runs/poems unseen.txt --pool none --out tokens.npy",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="text file, each line of which is a text, or a file of JSON lines; - for standard input",
    )
    parser.add_argument("--out", required=True, metavar="FILE.npy", help="file to write; an older one is replaced")
    add_feature_flags(parser, ("mean", "last", "none"))


def add_feature_flags(parser: argparse.ArgumentParser, pools: Sequence[str]) -> None:
    """Add the flags that say what a text's vector is, and how a file is read."""
    parser.add_argument(
        "--pool",
        choices=pools,
        default="mean",
        help="a text's vector is the mean of its tokens' states, or the state of its last token (default: mean)"
        + ("; none keeps them all" if "none" in pools else ""),
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="whose states: 0 for the embeddings, N for the output of block N; negative numbers count from the end "
        "(default: -1, what follows the final layer norm)",
    )
    parser.add_argument(
        "--after",
        choices=("end", "line", "nothing"),
        help="what each text is read after: the end token, a line end, or nothing (default: as the model has learned)",
    )
    parser.add_argument("--special", action="store_true", help=SPECIAL)
    parser.add_argument("--end-token", metavar="TOKEN", help=END_TOKEN)
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads to use (default: 0, as many as pay)"
    )
    add_text_flags(parser, "newline", "document_separator")


class Encoder(NamedTuple):
    """A model that turns texts into vectors, as the flags say.

    before  the tokens that each text is read after
    """

    model: "Model"
    tokenizer: "Tokenizer"
    before: list[int]
    layer: int
    args: argparse.Namespace

    def framed(self, text: str, where: str) -> "Framed":
        """Return a text's tokens. Raises ValueError, naming where it stands, for one that has no vector."""
        from npgpt.generation.features import framed_text

        try:
            return framed_text(self.tokenizer, text, self.before, self.args.pool, self.args.special)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def vectors(self, texts: "Sequence[Framed]") -> "Iterator[tuple[int, np.ndarray]]":
        """Yield the number and the vector of each text, in some order."""
        from npgpt.generation.features import vectors
        from npgpt.support.notices import notice

        P = self.model.config.n_positions
        if n := sum(len(one.ids) > P for one in texts):
            notice(f"{n:,} of {len(texts):,} texts are longer than the context of {P}, and read in windows")
        return vectors(self.model, texts, self.args.pool, self.layer, self.args.threads)


def open_encoder(args: argparse.Namespace) -> Encoder:
    """Open the model that the flags name."""
    from npgpt.generation.features import layer_of, tokens_before
    from npgpt.generation.opening import learned, open_run

    require_at_least(0, "--threads", args.threads)
    folder = find_run(args)
    announce_compiling()
    model, tokenizer = open_run(folder, args.last, args.end_token, base=args.base)
    before = tokens_before(tokenizer, args.after, learned(folder, args.base).ends)
    return Encoder(model, tokenizer, before, layer_of(model, args.layer), args)


def run(args: argparse.Namespace) -> int:
    from npgpt.data.text import amount
    from npgpt.support.files import write_atomically
    from npgpt.support.notices import notice

    require_given("FILE", args.file, "a text file, a file of JSON lines, or - for standard input")
    out = out_file(args.out)
    if out.suffix != ".npy":
        raise ValueError(f"--out {args.out}: give a file that ends in .npy, NumPy's format")
    start = time.perf_counter()
    files = open_named([args.file], args).files
    encoder = open_encoder(args)
    texts = [encoder.framed(text, where) for file in files for where, text in lines_of_file(file)]
    if not texts:
        raise ValueError(f"{args.file}: there is no line to make a vector of")
    if args.pool != "none" and (n := sum(len(one.ids) == len(encoder.before) for one in texts)):
        notice(f"{amount(n, 'empty line')}: the vector is that of what each text is read after")
    shape: list[tuple[int, ...]] = []
    write_atomically(out, lambda part: shape.append(write_vectors(part, texts, encoder)))
    n_rows, width = shape[0]
    rows = f"{amount(n_rows, 'token')}, " if args.pool == "none" else ""
    seconds = time.perf_counter() - start
    print(f"{out}: {amount(len(texts), 'line')}, {rows}{width} numbers each, in {seconds:.1f} s")
    return 0


def write_vectors(path: Path, texts: "Sequence[Framed]", encoder: Encoder) -> tuple[int, int]:
    """Write vectors as they come, each in its place, in NumPy's format; return how many there are, and their width.

    Not through a memory map, which kills the process when the disk is full.
    """
    import numpy as np

    tokens, width = encoder.args.pool == "none", encoder.model.config.n_embd
    # a row is a text or a token; starts says where those of each text begin
    sizes = [len(one.ids) - one.first if tokens else 1 for one in texts]
    starts = np.cumsum([0, *sizes])
    row = np.dtype(("<f4", (width,)))
    if tokens:
        row = np.dtype([("line", "<i4"), ("id", "<i4"), ("vector", "<f4", (width,))])
    shape = (int(starts[-1]),) if tokens else (len(texts), width)
    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(row if tokens else row.base),
        "fortran_order": False,
        "shape": shape,
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        for i, found in encoder.vectors(texts):
            rows = found
            if tokens:
                rows = np.zeros(sizes[i], row)
                rows["line"], rows["id"], rows["vector"] = i + 1, texts[i].ids[texts[i].first :], found
            file.seek(begin + int(starts[i]) * row.itemsize)
            file.write(rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes())
    return int(starts[-1]), width


def lines_of_file(file: "TextFile") -> Iterator[tuple[str, str]]:
    """Yield each line of a file, blank ones too, as "file:line" and its text.

    Raises ValueError, naming file and line, for JSON that has no text.
    """
    from npgpt.cli.score import field_name
    from npgpt.data.dialects import read_object, strings
    from npgpt.tokenizer.stream import AS_IT_IS, lines_of, read_parts

    name = field_name(file)
    plain = dataclasses.replace(AS_IT_IS, encoding=file.config.encoding, newline="lf")
    for number, data in enumerate(lines_of(read_parts(dataclasses.replace(file, config=plain))), 1):
        where = f"{file}:{number}"
        if name is None:
            yield where, data.decode()
            continue
        if not data.strip():
            yield where, ""
            continue
        value = read_object(data, where)
        if name not in value or isinstance(value[name], list):
            raise ValueError(f"{where}: expected {name!r} with a string; --text-field names another")
        yield where, strings(value, name, where)[0]
