"""Say how similar texts are to a model: the cosine of the vectors of A and B, or with --search, the lines of a file
that are nearest to a query. The vectors are those of npgpt features. Those of a GPT share a direction, so unrelated
texts have a high cosine; --center subtracts the mean vector of the file from all of them first."""

import argparse
import json
import math
from typing import TYPE_CHECKING

from npgpt.cli.checks import require_at_least, require_given
from npgpt.cli.features import Encoder, add_feature_flags, lines_of_file, open_encoder
from npgpt.cli.opening import add_run
from npgpt.cli.reading import open_named
from npgpt.cli.tokenizer import visible

if TYPE_CHECKING:
    import numpy as np

    from npgpt.generation.prompts import Framed

EXAMPLES = (
    'npgpt similar runs/poems "a summer\'s day" "a winter\'s night"',
    'npgpt similar runs/poems --search poems.txt --center -k 3 "a summer\'s day"',
    "npgpt similar runs/tang 床前明月光 举头望明月 --json",
)
SHOWN = 80  # characters of a text in the table


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("texts", nargs="+", type=str, metavar="TEXT", help="two texts; with --search one, the query")
    parser.add_argument("--search", metavar="FILE", help="find the lines of this file that are nearest to the query")
    parser.add_argument("-k", type=int, metavar="N", help="how many of them to print (default: 10)")
    parser.add_argument("--center", action="store_true", help="subtract the mean vector of the file's lines first")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    add_feature_flags(parser, ("mean", "last"))


def run(args: argparse.Namespace) -> int:
    from npgpt.data.text import amount
    from npgpt.generation.features import cosines

    wanted = 2 if args.search is None else 1
    require_given("--search", args.search, "a text file, a file of JSON lines, or - for standard input")
    require_at_least(1, "-k", args.k)
    if len(args.texts) != wanted:
        what = "two texts to compare" if wanted == 2 else "one text, the query, beside --search"
        raise ValueError(f"{amount(len(args.texts), 'text')}: give {what}")
    if args.search is None:
        for flag, given in (("-k", args.k is not None), ("--center", args.center)):
            if given:
                raise ValueError(f"{flag} has no effect without --search: add it, or leave {flag} out")
        encoder = open_encoder(args)
        framed = [encoder.framed(text, name) for name, text in zip(("A", "B"), args.texts, strict=True)]
        found = dict(encoder.vectors(framed))
        cosine = float(cosines(found[0][None], found[1])[0])
        print(json.dumps({"cosine": number(cosine)}) if args.json else f"cosine  {cosine:.4f}")
        return 0
    return search(args)


def search(args: argparse.Namespace) -> int:
    """Print the lines of a file that are nearest to a query."""
    import numpy as np

    from npgpt.data.text import amount
    from npgpt.generation.features import cosines
    from npgpt.support.notices import notice

    files = open_named([args.search], args).files
    encoder = open_encoder(args)
    query = encoder.framed(args.texts[0], "the query")
    lines = [(where, text) for file in files for where, text in lines_of_file(file)]
    given = [(where, text) for where, text in lines if text.strip()]
    if len(given) < len(lines):
        notice(f"{args.search}: {amount(len(lines) - len(given), 'blank line')} left out")
    if len(given) < (2 if args.center else 1):
        what = "--center needs at least two lines" if given else "there is no line to search"
        raise ValueError(f"{args.search}: {what}")
    vectors = encoded(encoder, [query, *(encoder.framed(text, where) for where, text in given)])
    center = vectors[1:].mean(axis=0, dtype=np.float64) if args.center else 0.0
    found = cosines(vectors[1:], vectors[0], center)
    if not args.json:
        print("  line   cosine    text")
    for i in np.argsort(-found, kind="stable")[: args.k or 10]:
        (where, text), cosine = given[i], float(found[i])
        line = int(where.rpartition(":")[2])
        if args.json:
            print(json.dumps({"line": line, "cosine": number(cosine), "text": text}, ensure_ascii=False))
            continue
        shown = visible(text.encode())
        print(f"{line:>6}  {cosine:>7.4f}    {shown if len(shown) <= SHOWN else f'{shown[: SHOWN - 3]}...'}")
    return 0


def encoded(encoder: Encoder, framed: "list[Framed]") -> "np.ndarray":
    """Return the vectors of texts in their order, (N, C)."""
    import numpy as np

    vectors = np.empty((len(framed), encoder.model.config.n_embd), np.float32)
    for i, vector in encoder.vectors(framed):
        vectors[i] = vector
    return vectors


def number(cosine: float) -> float | None:
    """Return a cosine in the types of JSON, which has no NaN."""
    return cosine if math.isfinite(cosine) else None
