"""python -m tests.mutation: mutate every backward pass, run the tests against each mutant, list what they miss.

Exit code 0 if every mutant is killed or listed in equivalent.toml, and everything listed there is true; 1 if not;
2 if the tests could not be run, or fail on the code as it is.
"""

import argparse
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.evaluate import Project, Verdict, evaluate
from tests.mutation.mutate import Mutant, unchanged

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
NPGPT = Project(
    ROOT,
    files=(
        "npgpt/layers/*.py",
        "npgpt/kernels/*.py",
        "npgpt/models/gpt2.py",
        "npgpt/models/gpt2_block.py",
        "npgpt/models/gpt2_cross.py",
        "npgpt/models/seq_transformer.py",
        "npgpt/models/seq_similarity.py",
    ),
    tests=(
        "tests/test_twins.py",
        "tests/test_kernels*.py",
        "tests/test_step.py",
        "tests/test_bf16.py",
        "tests/test_compute.py",
        "tests/test_layers*.py",
        "tests/test_model.py",
        "tests/test_inputs_embeds.py",
        "tests/test_seq_transformer.py",
        "tests/test_seq_similarity.py",
        "tests/fuzz/test_layers.py",
    ),
    forwards=(
        # the gradient of the logits is made of the loss's own exponentials, and put in the place of the logits
        "npgpt/kernels/linear_cross_entropy.py:linear_cross_entropy_forward",
        "npgpt/kernels/linear_cross_entropy.py:loss_and_dlogits",
        # what the backward multiplies by is made beside the activation
        "npgpt/kernels/gelu.py:bend",
        "npgpt/kernels/gelu_new.py:bend",
        # the compiled step computes the head's gradients beside its loss, and adds up those of the groups
        "npgpt/kernels/gpt.py:head_loss",
        "npgpt/kernels/rows.py:add_up",
    ),
    but=("memory", "team"),  # a wrong piece of memory may be as good, and a race is not lost each time
    without=(
        # a whole model of kernels as plain Python takes a minute; test_model.py has a small one
        ("", r"test_gradient\[gpt .*-fast\]"),
        # a kernel must be held by what is said of it alone, and a layer by its own tests without those of the model
        ("npgpt/kernels/", r"-reference\]|test_layers_edges|test_model|fuzz"),
        ("npgpt/layers/", r"-fast\]|test_twins|test_kernels|test_step|test_model|\[gpt "),
        ("npgpt/models/", r"-fast\]|test_twins|test_kernels|test_step"),
    ),
)
COLUMNS = ("mutants", "killed", "equivalent", "survived")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sample", type=float, metavar="SHARE", help="only this share of the mutants, drawn with --seed"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --sample; the default is 0")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only mutants whose file:function contains a word")
    parser.add_argument("--forward", action="store_true", help="mutate the forwards, too")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time; the default is 2")
    parser.add_argument("--verbose", action="store_true", help="a line for every mutant: what killed it")
    options = parser.parse_args(argv)
    if options.sample is not None and not 0 < options.sample <= 1:
        parser.error(f"--sample {options.sample:g} is not a share between 0 and 1")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs} must be at least 1")
    return options


def read_equivalent(path: Path) -> dict[tuple[str, str], str]:
    """Return the reason for each listed mutant, by (file:function, key)."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", []) if path.exists() else []
    listed: dict[tuple[str, str], str] = {}
    for entry in entries:
        for key in entry["mutants"]:
            if (entry["at"], key) in listed:
                raise ValueError(f"{path}: {entry['at']} {key} is listed twice")
            if not entry["reason"].strip():
                raise ValueError(f"{path}: {entry['at']} {key} has no reason")
            listed[entry["at"], key] = entry["reason"]
    return listed


def stale(project: Project, listed: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what is listed as equivalent but is no mutant of the code as it is now."""
    there = {(mutant.at, mutant.key) for mutant in project.mutants(forward=True)}
    return [key for key in listed if key not in there]


