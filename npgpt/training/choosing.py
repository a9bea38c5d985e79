"""The settings that suit a text, a machine and a time: a size, and for each size what recipes.py says of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from npgpt.config import GPTConfig, TrainConfig
from npgpt.support.fields import split_fields
from npgpt.training.evaluation import FEWEST_TOKENS, affordable_tokens
from npgpt.training.memory import memory_to_train
from npgpt.training.recipes import (
    DROPOUT,
    DROPOUTS,
    FEW_EPOCHS,
    MINUTES,
    OF_SELDOM,
    PATIENCE,
    SELDOM,
    SIZES,
    TIED,
    WEIGHT_DECAY,
    merge,
    rate_of,
    step_of,
)
from npgpt.training.speed import Machine

FEWEST_STEPS = 100  # a size that would take fewer is too large
MOST_EVALUATIONS, EVALUATING = 20, 0.03  # how often a run is evaluated, and the share of its time that this takes
# The tokens that a model must see for each parameter of its blocks, and how often at most it reads a text of as many
# tokens as it has such parameters: twice as often overfits. Of models four times as large, a text is read half as
# often, and with a dropout of 0.2 fifteen times as often (benchmarks/recipes/{runs,small}.jsonl). The law of losses
# (law.py) does not decide: sizes that suit a time differ by a few hundredths, and on other texts it is off by more.
TOKENS_A_PARAMETER, MOST_EPOCHS, OF_DROPOUT = 3.0, 20.0, 15.0
STEPS_AN_EPOCH, FEWEST_ROWS = 64, 4  # of a short text: its steps at least, where they have so many rows at least
SHORTER, TRIES = 0.8, 30  # of the numbers of tokens whose losses are compared: each is so much of the one before
LAST_EVALUATION = 0.1  # the largest share of the time that the last evaluation takes, on a sample if need be

# the loss to expect, as `loss`, `low` and `high`, of a model whose blocks have so many parameters after so many tokens;
# None if nobody knows
Expect = Callable[[int, int], Any]


def unknown(n_parameters: int, tokens: int) -> None:
    """Expect nothing of a model."""


class Facts(NamedTuple):
    """What is known of a text once it is tokens: how many there are to train on and to validate with, and how many
    kinds there may be. Tales are made as they are needed, so theirs are infinitely many."""

    tokens: float
    val_tokens: int
    vocab_size: int

    @property
    def rare(self) -> bool:
        """Whether each kind of token occurs but a few times."""
        return self.tokens < SELDOM * self.vocab_size


class Choice(NamedTuple):
    """Settings that suit a text, a machine and a time.

    model, train  all of them; max_steps is a guess, unless it is given or enough
    enough        whether so many steps are expected to be better than as many as the time allows, which would overfit
    step_seconds  how long a step takes
    closing       how long the last evaluation takes
    epochs        how often the text is read
    expected      the loss to expect, as `loss`, `low` and `high`; None if nobody knows
    """

    model: GPTConfig
    train: TrainConfig
    enough: bool
    step_seconds: float
    closing: float
    epochs: float
    expected: Any

    @property
    def tokens(self) -> int:
        """The number of tokens that the run sees."""
        return tokens_of(self.model, self.train, self.train.max_steps)


def choose(
    facts: Facts,
    machine: Machine,
    seconds: float,
    given: Mapping[str, Any],
    expect: Expect = unknown,
    recipes: Sequence[Mapping[str, Any]] = SIZES,
    room: int | None = None,
) -> Choice:
    """Choose the largest size that sees enough tokens in the time, and settings that suit it. What is given is kept.

    seconds  for the training and the last evaluation
    given    fields of GPTConfig and TrainConfig, preset and dropout
    expect   the loss of a model whose blocks have so many parameters after so many tokens
    recipes  the sizes to choose from
    room     bytes of memory; None if the system does not say

    If max_steps is given, it is the largest size whose steps take no longer, or the one whose steps are the fastest.

    Raises ValueError if what is given is not possible together.
    """
    found = [suited(recipe, facts, machine, seconds, given, expect) for recipe in recipes]
    found = [c for c in found if room is None or sum(memory_to_train(c.model, c.train)) <= room] or found[:1]
    if "max_steps" in given:
        in_time = [c for c in found if c.train.max_steps * c.step_seconds + c.closing <= seconds]
        found = in_time or [min(found, key=lambda choice: choice.step_seconds)]
    else:
        found = [c for c in found if c.train.max_steps >= FEWEST_STEPS] or found[:1]
        found = [c for c in found if c.tokens >= TOKENS_A_PARAMETER * parameters_of_blocks(c.model)] or found[:1]
    return max(found, key=lambda choice: parameters_of_blocks(choice.model))


def suited(
    recipe: Mapping[str, Any],
    facts: Facts,
    machine: Machine,
    seconds: float,
    given: Mapping[str, Any],
    expect: Expect,
) -> Choice:
    """Return a size with the rates that suit its width, the dropout that suits the number of epochs, and so on."""
    epochs = 0.0
    if facts.rare:
        recipe = {**recipe, **OF_SELDOM}
    for _ in range(2):  # dropout follows from what the time allows, and costs time
        model, train = with_rates(recipe, facts, given, epochs)
        if "compute" not in given:
            ways = [dataclasses.replace(train, compute=compute) for compute in machine.products]
            train = min(ways, key=lambda way: machine.seconds(model, way))
        step, a_token = machine.seconds(model, train), machine.evaluating(model, train)
        most = affordable_tokens(model.n_parameters) if train.final_eval_tokens is None else train.final_eval_tokens
        last = min(most or facts.val_tokens, facts.val_tokens)
        if train.final_eval_tokens is None and last * a_token > LAST_EVALUATION * seconds:
            last = min(last, max(FEWEST_TOKENS, int(LAST_EVALUATION * seconds / a_token)))
            train = dataclasses.replace(train, final_eval_tokens=last)
        closing = last * a_token
        most = steps = train.max_steps
        if "max_steps" not in given:
            most = max(1, int((seconds - closing) * (1 - EVALUATING) / step))
            steps = min(most, enough_steps(model, train, facts))
        epochs = tokens_of(model, train, most) / facts.tokens  # that the time allows
    epochs = tokens_of(model, train, steps) / facts.tokens
    train = with_intervals(train, steps, given, EVALUATING * seconds / a_token / model.n_positions, facts, model)
    expected = loss_to_expect(model, train, steps, expect)
    return Choice(model, train, steps < most, step, closing, epochs, expected)


def loss_to_expect(model: GPTConfig, train: TrainConfig, steps: int, expect: Expect) -> Any:
    """Return the loss to expect after some steps, or the least after fewer: the law was fitted without dropout, which
    puts off the overfitting that it foretells. It is of the recipe, so it says nothing of another optimizer."""
    if train.optimizer != "muon":
        return None
    tokens = tokens_of(model, train, steps)
    found = [expect(parameters_of_blocks(model), max(1, int(tokens * SHORTER**k))) for k in range(TRIES)]
    return min(found, key=lambda expected: expected.loss) if all(found) else None


def enough_steps(model: GPTConfig, train: TrainConfig, facts: Facts) -> int:
    """Return the number of steps after which a model has read a text as often as it should: one that is read too often
    is learned by heart."""
    epochs = FEW_EPOCHS
    if not facts.rare:
        epochs = (
            MOST_EPOCHS * OF_DROPOUT ** (model.resid_pdrop / 0.2) * (facts.tokens / parameters_of_blocks(model)) ** 0.5
        )
    return max(1, int(min(1e18, epochs * facts.tokens) / tokens_of(model, train, 1)))


def parameters_of_blocks(model: GPTConfig) -> int:
    """Return the number of parameters in the matrices of the blocks."""
    return model.n_layer * (4 * model.n_embd**2 + 2 * model.n_embd * model.mlp_width)


def with_rates(
    recipe: Mapping[str, Any], facts: Facts, given: Mapping[str, Any], epochs: float
) -> tuple[GPTConfig, TrainConfig]:
    """Return the settings of a size for a number of epochs, as recipes.py has them, without numbers of steps."""
    chosen = dict.fromkeys(DROPOUTS, step_of(DROPOUT, epochs)) | MINUTES | {"attn_pdrop": 0.0}  # which costs more time
    chosen["tie_word_embeddings"] = facts.tokens < TIED * facts.vocab_size
    chosen |= {"weight_decay": step_of(WEIGHT_DECAY, epochs), "patience": step_of(PATIENCE, epochs), **recipe}
    fits = min(facts.tokens - 1, max(8, facts.val_tokens - 1))
    chosen["n_positions"] = int(max(1, min(chosen.get("n_positions", 64), fits)))
    # so short steps that an epoch of a short text has many
    rows = facts.tokens / (STEPS_AN_EPOCH * chosen["n_positions"])
    most = chosen.get("batch_size", TrainConfig.batch_size)
    chosen["batch_size"] = int(min(most, max(FEWEST_ROWS, rows)))
    sizes = split_fields(merge(given, {}, {}, chosen), GPTConfig, TrainConfig)[0]
    optimizer = given.get("optimizer", chosen["optimizer"])
    if "learning_rate" not in recipe:
        chosen["learning_rate"] = rate_of(sizes["n_embd"], optimizer)
        chosen["min_lr"] = float(f"{chosen['learning_rate'] / 100:.3g}")  # which prints as it is
    model, train, _ = split_fields(merge(given, {}, {}, chosen), GPTConfig, TrainConfig)
    return GPTConfig(**{"vocab_size": facts.vocab_size} | model), TrainConfig(**train)


def with_intervals(
    train: TrainConfig, steps: int, given: Mapping[str, Any], rows: float, facts: Facts, model: GPTConfig
) -> TrainConfig:
    """Return the settings for a number of steps: warm-up, evaluations and saves.

    rows  how many rows may be evaluated in all while the run goes on
    """
    B = train.batch_size
    batches = max(1, min(train.eval_batches, -(-facts.val_tokens // (B * model.n_positions))))
    if "eval_batches" not in given:  # at least two evaluations, one of them in the middle
        batches = max(1, min(batches, int(rows / 2 / B)))
    n = max(2, min(MOST_EVALUATIONS, int(rows / (batches * B))))
    every = max(1, -(-steps // n))
    suiting: dict[str, Any] = {
        "max_steps": steps,
        "warmup_steps": min(100, steps // 20),
        "eval_batches": batches,
        "eval_every": every,
        "save_every": every,
    }
    return dataclasses.replace(train, **{name: value for name, value in suiting.items() if name not in given})


def tokens_of(model: GPTConfig, train: TrainConfig, steps: int) -> int:
    """Return the number of tokens that a number of steps sees."""
    return steps * train.batch_size * train.gradient_accumulation_steps * model.n_positions
