"""Which planted bugs npgpt and its peers catch, which correct functions they fail, and how long they take.

Every planted bug and every nasty but correct function of tests/gradcheck goes through every checker that is installed,
as the same pair of NumPy functions, each checker at its defaults. benchmarks/peers.py says how each is called.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.peers import PEERS, RECIPE_LIMIT, Answer
from benchmarks.suite import LAYER, Task, controls, set_of, tasks, timings
from benchmarks.timing import machine, table
from benchmarks.worker import MEMORY, Worker

OWN = "npgpt"
OWN_LIMIT = 120.0  # seconds for npgpt's own timings: it must finish them, however slow the machine
REPEATS = 5  # of a timing that takes milliseconds
PARTS = {"bugs": "planted bugs", "correct": "nasty but correct functions", "time": "time of both"}


@dataclass(frozen=True)
class Result:
    peer: str
    task: Task
    answer: Answer
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON, each answer included")
    parser.add_argument("--limit-seconds", type=float, default=20.0, metavar="N", help="for one check (default: 20)")
    parser.add_argument("--peers", type=_peers, default=list(PEERS), metavar="A,B", help=f"of {','.join(PEERS)}")
    parser.add_argument("--sample", type=_share, default=1.0, metavar="F", help="take this share of the examples")
    parser.add_argument("--verbose", action="store_true", help="name what each peer misses and fails wrongly")


def _peers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(PEERS)}")
    return names


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share: above 0, at most 1")
    return share


def run(options: argparse.Namespace) -> int:
    """Run and print; 0 whatever the figures are."""
    skipped = [name for name in options.peers if PEERS[name].version is None]
    names = [name for name in options.peers if name not in skipped]
    results: list[Result] = []
    for name in names:
        results += _run_peer(name, tasks(options.sample), options.limit_seconds)
    if not names:
        print("\n".join([*(f"{PEERS[name].package} is not installed" for name in skipped), "nothing to run"]))
        return 0
    if options.json:
        print(json.dumps(_as_json(results, names, skipped, options), indent=1))
    else:
        print("\n".join(_lines(results, names, skipped, options)))
    return 0


def _run_peer(name: str, suite: list[Task], limit: float) -> list[Result]:
    """Run the controls, the suite and the timings through one peer, after one check to warm up."""
    right = controls()
    worker = Worker(name, warm_up=right[0])
    results = []
    everything = [*right, *suite, *(task for task in timings() for _ in range(REPEATS if task.name == LAYER else 1))]
    for i, task in enumerate(everything):
        if sys.stderr.isatty():
            print(f"\r\033[K{name} {i + 1}/{len(everything)} {task.name}", end="", file=sys.stderr)
        own = name == OWN and task.kind == "timing"
        results.append(Result(name, task, *worker.run(task, OWN_LIMIT if own else limit)))
    worker.close()
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return results


def summary(results: list[Result], name: str) -> dict[str, dict[str, Any]]:
    """Return one peer's rows: of the planted bugs, of the correct functions, and of its time."""
    mine = [r for r in results if r.peer == name]
    bugs, nasty, right = (
        Counter(r.answer.verdict for r in mine if r.task.kind == k) for k in ("bug", "nasty", "right")
    )
    times = [r.seconds for r in mine if r.task.kind in ("bug", "nasty")]
    unsure = ("inconclusive", "not finished", "not applicable")
    return {
        "bugs": {"caught": f"{bugs['fail']} of {bugs.total()}", "missed": bugs["pass"], **{v: bugs[v] for v in unsure}},
        "correct": {
            "false alarms": f"{nasty['fail']} of {nasty.total()}",
            "passed": nasty["pass"],
            **{v: nasty[v] for v in unsure},
        },
        "time": {
            "total s": round(sum(times), 1),
            "median ms": round(1e3 * median(times), 1),
            "right pairs passed": f"{right['pass']} of {right.total()}",
        },
    }


