"""What `npgpt train` says of a run with a limit on its time: a table of its settings, and the loss to expect."""

import dataclasses
import shlex
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from npgpt.config import PRESETS, TextConfig, TrainConfig
from npgpt.training.recipes import DEFAULT_PRESET, DROPOUTS

if TYPE_CHECKING:
    from npgpt.training.choosing import Choice
    from npgpt.training.run import Run

# settings that say nothing of what a run learns, or follow from others
UNSAID = ("minutes", "vocab_size", "bos_token_id", "eos_token_id", "eval_every", "eval_batches", "save_every")
# settings whose defaults adapt to others, or for tales are others
ALWAYS = ("optimizer", "learning_rate", "min_lr", "warmup_steps")
WIDTH = 98
# of a run from a trained model: why some settings are as they are, and which are not worth a line
OF_START = dict.fromkeys(("tokenizer", "n_layer", "n_embd", "n_positions"), "the model's")
OF_START |= {"learning_rate": "a quarter of the one for random weights", "dropout": "none unless it is given"}
FROM = {"from": "name", "vocab": "vocab"}  # flags, and where train.json has their values
NOT_OF_START = ("init", "tie_word_embeddings")


def print_choice(run: "Run", named: Collection[str]) -> None:
    """Print the settings that were chosen, one a line with its reason, and what to expect of them."""
    choice = run.choice
    assert choice is not None
    print(f"settings for {run.config.minutes:g} minutes; each can be given instead, and the rest adapts:")
    spread = {*named, "resid_pdrop"} if "dropout" in named else {*named}
    spread |= {*PRESETS[DEFAULT_PRESET]} if "preset" in named else set()
    for name, value, reason in lines(run, choice):
        if "from" in run.settings:
            if name in NOT_OF_START:
                continue
            reason = OF_START.get(name, reason)
        print(f"  {name:<20} {value:<10} {'as given' if name in spread else reason}".rstrip())
    print(expectation(choice), flush=True)


def lines(run: "Run", choice: "Choice") -> Iterator[tuple[str, str, str]]:
    """Yield each setting: its name, its value and the reason."""
    from npgpt.training.recipes import SELDOM

    model, train = run.model.config, run.config
    text, tokens = run.trainer.train_data.size, train.batch_size * model.n_positions
    kinds = "characters" if train.tokenizer == "chars" else "tokens"
    yield "tokenizer", train.tokenizer, f"{run.tokenizer.vocab_size:,} {kinds}; the text to train on has {text:,}"
    size = f"{run.model.size:,} parameters: "
    yield "n_layer", f"{model.n_layer}", size + ("the text is short" if choice.enough else "what this time can train")
    yield "n_embd", f"{model.n_embd}", f"channels; {model.n_head} heads of {model.n_embd // model.n_head}"
    yield "n_positions", f"{model.n_positions}", f"context; {train.batch_size} rows of it are {tokens:,} tokens a step"
    yield "batch_size", f"{train.batch_size}", "small batches learn more from a token"
    pace = "more would learn the text by heart" if choice.enough else "by the clock; this is a guess"
    yield "max_steps", f"{train.max_steps:,}", f"{1000 * choice.step_seconds:.0f} ms each on this machine; {pace}"
    faster = "products of rounded operands are faster here"
    yield "compute", train.compute, faster if train.compute == "bf16" else "rounded operands are not faster here"
    slow = "muon learns rare tokens by heart" if text < SELDOM * run.tokenizer.vocab_size else ""
    yield "optimizer", train.optimizer, "learns more in a step than adamw" if train.optimizer == "muon" else slow
    yield "learning_rate", f"{train.learning_rate:.2g}", f"suits {model.n_embd} channels"
    fall = f"constant, and in the last {train.decay_share:.0%} of the steps down to {train.min_lr:.2g}"
    yield "schedule", train.schedule, fall if train.schedule == "trapezoid" else f"down to {train.min_lr:.2g}"
    yield "dropout", f"{model.resid_pdrop:g}", epochs_in_words(choice.epochs)
    yield "weight_decay", f"{train.weight_decay:g}", "more where the text is read more often"
    yield "init", train.init, f"with a standard deviation of {model.initializer_range:g}"
    tied = "better where tokens are seldom" if model.tie_word_embeddings else "a head of its own learns sooner"
    yield "tie_word_embeddings", "on" if model.tie_word_embeddings else "off", tied
    if train.windows == "shuffled":
        yield "windows", train.windows, "every token once an epoch"
    patience = f"; {train.patience} without a better loss end the run" if train.patience else ""
    yield "eval_every", f"{train.eval_every:,}", f"{train.eval_batches} batches each: 3% of the time{patience}"


