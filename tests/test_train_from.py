"""`npgpt train --from`: a trained model goes on with other text, with its tokenizer and its sizes."""

import json

import numpy as np
import pytest

from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.models.gpt2_resized import with_positions, with_tokens
from npgpt.tokenizer import ByteTokenizer, CharTokenizer
from npgpt.training.checkpoint import load_last
from npgpt.training.pretraining import plan_training, start_training

ENGLISH = "the quick brown fox jumps over the lazy dog\n" * 20
OTHER = "the lazy fox drove over the brown hedge\n" * 20
CHINESE = "秦川雄帝宅，函谷壯皇居。\n" * 30 + "👩‍👩‍👧 e\u0301\r\n"
SIZES = {"n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
SHORT = {
    "batch_size": 2,
    "max_steps": 4,
    "eval_every": 2,
    "save_every": 2,
    "eval_batches": 2,
    "warmup_steps": 1,
    "sample_tokens": 0,
    "seed": 3,
    "threads": 1,
    "ops": "reference",
}


def base(folder, tokenizer, dtype="float32", **changes):
    """Write a folder with random weights."""
    model = GPT(GPTConfig(**{"vocab_size": tokenizer.vocab_size} | SIZES | changes), dtype=dtype)
    model.params.flat[:] = 0.3 * np.random.default_rng(4).standard_normal(model.params.flat.size)
    folder.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with texts, and a model of characters, called old."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text(OTHER)
    (tmp_path / "zh.txt").write_bytes(CHINESE.encode())
    base(tmp_path / "old", CharTokenizer([ENGLISH]))
    return tmp_path


def started(**settings):
    flags = SHORT | {"from": "old", "data": ["other.txt"], "out": "new"} | settings
    return start_training(plan_training({name: value for name, value in flags.items() if value is not None}))


def first_loss(run):
    record = next(run.records())
    assert record["step"] == 0
    return record["val_loss"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_evaluation_is_the_loss_of_the_model_that_was_given(here, dtype):
    run = started(dtype=dtype)
    assert np.array_equal(run.model.params.flat, GPT.from_pretrained("old", dtype).params.flat)
    batches = run.trainer.val_data.sample(run.config)
    losses = [GPT.from_pretrained("old", dtype, "reference").loss(batch) for batch in batches]
    assert first_loss(run) == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_model_that_was_given_is_the_best_until_a_step_is_better(here):
    run = started(learning_rate=5.0, min_lr=5.0, grad_clip=0.0, warmup_steps=0)
    records = [record for record in run.records() if "val_loss" in record]
    assert records[0]["val_loss"] < records[1]["val_loss"]
    assert np.array_equal(run.best().params.flat, GPT.from_pretrained("old").params.flat)


def test_a_run_goes_on_from_the_weights_and_records_them(here):
    run = started()
    list(run.records())
    saved = json.loads((here / "new/train.json").read_text())
    assert saved["from"]["name"] == str(here / "old")
    assert len(saved["from"]["sha256"]) == 64
    assert GPT.from_pretrained("new").config == GPT.from_pretrained("old").config
    assert Tokenizer.from_pretrained("new").fingerprint() == Tokenizer.from_pretrained("old").fingerprint()
    change = np.abs(run.model.params.flat - GPT.from_pretrained("old").params.flat).max()
    assert 0 < change < 4 * 8e-4  # four steps of AdamW


def test_other_weights_make_another_run(here):
    base(here / "other", CharTokenizer([ENGLISH]), layer_norm_epsilon=2e-5)
    model = GPT.from_pretrained("old")
    model.params.flat[0] += 1
    model.save_pretrained(here / "changed")
    Tokenizer.from_pretrained("old").save_pretrained(here / "changed")
    runs = {started(**{"from": name, "out": f"to-{name}"}).settings["run"] for name in ("old", "changed")}
    assert len(runs) == 2


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_run_resumes_to_the_same_bits(here, stop):
    list(started(out="whole").records())
    run = started()
    list(run.records(lambda: run.trainer.progress["step"] >= stop))
    list(start_training(plan_training({"out": "new"}, resume=True)).records())
    whole, resumed = load_last("whole"), load_last("new")
    assert np.array_equal(whole.params.flat, resumed.params.flat)
    steps = [json.loads(line)["step"] for line in (here / "new/metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 2, 3, 4, 4, 4]


def test_resume_takes_the_same_model_and_refuses_another(here):
    list(started(max_steps=2).records())
    plan = plan_training({"out": "new", "from": "old", "max_steps": 4}, resume=True)
    assert plan.start is None
    with pytest.raises(ValueError, match=r"--from elsewhere: new began with .*old, .* leave --from out"):
        plan_training({"out": "new", "from": "elsewhere"}, resume=True)
    with pytest.raises(ValueError, match="--vocab text: the vocabulary of new cannot change"):
        plan_training({"out": "new", "vocab": "text"}, resume=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_embd": 16}, "--n-embd 16: n_embd of old is 8, and stays so; leave --n-embd out"),
        ({"n_layer": 3}, "--n-layer 3: n_layer of old is 2"),
        ({"vocab_size": 99}, "--vocab-size 99: vocab_size of old is 28"),
        ({"bias": False}, "--bias False: bias of old is True"),
        ({"eos_token_id": 3}, "--eos-token-id 3: eos_token_id of old is None, and stays so; give --end-token"),
        ({"preset": "small"}, "--preset small and --from old: the sizes are the model's"),
        ({"init": "copy"}, "--init copy and --from old: the weights are the model's"),
        ({"tokenizer": "chars"}, "--tokenizer chars and --from old: the model's tokenizer comes along"),
        ({"pretrain": "tales"}, "--pretrain tales and --from old"),
        ({"data": None}, "--from old: --data is missing"),
        (
            {"data": ["zh.txt"]},
            r"the text has 16 characters \(U\+0301, '.u200d', '。', .*lacks: --vocab text adds them",
        ),
        ({"from": None, "vocab": "text"}, "--vocab text has no effect without --from"),
        ({"vocab": "none.txt"}, "--vocab none.txt: no such file; give text, or a file"),
        ({"data": ["tales:en"]}, "has no token that ends an example"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_name(here, given, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        started(**given)
    assert not (here / "new/train.json").exists()


def test_what_says_the_same_as_the_model_is_no_contradiction(here):
    assert started(n_embd=8, n_inner=32, n_layer=2, tie_word_embeddings=True).model.config.n_inner == 32


def test_weights_of_8_bits_are_refused(here):
    from npgpt.models.registry import with_weights

    small = with_weights(GPT.from_pretrained("old"), "int8")
    small.save_pretrained(here / "int8")
    Tokenizer.from_pretrained("old").save_pretrained(here / "int8")
    with pytest.raises(ValueError, match="int8 has weights of 8 bits, which cannot be trained"):
        started(**{"from": "int8"})


def test_a_shorter_context_keeps_the_first_positions(here, caplog):
    run = started(n_positions=8)
    assert run.model.config.n_positions == 8
    assert np.array_equal(run.model.params["wpe.weight"], GPT.from_pretrained("old").params["wpe.weight"][:8])
    assert "the context is 8 tokens instead of the 16 of old: its first positions stay" in caplog.text


def test_a_longer_context_spreads_the_positions(here, caplog):
    run = started(n_positions=31)
    assert np.allclose(run.model.params["wpe.weight"][::2], GPT.from_pretrained("old").params["wpe.weight"], atol=1e-6)
    assert "the context is 31 tokens instead of the 16 of old: its positions are interpolated" in caplog.text
    assert np.isfinite(first_loss(run))


@pytest.mark.parametrize(
    ("rows", "n", "expected"),
    [
        ([0, 4], 3, [0, 2, 4]),
        ([0, 4, 8], 5, [0, 2, 4, 6, 8]),
        ([1, 7, 9], 1, [1]),
        ([5], 3, [5, 5, 5]),
        ([5, 6], 2, [5, 6]),
    ],
)
def test_positions_between_two_are_weighted_by_their_distance(rows, n, expected):
    table = np.array(rows, np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert with_positions(table, n).tolist() == [[value] * 3 for value in expected]


def test_new_tokens_get_the_mean_of_known_ones():
    table = np.array([[1.0, 0], [3, 2], [9, 9], [7, 7]], np.float32)  # of which 2 and 3 are padding
    found = with_tokens(table, 5, np.array([0, 1]), np.array([2, 4]))
    assert found.tolist() == [[1, 0], [3, 2], [2, 1], [7, 7], [2, 1]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 5, 100])
def test_the_characters_of_a_text_are_added_after_those_of_the_model(here, tied, padding, caplog):
    old = CharTokenizer([ENGLISH])
    model = base(here / "padded", old, vocab_size=old.vocab_size + padding, tie_word_embeddings=tied)
    run = started(**{"from": "padded", "data": ["zh.txt"], "vocab": "text", "newline": "keep"})
    n, new = old.vocab_size, {*CHINESE} - {*ENGLISH}
    assert "秦" in new
    assert "characters (" in caplog.text
    assert run.tokenizer.characters == [*old.characters, *sorted(new)]
    assert run.tokenizer.decode(run.tokenizer.encode(ENGLISH + CHINESE)) == ENGLISH + CHINESE
    assert np.array_equal(run.tokenizer.encode(ENGLISH), old.encode(ENGLISH))
    rows = max(n + padding, n + len(new))
    assert run.model.config.vocab_size == rows
    for name in ("wte.weight",) if tied else ("wte.weight", "lm_head.weight"):
        before, after = model.params[name], run.model.params[name]
        assert after.shape == (rows, 8)
        assert np.array_equal(after[:n], before[:n])
        assert np.allclose(after[n : n + len(new)], before[:n].mean(axis=0), atol=1e-6)
        assert np.array_equal(after[n + len(new) : n + padding], before[n + len(new) :])
    list(run.records())
    assert Tokenizer.from_pretrained("new").encode(CHINESE).tolist() == run.tokenizer.encode(CHINESE).tolist()
    moved = run.model.params["wte.weight"][old.vocab_size :] - model.params["wte.weight"][:n].mean(axis=0)
    assert np.abs(moved[: len(new)]).max() > 1e-4  # the new rows have gradients


def test_a_file_adds_tokens_to_a_bpe(here, caplog):
    old = Tokenizer.train([ENGLISH], 300)
    base(here / "bpe", old)
    (here / "words.txt").write_text("秦川\n👩‍👩‍👧\n秦川\nx\n", encoding="utf-8")
    run = started(**{"from": "bpe", "data": ["zh.txt"], "vocab": "words.txt"})
    assert "2 tokens added to the vocabulary" in caplog.text
    assert run.model.config.vocab_size == run.tokenizer.vocab_size == old.vocab_size + 2
    assert run.tokenizer.encode("秦川").tolist() == [old.vocab_size]
    assert run.tokenizer.end_token == old.end_token
    assert run.tokenizer.encode(ENGLISH).tolist() == old.encode(ENGLISH).tolist()
    with pytest.raises(ValueError, match="--vocab text adds characters to a vocabulary of characters"):
        started(**{"from": "bpe", "vocab": "text", "out": "newer"})


def test_bytes_need_no_further_tokens(here):
    base(here / "bytes", ByteTokenizer())
    assert first_loss(started(**{"from": "bytes", "data": ["zh.txt"]})) > 0
    with pytest.raises(ValueError, match="bytes can encode every text"):
        started(**{"from": "bytes", "data": ["zh.txt"], "vocab": "text", "out": "newer"})


def test_dropout_is_0_unless_it_is_given(here, caplog):
    base(here / "dropped", CharTokenizer([ENGLISH]), resid_pdrop=0.1, attn_pdrop=0.1)
    assert started(**{"from": "dropped", "out": "a"}).model.config.resid_pdrop == 0
    assert "dropout is 0 instead of the 0.1 of dropped; --dropout 0.1 keeps it" in caplog.text
    config = started(**{"from": "dropped", "out": "b", "dropout": 0.1}).model.config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.1, 0.1, 0.1)
    assert len(caplog.messages) == 1


def test_the_rate_is_lower_than_from_random_weights_and_can_be_given(here):
    assert started(out="a").config.learning_rate < 1e-3
    assert started(out="b", optimizer="muon").config.learning_rate < 1e-2
    assert started(out="c", learning_rate=0.5).config.learning_rate == 0.5


def test_the_rest_is_frozen_by_trainable(here):
    run = started(trainable="wte.*")
    list(run.records())
    before = GPT.from_pretrained("old").params
    assert {n for n in before if not np.array_equal(before[n], run.model.params[n])} == {"wte.weight"}


def test_a_config_file_names_the_model(here):
    from npgpt.cli.options import read_toml

    (here / "c.toml").write_text('from = "old"\ndata = "other.txt"\nout = "new"\n')
    assert plan_training({}, read_toml("c.toml")).start.name == "old"
    (here / "bad.toml").write_text("from = 3\n")
    with pytest.raises(ValueError, match="from=3 must be a string"):
        read_toml("bad.toml")


def test_a_prepared_folder_must_have_the_tokenizer_of_the_model(here, capsys):
    from tests.test_cli import command

    assert command(capsys, "prepare", "other.txt", "--tokenizer", "old", "--out", "tokens")[0] == 0
    run = started(data=["tokens"])
    assert first_loss(run) == pytest.approx(first_loss(started(out="plain")), rel=1e-6)
    assert command(capsys, "prepare", "other.txt", "--tokenizer", "bytes", "--out", "bytes")[0] == 0
    with pytest.raises(ValueError, match="bytes was prepared with another tokenizer than that of old"):
        started(data=["bytes"], out="newer")
    with pytest.raises(ValueError, match="--vocab text: tokens is tokenized already"):
        started(data=["tokens"], vocab="text", out="newer")


def test_minutes_choose_what_the_model_does_not_settle(here, monkeypatch):
    from tests.test_choosing import ZEN

    monkeypatch.setattr("npgpt.training.minutes.measure", lambda config, computes: ZEN)
    given = dict.fromkeys(SHORT) | {"threads": 1, "ops": "reference", "minutes": 5}
    run = started(**given)
    assert run.model.config == GPT.from_pretrained("old").config
    assert (run.config.optimizer, run.config.init, run.config.batch_size) == ("adamw", "normal", 4)
    assert run.config.learning_rate == started(out="plain").config.learning_rate
    assert run.choice.expected is None  # the law is one of new models
    assert run.config.schedule == "trapezoid"
    assert started(**given | {"n_positions": 8, "dropout": 0.2, "out": "other"}).model.config.resid_pdrop == 0.2


def test_a_large_model_has_small_batches_so_that_it_has_enough_steps(here, monkeypatch):
    from tests.test_choosing import ZEN

    slow = {name: tuple(1e6 * seconds for seconds in way) for name, way in ZEN.products.items()}
    monkeypatch.setattr("npgpt.training.minutes.measure", lambda config, computes: ZEN._replace(products=slow))
    given = dict.fromkeys(SHORT) | {"threads": 1, "ops": "reference", "minutes": 5}
    assert started(**given).config.batch_size < 4


def test_own_text_has_minutes_by_default():
    from npgpt.training.recipes import recipe_of

    assert recipe_of({"from": "old", "data": ["other.txt"]}, False) == "minutes"
    assert recipe_of({"from": "old", "data": ["other.txt"], "max_steps": 5}, False) is None


def test_a_command_says_how_to_repeat_a_run_of_minutes(here, monkeypatch):
    from npgpt.cli.minutes import command_of
    from tests.test_choosing import ZEN

    monkeypatch.setattr("npgpt.training.minutes.measure", lambda config, computes: ZEN)
    given = dict.fromkeys(SHORT) | {"threads": 1, "ops": "reference", "minutes": 5}
    run = started(**given | {"data": ["zh.txt"], "vocab": "text"})
    words = command_of(run)
    assert words[1] == f"--from {here / 'old'}"
    assert "--vocab text" in words
    assert not [word for word in words if word.startswith(("--n-embd", "--n-layer", "--tokenizer", "--init"))]


def test_documents_are_packed_and_tales_lengthen_the_context(here, caplog):
    bpe = Tokenizer.train([ENGLISH], 300)
    base(here / "bpe", bpe)
    (here / "documents.txt").write_text(OTHER.replace("\n", "<|endoftext|>"))
    run = started(**{"from": "bpe", "data": ["documents.txt"], "pack": True})
    assert run.settings["data"]["documents"]
    assert first_loss(run) > 0
    tales = started(**{"from": "bpe", "data": ["tales:en"], "out": "tales", "max_steps": 1})
    assert tales.model.config.n_positions > 16
    assert f"the context is {tales.model.config.n_positions:,} tokens instead of the 16 of bpe" in caplog.text


def test_an_adapter_goes_on_with_its_base_merged_in(here, capsys):
    from tests.test_cli import command

    base(here / "bpe", Tokenizer.train([ENGLISH], 300))
    (here / "lines.jsonl").write_text('{"prompt": "the fox", "completion": "ran"}\n' * 6)
    flags = ("--lora", 2, "--max-steps", 1, "--eval-every", 1, "--out", "tuned", "--threads", 1, "--ops", "reference")
    assert command(capsys, "finetune", "bpe", "--data", "lines.jsonl", *flags)[0] == 0
    run = started(**{"from": "tuned/adapter"})
    assert run.model.config.n_embd == 8
    assert first_loss(run) > 0


def test_the_notebook_calls_it_from_(here):
    import npgpt

    given = SHORT | {"progress": False, "vocab": "text"}
    training = npgpt.train("zh.txt", "new", from_=here / "old", **given)
    assert "秦" in training.sample("秦", 3)
    with pytest.raises(ValueError, match='from_="old": data is missing'):
        npgpt.train(from_="old", out="newer")
    with pytest.raises(ValueError, match=r'tokenizer="bytes" and from_="?old'):
        npgpt.train("zh.txt", "newer", from_="old", tokenizer="bytes")
