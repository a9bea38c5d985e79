"""The command `npgpt-gradcheck module:forward,backward`.

The module runs in a process of its own, which tells its parent what it found. So a module that ends the program, even
with exit code 0, has not passed, and what it prints does not mix with the report: it goes to standard error.
"""

import argparse
import difflib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .check import check_backward
from .options import Options
from .report import Report

DEFECTS = (Exception, SystemExit, GeneratorExit)  # of a user's module; SystemExit(0) must not end in a success
FORM = "package.module:forward,backward"
# the folder that this package lies in may be on no path, if a program has put it there itself
START = """import signal, sys
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says that it was interrupted
root = {root!r}
if root not in sys.path:
    sys.path.insert(0, root)
from {package}.command import answer
answer()
"""


@dataclass(frozen=True)
class Answer:
    """What the other process tells of its report, which it cannot hand over itself."""

    passed: bool
    text: str
    json: str
    html: str

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> str:
        return self.json

    def to_html(self) -> str:
        return self.html


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="MODULE:FORWARD,BACKWARD",
        help="a pair, called as out, cache = FORWARD(*args) and gradients = BACKWARD(dout, cache) with args = "
        "MODULE.make_args()",
    )
    parser.add_argument("--wrt", metavar="NAMES", help="the arguments to check, such as x,weight or 0,2 (default: all)")
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
    parser.add_argument("--max-seconds", type=float, metavar="S", help="look at a sample if all takes longer")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of dout and of samples (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write the report to this file as HTML")


def main(argv: list[str] | None = None) -> int:
    """Run the command of a checker that is installed by itself. The exit code is 0 only for a pass, 2 for an error."""
    parser = argparse.ArgumentParser("npgpt-gradcheck", description=check_own.__doc__, allow_abbrev=False)
    add_flags(parser)
    args = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that its encoding lacks must not turn a report into an error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        report = check_own(args)
        print(report.to_json() if args.json else report, flush=True)
        if args.html:
            Path(args.html).write_text(report.to_html(), encoding="utf-8")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(128 + signal.SIGINT, "interrupted\n")
    return 0 if report else 1


def check_own(args: argparse.Namespace) -> Answer:
    """Check a backward pass of your own against numerical derivatives of its forward."""
    wrt = None if args.wrt is None else [int(name) if name.isdecimal() else name for name in args.wrt.split(",")]
    if args.seed < 0:
        raise ValueError(f"--seed={args.seed} must be at least 0")
    options = {"mode": args.mode, "dtype": args.dtype, "strict": args.strict, "max_seconds": args.max_seconds}
    Options(**options)  # raises for what is not possible
    module, pair = parts_of(args.target)
    request = {
        "target": args.target,
        "module": module,
        "pair": pair,
        "seed": args.seed,
        "options": {"wrt": wrt, **options},
        "html": bool(args.html),
    }
    found = _ask(request)
    if "error" in found:
        raise ValueError(found["error"])
    return Answer(**found)


def parts_of(target: str) -> tuple[str, list[str]]:
    """Return the name of the module and those of its two functions. Raises ValueError that says how to write them."""
    module, _, functions = target.rpartition(":")
    names = functions.split(",")
    if len(names) != 2 or not module or not all(names):
        raise ValueError(f"{target!r} is not of the form {FORM}")
    path = Path(module.replace("\\", "/"))
    if path.suffix != ".py" and len(path.parts) == 1:
        return module, names
    drop = "drop .py" if path.suffix == ".py" else "write dots"
    if path.is_absolute() or ".." in path.parts or ":" in module:
        raise ValueError(f"{module} is a path: {drop}, in the folder of the file: {path.stem}:{functions}")
    dotted = ".".join([*path.parts[:-1], path.stem])
    if len(path.parts) > 1 and path.suffix == ".py":
        drop = "drop .py and write dots"
    raise ValueError(f"{module} is a path: {drop}: {dotted}:{functions}")


def nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """Start another process with a request, and return its answer."""
    package = __package__ or ""
    code = START.format(root=str(Path(__file__).parents[len(package.split("."))]), package=package)
    flags = [f"-W{option}" for option in sys.warnoptions] + ["-Xutf8"] * sys.flags.utf8_mode
    command = [sys.executable, *flags, "-c", code, json.dumps(request)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            with suppress(subprocess.TimeoutExpired):  # a thread of the module's may never end
                process.wait(timeout=5 if line else None)
        finally:
            process.kill()
    if line:
        return dict(json.loads(line))
    ended = process.returncode
    how = f"exit code {ended}" if ended >= 0 else f"signal {-ended}"
    raise ValueError(f"{request['target']}: the module ended the program ({how}) before the check was done")


def answer() -> None:
    """Answer the request of a parent process in one line, on what was standard output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as parent:
        try:
            os.dup2(2, 1)
        except OSError:  # there is no standard error
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        request = json.loads(sys.argv[1])
        del sys.argv[1:]
        with redirect_stdout(sys.stderr):
            found = _answer(request)
        parent.write(json.dumps(found) + "\n")


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        report = _report(request["target"], request["module"], request["pair"], request["seed"], request["options"])
    except ValueError as error:
        if os.environ.get("NPGPT_TRACEBACK"):
            traceback.print_exc()
        return {"error": str(error)}
    html = report.to_html() if request["html"] else ""
    return {"passed": bool(report), "text": str(report), "json": report.to_json(), "html": html}


def _report(target: str, module_name: str, pair: list[str], seed: int, options: dict[str, Any]) -> Report:
    """Import a module and check its pair. Raises ValueError for whatever the module raises."""
    import numpy as np

    sys.path.insert(0, "")  # find modules in the current folder, as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            near = nearest(module_name, (path.stem for path in Path().glob("*.py")))
            raise ValueError(f"there is no module {error.name!r} here or among the installed packages{near}") from None
        raise ValueError(f"{module_name}: {where(error)}") from error
    except DEFECTS as error:
        raise ValueError(f"{module_name}: {where(error)}") from error
    names = (*pair, "make_args")
    functions: list[Any] = [getattr(module, name, None) for name in names]
    known = [name for name, value in vars(module).items() if callable(value)]
    for name, function in zip(names, functions, strict=True):
        if not callable(function):
            hint = ", which must return the arguments of forward as a tuple" if name == "make_args" else ""
            raise ValueError(f"{module_name} has no function {name}{hint}{nearest(name, known)}")
    try:
        args = functions[2]()
        args = tuple(args) if isinstance(args, tuple | list) else (args,)
        return check_backward(functions[0], functions[1], *args, rng=np.random.default_rng(seed), **options)
    except DEFECTS as error:
        raise ValueError(f"{target}: {where(error, module.__file__)}") from error


def where(error: BaseException, file: str | None = None) -> str:
    """Return an error with the place that raised it: the last line in `file`, or in any file but Python's own."""
    if isinstance(error, SyntaxError):  # its message names the place
        return f"{type(error).__name__}: {error}"
    frames = list(traceback.extract_tb(error.__traceback__))
    frames = [f for f in frames if f.filename == file or (file is None and not f.filename.startswith("<"))]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