def select(everything: list[Mutant], options: argparse.Namespace) -> list[Mutant]:
    chosen = [m for m in everything if not options.only or any(word in m.at for word in options.only)]
    if options.sample is not None:
        count = max(1, round(options.sample * len(chosen)))
        kept = set(random.Random(options.seed).sample(range(len(chosen)), count))
        chosen = [mutant for i, mutant in enumerate(chosen) if i in kept]
    return chosen


def judge(mutant: Mutant, verdict: Verdict, listed: dict[tuple[str, str], str]) -> tuple[str, str]:
    """Return the column of the summary that counts the mutant, and the complaint if there is one."""
    is_listed = (mutant.at, mutant.key) in listed
    if verdict.outcome == "error":
        return "error", f"ERROR {mutant}\n{verdict.by}"
    if verdict.outcome == "killed":
        return "killed", f"KILLED, but listed as equivalent: {mutant}\nby {verdict.by}" if is_listed else ""
    return ("equivalent", "") if is_listed else ("survived", f"SURVIVED {mutant}\n{mutant.diff()}")


def summary(counts: dict[str, Counter]) -> str:
    """Lay out the counts by file, and their sum."""
    total: Counter = sum(counts.values(), Counter())
    width = max(map(len, [*counts, "total"]))
    rows = [(file, *(str(count[column]) for column in COLUMNS)) for file, count in [*counts.items(), ("total", total)]]
    lines = [f"{row[0]:{width}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in [("", *COLUMNS), *rows]]
    return "\n".join(lines)


def main(argv: list[str] | None = None, project: Project = NPGPT, equivalent: Path = EQUIVALENT) -> int:
    options = arguments(argv)
    start = time.monotonic()
    chosen = select(project.mutants(options.forward), options)
    if options.list:
        print(*chosen, f"{len(chosen)} mutants", sep="\n")
        return 0
    if not chosen:
        print("no mutants: --only matches nothing", file=sys.stderr)
        return 2
    listed = read_equivalent(equivalent)
    complaints = [f"STALE in {equivalent.name}: {at} has no mutant {key}" for at, key in stale(project, listed)]

    # the code as it is, with the tests that each part of it is run with
    parts: dict[str, list[Mutant]] = {}
    for mutant in chosen:
        parts.setdefault(project.left_out(mutant.file).pattern, []).append(mutant)
    seconds = 0.0
    for first, *_ in parts.values():
        ((_, plain),) = evaluate(project, [unchanged(first.before, first.file)])
        if plain.outcome != "survived":
            print(f"the tests fail on the code as it is: {plain.by}", file=sys.stderr)
            return 2
        seconds = max(seconds, plain.seconds)
    # a loop without end; under load a sound run may well take some times as long
    timeout = 30 + 6 * seconds
    print(f"the tests pass on the code as it is in {seconds:.1f} s; {len(chosen)} mutants follow", flush=True)

    counts: dict[str, Counter] = {mutant.file: Counter() for mutant in chosen}
    for done, (mutant, verdict) in enumerate(evaluate(project, chosen, options.jobs, timeout), 1):
        column, complaint = judge(mutant, verdict, listed)
        counts[mutant.file].update(["mutants", column])
        if complaint:
            complaints.append(complaint)
        if options.verbose:
            print(f"{column} {mutant} [{verdict.by or 'nothing'}, {verdict.seconds:.1f} s]", flush=True)
        elif sys.stdout.isatty() or done % 50 == 0:
            print(
                f"\r{done} of {len(chosen)}, {len(complaints)} complaints",
                end="" if sys.stdout.isatty() else "\n",
                flush=True,
            )
    print("", *complaints, "", summary(counts), "", sep="\n")
    print(f"{len(complaints)} complaints in {time.monotonic() - start:.0f} s")
    return 2 if any(count["error"] for count in counts.values()) else int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
