"""Check backward passes against numerical derivatives: those of npgpt's layers and of a two-block GPT, or your own pair
of functions, from a module whose make_args() returns their arguments. The exit code is 0 only if all checks pass."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.cli.checks import out_file, require_at_least
from npgpt.cli.console import keep_going

if TYPE_CHECKING:
    from npgpt.gradcheck import Report
    from npgpt.gradcheck.command import Answer

EXAMPLES = (
    "npgpt gradcheck layernorm",
    "npgpt gradcheck rmsnorm:forward,backward --wrt x --html report.html",
)
Reports = dict[tuple[str, str], "Report | Answer"]  # by the table of ops and the name of the check
LINE = "{:<10} {:<32} {:<14}{:<11} {:<7} {:<9} {}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        metavar="LAYER | MODULE:FORWARD,BACKWARD",
        help="a layer of npgpt, or gpt (default: all of them); or your own pair, called as out, cache = FORWARD(*args) "
        "and gradients = BACKWARD(dout, cache) with args = MODULE.make_args()",
    )
    parser.add_argument("--ops", choices=("reference", "fast"), help="which of npgpt's ops to check (default: both)")
    # those of npgpt-gradcheck, too; its add_flags cannot be used, because that would import NumPy for a page of help
    parser.add_argument(
        "--wrt", metavar="NAMES", help="the arguments of your pair to check, such as x,weight or 0,2 (default: all)"
    )
    parser.add_argument(
        "--mode",
        choices=("auto", "elements", "directions"),
        default="auto",
        help="look at every element, or at directions and a sample (default: auto; by size)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="what forward and backward compute in (default: float64)",
    )
    parser.add_argument("--strict", action="store_true", help="do not pass if anything was not looked at")
    parser.add_argument(
        "--max-seconds", type=float, metavar="S", help="look at a sample if all of a check takes longer"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the arguments and of dout (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write the reports to this file as HTML")


def run(args: argparse.Namespace) -> int:
    require_at_least(0, "--seed", args.seed)
    html = None if args.html is None else out_file(args.html, "--html")  # before the checks, which take a while
    keep_going()
    checks = check_own(args) if args.target and ":" in args.target else check_layers(args)
    if args.json:
        reports: Reports = {(ops, name): report for ops, name, report in checks}
        print(as_json(reports))
    else:
        reports = print_reports(checks, overview=args.target is None)
    if html:
        from npgpt.support.files import write_text

        write_text(html, "<hr>".join(report.to_html() for report in reports.values()))
    return 0 if all_pass(reports) else 1


def all_pass(reports: Reports) -> bool:
    return all(reports.values())  # a report is true if its verdict is "pass"


def as_json(reports: Reports) -> str:
    checked = [{"ops": ops, "name": name, **json.loads(r.to_json())} for (ops, name), r in reports.items()]
    return json.dumps({"pass": all_pass(reports), "checks": checked}, indent=2)


def print_reports(checks: Iterator[tuple[str, str, "Report | Answer"]], overview: bool) -> Reports:
    """Print each report as soon as it is there, and return all of them.

    overview  print one line per report, and a whole report only if it is not "pass"
    """
    reports: Reports = {}
    if overview:
        print(LINE.format("ops", "check", "verdict", "rel. error", "bar", "arguments", "worst argument"))
    for ops, name, report in checks:
        reports[ops, name] = report
        if overview:
            print(summary(ops, name, report), flush=True)
        if not overview or not report:
            print(f"{name}{f' ({ops})' if ops else ''}\n{report}\n", flush=True)
    if len(reports) > 1:
        print(f"{sum(map(bool, reports.values()))} of {len(reports)} pass")
    return reports


def summary(ops: str, name: str, report: Any) -> str:
    """Return one line for a check, with the numbers of its worst argument."""
    worst = max(report.arguments, key=lambda argument: argument.relative_error)
    error, bar = f"{report.relative_error:.1e}", f"{report.error_bar:.0e}"
    return LINE.format(ops, name, report.verdict, error, bar, len(report.arguments), worst.name)


def check_own(args: argparse.Namespace) -> Iterator[tuple[str, str, "Answer"]]:
    """Check a user's pair, written package.module:forward,backward."""
    from npgpt.gradcheck import command

    if args.ops:
        raise ValueError("--ops is for npgpt's own layers: a pair of your own has no table of ops")
    yield "", args.target, command.check_own(args)


def check_layers(args: argparse.Namespace) -> Iterator[tuple[str, str, "Report"]]:
    """Check the cases of one layer or of all, on one table of ops or on both."""
    import numpy as np

    from npgpt.cases import CASES
    from npgpt.cli.options import announce_compiling
    from npgpt.gradcheck import check_backward
    from npgpt.ops import get_ops
    from npgpt.support.hints import nearest

    layer, layers = args.target, {case.layer for case in CASES}
    if layer is not None and layer not in layers:
        path = Path(layer)
        if path.suffix == ".py" or path.with_suffix(".py").exists():
            raise ValueError(f"{layer} is no layer: for a pair of your own, say {path.stem}:forward,backward")
        raise ValueError(f"unknown layer {layer!r}{nearest(layer, sorted(layers))}")
    if args.wrt is not None:
        raise ValueError("--wrt is for a pair of your own: npgpt's layers are checked in all their arguments")
    options = {"mode": args.mode, "dtype": args.dtype, "strict": args.strict, "max_seconds": args.max_seconds}
    for name in [args.ops] if args.ops else ["reference", "fast"]:
        announce_compiling(name)
        table = get_ops(name)
        for case in CASES:
            if layer in (None, case.layer):
                rng = np.random.default_rng(args.seed)
                forward, backward = case.pair(table)
                arguments = case.args(rng)
                names = case.names(table)
                report = check_backward(forward, backward, *arguments, rng=rng, names=names, **options)
                yield name, case.name, report
