"""A model is a protocol: a table of bigrams, of which npgpt knows nothing, is trained, resumed and sampled from."""

import inspect
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt import TrainConfig, generate
from npgpt.cli import main
from npgpt.data.batch import IGNORED, Batch, Text
from npgpt.hub.tensors import read_tensors, save_tensors
from npgpt.layers import linear_cross_entropy_backward, linear_cross_entropy_forward
from npgpt.models import registry
from npgpt.models.base import Model
from npgpt.models.gpt2 import GPT
from npgpt.models.lora import Adapters
from npgpt.support.files import write_json
from npgpt.support.parameters import zeros
from npgpt.tokenizer import CharTokenizer
from npgpt.training.checkpoint import load_last
from npgpt.training.evaluation import whole_loss
from npgpt.training.loop import Trainer
from npgpt.training.workers import Workers

V = 5
TEXT = np.tile([0, 1, 2, 3, 4, 0, 2, 4, 1, 3], 40)


class Bigram:
    """The next token's logits are a row of a table, by the last token, and a bias."""

    matrices: dict = {}  # noqa: RUF012, nothing of it is for Muon
    flops_per_token = float(V)

    def __init__(self, dtype="float32"):
        self.config = SimpleNamespace(vocab_size=V, n_positions=8, eos_token_id=None)
        self.params = zeros({"table": (V, V), "bias": (V,)}, dtype)
        self.dtype, self.size = self.params.flat.dtype, self.params.flat.size

    def describe(self):
        return f"a table of bigrams, vocabulary {V}"

    def tap_names(self):
        return []

    def forward(self, ids, past=None, taps=None, last=False):
        if past is not None:
            past.length += ids.shape[1]
        return (self.params["table"][ids] + self.params["bias"])[:, -1 if last else 0 :]

    def new_past(self, batch_size=1):
        return SimpleNamespace(length=0)

    def loss(self, batch):
        return self.loss_and_grads(batch)[0]

    def loss_and_grads(self, batch, *, rng=None, dloss=1.0, grads=None):
        # table[ids] + bias is a product of ones and zeros with the rows (table, bias)
        x = np.concatenate((np.eye(V, dtype=self.dtype)[batch.ids], np.ones((*batch.ids.shape, 1), self.dtype)), -1)
        weight = np.vstack((self.params["table"], self.params["bias"]))
        loss, cache = linear_cross_entropy_forward(x, np.ascontiguousarray(weight.T), batch.targets)
        _, dweight = linear_cross_entropy_backward(dloss, cache)
        grads = self.params.empty_like() if grads is None else grads
        grads["table"], grads["bias"] = dweight.T[:-1], dweight.T[-1]
        return float(loss), grads

    def save_pretrained(self, folder):
        save_tensors(folder / "model.safetensors", self.params)
        write_json(folder / "config.json", {"model_type": "bigram"})

    def load_pretrained(self, folder):
        other = Bigram(self.dtype.name)
        other.params |= read_tensors(folder / "model.safetensors")[0]
        return other


def config(**changes):
    settings = {"batch_size": 3, "max_steps": 60, "eval_every": 20, "eval_batches": 2, "save_every": 10}
    return TrainConfig(**settings | {"learning_rate": 0.3, "min_lr": 0.1, "warmup_steps": 2, "threads": 2} | changes)


def trained(folder, stop_after=None, resume=False):
    trainer = Trainer(Bigram(), Text(TEXT[:300], 8), Text(TEXT[300:], 8), config(), folder)
    steps = iter(range(1, 1000))
    records = list(trainer.run(resume, lambda: next(steps) == stop_after))
    return trainer, [{k: v for k, v in record.items() if k != "tokens_per_s"} for record in records]


def test_the_table_is_a_model_and_so_is_a_gpt():
    def names(of: type) -> set:
        return {name for name in [*vars(of), *getattr(of, "__annotations__", {})] if not name.startswith("_")}

    assert names(Model) <= set(dir(Bigram())) & {*dir(GPT), "params", "config"}
    assert not isinstance(Bigram(), GPT)


