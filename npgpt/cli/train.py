"""Train a GPT on the tales that come with npgpt, or on UTF-8 text files: 90% of each to train on, the rest to validate.
Writes a run folder that `npgpt sample` and Hugging Face's transformers open."""

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.cli.options import add_config_flags, announce_compiling, merge, read_toml
from npgpt.config import PRESETS, TALES, GPTConfig, TrainConfig, split_fields

if TYPE_CHECKING:
    import numpy as np

    from npgpt.data.packing import Packed
    from npgpt.data.source import PreparedSource, TalesSource, TextSource
    from npgpt.model import GPT
    from npgpt.tokenizer import Tokenizer

    Source = TextSource | PreparedSource | TalesSource


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="UTF-8 text files, a folder of npgpt prepare, or the tales that come with npgpt: tales:en, tales:zh, or "
        "tales for both (default: tales:en)",
    )
    parser.add_argument("--out", metavar="RUN", help="the run folder (default: runs/1, or the next number free)")
    parser.add_argument("--preset", help=f"sizes of the model: {', '.join(PRESETS)} (default: tiny)")
    parser.add_argument("--config", metavar="FILE.toml", help="settings by the flags' names; a flag beats the file")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    flags = {k: v for k, v in vars(args).items() if k not in ("command", "config", "resume") and v is not None}
    file = read_toml(args.config) if args.config else {}
    out = flags.get("out", file.get("out"))
    if out == "":
        raise ValueError("--out is empty: give a folder, or leave it out")
    if args.resume and out is None:
        raise ValueError("--resume needs --out RUN, the folder of the run to go on with")
    if args.resume and ("preset" in flags or "preset" in file):
        name = flags.get("preset", file.get("preset"))
        raise ValueError(f"--preset {name} gives the sizes of a new model; with --resume they are those of the run")
    folder = Path(out) if out else next_free(Path("runs"))
    saved = read_saved(folder) if args.resume else {}
    data = flags.get("data") or file.get("data") or saved.get("data", {}).get("files") or ["tales:en"]
    tales = len(data) == 1 and data[0].partition(":")[0] == "tales"
    recipe = TALES if tales and not args.resume else {}
    gpt_fields, train_fields, _ = split_fields(
        merge(flags, file, {**saved.get("model", {}), **saved.get("train", {})}, recipe),
        GPTConfig,
        TrainConfig,
        also=("data", "out"),
    )
    config = TrainConfig(**train_fields)
    GPTConfig(**gpt_fields)  # says what is wrong with the sizes before any file is read
    from npgpt.checkpoint import remove_unstarted
    from npgpt.data.source import PreparedSource, TalesSource, open_source

    announce_compiling(config.ops)

    source = open_source(data, config.seed)
    if isinstance(source, PreparedSource):
        if "tokenizer" in flags or "tokenizer" in file:
            raise ValueError(f"--tokenizer {config.tokenizer}: {data[0]} is tokenized already; leave --tokenizer out")
        config = dataclasses.replace(config, tokenizer=saved.get("train", {}).get("tokenizer", str(data[0])))
    open_model = resumed if args.resume else started
    model, tokenizer = open_model(folder, saved, source, config, gpt_fields)
    train_data, val_data = source.split(tokenizer, model.config.n_positions, config)
    settings = {
        "data": {
            "files": source.files,
            "sha256": source.digest(),
            "tokenizer": tokenizer.fingerprint(),
            **({"examples": True, "floor": source.floor_a_token()} if isinstance(source, TalesSource) else {}),
        },
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(config),
    }
    print(
        f"{folder}: {model.params.flat.size:,} parameters, {tokenizer.vocab_size:,} tokens in the vocabulary, "
        f"{size(train_data):,} to train on, {size(val_data):,} to validate",
        flush=True,
    )
    if config.warmup_steps >= config.max_steps:
        print(f"the warm-up of {config.warmup_steps} steps outlasts the run: the learning rate stays low")
    try:
        if not args.resume:
            tokenizer.save_pretrained(folder)
            write_saved(folder, settings)
        loss = train_with_progress(model, train_data, val_data, config, folder, args.resume, settings)
    except BaseException:
        if not args.resume:
            remove_unstarted(folder)
        raise
    if loss is None:
        print(f"stopped; go on with: npgpt train --resume --out {folder}")
        return 130
    if isinstance(source, TalesSource):
        from npgpt.cli.tales_report import report
        from npgpt.model import GPT

        best = GPT.from_pretrained(folder, config.dtype, config.ops)
        report(best, tokenizer, source, source.n_train, loss, config.seed)
    elif config.sample_tokens:
        print_sample(folder, tokenizer, int(train_data[0]), config)
    print(f"\nwrite more with: npgpt sample {folder}")
    return 0


def size(data: "np.ndarray | Packed") -> int:
    """Return how many tokens are to be predicted."""
    from npgpt.data.packing import Packed

    return int((data.targets >= 0).sum()) if isinstance(data, Packed) else len(data)


def started(
    folder: Path,
    saved: dict[str, Any],
    source: "Source",
    config: TrainConfig,
    gpt_fields: dict[str, Any],
) -> tuple["GPT", "Tokenizer"]:
    """Make a new model and its tokenizer for a folder that holds no run yet."""
    from npgpt.checkpoint import refuse_existing
    from npgpt.model import GPT
    from npgpt.parameters import init_parameters

    refuse_existing(folder)
    tokenizer = source.make_tokenizer(config.tokenizer)
    end = tokenizer.end_id  # one token for both ends of a text, as in GPT-2's config
    given = {"vocab_size": tokenizer.vocab_size, "bos_token_id": end, "eos_token_id": end}
    gpt_config = GPTConfig(**given | gpt_fields)
    if gpt_config.vocab_size < tokenizer.vocab_size:
        raise ValueError(f"vocab_size={gpt_config.vocab_size} is smaller than the tokenizer's {tokenizer.vocab_size}")
    params = init_parameters(gpt_config, config.seed, config.dtype, config.init)
    return GPT(gpt_config, dtype=config.dtype, ops=config.ops, params=params), tokenizer