def _lines(results: list[Result], names: list[str], skipped: list[str], options: argparse.Namespace) -> list[str]:
    lines = [machine(PEERS[name].package for name in names if PEERS[name].package)]
    lines += [f"{PEERS[name].title}: skipped, {PEERS[name].package} is not installed" for name in skipped]
    lines.append(f"A check may take {options.limit_seconds:g} s and {MEMORY / 2**30:g} GiB.")
    rows = {name: summary(results, name) for name in names}
    for part, title in PARTS.items():
        header = [title, *next(iter(rows.values()))[part]]
        lines += ["", *table(header, [[PEERS[n].title, *map(str, row[part].values())] for n, row in rows.items()])]
    lines += ["", *table(*_by_set(results, names))]
    header = ["seconds of single cases", *(task.name for task in timings())]
    lines += ["", *table(header, [_timed(results, name) for name in names])]
    if "cs231n" in names:
        lines += ["", _recipe(results)]
    for name in names if options.verbose else [name for name in names if name == OWN]:
        lines += _named(results, name)
    return lines


def _by_set(results: list[Result], names: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the table of what was known of the pairs when the checker was last changed.

    first  the suite that the checker was made on; aimed: pairs aimed at its weak places, which it was then mended for;
    blind  slips by someone who had not seen it, and for which nothing was changed
    """
    kinds = [("bug", "fail", "bugs caught"), ("nasty", "fail", "false alarms"), ("nasty", "pass", "correct passed")]
    sets = ("first", "aimed", "blind")
    rows = []
    for name in names:
        mine = [r for r in results if r.peer == name and r.task.kind in ("bug", "nasty")]
        cells = [PEERS[name].title]
        for kind, verdict, _ in kinds:
            for one in sets:
                those = [r for r in mine if r.task.kind == kind and set_of(r.task) == one]
                cells.append(f"{sum(r.answer.verdict == verdict for r in those)} of {len(those)}")
        rows.append(cells)
    return ["by set", *(f"{title}, {one}" for _, _, title in kinds for one in sets)], rows


def _recipe(results: list[Result]) -> str:
    """Say what other limits than RECIPE_LIMIT would give."""
    mine = [r for r in results if r.peer == "cs231n" and r.answer.error is not None]
    found = []
    for limit in (1e-7, 1e-2):
        above = Counter(r.task.kind for r in mine if not float(r.answer.error or 0.0) < limit)
        found.append(f"{above['bug']} caught, {above['nasty']} false alarms at {limit:g}")
    return f"The CS231n recipe passes relative errors below {RECIPE_LIMIT:g}; {'; '.join(found)}."


def _timed(results: list[Result], name: str) -> list[str]:
    cells = [PEERS[name].title]
    for task in timings():
        mine = [r for r in results if r.peer == name and r.task == task]
        verdict, seconds = mine[-1].answer.verdict, median(r.seconds for r in mine)
        note = verdict if verdict != "not finished" else f"{verdict}: {mine[-1].answer.detail}"
        cells.append(f"{1e3 * seconds:.1f} ms, {note}" if seconds < 1 else f"{seconds:.1f} s, {note}")
    return cells


def _named(results: list[Result], name: str) -> list[str]:
    lines = []
    for kind, verdict, title in (
        ("bug", "pass", "misses"),
        ("bug", "inconclusive", "cannot decide the bugs"),
        ("bug", "not finished", "does not finish the bugs"),
        ("bug", "not applicable", "cannot express the bugs"),
        ("nasty", "fail", "fails, though correct,"),
        ("nasty", "inconclusive", "cannot decide, of the correct,"),
        ("nasty", "not finished", "does not finish, of the correct,"),
        ("nasty", "not applicable", "cannot express, of the correct,"),
        ("right", "fail", "fails the control"),
    ):
        mine = [r for r in results if (r.peer, r.task.kind, r.answer.verdict) == (name, kind, verdict)]
        if mine:
            groups = Counter(r.task.group for r in mine if r.task.group)
            counts = ", ".join(f"{group} {count}" for group, count in groups.most_common())
            lines += ["", f"{PEERS[name].title} {title}: {len(mine)}" + (f" ({counts})" if counts else "")]
            lines += [f"  {r.task.group + ': ' if r.task.group else ''}{r.task.name}" for r in mine]
    return lines or ["", f"{PEERS[name].title} misses nothing, and fails nothing that is correct."]


def _as_json(
    results: list[Result], names: list[str], skipped: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "machine": machine(PEERS[name].package for name in names if PEERS[name].package),
        "skipped": skipped,
        "limit_seconds": options.limit_seconds,
        "sample": options.sample,
        "table": {name: summary(results, name) for name in names},
        "results": [
            {
                "peer": r.peer,
                "set": set_of(r.task),
                **r.task._asdict(),
                "verdict": r.answer.verdict,
                "seconds": r.seconds,
            }
            | {"detail": r.answer.detail}
            for r in results
        ],
    }
