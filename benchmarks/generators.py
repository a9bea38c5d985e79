"""Generators and distilled students at equal training time: exact scores on the tales' tasks, and loss above the floor.

Equal time does not depend on what else the machine does. First `--measure` times some steps of each contestant, in a
quiet moment, and keeps the median in steps.json. Minutes then become a number of steps, and a run takes so many,
however long. All contestants of the tasks learn from the same base and the same course of examples, and are tested on
tales that no run has seen. What is finished is kept: runs in folders, their scores as lines of results.jsonl. So the
table can be made in pieces, on the way with `--only` and fewer `--minutes`.

python -m benchmarks generators --base runs/base --measure
python -m benchmarks generators --base runs/base --minutes 3 --tasks translate --only gpt gru-attention-whole-ce
python -m benchmarks generators --base runs/english --langs en --minutes 15 --only scratch-1 taught-1 teacher
python -m benchmarks generators --table
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from benchmarks.timing import machine, milliseconds, table
from npgpt.cli.demo import Part, call, write_course
from npgpt.config import LANGS, TASKS
from npgpt.models.seq_config import BRIDGES, DECODERS, LOSSES
from npgpt.support.files import remove_parts

ENCODERS = ("frozen", "whole")
# each against the first of its kind, with one thing changed at a time
GENERATORS = (
    *(f"{decoder}-attention-whole-ce" for decoder in DECODERS),
    *(f"{decoder}-attention-frozen-ce" for decoder in DECODERS),
    "gru-mean-whole-ce",
    "gru-last-whole-ce",
    "lstm-mean-whole-ce",
    "transformer-mean-whole-ce",
    "gru-attention-whole-ce+cosine",
    "gru-attention-whole-cosine",
    "gru-attention-frozen-ce+cosine",
    "transformer-attention-whole-ce+cosine",
)
STUDENTS = ("teacher", "scratch-1", "distilled-1", "taught-1")
CONTESTANTS = ("gpt", *GENERATORS, *STUDENTS)
# Questions come first: they teach where in a tale to look. A generator reads one prompt an example, so no contestant
# has further questions about a tale. "" is for the tasks to learn
MIXTURE = (
    Part(0.1, "answer", 1.0),
    Part(0.25, "", 1.0, words=8),
    Part(0.65, "", 0.2, words=4),
)
# What a student of new weights learns best by (docs/light.md)
TAUGHT = ["--init", "copy", "--cosine", "1"]
# the settings of all
TUNE = ["--in-order", "--skip-long", "--optimizer", "muon", "--weight-decay", "0.2", "--eval-batches", "5"]
RATE = "2.5e-3"
TEMPERATURES = "2:0.5"  # of the softmax whose expected embeddings the cosine reads
TIMED, NOT_TIMED = 30, 5  # steps, the first of which compile
SAMPLES = 200  # tales that students write
NAMES = {"en": "English", "zh": "Chinese"}
SEED = 1337  # of the tales
KINDS = ("scratch", "distilled", "taught")  # of students
Row = dict[str, Any]


class Setting(NamedTuple):
    """What all contestants have in common: the base, the tasks, and the languages."""

    base: str
    tasks: tuple[str, ...]
    langs: tuple[str, ...]

    def key(self, name: str) -> str:
        """Return what the time of a contestant's step depends on, in words."""
        tasks = [] if is_student(name) else [",".join(self.tasks)]
        return " ".join([name, *tasks, ",".join(self.langs)])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", metavar="RUN", help="a run of npgpt train --data tales: encoder, and teacher")
    parser.add_argument("--out", type=Path, default=Path("runs/generators"), metavar="FOLDER", help="of all runs")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="X", help="of training on two cores (default: 3)")
    parser.add_argument(
        "--tasks", type=some_of(TASKS), default=TASKS, metavar="TASK,...", help="to learn at once (default: all)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=contestant,
        default=list(CONTESTANTS),
        metavar="NAME",
        help="gpt, DECODER-BRIDGE-ENCODER-LOSS, teacher (the base), or, each with LAYERS[xCHANNELS], scratch- (learns "
        "from the text alone), distilled- (begins with the teacher's weights) and taught- (a student of new weights) "
        f"(default: {' '.join(CONTESTANTS)})",
    )
    parser.add_argument(
        "--langs", type=some_of(LANGS), default=LANGS, metavar="LANG,...", help="of the tales (default: all)"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each contestant (default: 1)")
    parser.add_argument("--tests", type=int, default=100, metavar="N", help="per task and language (default: 100)")
    parser.add_argument("--threads", metavar="N", help="of each run; the minutes are those of all cores all the same")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--measure", action="store_true", help="time steps, and do nothing else")
    what.add_argument("--table", action="store_true", help="print the tables of what is finished")


def some_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Return a function that reads words between commas, and raises ArgumentTypeError for one that is not known."""

    def read(flag: str) -> tuple[str, ...]:
        given = flag.split(",")
        if unknown := [word for word in given if word not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return tuple(word for word in known if word in given)

    return read


def contestant(name: str) -> str:
    """Return a contestant's name. Raises ArgumentTypeError for one that nobody can have."""
    kind, _, size = name.partition("-")
    if name in ("gpt", "teacher"):
        return name
    if kind in KINDS and all(part.isdecimal() for part in size.split("x", 1)):
        return name
    parts = name.split("-")
    known = DECODERS, BRIDGES, ENCODERS, LOSSES
    if len(parts) == len(known) and all(part in choices for part, choices in zip(parts, known, strict=True)):
        return name
    raise argparse.ArgumentTypeError(f"{name!r} is no contestant: see --help")


def run(options: argparse.Namespace) -> int:
    out: Path = options.out
    if options.table:
        print("\n".join(tables(read(out))))
        return 0
    if options.base is None:
        print("benchmarks generators: error: give --base RUN, a run of npgpt train --data tales", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    setting = Setting(options.base, options.tasks, options.langs)
    print(machine(["numba"]), flush=True)
    timed = [name for name in options.only if name != "teacher"]
    for name in timed:
        seconds_a_step(name, setting, out, again=options.measure)
    failed = []
    if not options.measure:
        for seed, name in itertools.product(range(SEED, SEED + options.seeds), options.only):
            try:
                compete(name, setting, seed, options)
            except SystemExit as error:  # the command has said why
                print(f"{name} failed: {error}", flush=True)
                failed.append(name)
        print("\n".join(tables(read(out))))
    return 1 if failed else 0


def read(out: Path) -> list[Row]:
    """Return the lines of finished scores."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def is_student(name: str) -> bool:
    return name.partition("-")[0] in ("teacher", *KINDS)


def command_of(name: str, setting: Setting, data: Path) -> list[str]:
    """Return the command that trains a contestant, without its steps, its seed and its folder."""
    base = setting.base
    if name == "gpt":
        return ["finetune", base, "--data", str(data), *TUNE, "--learning-rate", RATE]
    if is_student(name):
        kind, _, size = name.partition("-")
        sizes = dict(zip(("--n-layer", "--n-embd"), size.split("x"), strict=False))
        flags = [part for flag in sizes.items() for part in flag]
        tales = f"tales:{'+'.join(setting.langs)}"
        if kind != "scratch":
            return ["distill", base, "--data", tales, *flags, *(TAUGHT if kind == "taught" else [])]
        return ["train", "--data", tales, "--tokenizer", base, "--sample-tokens", "0", *flags]
    decoder, bridge, encoder, loss = name.split("-")
    words = [
        "--decoder",
        decoder,
        "--bridge",
        bridge,
        "--encoder",
        encoder,
        "--loss",
        loss.replace("+cosine", "+cosine:1"),
    ]
    words += [] if loss == "ce" else ["--loss-temperature", TEMPERATURES]
    return ["train-generator", base, "--data", str(data), *words, *TUNE, "--learning-rate", RATE]


def seconds_a_step(name: str, setting: Setting, out: Path, again: bool = False) -> float:
    """Return how long a contestant's step takes: what was measured before, or a measurement, which is kept.

    The examples are those of the last part of the course, in random order.
    """
    path = out / "steps.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    key = setting.key(name)
    if again or key not in known:
        with tempfile.TemporaryDirectory() as folder, timing_steps() as took:
            lines = Path(folder) / "examples.jsonl"
            if not is_student(name):
                last = course_of(setting.tasks)[-1]._replace(share=1.0)
                write_course(lines, Path(setting.base), TIMED, SEED, (last,), setting.langs)
            words = [word for word in command_of(name, setting, lines) if word != "--in-order"]
            call([*words, "--eval-every", str(TIMED)], Path(folder) / "run", TIMED, SEED)
        known[key] = median(took[NOT_TIMED:])
        path.write_text(json.dumps(known, indent=1), "utf-8")
        print(f"{name}: a step takes {milliseconds(known[key])}\n", flush=True)
    return float(known[key])


@contextmanager
def timing_steps() -> Iterator[list[float]]:
    """Yield a list of the seconds that each training step takes from now on."""
    from npgpt.training import loop

    took: list[float] = []
    step = loop.train_step

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        record = step(*args)
        took.append(time.perf_counter() - start)
        return record

    loop.train_step = timed
    try:
        yield took
    finally:
        loop.train_step = step


def course_of(tasks: Sequence[str]) -> tuple[Part, ...]:
    """Return the course of a task, or of several at once."""
    return tuple(part._replace(task=part.task or ",".join(tasks)) for part in MIXTURE)


def compete(name: str, setting: Setting, seed: int, options: argparse.Namespace) -> None:
    """Train a contestant and store its scores, unless they are stored already. Raises SystemExit if training fails."""
    out: Path = options.out
    tasks, langs = setting.tasks, setting.langs
    about = {"name": name, "minutes": options.minutes, "seed": seed, "tests": options.tests, "langs": list(langs)}
    about |= {} if is_student(name) else {"tasks": list(tasks)}
    if name == "teacher":
        about |= {"minutes": None}
    if any(all(row.get(key) == value for key, value in about.items()) for row in read(out)):
        return
    folder = Path(options.base)
    if name != "teacher":
        each = seconds_a_step(name, setting, out)
        steps = max(1, round(60 * options.minutes / each))
        about |= {"steps": steps, "seconds_a_step": each}
        words = [name, *([] if is_student(name) else tasks), *langs, f"{options.minutes:g}min", str(seed)]
        folder = out / "-".join(words)
        lines = out / f"{folder.name}.jsonl"
        remove_parts(out, [lines.name])
        if not is_student(name) and not lines.exists():
            write_course(lines, Path(options.base), steps, seed, course_of(tasks), langs)
        often = str(max(1, steps // 4))
        words = [*command_of(name, setting, lines), "--eval-every", often, "--save-every", often]
        words += ["--threads", options.threads] if options.threads else []
        call(words, folder, steps, seed)
        lines.unlink(missing_ok=True)
    found = of_student(folder, langs, seed) if is_student(name) else of_tasks(folder, setting, options.tests)
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(about | found) + "\n")
    print(f"{name}: {found}\n", flush=True)


def of_tasks(folder: Path, setting: Setting, tests: int) -> Row:
    """Return the parameters of a run, and the shares of its completions that are right on tales that no run has seen.

    A prompt that is too long counts as wrong.
    """
    from npgpt.cli.demo import scores_of
    from npgpt.generation.opening import open_run

    scores: Row = {}
    for task in setting.tasks:
        for lang, found in scores_of(folder, task, tests, SEED, setting.langs).items():
            scores[f"{task} {lang}"] = sum(score.right for score in found) / tests
            if task == "summary":
                scores[f"recall {lang}"] = sum(score.recall for score in found) / tests
    return {"parameters": open_run(folder)[0].size, "scores": scores}


def of_student(folder: Path, langs: tuple[str, ...], seed: int) -> Row:
    """Return the parameters of a model of tales, its loss on other tales, the floor, and the share of right tales."""
    from npgpt.cli.evaluate import evaluate_with_progress
    from npgpt.cli.tales_report import sample_texts, what_is_wrong
    from npgpt.data.tales.corpus import TEST, VALIDATION_TALES, TalesCorpus
    from npgpt.generation.opening import open_run

    model, tokenizer = open_run(folder)
    corpus = TalesCorpus(langs, SEED)
    packed = corpus.packed(tokenizer, VALIDATION_TALES, TEST, model.config.n_positions)
    loss = evaluate_with_progress(model, packed, packed.size, 0).loss
    texts = sample_texts(model, tokenizer, SAMPLES, seed)
    return {
        "parameters": model.size,
        "loss": loss,
        "floor": corpus.floor(VALIDATION_TALES, TEST).nats / packed.size,
        "right": sum(not what_is_wrong(text, langs) for text in texts) / len(texts),
    }


def tables(rows: Sequence[Row]) -> list[str]:
    """Return a table for each time and set of tasks, the best contestants of each kind as they come, and the students.

    The figures are means over the seeds, how many the last column says.
    """
    lines = []
    runs = [row for row in rows if not is_student(row["name"])]
    for key in sorted({kind_of(row) for row in runs}):
        minutes, tasks, _ = key
        its = [row for row in runs if kind_of(row) == key]
        columns = list(dict.fromkeys(name for row in its for name in row["scores"]))
        header = ["", "bridge", "encoder", "loss", "parameters", "a step", "steps", *map(column, columns), "runs"]
        found = [generator_line(its, name, columns) for name in in_their_order(its)]
        lines += ["", f"{minutes:g} minutes, {', '.join(tasks)}; right, of {tests_of(its)} each:", ""]
        lines += table(header, found)
    students = [row for row in rows if is_student(row["name"])]
    header = ["", "minutes", "parameters", "a step", "steps", "loss above the floor", "right tales", "runs"]
    for langs in sorted({tuple(row["langs"]) for row in students}):
        its = [row for row in students if tuple(row["langs"]) == langs]
        keys = sorted({(row["minutes"] or 0, row["name"]) for row in its})
        lines += [
            "",
            f"{' and '.join(NAMES[lang] for lang in langs)} tales:",
            "",
            *table(header, [student_line(its, *key) for key in keys]),
        ]
    return lines


def kind_of(row: Row) -> tuple[float, tuple[str, ...], tuple[str, ...]]:
    """Return the minutes, the tasks and the languages of a run."""
    return row["minutes"], tuple(row["tasks"]), tuple(row["langs"])


def in_their_order(rows: Sequence[Row]) -> list[str]:
    """Return the names of contestants, those of the list above first."""
    names = dict.fromkeys(row["name"] for row in rows)
    return [*(name for name in CONTESTANTS if name in names), *(name for name in names if name not in CONTESTANTS)]


def column(name: str) -> str:
    """Return the head of a column of scores.

    >>> column("translate en")
    'en->zh'
    """
    task, lang = name.split()
    if task == "translate":
        return f"{lang}->{'zh' if lang == 'en' else 'en'}"
    return f"{'key facts' if task == 'recall' else task} {lang}"


def tests_of(rows: Sequence[Row]) -> str:
    return " or ".join(map(str, sorted({row["tests"] for row in rows})))


def cost_of(rows: Sequence[Row]) -> list[str]:
    """Return the cells about what all runs of a contestant have in common."""
    first = rows[0]
    each = milliseconds(first["seconds_a_step"]) if "seconds_a_step" in first else ""
    return [f"{first['parameters']:,}", each, f"{first['steps']:,}" if "steps" in first else ""]


def generator_line(rows: Sequence[Row], name: str, columns: Sequence[str]) -> list[str]:
    its = [row for row in rows if row["name"] == name]
    parts = ["fine-tuned GPT", "", "", "ce"] if name == "gpt" else name.split("-")
    shares = (mean(row["scores"][key] for row in its) for key in columns)
    return [*parts, *cost_of(its), *(f"{share:.0%}" for share in shares), str(len(its))]


def student_line(rows: Sequence[Row], minutes: float, name: str) -> list[str]:
    its = [row for row in rows if row["name"] == name and (row["minutes"] or 0) == minutes]
    above = mean(row["loss"] / row["floor"] - 1 for row in its)
    right = mean(row["right"] for row in its)
    return [name, f"{minutes:g}" if minutes else "", *cost_of(its), f"{above:.1%}", f"{right:.0%}", str(len(its))]
