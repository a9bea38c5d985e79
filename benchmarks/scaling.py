"""How a training step's time falls with threads, beside PyTorch, and what more threads than cores cost.

Each contestant runs with each number of threads in a process of its own, because libraries set up their threads once.
The processes take turns, one at a time, so that what else the machine does hits all alike. All start from the same
parameters, and their losses are compared first. A case is written PRESET-ROWSxTOKENS, and the tokens set the context:
`--case tiny-32x64 tiny-16x128 tiny-2x1024` measures how the time grows with it.

Each cell is a median, and in parentheses the same of the least times, which a busy machine disturbs less.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.step import PACKAGES, own_step, peer_steps
from benchmarks.timing import WARM, Contestant, agree, installed, machine, milliseconds, progress, table, turn
from npgpt import GPT, GPTConfig
from npgpt.config import PRESETS, preset
from npgpt.support.machine import available_memory, cores, physical_cores

CASES = ("tiny-12x64", "tiny-48x64", "small-8x256", "small-32x256", "gpt2-4x64", "gpt2-8x256")
VOCABULARY = 65  # of all presets but GPT-2's own sizes
PEERS = {"eager": "PyTorch, eager", "compiled": "PyTorch, compiled", "transformers": "transformers, eager"}
LOSSES = 4  # steps whose losses are compared


class Case(NamedTuple):
    """A size to train: a configuration, the rows of a batch, and the peers to compare with."""

    config: GPTConfig
    rows: int
    peers: tuple[str, ...]


def case(text: str) -> Case:
    """Return what a name such as tiny-12x64 stands for."""
    found = re.fullmatch(r"(.+)-([1-9]\d*)x([1-9]\d*)", text)
    if not found or found[1] not in PRESETS:
        presets = ", ".join(PRESETS)
        raise argparse.ArgumentTypeError(f"{text!r} is not PRESET-ROWSxTOKENS, such as tiny-12x64; presets: {presets}")
    large = found[1].startswith("gpt2")
    try:
        config = preset(found[1], vocab_size=50257 if large else VOCABULARY, n_positions=int(found[3]))
    except ValueError as error:  # argparse would hide its words
        raise argparse.ArgumentTypeError(str(error)) from None
    return Case(config, int(found[2]), ("eager", "transformers") if large else ("eager", "compiled"))


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def named_case(text: str) -> tuple[str, Case]:
    return text, case(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    all_cases = [named_case(name) for name in CASES]
    counts = sorted({*(2**i for i in range(20) if 2**i < cores()), cores()})
    parser.add_argument(
        "--case", nargs="+", type=named_case, default=all_cases, help=f"sizes (default: {' '.join(CASES)})"
    )
    parser.add_argument(
        "--threads", nargs="*", type=positive, default=counts, help=f"of all (default: {' '.join(map(str, counts))})"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="whom to compare with (default: as the case suits)")
    parser.add_argument(
        "--workers",
        nargs="*",
        type=positive,
        default=[4, 8, 12, 16],
        help="more threads of npgpt, bound to --cores cores (default: 4 8 12 16)",
    )
    parser.add_argument("--cores", type=positive, default=2, help="cores that --workers are bound to (default: 2)")
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each contestant (default: 7)")
    parser.add_argument("--quick", action="store_true", help="two short rounds: a first look")
    parser.add_argument("--json", action="store_true", help="print every time as JSON")


def run(options: argparse.Namespace) -> int:
    if not options.threads and not options.workers:
        print("nothing to measure: give numbers to --threads or --workers", file=sys.stderr)
        return 2
    where, data = machine(["torch", "transformers", "numba"]), {}
    if not options.json:  # each table as soon as it is measured: the whole takes some minutes
        print(where, flush=True)
    rounds, seconds = (2, 0.05) if options.quick else (options.rounds, 0.3)
    for name, size in options.case:
        peers = size.peers if options.peers is None else tuple(options.peers)
        missing = [p for p in peers if not installed(PACKAGES[p])]
        notes = [f"{PACKAGES[peer]} is not installed: {peer} is skipped" for peer in missing]
        size = size._replace(peers=tuple(p for p in peers if p not in missing))
        entrants, more = contest(size, options.threads, options.workers, options.cores, rounds, seconds)
        data[name] = [entrant.record() for entrant in entrants]
        if not options.json:
            print("\n".join([*tables(name, size, entrants, options.cores), *notes, *more]), flush=True)
    if options.json:
        print(json.dumps({"machine": where, "cases": data}, indent=1))
    return 0


class Entrant:
    """A contestant in a process of its own: who, with how many threads, on how many cores, and its times by round."""

    def __init__(self, size: Case, who: str, threads: int, bound: int | None, chosen: bool = False) -> None:
        self.who, self.threads, self.bound, self.chosen = who, threads, bound, chosen
        self.times: list[list[float]] = []
        self.used, self.losses, self.error = "", [], ""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        given = 0 if chosen else threads
        self.process = context.Process(target=serve, args=(theirs, size, who, given), daemon=True)
        with on_cores(bound), environment(OMP_NUM_THREADS=str(threads) if chosen else None):
            self.process.start()  # which inherits both
        theirs.close()
        self.used, self.losses = self._ask() or ("", [])

    def turn(self, seconds: float) -> None:
        """Measure for about so many seconds, and at least one step."""
        progress(f"round {len(self.times) + 1}: {self.label}")
        self.connection.send(seconds)
        if times := self._ask():
            self.times.append(times)

    def _ask(self) -> Any:
        """Return the process's answer, or None if it failed."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            answer = "the process ended, for want of memory most likely"
        if not isinstance(answer, str):
            return answer
        self.error = answer
        return None

    @property
    def label(self) -> str:
        return f"{PEERS.get(self.who, 'npgpt')} with {self.row}"

    @property
    def row(self) -> str:
        if self.chosen:
            return counted(self.threads, "core") + ", its choice"
        return counted(self.threads, "thread")

    @property
    def median(self) -> float:
        return median(time for times in self.times for time in times)

    @property
    def least(self) -> float:
        return min(time for times in self.times for time in times)

    def close(self) -> None:
        """End the process, by itself if it can."""
        self.connection.close()
        self.process.join(5)
        self.process.kill()
        self.process.join()

    def record(self) -> dict[str, Any]:
        names = ("who", "threads", "bound", "chosen", "used", "error", "times")
        return {name: getattr(self, name) for name in names}


