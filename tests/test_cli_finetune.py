"""`npgpt finetune` and `npgpt ask`: what they write and say, LoRA, Ctrl-C and --resume, and a user's mistakes."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT, Sampling, Tokenizer
from npgpt.cli import ask, main
from npgpt.cli.parser import Parser
from npgpt.cli.sampling import sampling_of
from npgpt.data.examples import Example, encode_examples
from npgpt.generation.answers import answers
from npgpt.hub.tensors import read_tensors
from npgpt.models.lora import load_adapter
from npgpt.support.files import read_sealed_json, write_sealed_json
from npgpt.training.checkpoint import STATE
from tests.test_cli import Saying, command, stopped_after_a_step
from tests.test_cli_train import saved

LINES = [{"prompt": f"What is {i} + 1? ", "completion": f"It is {i + 1}."} for i in range(30)]
SHORT = ("--max-steps", 4, "--eval-every", 2, "--save-every", 2, "--batch-size", 2, "--warmup-steps", 1, "--threads", 1)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with a base model that learned a text with byte pairs, one without an end token, and lines to learn."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "a.txt").write_text("".join(f"{line['prompt']}{line['completion']}\n" for line in LINES) * 3)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    shape = ["--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--n-positions", "32", "--batch-size", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for out, tokenizer in ("base", "bpe:300"), ("chars", "chars"):
            flags = ["--tokenizer", tokenizer, "--max-steps", "2", "--sample-tokens", "0", "--threads", "1"]
            assert main(["train", "--data", "a.txt", "--out", out, *shape, *flags]) == 0
    return folder


@pytest.fixture
def here(pristine, tmp_path, monkeypatch):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finetune(capsys, *flags, out="r"):
    return command(capsys, "finetune", "base", "--data", "tasks.jsonl", "--out", out, *SHORT, *flags)


def test_a_run_is_written_that_ask_uses(capsys, here):
    code, out, err = finetune(capsys)
    assert (code, err) == (0, "")
    model = GPT.from_pretrained("r")
    assert f"r: {model.params.flat.size:,} parameters to train, 27 examples to train on, 3 for validation" in out
    assert "an example that it was not trained on:\n\nWhat is" in out
    assert out.endswith("use it with: npgpt ask r\n")
    assert Tokenizer.from_pretrained("r").fingerprint() == Tokenizer.from_pretrained("base").fingerprint()
    assert not (here / "r" / "adapter").exists()
    base = GPT.from_pretrained("base")
    assert not np.array_equal(model.params.flat, base.params.flat)
    code, out, err = command(capsys, "ask", "r", "--prompt", LINES[3]["prompt"])
    assert code == 0
    assert err in ("", "the text was cut off because the context is full\n")
    assert out.endswith("\n")


def test_it_learns_the_completions(capsys, here):
    """After some steps at least six of eight completions come back word for word, and ask says how many.

    Each line is there ten times, so that those to validate are learned, too: the best model is then the last one.
    """
    lines = [{"prompt": f"Say {i}. ", "completion": f"{i}!"} for i in range(8)]
    (here / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 10))
    code, _, _ = finetune(capsys, "--max-steps", 400, "--learning-rate", "1e-2", "--eval-every", 50, "--batch-size", 8)
    assert code == 0
    (here / "ask.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = command(capsys, "ask", "r", "--data", "ask.jsonl")
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in found] == [line["prompt"] for line in lines]
    right = sum(a == b for a, b in zip(found, lines, strict=True))
    assert err == f"{right} of 8 completions equal those in the file, word for word\n"
    assert right >= 6


def test_lora_trains_the_adapters_alone(capsys, here):
    """The model that is written is the base with the adapters of adapter/ merged into it."""
    code, out, _ = finetune(capsys, "--lora", 2, "--lora-alpha", 5, "--learning-rate", "1e-2")
    assert code == 0
    model, base = GPT.from_pretrained("r"), GPT.from_pretrained("base")
    adapters = load_adapter("r/adapter", base)
    assert (adapters.rank, adapters.alpha) == (2, 5)
    assert f"r: {adapters.params.flat.size:,} parameters to train" in out
    for name, array in base.params.items():
        same = np.array_equal(array, model.params[name])
        assert same == (name.removesuffix(".weight") not in adapters.base)
    adapters.merge_into(base)
    np.testing.assert_array_equal(base.params.flat, model.params.flat)
    config = json.loads((here / "r" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(here / "base")


@pytest.mark.parametrize("lora", [(), ("--lora", 2)])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(capsys, here, lora):
    assert finetune(capsys, *lora, out="whole")[0] == 0
    with stopped_after_a_step():
        code, out, _ = finetune(capsys, *lora, out="r")
    assert code == 130
    assert out.endswith(f"stopped; continue with: npgpt finetune {here / 'base'} --resume --out r\n")
    code, _, err = command(capsys, "finetune", "base", "--resume", "--out", "r")
    assert (code, err) == (0, "")
    whole, resumed = saved(here / "whole"), saved(here / "r")
    assert whole == resumed
    if lora:
        both = (read_tensors(here / run / "adapter" / "adapter_model.safetensors")[0] for run in ("whole", "r"))
        for (name, one), (same, other) in zip(*(sorted(tensors.items()) for tensors in both), strict=True):
            assert name == same
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("finetune", ["RUN"]),
        ("finetune base", ["--data"]),
        ("finetune base --data", ["--data"]),
        ("finetune nosuch --data tasks.jsonl", ["nosuch"]),
        ("finetune base --data nosuch.jsonl", ["nosuch.jsonl", "no such file"]),
        ("finetune base --data bad.jsonl", ["bad.jsonl:2", "'completion' is missing"]),
        ("finetune base --data long.jsonl", ["long.jsonl:2", "tokens", "context of 32"]),
        ("finetune base --data one.jsonl", ["1 example is too few"]),
        ("finetune chars --data tasks.jsonl", ["--tokenizer bpe:SIZE"]),
        ("finetune base --data tasks.jsonl --out base", ["base already holds a run"]),
        ("finetune base --data tasks.jsonl --lora 0", ["rank=0"]),
        ("finetune base --data tasks.jsonl --lora 17", ["rank=17"]),
        ("finetune base --data tasks.jsonl --lora-alpha 3", ["--lora-alpha 3.0", "--lora R"]),
        ("finetune base --data tasks.jsonl --lora 2 --lora-alpha -1", ["alpha=-1"]),
        ("finetune base --data tasks.jsonl --max-steps 0", ["max_steps=0"]),
        ("finetune base --data tasks.jsonl --n-layer 3", ["--n-layer"]),
        ("finetune base --resume", ["--resume needs --out"]),
        ("finetune base --resume --out base", ["base is not a run of npgpt finetune"]),
        ("finetune base --resume --out nosuch", ["nosuch", "no train.json"]),
        ("ask", ["RUN"]),
        ("ask nosuch --prompt a", ["nosuch"]),
        ("ask base --prompt a --data tasks.jsonl", ["--prompt and --data"]),
        ("ask base --prompt a --lang zh", ["--lang zh", "--task"]),
        ("ask base --task sing", ["sing"]),
        ("ask base --data bad.jsonl --seed -1", ["--seed=-1"]),
        ("ask base --data nosuch.jsonl", ["nosuch.jsonl"]),
        ("ask base --prompt a --temperature -1", ["--temperature=-1"]),
        ("ask chars --prompt a", ["--tokenizer bpe:SIZE"]),
    ],
)
def test_a_mistake_is_one_line(capsys, here, line, decisive):
    (here / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    (here / "long.jsonl").write_text(json.dumps(LINES[0]) + "\n" + json.dumps({"prompt": "q" * 99, "completion": "b"}))
    (here / "one.jsonl").write_text(json.dumps(LINES[0]))
    before = sorted(here.rglob("*"))
    code, _, err = command(capsys, *line.split())
    assert code == 2
    assert len(err.splitlines()) == 1
    for word in decisive:
        assert word in err
    assert sorted(here.rglob("*")) == before


def test_the_settings_of_a_resumed_run_are_written_once(capsys, here, monkeypatch):
    """When its first record shows that it has been found whole, and not with every record."""
    from npgpt.training import run as module

    assert finetune(capsys)[0] == 0
    written, write = [], module.write_sealed_json
    monkeypatch.setattr(
        module, "write_sealed_json", lambda path, value: written.append(path.name) or write(path, value)
    )
    assert command(capsys, "finetune", "base", "--resume", "--out", "r", "--max-steps", 9)[0] == 0
    assert written == ["train.json"]
    assert json.loads((here / "r" / "train.json").read_text())["train"]["max_steps"] == 9


def test_another_base_or_rank_cannot_go_on(capsys, here):
    assert finetune(capsys, "--lora", 2)[0] == 0
    shutil.copytree("base", "other")
    model = GPT.from_pretrained("other")
    model.params.flat[0] += 1
    model.save_pretrained("other")
    resume = ("--resume", "--out", "r", "--max-steps", 6)
    for words, says in (
        (("finetune", "other", *resume), "the model to begin with is not the one"),
        (("finetune", "base", *resume, "--lora", 3), "--lora cannot change"),
        (("finetune", "base", *resume, "--lora-alpha", 3), "--lora-alpha cannot change"),
        (("finetune", "base", *resume, "--data", "tasks.jsonl", "tasks.jsonl"), "the examples are not those"),
        (("finetune", "base", *resume, "--seed", 3), "--seed cannot change"),
        (("train", *resume), "is a run of npgpt finetune"),
    ):
        code, _, err = command(capsys, *words)
        assert (code, len(err.splitlines())) == (2, 1)
        assert says in err
    assert command(capsys, "finetune", "base", *resume)[0] == 0


@pytest.mark.parametrize(
    ("name", "value"), [("lora", "x"), ("lora", True), ("lora_alpha", []), ("skip_long", 1), ("in_order", 0)]
)
def test_a_damaged_train_json_is_named(capsys, here, name, value):
    assert finetune(capsys)[0] == 0
    path = here / "r" / "train.json"
    train = read_sealed_json(path)
    train["finetune"][name] = value
    write_sealed_json(path, train)
    code, _, err = command(capsys, "finetune", "base", "--resume", "--out", "r")
    assert (code, err.count("\n")) == (2, 1)
    assert f"train.json: finetune.{name} is {value!r}" in err


def test_adapters_are_trained_by_adamw_alone(capsys, here):
    code, _, err = finetune(capsys, "--lora", 2, "--optimizer", "muon")
    assert code == 2
    assert "optimizer='muon' is for whole models" in err.splitlines()[-1]
    assert not (here / "r").exists()


def test_a_tuned_model_keeps_its_optimizer(capsys, here):
    assert finetune(capsys, "--optimizer", "muon")[0] == 0
    resume = ("finetune", "base", "--resume", "--out", "r", "--max-steps", 6)
    code, _, err = command(capsys, *resume, "--optimizer", "adamw")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--optimizer cannot change" in err
    assert command(capsys, *resume)[0] == 0


def test_long_lines_are_left_out_on_request(capsys, here):
    (here / "tasks.jsonl").write_text(
        (here / "tasks.jsonl").read_text() + '{"prompt": "%s", "completion": "b"}' % ("q" * 99)
    )
    code, out, _ = finetune(capsys, "--skip-long")
    assert code == 0
    assert "(1 too long, left out)" in out
    assert command(capsys, "finetune", "base", "--resume", "--out", "r", "--max-steps", 5)[0] == 0


def test_lines_are_learned_in_order_on_request(capsys, here, monkeypatch):
    """Of lines in two halves the first steps see the first half alone; a run that goes on keeps to it. The last lines
    are kept to validate.
    """
    seen = []

    def note(self, batches, *args, **kwargs):
        tokenizer = Tokenizer.from_pretrained("base")
        seen.append("".join(tokenizer.decode(ids[ids != tokenizer.end_id]) for ids in batches[0].ids))
        return loss_and_grads(self, batches, *args, **kwargs)

    from npgpt.training.workers import Workers

    loss_and_grads = Workers.loss_and_grads
    monkeypatch.setattr(Workers, "loss_and_grads", note)
    monkeypatch.setattr("npgpt.data.packing.GROUP", 100)
    lines = [{"prompt": f"What is {letter}?", "completion": "It is."} for letter in "1" * 300 + "2" * 300]
    (here / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = finetune(capsys, "--in-order")
    assert code == 0
    assert "What is 2?[" in out
    assert all("1?" in text and "2?" not in text for text in seen)
    assert command(capsys, "finetune", "base", "--resume", "--out", "r", "--max-steps", 6)[0] == 0
    assert all("1?" in text and "2?" not in text for text in seen)
    assert len(seen) == 6
    code, out, _ = finetune(capsys, out="any")
    assert code == 0
    assert "What is 1?[" in out  # the first of those kept
    assert any("2?" in text for text in seen[6:])


def test_ask_reads_standard_input_and_makes_tasks(capsys, here, monkeypatch):
    prompt = LINES[5]["prompt"]
    _, given, _ = command(capsys, "ask", "base", "--prompt", prompt, "--max-new-tokens", 5)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{prompt}\n".encode())))
    code, out, err = command(capsys, "ask", "base", "--max-new-tokens", 5)
    assert (code, err, out) == (0, "", given)
    code, _, err = command(capsys, "ask", "base", "--task", "answer")  # a tale is longer than this model's context
    assert code == 2
    assert "the prompt is too long" in err
    code, out, _ = command(capsys, "ask", "base", "--prompt", prompt, "--temperature", 5, "--seed", 1)
    assert out != command(capsys, "ask", "base", "--prompt", prompt, "--temperature", 5, "--seed", 2)[1]


@pytest.mark.parametrize(
    ("flags", "temperature", "top_p"),
    [
        ([], 0, None),
        (["--prompt", "a", "--top-p", "0.5"], 0, 0.5),
        (["--task", "answer"], 0, None),
        (["--task", "write"], 0.8, 0.9),
        (["--task", "write", "--top-p", "0.5"], 0.8, 0.5),
        (["--task", "write", "--temperature", "0"], 0, None),
        (["--task", "write", "--temperature", "0.7", "--top-p", "0.6"], 0.7, 0.6),
    ],
)
def test_ask_draws_as_it_suits_the_task_unless_told(flags, temperature, top_p):
    parser = Parser(prog="npgpt ask")
    ask.add_flags(parser)
    args = parser.parse_args(["r", *flags, "--max-new-tokens", "7", "--top-k", "3"])
    args.folder = Path("r")
    found = sampling_of(args, ask.defaults_of(args))
    assert (found.max_new_tokens, found.temperature, found.top_k, found.top_p) == (7, temperature, 3, top_p)


def test_answers_are_drawn_one_after_another(here):
    model, tokenizer = GPT.from_pretrained("base"), Tokenizer.from_pretrained("base")
    prompts = [LINES[0]["prompt"]] * 3
    drawn = list(answers(model, tokenizer, prompts, 5.0, seed=1))
    assert len(set(drawn)) == 3
    assert drawn == list(answers(model, tokenizer, prompts, 5.0, seed=1))
    assert drawn != list(answers(model, tokenizer, prompts, 5.0, seed=2))
    likeliest = list(answers(model, tokenizer, prompts))
    assert len(set(likeliest)) == 1
    assert list(answers(model, tokenizer, prompts, 5.0, 1e-9)) == likeliest


def test_ask_goes_through_a_conversation_as_it_was_learned(capsys, here, monkeypatch):
    """Each prompt comes behind what the model itself has said before, as a row of training would have it."""
    tokenizer, generator = Tokenizer.from_pretrained("base"), Saying(*(f"{i}." for i in range(1, 8)))
    generator.model = GPT.from_pretrained("base")
    monkeypatch.setattr("npgpt.generation.engine.Generator", generator)
    asked = ["它 2? ", "3? ", "4? "]
    line = {"prompt": asked, "completion": ["1.", "1.", "3."]}
    (here / "ask.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({"prompt": asked}) + "\n")
    flags = ("--temperature", 2, "--top-k", 5, "--top-p", 0.5, "--seed", 3, "--max-new-tokens", 4)
    code, out, err = command(capsys, "ask", "base", "--data", "ask.jsonl", *flags)
    assert (code, err) == (0, "2 of 3 completions equal those in the file, word for word\n")
    said = [["1.", "2.", "3."], ["4.", "5.", "6."]]
    assert [json.loads(line) for line in out.splitlines()] == [{"prompt": asked, "completion": c} for c in said]
    end = tokenizer.require_end_id()
    for number, found in enumerate(said):
        turns = list(zip(asked, found, strict=True))
        for turn in range(3):
            example = Example(*turns[0], more=tuple(turns[1 : turn + 1]))
            whole = encode_examples([example], tokenizer)[0][0]
            assert [*generator.asked[3 * number + turn], *tokenizer.encode(found[turn])] == [end, *whole]
    settings = Sampling(max_new_tokens=4, temperature=2.0, top_k=5, top_p=0.5, seed=3, context="stop")
    assert {sampling for sampling, _, _ in generator.how} == {settings}
    assert [id(how[2]) for how in generator.how] == [
        id(generator.how[i][2]) for i in (0, 0, 0, 3, 3, 3)
    ]  # one stream of draws for each conversation
    assert generator.how[0][2].bit_generator.state == np.random.default_rng(3).bit_generator.state
    (here / "ask.jsonl").write_text(json.dumps({"prompt": ["a", "b" * 99]}) + "\n")
    code, _, err = command(capsys, "ask", "base", "--data", "ask.jsonl")
    assert (code, err.count("\n")) == (2, 1)
    assert "ask.jsonl:1: the conversation is too long" in err
    assert "--max-new-tokens" in err


def test_ask_needs_no_completions(capsys, here):
    (here / "ask.jsonl").write_text('{"prompt": "What is 1 + 1? "}\n')
    code, out, err = command(capsys, "ask", "base", "--data", "ask.jsonl", "--max-new-tokens", 3)
    assert (code, err) == (0, "")
    assert json.loads(out)["prompt"] == "What is 1 + 1? "
    assert (here / "base" / STATE).exists()


def test_examples_may_be_in_a_folder_in_another_encoding(capsys, caplog, here):
    lines = [json.dumps({"prompt": f"第{i}？", "completion": f"是{i}。\r\n"}, ensure_ascii=False) for i in range(20)]
    (here / "d").mkdir()
    for name, part in (("d/a.jsonl", lines[:9]), ("d/b.jsonl", lines[9:])):
        (here / name).write_bytes("\r\n".join(part).encode("gbk"))
    (here / "one.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    flags = (*SHORT, "--skip-long")
    code, _, err = command(capsys, "finetune", "base", "--data", "d", "--out", "r", *flags)
    assert code == 2
    assert "d/a.jsonl: not UTF-8: " in err.replace("\\", "/")
    assert "it looks like GBK: give --encoding gb18030" in err
    assert command(capsys, "finetune", "base", "--data", "d", "--out", "r", *flags, "--encoding", "gbk")[0] == 0
    assert "d: 2 files *.jsonl" in caplog.text
    assert command(capsys, "finetune", "base", "--data", "one.jsonl", "--out", "s", *flags)[0] == 0
    assert (here / "r" / "model.safetensors").read_bytes() == (here / "s" / "model.safetensors").read_bytes()
    assert command(capsys, "finetune", "base", "--resume", "--out", "r", "--max-steps", 5)[0] == 0
    asked = command(capsys, "ask", "r", "--data", "d", "--encoding", "gbk", "--max-new-tokens", 1)
    assert asked[0] == 0
    assert asked == command(capsys, "ask", "r", "--data", "one.jsonl", "--max-new-tokens", 1)
