"""Check backward passes against numerical derivatives: those of npgpt's layers and of a two-block GPT, or your own pair
of functions, from a module whose make_args() returns their arguments. The exit code is 0 only if all checks pass."""

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from npgpt.cli.checks import out_file, require_at_least
from npgpt.cli.console import keep_going

if TYPE_CHECKING:
    from npgpt.gradcheck import Report

EXAMPLES = (
    "npgpt gradcheck layernorm",
    "npgpt gradcheck rmsnorm:forward,backward --html report.html",
)
Reports = dict[tuple[str, str], "Report"]  # by the table of ops and the name of the check
DEFECTS = (Exception, SystemExit, GeneratorExit)  # of a user's module; SystemExit(0) must not end in a success
LINE = "{:<10} {:<29}{:<14}{:<11} {:<7} {:<9} {}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        metavar="LAYER | MODULE:FORWARD,BACKWARD",
        help="a layer of npgpt, or gpt (default: all of them); or your own pair, called as out, cache = FORWARD(*args) "
        "and gradients = BACKWARD(dout, cache) with args = MODULE.make_args()",
    )
    parser.add_argument("--ops", choices=("reference", "fast"), help="which of npgpt's ops to check (default: both)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the arguments and of dout (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write the reports to this file as HTML")


def run(args: argparse.Namespace) -> int:
    require_at_least(0, "--seed", args.seed)
    html = None if args.html is None else out_file(args.html, "--html")  # before the checks, which take a while
    keep_going()
    if args.target and ":" in args.target:
        checks = check_own(args.target, args.seed)
    else:
        checks = check_layers(args.target, args.ops, args.seed)
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


def print_reports(checks: Iterator[tuple[str, str, "Report"]], overview: bool) -> Reports:
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


def summary(ops: str, name: str, report: "Report") -> str:
    """Return one line for a check, with the numbers of its worst argument."""
    worst = max(report.arguments, key=lambda argument: argument.relative_error)
    error, bar = f"{report.relative_error:.1e}", f"{report.error_bar:.0e}"
    return LINE.format(ops, name, report.verdict, error, bar, len(report.arguments), worst.name)


def check_layers(layer: str | None, ops: str | None, seed: int) -> Iterator[tuple[str, str, "Report"]]:
    """Check the cases of one layer or of all, on one table of ops or on both."""
    import numpy as np

    from npgpt.cases import CASES
    from npgpt.cli.options import announce_compiling
    from npgpt.gradcheck import check_backward
    from npgpt.ops import get_ops
    from npgpt.support.hints import nearest

    layers = {case.layer for case in CASES}
    if layer is not None and layer not in layers:
        raise ValueError(f"unknown layer {layer!r}{nearest(layer, sorted(layers))}")
    for name in [ops] if ops else ["reference", "fast"]:
        announce_compiling(name)
        table = get_ops(name)
        for case in CASES:
            if layer in (None, case.layer):
                rng = np.random.default_rng(seed)
                forward, backward = case.pair(table)
                arguments = case.args(rng)
                report = check_backward(forward, backward, *arguments, rng=rng, names=case.names(table))
                yield name, case.name, report


def check_own(target: str, seed: int) -> Iterator[tuple[str, str, "Report"]]:
    """Check a user's pair, written package.module:forward,backward."""
    import numpy as np

    from npgpt.gradcheck import check_backward

    module_name, _, functions = target.partition(":")
    names = functions.split(",")
    if len(names) != 2 or not module_name or not all(names):
        raise ValueError(f"{target!r} is not of the form package.module:forward,backward")
    sys.path.insert(0, "")  # find modules in the current folder, as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise ValueError(f"there is no module {error.name!r} here or among the installed packages") from None
        raise ValueError(f"{module_name}: {where(error)}") from error
    except DEFECTS as error:
        raise ValueError(f"{module_name}: {where(error)}") from error
    found: list[Any] = [getattr(module, name, None) for name in (*names, "make_args")]
    for name, function in zip((*names, "make_args"), found, strict=True):
        if not callable(function):
            hint = ", which must return the arguments of forward as a tuple" if name == "make_args" else ""
            raise ValueError(f"{module_name} has no function {name}{hint}")
    forward, backward, make_args = found
    try:
        args = make_args()
        args = tuple(args) if isinstance(args, tuple | list) else (args,)
        report = check_backward(forward, backward, *args, rng=np.random.default_rng(seed))
    except DEFECTS as error:
        raise ValueError(f"{target}: {where(error, module.__file__)}") from error
    yield "", target, report


def where(error: BaseException, file: str | None = None) -> str:
    """Return an error with the place that raised it: the last line in `file`, or in any file but Python's own."""
    if isinstance(error, SyntaxError):  # its message names the place
        return f"{type(error).__name__}: {error}"
    frames = list(traceback.extract_tb(error.__traceback__))
    frames = [f for f in frames if f.filename == file or (file is None and not f.filename.startswith("<"))]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
