"""Draw a run's training and validation losses as a picture. For a run on tales, it also shows the floor that no loss
can get below. Needs matplotlib: pip install 'npgpt[plot]'."""

import argparse
from pathlib import Path

from npgpt.cli.checks import out_picture

EXAMPLES = (
    "npgpt plot runs/tales",
    "npgpt plot runs/tales --out loss.png",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--out", metavar="FILE.png", help="picture to write (default: loss.png in the run folder)")


def run(args: argparse.Namespace) -> int:
    from npgpt.inspection.losses import draw, read_floor, read_metrics
    from npgpt.support.files import write_atomically

    folder = Path(args.run)
    out = folder / "loss.png" if args.out is None else out_picture(args.out)
    records = read_metrics(folder / "metrics.jsonl")
    figure = draw(folder, records, read_floor(folder))
    write_atomically(out, lambda part: figure.savefig(part, format=out.suffix[1:] or "png"))
    print(out)
    return 0
