"""Values at the edge: huge, infinite, nested without end, or empty. Each is refused in one line, before any work."""

import json

import pytest

import npgpt
from npgpt import GPTConfig, TrainConfig
from npgpt.cli.demo import is_whole
from npgpt.inspection.losses import read_floor, read_metrics
from npgpt.tokenizer import ByteTokenizer
from npgpt.training.checkpoint import cut_metrics
from tests.test_cli import command

GOOD = '{"step": 1, "loss": 5.5}\n'
DEEP = {"arrays": "[" * 100_000, "objects": '{"a":' * 100_000, "a value": '{"step": 1, "x": ' + "[" * 100_000}
LINES = DEEP | {
    "NaN": '{"step": 1, "loss": NaN}',
    "1e999": '{"step": 1, "loss": 1e999}',
    "-Infinity": '{"step": 1, "val_loss": -Infinity}',
    "10**400": f'{{"step": 1, "loss": 1{"0" * 400}}}',
    "10**5000": f'{{"step": 1, "loss": 1{"0" * 5000}}}',
    "1e300": '{"step": 1, "loss": 1e300}',
    "step 10**400": f'{{"step": 1{"0" * 400}, "loss": 1}}',
    "step -1": '{"step": -1, "loss": 1}',
    "step true": '{"step": true, "loss": 1}',
    "loss true": '{"step": 1, "loss": true}',
    "no line": "",
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_metrics_that_cannot_be_drawn_is_named(capsys, tmp_path, name):
    (tmp_path / "metrics.jsonl").write_text(GOOD + LINES[name] + "\n")
    code, out, err = command(capsys, "plot", tmp_path)
    assert (code, out) == (2, "")
    assert (
        err
        == f"npgpt plot: error: {tmp_path / 'metrics.jsonl'}:2: not a line of metrics, with a step and finite losses\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_metrics_that_are_not_utf8_are_named_and_a_separator_of_unicode_ends_no_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD.encode() + b'{"step": 2, "\xff": 0}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not a line"):
        read_metrics(path)
    path.write_text('{"step": 2, "note": "学\u2028🙂\x85"}\r\n' + GOOD, encoding="utf-8", newline="")
    assert [record["step"] for record in read_metrics(path)] == [2, 1]


@pytest.mark.parametrize("half", [b'{"step": 2, "lo', b"{", b'{"step": 2, "note": "\xe5', b"7", b'"step'])
def test_a_last_line_of_metrics_that_was_cut_short_is_left_out(tmp_path, caplog, half):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD.encode() + half)
    assert [record["step"] for record in read_metrics(path)] == [1]
    assert caplog.messages == [f"{path}:2: the last line was cut short, and is left out"]
    path.write_bytes(half + b"\n" + GOOD.encode())
    with pytest.raises(ValueError, match=r"metrics.jsonl:1: not a line"):
        read_metrics(path)
    path.write_bytes(GOOD.encode().strip())
    assert len(read_metrics(path)) == 1


@pytest.mark.parametrize("floor", ["1e999", "NaN", "1" + "0" * 400, "1" + "0" * 5000, "[" * 100_000, "true", '"1"'])
def test_a_floor_that_cannot_be_drawn_is_named(tmp_path, floor):
    (tmp_path / "train.json").write_text(f'{{"data": {{"floor": {floor}}}}}')
    with pytest.raises(ValueError, match=r"train.json: "):
        read_floor(tmp_path)


@pytest.mark.parametrize("name", DEEP)
def test_metrics_nested_without_end_are_no_finished_run_and_are_removed_on_resume(tmp_path, name):
    path = tmp_path / "metrics.jsonl"
    path.write_text(GOOD + DEEP[name] + "\n")
    assert not is_whole(tmp_path)
    cut_metrics(tmp_path, 1)
    assert path.read_text() == GOOD