def resumed(
    folder: Path,
    saved: dict[str, Any],
    source: "Source",
    config: TrainConfig,
    gpt_fields: dict[str, Any],
) -> tuple["GPT", "Tokenizer"]:
    """Open the run in folder; raise ValueError for a change that would make it another run."""
    from npgpt.model import GPT
    from npgpt.tokenizer import Tokenizer

    model = GPT.from_pretrained(folder, config.dtype, config.ops)
    for name, value in gpt_fields.items():
        if value != saved["model"].get(name, value):
            raise ValueError(
                f"{name} is {saved['model'][name]!r} in {folder} and cannot become {value!r} with --resume"
            )
    for name in ("tokenizer", "dtype"):
        if saved["train"].get(name) != getattr(config, name):
            raise ValueError(f"{name} is {saved['train'].get(name)!r} in {folder} and cannot change with --resume")
    if source.digest() != saved["data"].get("sha256"):
        raise ValueError(f"the text is not the one that {folder} was trained on; start a new run for it")
    tokenizer = Tokenizer.from_pretrained(folder)
    known = saved["data"].get("tokenizer")
    if tokenizer.vocab_size > model.config.vocab_size or tokenizer.fingerprint() != known:
        raise ValueError(f"{folder}: tokenizer.json is not the tokenizer that the run was trained with")
    return model, tokenizer


def train_with_progress(
    model: "GPT",
    train_data: "np.ndarray | Packed",
    val_data: "np.ndarray | Packed",
    config: TrainConfig,
    folder: Path,
    resume: bool,
    settings: dict[str, Any],
) -> float | None:
    """Train under a progress bar. Return the loss on all validation data, or None if Ctrl-C ended the run early."""
    from tqdm import tqdm

    from npgpt.train import train

    loss, bar, whole, nobody_reads = 0.0, None, None, False
    with stop_on_interrupt() as stopped:
        records = train(model, train_data, val_data, config, folder, resume, lambda: bool(stopped))
        for record in records:
            step = record["step"]
            if bar is None:
                if resume:  # the run has been found whole; from here on it is one with these settings
                    write_saved(folder, settings)
                bar = tqdm(initial=step - 1, total=config.max_steps, unit="step", disable=None)
            if record.get("whole"):
                whole = record["val_loss"]
            if "val_loss" not in record:
                loss = record["loss"]
                bar.set_postfix_str(f"loss {loss:.3f}, {record['tokens_per_s']:,.0f} tokens/s", refresh=False)
                bar.update()
                continue
            if whole is not None:
                bar.close()
                line = f"validation loss {record['val_loss']:.4f} nats a token on the whole text (step {step})"
            else:
                line = f"step {step:>6}  loss {loss:.4f}  validation {record['val_loss']:.4f}"
            try:
                tqdm.write(line)
                sys.stdout.flush()
            except BrokenPipeError:  # as of `npgpt train | head`: stop, with the state saved
                stopped.append(0)
                nobody_reads = True
                discard_output()
    if bar is not None:
        bar.close()
    if nobody_reads:
        raise BrokenPipeError
    return whole


def discard_output() -> None:
    """Send what is still to be printed nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def stop_on_interrupt() -> Iterator[list[int]]:
    """Give a list that is empty until Ctrl-C: the step in hand is finished and saved. A second one interrupts."""
    stopped: list[int] = []

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stopped.append(number)
        print("\nfinishing this step ...", file=sys.stderr)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def print_sample(folder: Path, tokenizer: "Tokenizer", first: int, config: TrainConfig) -> None:
    """Print a sample of the best model, from a line end or, if the text has none, from its first token."""
    from npgpt.cli.sample import default_prompt, print_text
    from npgpt.model import GPT
    from npgpt.sampling import generate

    model = GPT.from_pretrained(folder, config.dtype, config.ops)
    prompt = default_prompt(tokenizer, first)
    tokens = generate(
        model,
        prompt,
        config.sample_tokens,
        temperature=0.8,
        seed=config.seed,
        vocab_size=tokenizer.vocab_size,
    )
    print("\na sample:")
    print_text(tokenizer, tokens)


def next_free(parent: Path) -> Path:
    """Return parent/1, or the next number after the largest in parent."""
    taken = [int(p.name) for p in parent.glob("*") if p.name.isdecimal()] if parent.is_dir() else []
    return parent / str(max(taken, default=0) + 1)


def write_saved(folder: Path, settings: dict[str, Any]) -> None:
    """Write train.json, from which --resume knows the run."""
    from npgpt import __version__
    from npgpt.files import write_json

    write_json(folder / "train.json", {"npgpt_version": __version__, **settings})


def read_saved(folder: Path) -> dict[str, Any]:
    """Read train.json. Raises FileNotFoundError or ValueError where --resume cannot go on from it."""
    from npgpt.files import read_json

    path = folder / "train.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no train.json")
    saved = read_json(path)
    for part, config in (("model", GPTConfig), ("train", TrainConfig), ("data", None)):
        if not isinstance(saved.get(part), dict):
            raise ValueError(f"{path}: {part!r} is missing")
        if config:
            try:
                split_fields(saved[part], config)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    files = saved["data"].get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{path}: data.files={files!r} must be a list of strings")
    return saved
