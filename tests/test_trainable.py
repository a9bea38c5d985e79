"""`trainable`: some parameters are trained, and the others stay as they are, bit for bit."""

import numpy as np
import pytest

import npgpt
from npgpt import GPT, AdamW, GPTConfig, Muon, TrainConfig
from npgpt.data.batch import Text
from npgpt.models.lora import Adapters
from npgpt.support.files import read_sealed_json, write_sealed_json
from npgpt.support.parameters import select
from npgpt.training.checkpoint import load_last
from npgpt.training.loop import Trainer
from tests.test_cli import command
from tests.test_cli_train import TINY, interrupt_after, saved, settings
from tests.test_python import SMALL

IDS = np.random.default_rng(0).integers(0, 11, 400)
CONFIG = GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=False)
PATTERNS = ["h.*.attn.*", "wte.weight", "ln_f.*,h.1.mlp.c_fc.weight", "*.bias", "h.[0].*, lm_head.weight", "*"]


def trainer(folder, adapters=None, ops="fast", **changes):
    small = {"batch_size": 2, "max_steps": 4, "eval_batches": 1, "weight_decay": 0.5, "warmup_steps": 0, "threads": 2}
    model = GPT(CONFIG, seed=1)
    return Trainer(
        model, Text(IDS, 8), Text(IDS[:40], 8), TrainConfig(**small | changes), folder, adapters and adapters(model)
    )


def changed_names(before, after):
    return {name for name in before if (before[name].view(np.uint32) != after[name].view(np.uint32)).any()}


