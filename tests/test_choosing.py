"""What is chosen for a text, a machine and a time, and how long a step is said to take."""

import itertools
from typing import NamedTuple

import pytest

from npgpt.config import GPTConfig, TrainConfig
from npgpt.training import speed
from npgpt.training.choosing import FEWEST_STEPS, TOKENS_A_PARAMETER, Facts, choose, parameters_of_blocks
from npgpt.training.recipes import FEW_EPOCHS, SELDOM, SIZES, TALES
from npgpt.training.speed import Machine, costs, measure, work

ZEN = Machine({"float32": (5e-12, 2e-8), "bf16": (2.5e-12, 2.2e-8)}, {"muon": (2e-11, 2.5e-8), "adamw": (0.0, 7e-10)})
TEXT = Facts(1_000_000, 110_000, 65)


class Loss(NamedTuple):
    loss: float
    low: float = 1.0
    high: float = 1.1


def law(n_parameters, tokens):
    return Loss(1.2 + (2e4 / n_parameters) ** 0.5 + (1e5 / tokens) ** 0.5)


def nobody(n_parameters, tokens):
    return None


def chosen(seconds=180.0, facts=TEXT, machine=ZEN, expect=law, **given):
    return choose(facts, machine, seconds, given, expect)


@pytest.mark.parametrize("seconds", [10, 30, 180, 900])
def test_the_largest_size_that_sees_enough_tokens_is_chosen(seconds):
    one = chosen(seconds)
    others = [choose(TEXT, ZEN, seconds, {}, law, recipes=[size]) for size in SIZES]
    enough = [o for o in others if o.tokens >= TOKENS_A_PARAMETER * parameters_of_blocks(o.model)]
    assert one == max(enough, key=lambda other: parameters_of_blocks(other.model))
    assert len(enough) < len(others)


def test_the_loss_to_expect_is_that_of_the_blocks_and_the_tokens_seen():
    one = chosen()
    assert one.expected == law(parameters_of_blocks(one.model), one.tokens)
    assert chosen(optimizer="adamw").expected is None, "the law is of the recipe"


def test_attention_drops_nothing_unless_it_is_asked_to():
    assert choose(TEXT._replace(tokens=50_000), ZEN, 180, {}, law).model.attn_pdrop == 0
    assert choose(TEXT._replace(tokens=50_000), ZEN, 180, {"attn_pdrop": 0.2}, law).model.attn_pdrop == 0.2


def test_more_time_or_a_faster_machine_buys_a_larger_model():
    slow = Machine(
        *({k: (10 * a, 10 * b) for k, (a, b) in costs.items()} for costs in (ZEN.products, ZEN.updates)),
    )
    sizes = [chosen(seconds).model.n_parameters for seconds in (5, 30, 180, 3600, 36000)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] < sizes[-1]
    assert chosen(1800, machine=slow).model == chosen(180).model


@pytest.mark.parametrize("seconds", [10, 30, 180, 900, 3600])
def test_the_steps_fill_the_time(seconds):
    one = chosen(seconds)
    took = one.train.max_steps * ZEN.seconds(one.model, one.train) + one.closing
    batches = one.train.max_steps // one.train.eval_every * one.train.eval_batches
    evaluating = batches * one.train.batch_size * one.model.n_positions * ZEN.evaluating(one.model, one.train)
    assert 0.95 * seconds < took < seconds
    assert evaluating < 0.04 * seconds
    assert one.train.max_steps >= FEWEST_STEPS
    assert one.train.max_steps >= 2 * one.train.eval_every - 1