def epochs_in_words(epochs: float) -> str:
    """Return how often a text is read."""
    if not epochs:
        return "no tale is read twice"
    return f"the text is read {epochs:.1f} times" if epochs >= 1 else f"{epochs:.0%} of the text is read once"


def expectation(choice: "Choice") -> str:
    """Say what loss to expect, and after how much text."""
    seen = f"after {choice.tokens:,} tokens, {epochs_in_words(choice.epochs)}"
    if choice.expected is None:
        return f"{seen}; no loss can be foretold"
    loss, low, high = choice.expected
    return f"expected: {loss:.2f} nats per token ({low:.2f} to {high:.2f}) {seen}"


def print_outcome(run: "Run", loss: float) -> None:
    """Print what the run came to beside what was expected, and the command that repeats it without a clock."""
    choice: Any = run.choice
    seconds, steps = run.trainer.progress.get("seconds"), run.trainer.progress["step"]
    took = f"{steps:,} steps" + (f" by {seconds / 60:.2f} minutes" if seconds else "")
    if choice.expected is not None:
        expected, low, high = choice.expected
        where = "within the range" if low <= loss <= high else "below the range" if loss < low else "above the range"
        took += f"; expected {expected:.2f} ({low:.2f} to {high:.2f}), reached {loss:.2f}: {where}"
    print(took)
    print("the same settings without a clock:")
    print(" \\\n    ".join(wrapped(command_of(run), WIDTH)))


def command_of(run: "Run") -> list[str]:
    """Return the words of a command with the settings of a run that differ from those of --recipe nanogpt."""
    from npgpt.data.source import TextSource

    plain = {field.name: field.default for field in dataclasses.fields(TrainConfig)} | PRESETS[DEFAULT_PRESET]
    model = run.model.config
    plain |= {f.name: f.default for f in dataclasses.fields(model) if f.name not in PRESETS[DEFAULT_PRESET]}
    settings = {**dataclasses.asdict(run.config), **dataclasses.asdict(model)}
    settings["max_steps"] = run.trainer.progress["step"]
    unsaid = {*UNSAID} - ({"eval_every", "eval_batches"} if run.config.patience else set())  # patience counts these
    began = words_of_start(run)
    if began:
        unsaid |= {"tokenizer", *(f.name for f in dataclasses.fields(model))} - {"n_positions", *DROPOUTS}
    if run.source.tokenizer_name is not None:  # a prepared folder comes with its tokenizer
        unsaid.add("tokenizer")
    if isinstance(run.source, TextSource):
        plain |= {field.name: field.default for field in dataclasses.fields(TextConfig)}
        settings |= dataclasses.asdict(run.source.config)
    words = ["npgpt train", *began, "--data " + " ".join(map(shlex.quote, run.source.files))]
    for name, value in settings.items():
        if name in unsaid or (value == plain[name] and name not in ALWAYS):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-"))
        else:
            words.append(f"{flag} {shlex.quote(str(value))}")
    return words


def words_of_start(run: "Run") -> list[str]:
    """Return the words of a command that say from which model a run went on, and what its vocabulary got; or none."""
    start = run.settings.get("from", {})
    return [f"--{name} {shlex.quote(start[key])}" for name, key in FROM.items() if start.get(key) is not None]


def wrapped(words: list[str], width: int) -> list[str]:
    """Return words joined to lines of at most a width, if no word is longer."""
    found = [words[0]]
    for word in words[1:]:
        if len(found[-1]) + 1 + len(word) > width - 6:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found
