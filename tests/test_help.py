"""Help tells the truth: the defaults that it shows are those that a plan without flags uses."""

import argparse
import dataclasses
import re

import pytest

from npgpt import TrainConfig
from npgpt.cli import COMMANDS, module_of
from npgpt.cli.finetune import OF_THE_MODEL
from npgpt.cli.options import DEFAULTS, in_words
from npgpt.cli.parser import Parser
from npgpt.training.finetuning import plan_finetuning
from npgpt.training.pretraining import plan_training
from tests.test_cli import command
from tests.test_cli_train import FIELDS, settings
from tests.test_defaults import HOW

LATER = ("vocab_size", "n_inner", "bos_token_id", "eos_token_id")  # settled with the tokenizer, or by the model
WORDS = re.compile(r"\(default: (.*?)(?:, or the preset's)?(?:; tales: (.*?))?(?:; tales in both languages: (.*?))?\)$")


def shown(capsys, name):
    """Return {flag: help} of a command, each help on one line."""
    page = command(capsys, name, "--help")[1].split("\nexamples:")[0]
    found = {}
    for part in re.split(r"\n  (?=-)", page)[1:]:
        words = " ".join(part.split("\n\n")[0].split())
        found[re.match(r"--[\w-]+|-h", words)[0]] = words
    return found


@pytest.mark.parametrize(("number", "data"), [(1, "a.txt"), (2, "tales:en"), (3, "tales")])
def test_the_defaults_that_help_shows_are_those_of_a_plan_without_flags(capsys, number, data):
    plan = plan_training({"data": [data], "out": "new"})
    settled = {**dataclasses.asdict(plan.config), **plan.model}
    help = shown(capsys, "train")
    for field in FIELDS:
        if field.name in LATER:
            continue
        said = WORDS.search(help[f"--{field.name.replace('_', '-')}"])
        values = [value for value in said.groups()[:number] if value is not None]
        used = settled.get(field.name, field.default)
        if field.name in DEFAULTS:  # what follows from others is said in words
            assert used is None
            assert values[-1] == DEFAULTS[field.name]
        else:
            assert values[-1] == in_words(used), field.name


def test_the_defaults_that_help_shows_are_those_of_fine_tuning(capsys, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    config = plan_finetuning("base", [str(tmp_path / "t.jsonl")], "new", HOW, {}).config
    help = shown(capsys, "finetune")
    for field in dataclasses.fields(TrainConfig):
        if field.name in DEFAULTS and field.name not in OF_THE_MODEL:
            assert DEFAULTS[field.name] in help[f"--{field.name.replace('_', '-')}"]
        elif field.name not in (*OF_THE_MODEL, "threads"):
            assert help[f"--{field.name.replace('_', '-')}"].endswith(
                f"(default: {in_words(getattr(config, field.name))})"
            )


def actions(parser, name):
    """Yield the name and each action of a command, and of its own actions such as `npgpt tokenizer encode`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub, page in action.choices.items():
                yield from actions(page, f"{name} {sub}")
        else:
            yield name, action


def every_action():
    for name in COMMANDS:
        parser = Parser(prog=name)
        module_of(name).add_flags(parser)
        yield from actions(parser, name)


def test_every_default_of_every_command_is_shown():
    count = 0
    for name, action in every_action():
        if action.default in (None, False, argparse.SUPPRESS):
            continue
        said = re.search(r"\(default: (.*?)[;)]", action.help)
        assert said, f"{name} {action.option_strings}: help does not say the default, {action.default}"
        assert said[1] in (str(action.default), f"{action.default:g}" if isinstance(action.default, float) else "")
        count += 1
    assert count > 10


def test_help_has_a_sentence_for_every_argument():
    for name, action in every_action():
        assert action.help, f"{name} {action.option_strings or action.dest}"


def test_help_shows_both_defaults_where_they_differ(capsys):
    code, out, _ = command(capsys, "train", "--help")
    assert code == 0
    page = " ".join(out.split())
    for words in (
        "(default: 2000; tales: 3200; tales in both languages: 9500)",
        "(default: adamw; tales: muon)",
        "(default: chars; tales: bpe:2048; tales in both languages: bpe:4096)",
        "(default: 1e-08)",
    ):
        assert words in page


def test_no_extra_is_offered_that_no_code_uses():
    from tests.test_architecture import ROOT

    text = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert "mpi4py" not in text


@pytest.fixture
def tales(capsys, tmp_path, monkeypatch):
    """A run on English tales with little room, as README's first model is for the vocabulary of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npgpt.data.source.TOKENIZER_TALES", 300)
    monkeypatch.setattr("npgpt.data.packing.GROUP", 20)
    monkeypatch.setattr("npgpt.cli.tales_report.SAMPLES", 2)
    for name in "npgpt.data.source.VALIDATION_TALES", "npgpt.data.tales.corpus.VALIDATION_TALES":
        monkeypatch.setattr(name, 20)
    sizes = ("--n-layer", 1, "--n-embd", 8, "--tokenizer", "bpe:1024", "--eval-batches", 1, "--threads", 1)
    assert command(capsys, "train", "--out", "first", "--max-steps", 1, *sizes)[0] == 0
    return tmp_path


def test_eval_offers_the_tales_that_the_model_was_trained_on(capsys, tales):
    code, _, err = command(capsys, "eval", "first", "--data", "tales")
    assert (code, err.count("\n")) == (2, 1)
    assert "first was trained on tales:en: evaluate it with --data tales:en" in err
    assert command(capsys, "eval", "first", "--data", "tales:en")[0] == 0
    (tales / "first" / "train.json").unlink()
    code, _, err = command(capsys, "eval", "first", "--data", "tales")
    assert (code, "is too short" in err, "trained on" in err) == (2, True, False)


def test_a_preset_alone_trains_on_tales_with_room_for_them(capsys, caplog, tales, monkeypatch):
    monkeypatch.setattr("npgpt.training.recipes.TALES", {"tokenizer": "bpe:1024", "n_positions": 300, "init": "copy"})
    code, _, err = command(capsys, "train", "--preset", "tiny", "--max-steps", 1, "--eval-batches", 1, "--out", "r")
    assert code == 0, err
    n_positions = settings(tales / "r")["n_positions"]
    assert n_positions > 64
    assert caplog.messages[-1] == f"n_positions is {n_positions} instead of 64, to suit the text"


def test_a_default_of_nothing_is_not_shown_in_python(capsys):
    for name in ("train", "finetune"):
        code, out, _ = command(capsys, name, "--help")
        assert code == 0
        assert "None" not in out
