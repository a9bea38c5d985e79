"""Check backward passes against numerical derivatives: npgpt's own layers and a two-block GPT, or your own pair of
functions in a module that has make_args() to give the arguments. Exit code 0 only if all pass."""

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npgpt.gradcheck import Report

LINE = "{:<10} {:<29}{:<14}{:<11} {:<7} {:<9} {}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        metavar="LAYER | MODULE:FORWARD,BACKWARD",
        help="a layer of npgpt or gpt (default: all of them), or your own pair: out, cache = FORWARD(*args) and "
        "gradients = BACKWARD(dout, cache), with args = MODULE.make_args()",
    )
    parser.add_argument("--ops", choices=("reference", "fast"), help="of npgpt's layers (default: both)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of arguments and cotangent (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the reports to a page of HTML too")


def run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must be at least 0")
    own = bool(args.target and ":" in args.target)
    checks = check_own(args.target, args.seed) if own else check_layers(args.target, args.ops, args.seed)
    overview = args.target is None and not args.json
    if overview:
        print(LINE.format("ops", "check", "verdict", "rel. error", "bar", "arguments", "the worst"))
    reports: dict[tuple[str, str], Report] = {}
    for ops, name, report in checks:
        reports[ops, name] = report
        if overview:
            print(summary(ops, name, report), flush=True)
        if not args.json and (not overview or not report):
            print(f"{name}{f' ({ops})' if ops else ''}\n{report}\n", flush=True)
    passed = [report.verdict for report in reports.values()].count("pass")
    if args.json:
        checked = [{"ops": ops, "name": name, **json.loads(r.to_json())} for (ops, name), r in reports.items()]
        print(json.dumps({"pass": passed == len(reports), "checks": checked}, indent=2))
    elif len(reports) > 1:
        print(f"{passed} of {len(reports)} pass")
    if args.html:
        from npgpt.support.files import write_text

        write_text(Path(args.html), "<hr>".join(report.to_html() for report in reports.values()))
    return 0 if passed == len(reports) else 1


def summary(ops: str, name: str, report: "Report") -> str:
    """Return a line for a whole check: that of its worst argument."""
    worst = max(report.arguments, key=lambda argument: argument.relative_error)
    error, bar = f"{report.relative_error:.1e}", f"{report.error_bar:.0e}"
    return LINE.format(ops, name, report.verdict, error, bar, len(report.arguments), worst.name)


def check_layers(layer: str | None, ops: str | None, seed: int) -> Iterator[tuple[str, str, "Report"]]:
    """Check the cases of one layer, or all, on one table of ops or on both."""
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
    """Check a user's pair, package.module:forward,backward."""
    import numpy as np

    from npgpt.gradcheck import check_backward

    module_name, _, functions = target.partition(":")
    names = functions.split(",")
    if len(names) != 2 or not module_name or not all(names):
        raise ValueError(f"{target!r} is not of the form package.module:forward,backward")
    sys.path.insert(0, "")  # a module in the current folder, as for `python -m`
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise ValueError(f"there is no module {error.name!r} here or among the installed packages") from None
        raise ValueError(f"{module_name}: {where(error)}") from error
    except Exception as error:
        raise ValueError(f"{module_name}: {where(error)}") from error
    found: list[Any] = [getattr(module, name, None) for name in (*names, "make_args")]
    for name, function in zip((*names, "make_args"), found, strict=True):
        if not callable(function):
            hint = ", which gives the arguments of forward as a tuple" if name == "make_args" else ""
            raise ValueError(f"{module_name} has no function {name}{hint}")
    forward, backward, make_args = found
    try:
        args = make_args()
        args = tuple(args) if isinstance(args, tuple | list) else (args,)
        report = check_backward(forward, backward, *args, rng=np.random.default_rng(seed))
    except Exception as error:
        raise ValueError(f"{target}: {where(error, module.__file__)}") from error
    yield "", target, report


def where(error: Exception, file: str | None = None) -> str:
    """Return an error with the line that it came from: the last one in the given file, or in any but Python's own."""
    if isinstance(error, SyntaxError):  # it says so itself
        return f"{type(error).__name__}: {error}"
    frames = list(traceback.extract_tb(error.__traceback__))
    frames = [f for f in frames if f.filename == file or (file is None and not f.filename.startswith("<"))]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