@pytest.mark.parametrize(
    ("text", "decisive"),
    [
        ("x = " + "[" * 100_000, "c.toml: its values are nested too deeply\n"),
        ("[" * 100_000, "c.toml: "),
        ("x = " + "{a=" * 100_000, "c.toml: its values are nested too deeply\n"),
        ("max_steps = 1" + "0" * 5000, "c.toml: a number has too many digits\n"),
        ("m" + "x" * 5000 + " = 1", "c.toml: unknown key 'mxxx"),
        ("learning_rate = 1" + "0" * 400, "learning_rate is too large"),
        ("weight_decay = 1e999", "weight_decay=inf"),
        ("dropout = 1" + "0" * 400, "is too large"),
        ("warmup_steps = 1" + "0" * 30, "warmup_steps is too large"),
        ("n_layer = 1" + "0" * 30, "n_layer is too large"),
        ("seed = 9223372036854775808", "seed is too large"),
        ("data = ''", "c.toml: data is empty"),
        ("data = []", "c.toml: data is empty"),
        ("data = ['']", "c.toml: data is empty"),
        ("tokenizer = ''", "c.toml: tokenizer is empty"),
        ("out = ''", "c.toml: out is empty"),
    ],
    ids=lambda value: value[:25],
)
def test_settings_without_bounds_are_refused(capsys, tmp_path, monkeypatch, text, decisive):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(text)
    (tmp_path / "a.txt").write_text("the quick brown fox " * 50)
    data = [] if text.startswith("data") else ["--data", "a.txt"]
    code, out, err = command(capsys, "train", "--config", "c.toml", *data)
    assert (code, out) == (2, "")
    assert decisive in err
    assert len(err.splitlines()) == 1
    assert len(err) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "c.toml"]


@pytest.mark.parametrize("value", [10**400, -(10**400), 2**63])
def test_numbers_beyond_64_bits_are_refused_in_python_too(value):
    with pytest.raises(ValueError, match="learning_rate is too large"):
        TrainConfig(learning_rate=value)
    with pytest.raises(ValueError, match="n_embd is too large"):
        GPTConfig(n_embd=value)
    with pytest.raises(ValueError, match="max_steps is too large"):
        npgpt.train("tales", max_steps=value)


@pytest.mark.parametrize(
    "line",
    [
        *("tales {}", "tales --seed {}", "tales --part -{}", "sample r --top-k {}", "sample r --seed {}"),
        *("gradcheck --seed {}", "finetune r --lora {}", "train --max-steps {}"),
        "tokenizer train a.txt --out new --vocab-size {}",
    ],
)
@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_flags_beyond_64_bits_are_refused(capsys, line, digits):
    code, _, err = command(capsys, *line.format("9" * digits).split())
    assert code == 2
    assert line.split()[-2].removeprefix("tales") in err
    assert "999" in err
    assert len(err.splitlines()) == 1


EMPTY = (
    *("train --data @", "train --data a.txt @", "train --config @", "train --preset @", "train --tokenizer @"),
    *("finetune @", "finetune r --data @", "finetune r --out @", "eval @ --data a.txt", "eval r --data @", "sample @"),
    *(
        "ask @",
        "ask r --data @",
        "prepare @ --out new",
        "prepare a.txt --out @",
        "prepare a.txt --out new --tokenizer @",
    ),
    *("tokenizer train @ --out new", "tokenizer train a.txt --out @", "tokenizer train a.txt --out new --special @"),
    *("tokenizer encode @ a", "tokenizer encode r --file @", "tokenizer decode @ 1", "tokenizer decode r @"),
    *("tokenizer show @ a", "tokenizer stats @ a.txt", "tokenizer stats r @", "tokenizer stats r a.txt --plot @"),
    *(
        "gradcheck @",
        "gradcheck linear --html @",
        "plot @",
        "plot r --out @",
        "info @",
        "demo --out @",
        "demo --tasks @",
    ),
    *("data get @", "data get shijing --out @", "data get shijing --url @", "tales --tasks @", "tales --check @"),
)


