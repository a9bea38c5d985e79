"""Train a GPT on the tales that come with npgpt, or on UTF-8 text files: 90% of each to train on, the rest to validate.
Writes a run folder that `npgpt sample` and Hugging Face's transformers open."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.cli.options import add_config_flags, announce_compiling, merge, read_toml
from npgpt.cli.running import next_free, read_saved, train_with_progress, write_saved
from npgpt.config import PRESETS, TALES, TALES_IN_TWO, GPTConfig, TrainConfig, split_fields

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
    if "finetune" in saved:
        raise ValueError(f"{folder} is a run of npgpt finetune: go on with npgpt finetune RUN --resume --out {folder}")
    data = flags.get("data") or file.get("data") or saved.get("data", {}).get("files") or ["tales:en"]
    recipe = {} if args.resume else recipe_for(data)
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


def recipe_for(data: list[str]) -> dict[str, Any]:
    """Return the settings that suit a --data, below all that is given."""
    from npgpt.data.tales.corpus import langs_of

    langs = langs_of(data[0]) if len(data) == 1 else None
    return {} if langs is None else TALES if len(langs) == 1 else TALES_IN_TWO


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
    for name in ("tokenizer", "dtype", "optimizer"):
        if saved["train"].get(name) != getattr(config, name):
            raise ValueError(f"{name} is {saved['train'].get(name)!r} in {folder} and cannot change with --resume")
    if source.digest() != saved["data"].get("sha256"):
        raise ValueError(f"the text is not the one that {folder} was trained on; start a new run for it")
    tokenizer = Tokenizer.from_pretrained(folder)
    known = saved["data"].get("tokenizer")
    if tokenizer.vocab_size > model.config.vocab_size or tokenizer.fingerprint() != known:
        raise ValueError(f"{folder}: tokenizer.json is not the tokenizer that the run was trained with")
    return model, tokenizer


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