GIVEN = {
    "n_layer": 3,
    "n_embd": 96,
    "n_head": 2,
    "n_positions": 100,
    "batch_size": 7,
    "learning_rate": 5e-3,
    "min_lr": 1e-5,
    "warmup_steps": 3,
    "optimizer": "adamw",
    "schedule": "cosine",
    "weight_decay": 0.7,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "windows": "random",
    "compute": "float32",
    "eval_every": 9,
    "eval_batches": 3,
    "save_every": 11,
    "max_steps": 77,
    "final_eval_tokens": 500,
    "attn_pdrop": 0.3,
    "decay_share": 0.3,
    "gradient_accumulation_steps": 2,
    "beta2": 0.9,
    "seed": 5,
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_is_kept(name):
    one = chosen(**{name: GIVEN[name]})
    assert {**vars(one.train), **vars(one.model)}[name] == GIVEN[name]


def test_all_that_is_given_is_kept():
    one = chosen(**GIVEN)
    assert GIVEN.items() <= {**vars(one.train), **vars(one.model)}.items()


def test_a_preset_is_kept_and_the_rest_adapts():
    one = chosen(preset="small", dropout=0.3)
    assert (one.model.n_layer, one.model.n_embd, one.model.n_positions) == (6, 384, 256)
    assert one.model.attn_pdrop == one.model.resid_pdrop == one.model.embd_pdrop == 0.3
    assert one.train.learning_rate < chosen(preset="tiny").train.learning_rate


def test_a_number_of_steps_chooses_a_size_that_fills_the_time():
    few, many = chosen(max_steps=300), chosen(max_steps=6000)
    for one in (few, many):
        assert one.train.max_steps * one.step_seconds + one.closing <= 180
    assert few.model.n_parameters > many.model.n_parameters
    assert chosen(1.0, max_steps=10**6).train.max_steps == 10**6, "no size is fast enough: the fastest"


def test_a_text_that_is_read_often_drops_out_and_decays():
    facts = [TEXT._replace(tokens=tokens, val_tokens=int(tokens / 9)) for tokens in (10**8, 6 * 10**5, 10**5)]
    chosen_for = [choose(text, ZEN, 180, {}, law, recipes=[SIZES[2]]) for text in facts]
    for one, other in itertools.pairwise(chosen_for):
        assert one.epochs < other.epochs
        assert one.model.resid_pdrop <= other.model.resid_pdrop
        assert one.train.weight_decay <= other.train.weight_decay
    first, last = chosen_for[0], chosen_for[-1]
    assert first.model.resid_pdrop < last.model.resid_pdrop
    assert first.train.weight_decay < last.train.weight_decay


def test_a_text_of_rare_tokens_is_learned_slowly_and_for_few_epochs():
    poems = Facts(6000, 700, 1800)  # of 20 kB of Chinese
    one = chosen(facts=poems)
    assert (one.train.optimizer, one.train.learning_rate, one.model.tie_word_embeddings) == ("adamw", 1e-3, True)
    assert one.enough
    assert FEW_EPOCHS - 1 < one.epochs < FEW_EPOCHS + 1
    assert one.train.eval_every < one.train.max_steps / 10, "so that the best model is seen"
    kept = chosen(facts=poems, optimizer="muon", max_steps=900, n_layer=2)
    assert (kept.train.optimizer, kept.train.max_steps, kept.model.n_layer) == ("muon", 900, 2)
    often = chosen(facts=poems._replace(vocab_size=poems.tokens // SELDOM))
    assert often.train.optimizer == "muon"


@pytest.mark.parametrize("tokens", [20, 100, 1000, 10_000])
@pytest.mark.parametrize("expect", [law, nobody])
def test_a_short_text_has_a_context_that_fits(tokens, expect):
    one = chosen(10, Facts(tokens, tokens // 9, 30), expect=expect)
    assert 1 <= one.model.n_positions < tokens
    rows = one.train.batch_size * one.model.n_positions
    assert (one.train.eval_batches - 1) * rows < tokens // 9, "no more than the text has"


def test_bf16_is_used_where_it_is_faster():
    assert chosen().train.compute == "bf16"
    assert chosen(machine=ZEN._replace(products={"float32": (5e-12, 2e-8)})).train.compute == "float32"
    assert chosen(machine=ZEN._replace(products=ZEN.products | {"bf16": (9e-12, 2e-8)})).train.compute == "float32"


def test_sizes_that_do_not_fit_into_memory_are_left_out():
    large = choose(TEXT, ZEN, 36000, {}, law)
    small = choose(TEXT, ZEN, 36000, {}, law, room=10**8)
    assert small.model.n_parameters < large.model.n_parameters


def test_no_time_at_all_still_has_a_step():
    assert chosen(-3.0).train.max_steps == 1


def test_tales_keep_their_recipe_but_the_steps():
    recipe = {name: value for name, value in TALES.items() if name not in ("max_steps", "tokenizer")}
    one = choose(Facts(float("inf"), 100_000, 2048), ZEN, 100, {}, recipes=[recipe])
    found = {**vars(one.train), **vars(one.model)}
    for name in ("n_layer", "n_embd", "n_positions", "learning_rate", "init", "batch_size"):
        assert found[name] == TALES[name]
    assert one.epochs == 0


def test_two_costs_are_found_from_two_measurements():
    assert costs([(2.0, 5.0), (7.0, 3.0)], [2 * 3 + 5 * 4, 7 * 3 + 3 * 4]) == pytest.approx((3, 4))
    assert costs([(1.0, 10.0), (10.0, 20.0)], [1.0, 30.0]) == (3.0, 0.0), "none is negative"
    assert costs([(1.0, 10.0), (10.0, 20.0)], [9.0, 2.0]) == (0.0, 0.1)


def test_a_step_is_computed_from_its_parts():
    model = GPTConfig(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=False)
    products, channels = work(model, 3)
    in_blocks, attention = 2 * 12 * 16**2, 2 * 16 * 9
    assert products == 6 * 24 * (in_blocks + attention + 50 * 16)
    assert channels == 24 * (2 * 16 + 0.05 * 50)
    machine = Machine({"float32": (2.0, 3.0)}, {"adamw": (0.0, 5.0), "muon": (7.0, 11.0)})
    adamw = TrainConfig(batch_size=3, gradient_accumulation_steps=4)
    gradients = 4 * (2 * products + 3 * channels)
    assert machine.seconds(model, adamw) == gradients + 5 * model.n_parameters
    muon = TrainConfig(batch_size=3, gradient_accumulation_steps=4, optimizer="muon")
    rest = model.n_parameters - in_blocks
    assert machine.seconds(model, muon) == gradients + 7 * 2 * 12 * 16**3 + 11 * in_blocks + 5 * rest
    dropping = GPTConfig(**{**vars(model), "attn_pdrop": 0.1})
    assert machine.seconds(dropping, adamw) > machine.seconds(model, adamw)


def test_a_machine_is_measured(monkeypatch):
    sizes = (GPTConfig(vocab_size=8, n_positions=4, n_embd=n, n_layer=1, n_head=1) for n in (8, 16))
    monkeypatch.setattr(speed, "SIZES", tuple(sizes))
    machine = measure(TrainConfig(ops="reference", threads=1), ["float32"], itertools.count().__next__)
    assert machine.products.keys() == {"float32"}
    assert machine.seconds(speed.SIZES[0], TrainConfig(batch_size=speed.BATCH_SIZE)) > 0
    assert machine.fastest == "float32"


def test_more_time_chooses_a_larger_size_where_the_text_is_long():
    for seconds in (30, 180, 900):
        one, less = (chosen(n, TEXT._replace(tokens=10**9)) for n in (seconds, seconds / 6))
        assert one.tokens >= TOKENS_A_PARAMETER * parameters_of_blocks(one.model)
        assert one.model.n_parameters > less.model.n_parameters
    assert parameters_of_blocks(GPTConfig(n_layer=3, n_embd=10, n_head=1, n_inner=30)) == 3 * (400 + 600)


@pytest.mark.parametrize("expect", [nobody, law])
def test_a_short_text_is_read_so_often_at_most_and_a_long_one_is_not_read_out(expect):
    short = choose(TEXT._replace(tokens=20_000, val_tokens=2000), ZEN, 600, {}, expect)
    assert short.enough
    without = choose(TEXT._replace(tokens=20_000, val_tokens=2000), ZEN, 600, {"dropout": 0.0}, expect)
    assert 2 < without.epochs < 20
    assert 5 * without.epochs < short.epochs < 400, "dropout puts off overfitting"
    assert short.train.batch_size == 4, "short steps, so that there are many"
    assert not chosen(30, expect=expect).enough
    given = choose(TEXT._replace(tokens=20_000, val_tokens=2000), ZEN, 600, {"max_steps": 9999}, expect)
    assert (given.train.max_steps, given.enough) == (9999, False)


def test_an_overfitting_that_dropout_puts_off_is_not_expected():
    def rising(n_parameters, tokens):
        return Loss(1 + abs(tokens - 10**6) / 10**6)

    assert 1 <= chosen(3600, expect=rising).expected.loss < 1.15


def test_the_embedding_is_the_head_where_tokens_are_seldom():
    assert not chosen().model.tie_word_embeddings
    assert chosen(facts=Facts(400_000, 50_000, 5000)).model.tie_word_embeddings
    assert not chosen(facts=Facts(400_000, 50_000, 5000), tie_word_embeddings=False).model.tie_word_embeddings
