"""What a user can get wrong on the command line: one line on standard error, exit code 2, and nothing changed."""

import shutil

import pytest

from tests.mistakes.tools import TEXT, TINY, refused
from tests.test_cli import command

TRAIN = f"train --data a.txt --out new {TINY}"


@pytest.mark.parametrize(
    ("line", "decisive"),
    [
        ("", ["COMMAND", "--help"]),
        ("trian", ["trian", "train"]),
        ("--frobnicate", ["npgpt"]),
        ("train --max-step 3", ["--max-step", "did you mean '--max-steps'"]),
        ("train --n_layer 3", ["did you mean '--n-layer'"]),
        ("sample r --tempreature 1", ["did you mean '--temperature'"]),
        ("eval r --data a.txt --lst", ["did you mean '--last'"]),
        ("sample r more", ["more"]),
        ("sample", ["RUN"]),
        ("eval r", ["--data"]),
        ("train --data", ["--data"]),
        ("train --max-steps ten", ["--max-steps", "ten"]),
        ("train --max-steps 1.5", ["--max-steps", "1.5"]),
        ("train --learning-rate fast", ["--learning-rate", "fast"]),
        ("train --dtype float16", ["--dtype", "float16", "float32"]),
        ("train --data a.txt --tokenizer words", ["--tokenizer words", "chars", "bpe:SIZE"]),
        ("train --data a.txt --tokenizer char", ["--tokenizer char", "did you mean 'chars'"]),
        ("train --data a.txt --tokenizer bpe", ["--tokenizer bpe", "bpe:4096"]),
        ("train --data a.txt --tokenizer bpe:many", ["--tokenizer bpe:many", "bpe:4096"]),
        ("train --data a.txt --tokenizer bpe:256", ["vocab_size=256 is too small"]),
        ("train --data a.txt --tokenizer folder", ["folder", "tokenizer.json", "no such file"]),
        ("train --data p --tokenizer chars", ["--tokenizer chars", "p is tokenized already"]),
        ("train --data p a.txt", ["p is a folder of npgpt prepare"]),
        ("prepare", ["FILE", "--out"]),
        ("prepare a.txt", ["--out"]),
        ("prepare a.txt nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("prepare folder --out new", ["folder"]),
        ("prepare empty.txt --out new --tokenizer bytes", ["empty.txt", "empty"]),
        ("prepare a.txt bom.txt --out new --tokenizer bytes", ["bom.txt", "empty"]),
        ("prepare latin.txt --out new", ["latin.txt", "0xe9", "offset 3"]),
        ("prepare latin.txt --out new --tokenizer bytes", ["latin.txt", "0xe9", "offset 3"]),
        ("prepare unknown.txt --out new --tokenizer r", ["unknown.txt", "'中'", "position 4"]),
        ("prepare a.txt --out p", ["p already holds"]),
        ("prepare a.txt --out r", ["r already holds"]),
        ("prepare a.txt --out b.txt", ["--out b.txt"]),
        ("prepare a.txt --out= ", ["--out"]),
        ("prepare a.txt --out new --tokenizer bpe:1", ["vocab_size=1 is too small"]),
        ("prepare a.txt --out new --tokenizr bytes", ["did you mean '--tokenizer'"]),
        ("data", ["ACTION"]),
        ("data gte", ["gte", "get"]),
        ("data get", ["NAME"]),
        ("data get shakespear", ["'shakespear'", "did you mean 'shakespeare'"]),
        ("data get shakespeare --out folder", ["--out folder"]),
        ("data get shakespeare --out a.txt", ["--out a.txt already holds something else"]),
        ("tokenizer", ["ACTION"]),
        ("tokenizer trian", ["trian", "train"]),
        ("tokenizer train a.txt", ["--out"]),
        ("tokenizer train --out new", ["FILE"]),
        ("tokenizer train nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("tokenizer train latin.txt --out new", ["latin.txt", "offset 3"]),
        ("tokenizer train a.txt --out r", ["r already holds a tokenizer"]),
        ("tokenizer train a.txt --out b.txt", ["--out b.txt"]),
        ("tokenizer train a.txt --out new --vocab-size 100", ["vocab_size=100 is too small"]),
        ("tokenizer train a.txt --out new --vocab-size many", ["--vocab-size", "many"]),
        ("tokenizer train a.txt --out new --pattern (", ["the pattern '('", "gpt2, gpt4, chinese"]),
        ("tokenizer train a.txt --out new --special x x", ["a special token stands twice"]),
        ("tokenizer encode nosuch a", ["nosuch: no such folder"]),
        ("tokenizer encode folder a", ["folder", "tokenizer.json"]),
        ("tokenizer encode r 中", ["'中'", "U+4E2D"]),
        ("tokenizer encode r a --special", ["--special", "chars"]),
        ("tokenizer decode r 1 x", ["'x' is not an id"]),
        ("tokenizer decode p 99999", ["id 99999 is outside the vocabulary"]),
        ("tokenizer decode p -1", ["-1"]),
        ("tokenizer show", ["FOLDER"]),
        ("tokenizer show nosuch a", ["nosuch"]),
        ("tokenizer stats r nosuch.txt", ["nosuch.txt"]),
        ("tokenizer stats r unknown.txt", ["unknown.txt", "'中'"]),
        ("tokenizer stats r empty.txt", ["empty.txt", "empty"]),
        ("tokenizer stats p latin.txt", ["latin.txt", "offset 3"]),
        (f"{TRAIN} --max-steps 0", ["max_steps", "0"]),
        (f"{TRAIN} --max-steps -3", ["max_steps", "-3"]),
        (f"{TRAIN} --n-head 3", ["n_head=3", "n_embd=8"]),
        (f"{TRAIN} --n-head 0", ["n_head=0"]),
        (f"{TRAIN} --n-layer 0", ["n_layer=0"]),
        (f"{TRAIN} --dropout 1.5", ["1.5"]),
        (f"{TRAIN} --seed -1", ["seed=-1"]),
        (f"{TRAIN} --learning-rate nan", ["learning_rate=nan"]),
        (f"{TRAIN} --learning-rate 1e999", ["learning_rate=inf"]),
        (f"{TRAIN} --learning-rate 1e-5 --min-lr 1e-4", ["min_lr", "learning_rate=1e-05"]),
        (f"{TRAIN} --beta2 1", ["beta2=1.0"]),
        (f"{TRAIN} --vocab-size 5", ["vocab_size=5"]),
        (f"{TRAIN} --n-embd 100000000", ["memory"]),
        (f"{TRAIN} --n-embd 1000000000000", ["memory"]),
        (f"{TRAIN} --preset smal", ["'smal'", "did you mean 'small'"]),
        ("train --data nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("train --data a.txt nosuch.txt --out new", ["nosuch.txt", "no such file"]),
        ("train --data folder --out new", ["folder"]),
        ("train --data empty.txt --out new", ["empty.txt", "empty"]),
        ("train --data bom.txt --out new", ["bom.txt", "empty"]),
        ("train --data short.txt --out new", ["too short", "n_positions=64"]),
        (f"train --data short.txt --out new {TINY}", ["too short", "n_positions=8"]),
        ("train --data latin.txt --out new", ["latin.txt", "UTF-8", "0xe9", "offset 3"]),
        ("train --data half.txt --out new", ["half.txt", "UTF-8", "offset 0"]),
        (f"train --data a.txt --out r {TINY}", ["r already holds a run", "--resume"]),
        (f"train --data a.txt --out b.txt {TINY}", ["b.txt is a file"]),
        (f"train --data a.txt --out b.txt/new {TINY}", ["b.txt"]),
        (f"train --data a.txt --out= {TINY}", ["--out"]),
        ("train --resume", ["--out"]),
        ("train --resume --out nosuch", ["nosuch is not a run folder"]),
        ("train --resume --out folder", ["folder is not a run folder"]),
        ("train --resume --out b.txt", ["b.txt is not a run folder"]),
        ("train --resume --out r --data b.txt", ["text", "r"]),
        ("train --resume --out r --data a.txt b.txt", ["text", "r"]),
        ("train --resume --out r --n-embd 16", ["n_embd", "8", "16"]),
        ("train --resume --out r --n-layer 2", ["n_layer", "1", "2"]),
        ("train --resume --out r --no-bias", ["bias"]),
        ("train --resume --out r --dropout 0.1", ["pdrop"]),
        ("train --resume --out r --preset small", ["small"]),
        ("train --resume --out r --tokenizer bytes", ["tokenizer", "chars"]),
        ("train --resume --out r --dtype float64", ["dtype", "float32"]),
        ("train --resume --out r --max-steps 1", ["max_steps"]),
        ("train --config nosuch.toml", ["nosuch.toml", "no such file"]),
        ("train --config folder", ["folder"]),
        ("train --config unknown.toml", ["unknown.toml", "max_stps", "did you mean 'max_steps'"]),
        ("train --config dashed.toml", ["dashed.toml", "did you mean 'learning_rate'"]),
        ("train --config table.toml", ["table.toml", "train"]),
        ("train --config type.toml --data a.txt", ["max_steps='ten'", "int"]),
        ("train --config float.toml --data a.txt", ["max_steps=10.5", "int"]),
        ("train --config bool.toml --data a.txt", ["bias=1", "bool"]),
        ("train --config dropout.toml --data a.txt", ["dropout='much'", "float"]),
        ("train --config preset.toml", ["preset=3"]),
        ("train --config data.toml", ["data=[1, 2]"]),
        ("train --config broken.toml", ["broken.toml", "line 1"]),
        ("train --config latin.toml", ["latin.toml"]),
        ("train --config twice.toml", ["twice.toml", "max_steps"]),
        ("sample nosuch", ["nosuch", "no such folder"]),
        ("sample runs/7", ["runs/7", "no such folder"]),
        ("sample a.txt", ["a.txt"]),
        ("sample folder", ["folder is not a run folder"]),
        ("sample folder --last", ["folder"]),
        ("sample nosuch --last", ["nosuch"]),
        ("sample r --prompt 中", ["'中'", "U+4E2D", "position 0"]),
        ("sample r --prompt=", ["--prompt", "empty"]),
        ("sample r --prompt the\udcff", ["U+DCFF"]),
        ("sample r --seed -1", ["--seed", "-1"]),
        ("sample r --seed x", ["--seed", "x"]),
        ("sample r --temperature -1", ["temperature=-1"]),
        ("sample r --temperature nan", ["temperature=nan"]),
        ("sample r --temperature inf", ["temperature=inf"]),
        ("sample r --top-p 0", ["top_p=0"]),
        ("sample r --top-p 1.01", ["top_p=1.01"]),
        ("sample r --top-p nan", ["top_p=nan"]),
        ("sample r --top-k 0", ["top_k=0"]),
        ("sample r --max-new-tokens -1", ["max_new_tokens=-1"]),
        ("eval nosuch --data a.txt", ["nosuch"]),
        ("eval r --data nosuch.txt", ["nosuch.txt"]),
        ("eval r --data one.txt", ["1 token"]),
        ("eval r --data empty.txt", ["empty.txt"]),
        ("eval r --data latin.txt", ["latin.txt", "offset 3"]),
        ("eval r --data unknown.txt", ["'中'", "U+4E2D", "position 4"]),
        ("info nosuch", ["nosuch"]),
        ("info folder", ["folder is not a run folder"]),
        ("gradcheck layrnorm", ["layrnorm", "did you mean 'layernorm'"]),
        ("gradcheck linear --seed -1", ["-1"]),
        ("gradcheck linear --ops fats", ["fats", "fast"]),
        ("gradcheck nosuch:forward,backward", ["nosuch"]),
        ("gradcheck a.b.c:forward,backward", ["no module 'a'"]),
        ("gradcheck whole:forward", ["whole:forward", "package.module:forward,backward"]),
        ("gradcheck whole:forward,backward,more", ["package.module:forward,backward"]),
        ("gradcheck whole:forward,", ["package.module:forward,backward"]),
        ("gradcheck :forward,backward", ["package.module:forward,backward"]),
        ("gradcheck whole:", ["package.module:forward,backward"]),
        ("gradcheck ..whole:forward,backward", ["..whole"]),
        ("gradcheck whole:forwrd,backward", ["whole has no function forwrd"]),
        ("gradcheck whole:forward,backwards", ["whole has no function backwards"]),
        ("gradcheck whole:np,backward", ["whole has no function np"]),
        ("gradcheck no_args:forward,backward", ["no_args has no function make_args"]),
        ("gradcheck bad_args:forward,backward", ["RuntimeError", "boom", "bad_args.py:5"]),
        ("gradcheck bad_forward:forward,backward", ["ValueError", "bad_forward.py:6"]),
        ("gradcheck deep_forward:forward,backward", ["LinAlgError", "deep_forward.py:6"]),
        ("gradcheck alone:forward,backward", ["alone:forward,backward", "cache"]),
        ("gradcheck ints:forward,backward", ["no argument is an array of floats"]),
        ("gradcheck count:forward,backward", ["3 gradients", "expected 2"]),
        ("gradcheck broken:forward,backward", ["SyntaxError"]),
        ("gradcheck missing_import:forward,backward", ["no_such_module_of_mine", "missing_import.py:4"]),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else "",
)
def test_a_mistake_on_the_command_line(capsys, here, line, decisive):
    refused(capsys, here, line.split(), *decisive)


def test_an_out_that_holds_a_file_of_a_run_is_not_touched(capsys, here):
    (here / "new").mkdir()
    (here / "new" / "tokenizer_config.json").write_text("mine")
    refused(capsys, here, TRAIN.split(), "new already holds")


def test_a_text_whose_name_is_not_unicode_leaves_no_run_behind_if_it_is_refused(capsys, here):
    name = "caf\udce9.txt"
    (here / name).write_text(TEXT)
    code, _, err = command(capsys, *TRAIN.replace("a.txt", name).split())
    assert code == 0 or (code == 2 and len(err.splitlines()) == 1 and not (here / "new").exists())


def test_a_batch_that_does_not_fit_into_memory_is_one_line(capsys, here):
    code, _, err = command(capsys, *TRAIN.split(), "--batch-size", "1000000000000000")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "memory" in err


def test_a_users_own_module_is_named_wherever_it_lies(capsys, here, monkeypatch):
    """Also in a folder whose name has npgpt in it."""
    (here / "my-npgpt").mkdir()
    shutil.copy(here / "bad_forward.py", here / "my-npgpt")
    monkeypatch.chdir(here / "my-npgpt")
    refused(capsys, here, ["gradcheck", "bad_forward:forward,backward"], "bad_forward.py:6")