@pytest.mark.parametrize("line", EMPTY)
def test_an_empty_name_is_refused_by_its_flag(capsys, tmp_path, monkeypatch, line):
    """As a path it would be the current folder, and in `--config ""` it was no file at all, in silence."""
    monkeypatch.chdir(tmp_path)
    before = line.split("@")[0].split()[-1]
    code, out, err = command(capsys, *["" if word == "@" else word for word in line.split()])
    assert (code, out) == (2, "")
    assert "is empty (see npgpt" in err
    assert before in err or not before.startswith("-")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_text_is_a_text(capsys, tmp_path):
    ByteTokenizer().save_pretrained(tmp_path)
    assert command(capsys, "tokenizer", "encode", tmp_path, "")[:2] == (0, "\n")


def test_a_number_out_of_range_is_named_as_a_setting_is(capsys):
    assert command(capsys, "tales", 0) == (2, "", "npgpt tales: error: N=0 must be at least 1\n")
    assert command(capsys, "tales", "--seed", -1) == (2, "", "npgpt tales: error: --seed=-1 must be at least 0\n")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a text, a tokenizer, and a run to draw; all work on them is forbidden."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "folder").mkdir()
    (tmp_path / "metrics.jsonl").write_text(GOOD)
    ByteTokenizer().save_pretrained(tmp_path)
    for work in (
        *("npgpt.cli.gradcheck.check_layers", "npgpt.tokenizer.Tokenizer.train", "npgpt.data.prepare"),
        *("npgpt.data.splitting.encoded", "npgpt.data.download.fetch", "npgpt.inspection.losses.draw"),
    ):
        monkeypatch.setattr(work, lambda *args, **options: pytest.fail("it has begun to work"))
    return tmp_path


OUTPUTS = (
    *(
        "gradcheck linear --html {}",
        "tokenizer stats . a.txt --plot {}",
        "plot . --out {}",
        "data get shijing --out {}",
    ),
    *("tokenizer train a.txt --out {}", "prepare a.txt --out {}"),
)


@pytest.mark.parametrize("line", OUTPUTS)
def test_an_output_is_checked_before_the_work_begins(capsys, here, monkeypatch, line):
    """A file for a folder or a folder for a file, a file in the way, and a folder that cannot be written to."""
    before = sorted(here.rglob("*"))
    is_folder = line.endswith("--out {}") and line.split()[0] in ("tokenizer", "prepare")
    for name in ("a.txt" if is_folder else "folder", "a.txt/new/out.png"):
        code, out, err = command(capsys, *line.format(name).split())
        assert (code, out) == (2, "")
        assert f"{line.split()[-2]} {name}" in err
        assert len(err.splitlines()) == 1
    monkeypatch.setattr("os.access", lambda path, mode: False)
    code, out, err = command(capsys, *line.format("new/out.png").split())
    assert (code, out) == (2, "")
    assert f"the folder {here} cannot be written to" in err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("line", ["tokenizer stats . a.txt --plot {}", "plot . --out {}"])
def test_a_picture_of_an_unknown_format_is_refused_before_the_work_begins(capsys, here, line):
    pytest.importorskip("matplotlib")
    before = sorted(here.rglob("*"))
    code, _, err = command(capsys, *line.format("out.xyz").split())
    assert code == 2
    assert "out.xyz: a picture cannot have the ending .xyz; known are" in err
    assert len(err.splitlines()) == 1
    assert sorted(here.rglob("*")) == before


def test_a_picture_without_an_ending_has_the_name_that_was_given(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_text(GOOD + json.dumps({"step": 2, "loss": 5}) + "\n")
    assert command(capsys, "plot", tmp_path, "--out", tmp_path / "学")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "学"]
    assert (tmp_path / "学").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("value", ["9" * 5000, "-" + "9" * 5000, "9" * 60, "x" * 5000, "学" * 5000])
@pytest.mark.parametrize("flag", ["--max-steps", "--no-such", "--ops"])
def test_a_flag_with_a_value_without_end_is_refused_in_a_short_line(capsys, flag, value):
    code, out, err = command(capsys, "train", f"{flag}={value}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert len(err) < 250
    assert "is too large" in err or flag != "--max-steps" or "9" not in value
