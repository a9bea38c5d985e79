"""Check backward passes against finite differences: npgpt's own layers and a two-block GPT, or your own pair of
functions in a module that has make_args() to give the arguments. Exit code 0 only if all pass."""

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npgpt.gradcheck import Report


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        metavar="LAYER | MODULE:FORWARD,BACKWARD",
        help="a layer of npgpt or gpt (default: all of them), or your own pair: out, cache = FORWARD(*args) and "
        "gradients = BACKWARD(dout, cache), with args = MODULE.make_args()",
    )
    parser.add_argument("--ops", default="reference", choices=("reference", "fast"), help="(default: reference)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of arguments and cotangent (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")


def run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must be at least 0")
    if args.target and ":" in args.target:
        checks = check_own(args.target, args.seed)
        whole = True
    else:
        checks = check_layers(args.target, args.ops, args.seed)
        whole = args.target is not None
    if not whole and not args.json:
        print(f"{'check':<29}{'verdict':<14}rel. error, the largest")
    reports = {}
    for name, report in checks:
        reports[name] = report
        if not args.json:
            print(f"{name}\n{report}\n" if whole else summary(name, report), flush=True)
            if not whole and not report:
                print(report)
    verdicts = [report.verdict for report in reports.values()]
    if args.json:
        checked = {name: json.loads(report.to_json()) for name, report in reports.items()}
        print(json.dumps({"pass": all(reports.values()), "checks": checked}, indent=2))
    elif len(verdicts) > 1:
        print(f"{verdicts.count('pass')} of {len(verdicts)} pass")
    return 0 if all(reports.values()) else 1


def summary(name: str, report: "Report") -> str:
    """Return a line for a whole check: that of its worst argument."""
    worst = max(report.arguments, key=lambda argument: argument.relative_error)
    return (
        f"{name:<29}{report.verdict:<14}{report.relative_error:.1e}  "
        f"{len(report.arguments):>3} arguments, worst {worst.name}"
    )


def check_layers(layer: str | None, ops: str, seed: int) -> Iterator[tuple[str, "Report"]]:
    """Check the cases of one layer, or all."""
    import numpy as np

    from npgpt.cases import CASES
    from npgpt.config import nearest
    from npgpt.gradcheck import check_backward
    from npgpt.ops import get_ops

    layers = {case.layer for case in CASES}
    if layer is not None and layer not in layers:
        raise ValueError(f"unknown layer {layer!r}{nearest(layer, sorted(layers))}")
    table = get_ops(ops)
    for case in CASES:
        if layer in (None, case.layer):
            rng = np.random.default_rng(seed)
            forward, backward = case.pair(table)
            report = check_backward(forward, backward, *case.args(rng), rng=rng, names=case.names(table))
            yield case.name, report


def check_own(target: str, seed: int) -> Iterator[tuple[str, "Report"]]:
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
        args = args if isinstance(args, tuple) else (args,)
        report = check_backward(forward, backward, *args, rng=np.random.default_rng(seed))
    except Exception as error:
        raise ValueError(f"{target}: {where(error)}") from error
    yield target, report


def where(error: Exception) -> str:
    """Return an error with the line of the user's code that raised it, if it was theirs."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if "npgpt" in frame.filename else f" ({frame.filename}:{frame.lineno})"
    return f"{type(error).__name__}: {error}{place}"