def serve(connection: Connection, size: Case, who: str, threads: int) -> None:
    """Build a contestant, answer with its threads and first losses, and then time it for as long as it is asked to."""
    try:
        contestant, used = built(size, who, threads)
        connection.send((used, [step_loss(contestant) for _ in range(LOSSES)]))
        while True:
            seconds = connection.recv()
            slow = contestant.times and contestant.times[-1] > 3 * seconds  # then its caches are cold either way
            contestant.times.clear()
            turn(contestant, seconds, 0 if slow else WARM)
            connection.send(contestant.times)
    except EOFError:
        return
    except Exception as error:  # of any kind: it belongs into the parent's table
        connection.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def step_loss(contestant: Contestant) -> float:
    with contestant.setting():
        return contestant.call()


def built(size: Case, who: str, threads: int) -> tuple[Contestant, str]:
    """Return a contestant, and with what it really computes."""
    config = size.config
    ids, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, size.rows, config.n_positions))
    if who == "npgpt":
        own = own_step(config, size.rows, threads)
        return own.contestant(ids, targets), own.plan
    start = GPT(config, seed=0)
    loss, grads = start.loss_and_grads(ids, targets)
    _, step = peer_steps(who, config, start.params, ids, targets, loss, grads, threads)[0]
    import torch

    return Contestant(who, lambda: step(ids, targets)), f"{torch.get_num_threads()} threads"


def contest(
    size: Case, threads: Sequence[int], workers: Sequence[int], bound: int, rounds: int, seconds: float
) -> tuple[list[Entrant], list[str]]:
    """Return everyone who was timed, and lines about what could not be."""
    plans = [[(who, n, None, False) for who in ("npgpt", *size.peers)] + [("npgpt", n, None, True)] for n in threads]
    notes = []
    if workers and not hasattr(os, "sched_setaffinity"):
        notes.append("this system cannot bind processes to cores: --workers is skipped")
    elif workers and len(os.sched_getaffinity(0)) < bound:
        notes.append(f"there are fewer than {bound} cores to bind to: --workers is skipped")
    elif workers:
        plans += [[("npgpt", n, bound, False)] for n in sorted({bound, *workers})]
    entrants: list[Entrant] = []
    waiting: list[Entrant] = []
    need = 0
    try:
        for plan in plans:
            free = available_memory()
            if waiting and free is not None and free < 1.5 * need:
                rest(waiting, rounds, seconds)
                notes.append(f"for want of memory, what follows {waiting[-1].label} was measured after it")
                waiting, free = [], available_memory()
            for entry in plan:
                progress(f"starting {PEERS.get(entry[0], 'npgpt')}, {counted(entry[1], 'thread')}")
                waiting.append(Entrant(size, *entry))
                entrants.append(waiting[-1])
                compare(waiting[-1], entrants)
            need = max(need, (free or 0) - (available_memory() or 0))
        rest(waiting, rounds, seconds)
    finally:
        for entrant in entrants:
            entrant.close()
    progress("")
    notes += [f"{entrant.label} failed: {entrant.error}" for entrant in entrants if entrant.error]
    return [entrant for entrant in entrants if entrant.times], notes


