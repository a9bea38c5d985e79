"""`npgpt train-generator`: what it trains and says, Ctrl-C and --resume, its runs in other commands, and mistakes."""

import json
import shutil

import numpy as np
import pytest

from npgpt import GPT
from npgpt.cli import main
from npgpt.generation.opening import learned, open_run
from npgpt.models.registry import open_model
from npgpt.support.files import read_sealed_json, write_sealed_json
from tests.test_cli import command, stopped_after_a_step
from tests.test_cli_train import saved

LINES = [{"prompt": f"What is {i} + 1? ", "completion": f"It is {i + 1}."} for i in range(30)]
SHORT = ("--max-steps", 4, "--eval-every", 2, "--save-every", 2, "--batch-size", 2, "--warmup-steps", 1, "--threads", 1)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with a base model that learned a text with byte pairs, one without an end token, a generator g, and
    lines to learn.
    """
    folder = tmp_path_factory.mktemp("generator")
    (folder / "a.txt").write_text("".join(f"{line['prompt']}{line['completion']}\n" for line in LINES) * 3)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (folder / "ask.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES[:3]))
    shape = ["--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--n-positions", "32", "--batch-size", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for out, tokenizer in ("base", "bpe:300"), ("chars", "chars"):
            flags = ["--tokenizer", tokenizer, "--max-steps", "2", "--sample-tokens", "0", "--threads", "1"]
            assert main(["train", "--data", "a.txt", "--out", out, *shape, *flags]) == 0
        assert main(["train-generator", "base", "--data", "tasks.jsonl", "--out", "g", *map(str, SHORT)]) == 0
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def generator(capsys, *flags, out="r"):
    return command(capsys, "train-generator", "base", "--data", "tasks.jsonl", "--out", out, *SHORT, *flags)


def changed(run):
    """Return the names of the encoder's parameters that are no longer the base's."""
    model, base = open_model(run), GPT.from_pretrained("base")
    names = {name.removeprefix("encoder.") for name in model.params if name.startswith("encoder.")}
    return {name for name in names if not np.array_equal(model.params[f"encoder.{name}"], base.params[name])}


def test_a_run_is_written_that_ask_uses(capsys, here):
    code, out, err = generator(capsys, "--decoder", "lstm", "--bridge", "mean", "--n-layer", 1, "--n-embd", 8)
    assert (code, err) == (0, "")
    model = open_model("r")
    lines = out.splitlines()
    assert lines[0] == f"r: {model.describe()}"
    assert "LSTM of 1 layer and 8 channels" in lines[0]
    sizes = {name: sum(model.params[n].size for n in model.params if n.startswith(name)) for name in
             ("encoder.", "bridge.", "decoder.wte", "decoder.head", "decoder.")}  # fmt: skip
    assert f"encoder {sizes['encoder.']:,} (trained), " in lines[1]
    assert f"bridge {sizes['bridge.']:,}" in lines[1]
    assert f"r: {model.size:,} parameters to train, 27 examples to train on, 3 for validation" in lines[2]
    assert "an example that it was not trained on:\n\nWhat is" in out
    assert out.endswith("use it with: npgpt ask r\n")
    train = read_sealed_json(here / "r" / "train.json")
    assert train["model"]["decoder"] == "lstm"
    assert train["model"]["encoder"]["n_embd"] == 16
    assert train["generator"]["loss"] == "ce"
    assert train["data"]["template"] == "{prompt}{end}{completion}"
    code, out, err = command(capsys, "ask", "r", "--prompt", LINES[3]["prompt"], "--max-new-tokens", 3)
    assert code == 0


@pytest.mark.parametrize(
    ("encoder", "trained"),
    [
        ("frozen", set()),
        ("last:1", {"h.1", "ln_f"}),
        ("last:2", {"h.0", "h.1", "ln_f"}),
        ("whole", {"h.0", "h.1", "ln_f", "wte", "wpe"}),
    ],
)
def test_of_the_encoder_what_the_flag_says_is_trained(capsys, here, encoder, trained):
    code, out, err = generator(capsys, "--encoder", encoder)
    assert (code, err) == (0, "")
    found = changed("r")
    assert {name.rsplit(".", 1)[0] if name[0] != "h" else name[:3] for name in found} == trained
    assert len(found) == sum(
        any(name.startswith(part) for part in trained) for name in GPT.from_pretrained("base").params
    )
    assert ("(not trained)" in out) == (encoder == "frozen")
    n = sum(array.size for name, array in open_model("r").params.items() if not name.startswith("encoder."))
    n += sum(GPT.from_pretrained("base").params[name].size for name in found)
    assert f"r: {n:,} parameters to train" in out


def test_a_frozen_encoders_embedding_stays_where_the_decoder_shares_it(capsys, here):
    assert generator(capsys, "--encoder", "frozen", "--embedding", "encoder")[0] == 0
    assert changed("r") == set()
    assert not any(name.startswith("decoder.wte") for name in open_model("r").params)


def test_it_learns_the_completions(capsys, here):
    """After some steps at least six of eight completions come back word for word, greedily and by beams, and the most
    probable draws say them, too.

    Each line is there ten times, so that those to validate are learned, too.
    """
    lines = [{"prompt": f"Say {i}. ", "completion": f"{i}!"} for i in range(8)]
    (here / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 10))
    flags = ("--max-steps", 120, "--learning-rate", "1e-2", "--eval-every", 40, "--batch-size", 8)
    assert generator(capsys, *flags)[0] == 0
    (here / "ask.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = command(capsys, "ask", "r", "--data", "ask.jsonl")
    assert code == 0
    found = [json.loads(line)["completion"] for line in out.splitlines()]
    right = sum(text == line["completion"] for text, line in zip(found, lines, strict=True))
    assert err == f"{right} of 8 completions equal those in the file, word for word\n"
    assert right >= 6
    sharp = ("--temperature", "0.01", "--seed", 5)
    drawn = [
        json.loads(one)["completion"]
        for one in command(capsys, "ask", "r", "--data", "ask.jsonl", *sharp)[1].splitlines()
    ]
    assert drawn == found
    for line, text in zip(lines[:3], found[:3], strict=True):
        code, out, err = command(capsys, "sample", "r", "--prompt", line["prompt"], "--num-beams", 3)
        assert code == 0, err
        assert out.splitlines()[0] == line["prompt"] + text


def test_what_is_measured_agrees(capsys, here):
    """eval and score measure the same completions, so with --end their nats agree."""
    code, out, err = command(capsys, "eval", "g", "--data", "ask.jsonl")
    assert (code, err) == (0, "")
    assert out.startswith("3 completions of 3 lines")
    loss = float(out.split("loss")[1].split()[0])
    code, out, _ = command(capsys, "score", "g", "ask.jsonl", "--end", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    mean = sum(line["nats"] for line in found) / sum(line["tokens"] for line in found)
    np.testing.assert_allclose(mean, loss, atol=2e-4)  # four decimals are printed
    _, tokenizer = open_run("g")
    assert [line["tokens"] for line in found] == [len(tokenizer.encode(line["completion"])) + 1 for line in LINES[:3]]


def test_a_folder_without_its_train_json_is_asked_in_the_same_way(capsys, here):
    ask = ("ask", "g", "--data", "ask.jsonl", "--max-new-tokens", 3)
    before = command(capsys, *ask)
    (here / "g" / "train.json").unlink()
    assert learned("g").reads_prompts
    assert command(capsys, *ask) == before


def test_info_tells_the_parts(capsys, here):
    code, out, err = command(capsys, "info", "g")
    assert (code, err) == (0, "")
    for word in ("a generator: GRU", "  encoder ", "  decoder's embedding ", "  to train "):
        assert word in out


@pytest.mark.parametrize(
    "flags",
    [
        ("--encoder", "frozen", "--dropout", 0.2),
        ("--decoder", "transformer", "--loss", "ce+cosine:0.5", "--loss-temperature", "2:0.5"),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(capsys, here, flags):
    assert generator(capsys, *flags, out="whole")[0] == 0
    with stopped_after_a_step():
        code, out, _ = generator(capsys, *flags)
    assert code == 130
    assert out.endswith(f"stopped; continue with: npgpt train-generator {here / 'base'} --resume --out r\n")
    code, _, err = command(capsys, "train-generator", "base", "--resume", "--out", "r")
    assert (code, err) == (0, "")
    assert saved(here / "whole") == saved(here / "r")


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("", ["RUN"]),
        ("base", ["--data"]),
        ("nosuch --data tasks.jsonl", ["nosuch"]),
        ("g --data tasks.jsonl", ["g is a generator", "give the GPT"]),
        ("chars --data tasks.jsonl", ["--tokenizer bpe:SIZE"]),
        ("base --data nosuch.jsonl", ["nosuch.jsonl", "no such file"]),
        ("base --data bad.jsonl", ["bad.jsonl:2", "'completion' is missing"]),
        ("base --data turns.jsonl", ["turns.jsonl:2: 2 turns", "a line of its own"]),
        ("base --data a.txt", ["a.txt:1: not JSON"]),
        ("base --data tasks.jsonl --template t.txt", ["t.txt: a generator's template needs {end} directly before"]),
        ("base --data tasks.jsonl --out base", ["base already holds a run"]),
        ("base --data tasks.jsonl --lora 2", ["--lora"]),
        ("base --data tasks.jsonl --decoder grew", ["decoder='grew'", "gru"]),
        ("base --data tasks.jsonl --bridge max", ["bridge='max'"]),
        ("base --data tasks.jsonl --encoder last:3", ["--encoder last:3", "2 blocks", "last:2"]),
        ("base --data tasks.jsonl --encoder last:0", ["--encoder 'last:0'", "last:N"]),
        ("base --data tasks.jsonl --encoder all", ["--encoder 'all'", "whole"]),
        ("base --data tasks.jsonl --embedding encoder --n-embd 8", ["embedding='encoder'", "16 channels"]),
        ("base --data tasks.jsonl --n-embd 0", ["n_embd=0"]),
        ("base --data tasks.jsonl --n-head 3", ["n_head=3"]),
        ("base --data tasks.jsonl --dropout 1", ["pdrop=1"]),
        ("base --data tasks.jsonl --loss cos", ["--loss 'cos'", "cosine"]),
        ("base --data tasks.jsonl --loss ce:2", ["--loss ce:2", "ce+cosine:2"]),
        ("base --data tasks.jsonl --loss ce+cosine:-1", ["ce+cosine:-1", "above 0"]),
        ("base --data tasks.jsonl --loss cosine --loss-temperature 0", ["--loss-temperature 0", "above 0"]),
        ("base --data tasks.jsonl --loss cosine --loss-temperature 1:x", ["--loss-temperature 1:x", "'x'"]),
        ("base --data tasks.jsonl --loss cosine --loss-temperature 3:2:1", ["3:2:1", "T0:T1"]),
        ("base --data tasks.jsonl --loss-temperature 2", ["--loss-temperature 2", "no effect"]),
        ("base --data tasks.jsonl --label-smoothing 1", ["--label-smoothing 1"]),
        ("base --data tasks.jsonl --label-smoothing 0.1 --loss cosine", ["--label-smoothing 0.1", "no effect"]),
        ("base --data tasks.jsonl --max-steps 0", ["max_steps=0"]),
        ("base --data tasks.jsonl --trainable wte.weight", ["--trainable"]),
        ("base --resume", ["--resume needs --out"]),
        ("base --resume --out base", ["base is not a run of npgpt train-generator", "npgpt train --resume"]),
        ("base --resume --out nosuch", ["nosuch", "no train.json"]),
        ("base --resume --out g --decoder lstm", ["--decoder cannot change"]),
        ("base --resume --out g --encoder frozen", ["--encoder cannot change"]),
        ("base --resume --out g --loss cosine", ["--loss cannot change"]),
        ("base --resume --out g --dropout 0.1", ["--dropout cannot change"]),
        ("base --resume --out g --seed 3", ["--seed cannot change"]),
        ("base --resume --out g --data ask.jsonl", ["the examples are not those"]),
        ("other --resume --out g", ["the model to begin with is not the one"]),
    ],
)
def test_a_mistake_is_one_line(capsys, here, line, decisive):
    (here / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    turns = {"prompt": ["a", "b"], "completion": ["c", "d"]}
    (here / "turns.jsonl").write_text(json.dumps(LINES[0]) + "\n" + json.dumps(turns) + "\n")
    (here / "t.txt").write_text("Q: {prompt}\nA: {completion}")
    shutil.copytree("base", "other")
    if line.startswith("other"):
        model = GPT.from_pretrained("other")
        model.params.flat[0] += 1
        model.save_pretrained("other")
    before = sorted(here.rglob("*"))
    code, _, err = command(capsys, "train-generator", *line.split())
    assert code == 2
    assert len(err.splitlines()) == 1
    for word in decisive:
        assert word in err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("finetune g --data tasks.jsonl", ["g is a generator", "npgpt train-generator"]),
        ("finetune base --resume --out g", ["not a run of npgpt finetune", "npgpt train-generator RUN --resume"]),
        ("train --resume --out g", ["a run of npgpt train-generator"]),
        ("train --from g --data a.txt --out new", ["g is a generator", "give the GPT"]),
        ("export g --weights int8 --out new", ["g is a generator", "copy its folder"]),
        ("export g --format gguf --out new.gguf", ["g is a generator", "copy its folder"]),
        ("features g a.txt --out v.npy", ["is a generator", "give that one"]),
        ("similar g a b", ["is a generator", "give that one"]),
        ("eval g --data a.txt", ["g is a generator", "JSON lines with prompt and completion"]),
        ("eval g --data tales", ["g is a generator", "JSON lines with prompt and completion"]),
        ("ask g --prompt a --weights int8", ["no such weights"]),
        ("profile g", ["g is a generator", "only the ops of a GPT"]),
        ("score g a.txt", ["a.txt:1", "JSON lines with prompt and completion"]),
    ],
)
def test_what_a_generator_cannot_do_is_one_line_with_the_way_out(capsys, here, line, decisive):
    code, _, err = command(capsys, *line.split())
    assert (code, len(err.splitlines())) == (2, 1)
    for word in decisive:
        assert word in err


def test_instructions_get_the_end_token_before_their_completion(capsys, here):
    lines = [{"instruction": f"Add 1 to {i}", "output": str(i + 1)} for i in range(12)]
    (here / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = generator(capsys)
    assert code == 0, err
    assert read_sealed_json(here / "r" / "train.json")["data"]["template"] == "{prompt}\n{end}{completion}"
    (here / "t.txt").write_text("Q: {prompt}\nA: {end}{completion}")
    assert generator(capsys, "--template", "t.txt", out="s")[0] == 0
    assert learned("s").template.text == "Q: {prompt}\nA: {end}{completion}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", 3), ("encoder", None), ("in_order", 0), ("label_smoothing", "0"), ("loss", "cos"), ("encoder", "last:7")],
)
def test_a_damaged_train_json_is_named(capsys, here, name, value):
    path = here / "g" / "train.json"
    train = read_sealed_json(path)
    train["generator"][name] = value
    write_sealed_json(path, train)
    code, _, err = command(capsys, "train-generator", "base", "--resume", "--out", "g")
    assert (code, err.count("\n")) == (2, 1)
    assert name.replace("_", "-") in err or f"generator.{name} is {value!r}" in err


def test_a_damaged_configuration_is_named(capsys, here):
    path = here / "g" / "train.json"
    train = read_sealed_json(path)
    for change in ({"encoder": {"n_layers": 2}}, {"n_layers": 2}, {"encoder": 3}):
        write_sealed_json(path, train | {"model": train["model"] | change})
        code, _, err = command(capsys, "train-generator", "base", "--resume", "--out", "g")
        assert (code, err.count("\n")) == (2, 1)
        assert "train.json" in err
    write_sealed_json(path, train | {"model": train["model"] | {"encoder": train["model"]["encoder"] | {"n_layer": 7}}})
    code, _, err = command(capsys, "ask", "g", "--prompt", "a")
    assert (code, err.count("\n")) == (2, 1)
    assert "encoder.n_layer is 2, but train.json says 7" in err