@pytest.mark.parametrize("ops", ["fast", "reference"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("patterns", PATTERNS)
def test_what_is_frozen_keeps_its_bits_and_all_else_changes(tmp_path, optimizer, patterns, ops):
    training = trainer(tmp_path, trainable=patterns, optimizer=optimizer, ops=ops)
    before = {name: value.copy() for name, value in training.model.params.items()}
    list(training.run())
    chosen = select(before, patterns)
    assert changed_names(before, training.model.params) == chosen
    assert training.n_trained == sum(before[name].size for name in chosen)
    averaged = set().union(*training.optimizer.state.values())
    assert averaged == chosen, "and there is no momentum for the others"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_norm_that_is_clipped_is_that_of_the_trained_gradients(tmp_path, optimizer):
    part = trainer(tmp_path / "part", trainable="ln_f.*", optimizer=optimizer, threads=1, grad_clip=1e-3)
    batch = part.train_data.draw(0, part.config)[0]
    grads = GPT(CONFIG, seed=1).loss_and_grads(batch)[1]
    expected = np.sqrt(sum((grads[name] ** 2).sum() for name in ("ln_f.weight", "ln_f.bias")))
    record = next(part.run())
    assert record["grad_norm"] == pytest.approx(expected, rel=1e-5)
    whole = next(trainer(tmp_path / "whole", optimizer=optimizer, threads=1).run())
    assert whole["grad_norm"] == pytest.approx(np.linalg.norm(grads.flat), rel=1e-5)
    assert whole["grad_norm"] > 1.1 * expected


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_trained_part_takes_the_steps_that_it_would_take_alone(tmp_path, optimizer):
    """Without clipping, a first step does not depend on whether the others are frozen."""
    whole = trainer(tmp_path / "whole", optimizer=optimizer, grad_clip=0)
    part = trainer(tmp_path / "part", optimizer=optimizer, grad_clip=0, trainable="h.1.*")
    for training in whole, part:
        next(training.run())
    for name in select(part.model.params, "h.1.*"):
        np.testing.assert_array_equal(part.model.params[name], whole.model.params[name])


def test_optimizers_leave_out_what_they_are_told_to():
    for make in (AdamW, lambda params, **options: Muon(params, GPT(CONFIG).matrices, **options)):
        model = GPT(CONFIG, seed=1)
        before = {name: value.copy() for name, value in model.params.items()}
        optimizer = make(model.params, without=["wte.weight", "h.0.mlp.c_fc.weight"])
        grads = model.loss_and_grads(IDS[None, :8], IDS[None, 1:9])[1]
        optimizer.step(grads, 0.1)
        assert changed_names(before, model.params) == before.keys() - {"wte.weight", "h.0.mlp.c_fc.weight"}


def test_a_name_that_no_parameter_has_freezes_nothing_and_is_refused():
    for make in (AdamW, lambda params, **options: Muon(params, GPT(CONFIG).matrices, **options)):
        for without in (["wte.weigth"], ["ln_f.bias", "wte.weigth"]):
            with pytest.raises(ValueError, match=r"no parameter 'wte\.weigth'; did you mean 'wte\.weight'\?"):
                make(GPT(CONFIG).params, without=without)
        with pytest.raises(ValueError, match="no parameter"):
            make(GPT(CONFIG).params, without="ln_f.bias")


@pytest.mark.parametrize("trainable", [3, None, ["wte.weight", 3]])
def test_python_says_what_trainable_must_be(text, trainable):
    with pytest.raises(ValueError, match=r"trainable=.* must be a string or a list of strings"):
        npgpt.train("a.txt", "r", trainable=trainable)


def test_adapters_are_chosen_by_their_names(tmp_path):
    made = []

    def adapters(model):
        made.append(Adapters(model, 2))
        return made[0]

    training = trainer(tmp_path, adapters, trainable="h.1.*")
    before = {name: value.copy() for name, value in made[0].params.items()}
    list(training.run())
    assert changed_names(before, made[0].params) == {name for name in before if name.startswith("h.1.")}
    with pytest.raises(ValueError, match="no parameter matches 'ln_f"):
        trainer(tmp_path, lambda model: Adapters(model, 2), trainable="ln_f.*")


@pytest.mark.parametrize(
    ("patterns", "match"),
    [
        ("h.*.atn.*", r"no parameter matches 'h\.\*\.atn\.\*'; did you mean 'h\.\*\.attn\."),
        ("ln_f.weigth", "did you mean 'ln_f.weight'"),
        ("wte.weight,,ln_f.*", "no parameter matches ''"),
        ("", "no parameter matches ''"),
        ("h.2.*", "no parameter matches"),
        ("参数", "no parameter matches '参数'"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_before_anything_is_written(capsys, text, patterns, match):
    with pytest.raises(ValueError, match=match) as error:
        npgpt.train("a.txt", "r", progress=False, trainable=patterns, **SMALL)
    assert "known are" not in str(error.value) or len(str(error.value)) < 700
    code, _, err = command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY, "--trainable", patterns)
    assert (code, err.count("\n")) == (2, 1)
    assert not (text / "r").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_records_what_it_trains_says_it_and_is_resumed_to_the_same_bits(capsys, text, monkeypatch, optimizer):
    flags = ("train", "--data", "a.txt", *TINY, "--optimizer", optimizer, "--trainable", "h.*.mlp.*,wpe.*")
    code, out, err = command(capsys, *flags, "--out", "whole")
    assert (code, err) == (0, "")
    model = load_last(text / "whole")
    count = sum(model.params[name].size for name in select(model.params, "h.*.mlp.*,wpe.*"))
    assert f"{model.size:,} parameters ({count:,} of them trained)" in out
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert command(capsys, *flags, "--out", "r")[0] == 130
    assert settings(text / "r")["trainable"] == "h.*.mlp.*,wpe.*"
    code, _, err = command(capsys, "train", "--resume", "--out", "r", "--trainable", "*")
    assert (code, err.count("\n")) == (2, 1)
    assert "trainable is 'h.*.mlp.*,wpe.*' in r and cannot change with --resume" in err
    assert command(capsys, "train", "--resume", "--out", "r")[0] == 0
    assert saved(text / "r") == saved(text / "whole")


def test_python_takes_a_list_and_writes_what_the_command_does(capsys, text):
    npgpt.train("a.txt", "r", progress=False, trainable=["h.*.attn.*", "ln_f.*"], **SMALL)
    flags = ("train", "--data", "a.txt", "--out", "c", *TINY, "--trainable", "h.*.attn.*,ln_f.*")
    assert command(capsys, *flags)[0] == 0
    assert saved(text / "r") == saved(text / "c")
    with pytest.raises(ValueError, match="trainable"):
        npgpt.train("a.txt", "s", progress=False, trainable=[1], **SMALL)


@pytest.mark.parametrize("lora", [(), ("--lora", 2)], ids=str)
def test_fine_tuning_freezes_too(capsys, text, monkeypatch, lora):
    (text / "t.jsonl").write_text('{"prompt": "the quick", "completion": "fox"}\n' * 20)
    base = ("train", "--data", "a.txt", "--tokenizer", "bpe:260", "--out", "base", *TINY, "--n-positions", 32)
    assert command(capsys, *base)[0] == 0
    small = ("--max-steps", 4, "--threads", 1, "--eval-every", 2, "--save-every", 2, "--eval-batches", 1)
    flags = ("finetune", "base", "--data", "t.jsonl", *small, *lora, "--trainable", "h.0.attn.*")
    code, out, err = command(capsys, *flags, "--out", "whole")
    assert (code, err) == (0, "")
    base, tuned = GPT.from_pretrained("base"), load_last(text / "whole")
    names = changed_names(base.params, tuned.params)
    assert names
    assert all(name.startswith("h.0.attn.") for name in names)
    count = 2 * (8 + 24) + 2 * (8 + 8) if lora else sum(base.params[name].size for name in names)
    assert f"{count:,} parameters to train" in out
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert command(capsys, *flags, "--out", "r")[0] == 130
    again = ("finetune", "base", "--resume", "--out", "r")
    code, _, err = command(capsys, *again, "--trainable", "h.*")
    assert (code, err.count("\n"), "--trainable cannot change" in err) == (2, 1, True)
    assert command(capsys, *again)[0] == 0
    assert saved(text / "r") == saved(text / "whole")


def test_a_run_of_an_earlier_version_trains_everything(capsys, text):
    assert command(capsys, "train", "--data", "a.txt", "--out", "r", *TINY)[0] == 0
    path = text / "r" / "train.json"
    content = read_sealed_json(path)
    del content["train"]["trainable"]
    write_sealed_json(path, content)
    assert command(capsys, "train", "--resume", "--out", "r", "--max-steps", 7)[0] == 0
    assert settings(text / "r")["trainable"] == "*"