def compare(entrant: Entrant, entrants: Sequence[Entrant]) -> None:
    """Raise AssertionError if its first losses are not those of the first that has some."""
    others = [other for other in entrants if other.losses]
    if entrant.losses:
        agree(entrant.label, {"losses": entrant.losses}, {"losses": others[0].losses}, 1e-3)


def rest(entrants: Sequence[Entrant], rounds: int, seconds: float) -> None:
    """Let all take turns, in every other round the other way round, and end them."""
    for i in range(rounds):
        for entrant in entrants[:: 1 if i % 2 == 0 else -1]:
            if not entrant.error:
                entrant.turn(seconds)
    for entrant in entrants:
        entrant.close()


@contextlib.contextmanager
def on_cores(count: int | None) -> Iterator[None]:
    """Bind this thread, and the processes that it starts, to so many cores; None binds to nothing."""
    if count is None:
        yield
        return
    before = os.sched_getaffinity(0)
    chosen: list[int] = []
    for cpu in sorted(before):  # one logical core of each physical one, while there are such
        if len(chosen) < count and physical_cores([*chosen, cpu]) > len(chosen):
            chosen.append(cpu)
    chosen += [cpu for cpu in sorted(before) if cpu not in chosen][: count - len(chosen)]
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables for the processes that are started; None leaves one as it is."""
    wanted = {name: value for name, value in values.items() if value is not None}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def tables(name: str, size: Case, entrants: Sequence[Entrant], bound: int) -> list[str]:
    """Return a table over threads, and one of more threads than cores."""
    free = [e for e in entrants if e.bound is None]
    own = sorted((e for e in free if e.who == "npgpt"), key=lambda e: (e.threads, e.chosen))
    peers = [peer for peer in size.peers if any(e.who == peer for e in free)]
    best = "transformers" if "transformers" in peers else "eager"
    header = [name, "npgpt ran", "npgpt", *(PEERS[peer] for peer in peers), *(f"against {peer}" for peer in peers)]
    header += ["against itself with fewer", f"against {best} at its best"]
    rows = []
    for entrant in own:
        same = [next((e for e in free if e.who == peer and e.threads == entrant.threads), None) for peer in peers]
        fewer = [e for e in own if e.threads < entrant.threads and e.chosen == entrant.chosen]
        its_best = [e for e in free if e.who == best]
        row = [entrant.row, entrant.used, timing(entrant), *map(timing, same), *(ratio(entrant, [e]) for e in same)]
        rows.append([*row, ratio(entrant, fewer), ratio(entrant, its_best)])
    lines = ["", *table(header, rows)] if rows else []
    tied = [e for e in entrants if e.bound is not None]
    if tied:
        header = [f"{name}, bound to {counted(bound, 'core')}", "npgpt ran", "npgpt"]
        header.append(f"against itself with {bound}")
        first = [e for e in tied if e.threads == bound]
        lines += ["", *table(header, [[e.row, e.used, timing(e), ratio(e, first)] for e in tied])]
    return lines


def counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def timing(entrant: Entrant | None) -> str:
    return f"{milliseconds(entrant.median)} ({milliseconds(entrant.least)})" if entrant else ""


def ratio(entrant: Entrant, others: Sequence[Entrant | None]) -> str:
    """Return an entrant's time as a share of the best of some others': of medians, and of least times."""
    there = [other for other in others if other is not None]
    if not there:
        return ""
    parts: list[Callable[[Entrant], float]] = [lambda e: e.median, lambda e: e.least]
    first, second = (part(entrant) / min(map(part, there)) for part in parts)
    return f"{first:.2f} ({second:.2f})"