def test_it_learns_what_follows_what(tmp_path):
    trainer, records = trained(tmp_path)
    # of five tokens each is followed by one of two, equally often: no table gets below log 2
    # 60 steps leave a few percent; a table that has learned nothing is at log 5, 2.3 times as much
    assert np.log(2) < records[-1]["val_loss"] < 1.1 * np.log(2)
    assert records[-1]["val_loss"] == whole_loss(trainer.best(), Text(TEXT[300:], 8))


def test_it_is_stopped_and_resumed_to_the_same_bits(tmp_path):
    whole, records = trained(tmp_path / "whole")
    _, first = trained(tmp_path / "parts", stop_after=25)
    assert first[-1]["step"] == 25
    parts, rest = trained(tmp_path / "parts", resume=True)
    assert first + rest == records
    np.testing.assert_array_equal(parts.model.params.flat, whole.model.params.flat)


def test_workers_share_its_batches():
    model = Bigram("float64")
    model.params.flat[:] = np.random.default_rng(0).standard_normal(model.size)
    batch = Text(TEXT, 8).draw(0, config(batch_size=5))[0]
    batch.targets[1, 2:] = IGNORED
    want, grads = model.loss_and_grads(batch)
    with Workers(model, 5, threads=3) as workers:
        loss, found, _ = workers.loss_and_grads([batch])
    assert loss == pytest.approx(want, rel=1e-13)
    np.testing.assert_allclose(found.flat, grads.flat, atol=1e-15)


def test_it_writes(tmp_path):
    trainer, _ = trained(tmp_path)
    tokens = [0, *generate(trainer.model, [0], 200, seed=1)]  # the context slides, of which a bigram sees the last
    follows = set(itertools.pairwise(TEXT))
    # a chance table would make 2 of 5 pairs right, 80; after training the other three share a few percent
    assert sum(pair in follows for pair in itertools.pairwise(tokens)) > 0.95 * 200


def test_commands_open_it(tmp_path, capsys, monkeypatch):
    """They need an opener for the model_type of its config.json, and nothing else."""
    trainer, _ = trained(tmp_path)
    CharTokenizer(["abcde"]).save_pretrained(tmp_path)
    opener = lambda name, dtype, ops: Bigram(dtype).load_pretrained(tmp_path)  # noqa: E731
    monkeypatch.setitem(registry.OPENERS, "bigram", opener)
    (tmp_path / "a.txt").write_text("abcde" * 20)
    assert main(["sample", str(tmp_path), "--prompt", "a", "--max-new-tokens", "20"]) == 0
    assert set(capsys.readouterr().out) == {*"abcde", "\n"}
    assert main(["eval", str(tmp_path), "--data", str(tmp_path / "a.txt"), "--last"]) == 0
    assert "nats per token" in capsys.readouterr().out
    assert main(["info", str(tmp_path)]) == 0
    assert "a table of bigrams, vocabulary 5" in capsys.readouterr().out
    np.testing.assert_array_equal(load_last(tmp_path).params.flat, trainer.model.params.flat)


def test_a_batch_says_what_counts():
    batch = Batch(np.zeros((2, 3), int), np.array([[1, IGNORED, IGNORED], [IGNORED, 2, IGNORED]]))
    assert (len(batch), batch.n_targets, batch.n_tokens) == (2, 2, 3)


def test_the_layers_leave_out_the_same_targets():
    """A layer knows no batch: its own default is the same number."""
    from npgpt import kernels, layers

    for module in (layers, kernels):
        for name in ("cross_entropy_forward", "linear_cross_entropy_forward"):
            assert inspect.signature(getattr(module, name)).parameters["ignore_index"].default == IGNORED


def test_adapters_are_for_gpts():
    with pytest.raises(ValueError, match="which a table of bigrams, vocabulary 5 does not have"):
        Adapters(Bigram(), rank=1)
