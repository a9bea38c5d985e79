"""How a generator is trained from Python: its goal, the temperature of each step, and what of the encoder changes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, TrainConfig
from npgpt.cli import train_generator as command
from npgpt.data.batch import Text
from npgpt.data.templates import FOR_GENERATORS, parse_template
from npgpt.models import seq_config
from npgpt.models.registry import fields_of, new_generator, require_fields
from npgpt.tokenizer import Tokenizer
from npgpt.training import generators
from npgpt.training.generators import Goal, aim, blocks_of, goal_of, trainable_of
from npgpt.training.loop import Trainer, trained_names
from npgpt.training.memory import require_memory_for_weights, weights_to_train
from npgpt.training.threads import Split

CONFIG = GPTConfig(vocab_size=9, n_positions=12, n_embd=8, n_layer=3, n_head=2, eos_token_id=8)


@pytest.fixture(scope="module")
def base():
    return GPT(CONFIG, seed=1)


def how(**given):
    return generators.HOW | given


def test_the_flags_are_those_of_the_configuration():
    names = {field.name for field in dataclasses.fields(seq_config.SeqConfig)} - {"encoder"}
    assert set(generators.SIZES) == names
    assert generators.LOSSES == seq_config.LOSSES
    assert set(Goal._fields) == {*seq_config.Objective._fields, "first", "last"} - {"tau", "final_tau"}
    defaults = goal_of(how())
    objective = seq_config.Objective()
    assert defaults == Goal(objective.kind, objective.weight, objective.label_smoothing, objective.tau, objective.tau)
    assert {"init", "trainable", "compute"} <= set(command.NOT_HERE)


@pytest.mark.parametrize(
    ("given", "goal"),
    [
        ({}, Goal("ce", 1.0, 0.0, 1.0, 1.0)),
        ({"label_smoothing": 0.1}, Goal("ce", 1.0, 0.1, 1.0, 1.0)),
        ({"loss": "cosine", "loss_temperature": "2"}, Goal("cosine", 1.0, 0.0, 2.0, 2.0)),
        ({"loss": "ce+cosine", "loss_temperature": "3:0.5"}, Goal("ce+cosine", 1.0, 0.0, 3.0, 0.5)),
        ({"loss": "ce+cosine:0.25", "label_smoothing": 0.1}, Goal("ce+cosine", 0.25, 0.1, 1.0, 1.0)),
    ],
)
def test_a_goal_is_what_the_flags_say(given, goal):
    assert goal_of(how(**given)) == goal


def test_the_temperature_falls_in_a_line_from_the_first_step_to_the_last():
    goal = Goal("cosine", 1.0, 0.0, 3.0, 1.0)
    assert [goal.tau(done, 5) for done in range(6)] == [3.0, 2.5, 2.0, 1.5, 1.0, 1.0]
    assert goal.tau(0, 1) == 3.0
    assert goal.tau(1, 1) == 1.0


def test_the_hook_comes_before_each_step(tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, 200)
    config = TrainConfig(batch_size=2, max_steps=4, eval_every=2, save_every=2, eval_batches=1, threads=1)
    trainer = Trainer(GPT(CONFIG), Text(ids, 12), Text(ids[:40], 12), config, tmp_path)
    calls = []
    trainer.on_step = lambda done, total: calls.append((done, total))
    list(trainer.run())
    assert calls == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_a_model_is_aimed_at_the_goal(base):
    model = new_generator(base)
    set_tau = aim(model, Goal("ce+cosine", 0.5, 0.1, 3.0, 1.0), 2, base)
    assert model.trained_blocks == 2
    assert model.critic is base
    assert model.objective == seq_config.Objective("ce+cosine", 0.5, 0.1, 1.0, 1.0)
    set_tau(1, 3)
    assert (model.objective.tau, model.objective.evaluated.tau) == (2.0, 1.0)
    aim(model, Goal("ce", 1.0, 0.0, 1.0, 1.0), None, base)
    assert (model.trained_blocks, model.critic, model.objective) == (None, None, seq_config.Objective(final_tau=1.0))


@pytest.mark.parametrize(("encoder", "n"), [("frozen", 0), ("whole", None), ("last:1", 1), ("last:3", 3)])
def test_what_the_optimizer_trains_is_what_has_gradients(base, encoder, n):
    """Whatever is not trained has the gradient 0, and what is trained has one, in random tokens of every kind."""
    assert blocks_of(encoder) == n
    for fields in {}, {"bridge": "mean", "decoder": "lstm"}, {"embedding": "encoder"}:
        model = new_generator(base, **fields)
        model.trained_blocks = n
        trained = trained_names(model.params, trainable_of(model, n))
        rng = np.random.default_rng(2)
        ids = rng.integers(0, 8, (4, 12))
        ids[:, [0, 5]] = 8
        from npgpt.data.batch import Batch

        targets = np.where(np.arange(12) < 5, -100, np.roll(ids, -1, axis=1))
        _, grads = model.loss_and_grads(Batch(ids, targets))
        changing = {name for name, grad in grads.items() if grad.any()}
        assert changing <= trained, fields
        # the positions that no prompt reaches have no gradient, but wpe is one parameter
        assert trained - changing == set(), fields
        shared = {name for name in trained if name.startswith(("encoder.wte", "encoder.lm_head"))}
        assert bool(shared) == (n is None)


def test_fields_of_a_configuration_name_those_of_the_encoder(base):
    model = new_generator(base)
    found = fields_of(model.config)
    assert found["encoder.n_layer"] == 3
    assert found["n_layer"] == 2
    assert "encoder" not in found
    assert fields_of(CONFIG) == dataclasses.asdict(CONFIG)
    assert fields_of(3) == {}
    require_fields(dataclasses.asdict(model.config))
    require_fields(dataclasses.asdict(CONFIG))
    with pytest.raises(ValueError, match=r"'n_layers'.*n_layer"):
        require_fields({"encoder": {"n_layers": 2}})
    with pytest.raises(ValueError, match=r"'decode'.*decoder"):
        require_fields({"encoder": {}, "decode": "gru"})


def test_a_run_that_does_not_fit_is_refused(base, monkeypatch):
    model = new_generator(base)
    config = TrainConfig(trainable=trainable_of(model, 0))
    trained = sum(array.size for name, array in model.params.items() if not name.startswith("encoder."))
    needed = weights_to_train(model, config, groups=2)
    assert needed == 4 * (3 * model.size + 2 * trained)
    have = needed - 4 * model.size
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: have)
    require_memory_for_weights(model, config, Split(2, 1))
    monkeypatch.setattr("npgpt.training.memory.available_memory", lambda: have - 1)
    with pytest.raises(MemoryError, match=f"for {model.size:,} parameters"):
        require_memory_for_weights(model, config, Split(2, 1))


def test_a_template_with_an_end_of_its_own_is_refused():
    """The encoder would read nothing, and the decoder the prompt."""
    tokenizer = Tokenizer.train(["abc " * 5], 260)
    base = SimpleNamespace(config=SimpleNamespace(eos_token_id=tokenizer.end_id))
    with pytest.raises(ValueError, match="which ends texts"):
        generators.require_one_end(parse_template("<|endoftext|>{prompt}{end}{completion}"), tokenizer, base)
    generators.require_one_end(FOR_GENERATORS, tokenizer, base)
