"""`npgpt.train`: what it returns and shows, and how it is stopped and goes on."""

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.inspection.losses import log_ticks, read_metrics
from npgpt.training.checkpoint import load_last
from npgpt.training.evaluation import Evaluation
from npgpt.training.interrupt import stop_on_interrupt
from tests.test_cli import command
from tests.test_cli_train import TEXT, TINY, interrupt_after, saved, steps

SMALL = {word[2:].replace("-", "_"): value for word, value in zip(TINY[::2], TINY[1::2], strict=True)}


def train(out="r", **changes):
    return npgpt.train("a.txt", out, progress=False, **SMALL | changes)


def go_on(out="r", **changes):
    return npgpt.train(out=out, resume=True, progress=False, **changes)


def test_it_returns_what_the_run_holds(text):
    training = train()
    assert training.finished is True
    assert training.folder == Path("r")
    assert training.records == read_metrics(text / "r" / "metrics.jsonl")
    assert [record["step"] for record in training.records if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert training.config.max_steps == 6
    assert training.floor is None
    best = npgpt.GPT.from_pretrained("r")
    np.testing.assert_array_equal(training.model.params.flat, best.params.flat)
    assert training.tokenizer.fingerprint() == npgpt.Tokenizer.from_pretrained("r").fingerprint()


def test_the_model_is_the_best_one_and_not_the_last(text, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 0.5])
    monkeypatch.setattr("npgpt.training.loop.estimate_loss", lambda *args: next(losses))
    training = train()
    best, last = npgpt.GPT.from_pretrained("r"), load_last(text / "r")
    assert (best.params.flat != last.params.flat).any()
    np.testing.assert_array_equal(training.model.params.flat, best.params.flat)
    better = go_on(max_steps=8, eval_every=100)
    assert (better.model.params.flat != best.params.flat).any()
    np.testing.assert_array_equal(training.model.params.flat, best.params.flat)  # as it was, whatever comes later


def test_a_run_that_was_never_evaluated_gives_the_model_it_has_trained(text, monkeypatch):
    """The best model in the folder is still the one that the run began with."""
    interrupt_after(monkeypatch, 3)
    training = train(eval_every=100)
    assert not [record for record in training.records if "val_loss" in record]
    np.testing.assert_array_equal(training.model.params.flat, load_last(text / "r").params.flat)
    assert (training.model.params.flat != npgpt.GPT.from_pretrained("r").params.flat).any()
    assert "validation" not in repr(training)


def test_it_writes_what_the_command_writes(capsys, text):
    train(dropout=0.1)
    assert command(capsys, "train", "--data", "a.txt", "--out", "c", *TINY, "--dropout", 0.1)[0] == 0
    assert saved(text / "r") == saved(text / "c")


@pytest.mark.parametrize("step", [1, 2, 5])
def test_an_interrupt_saves_and_it_goes_on_to_the_same_bits(text, monkeypatch, step):
    train("whole", dropout=0.1)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_after(patch, step)
        stopped = train(dropout=0.1)
    assert stopped.finished is False
    assert steps(text / "r") == list(range(1, step + 1))
    assert "npgpt.train(out='r', resume=True)" in repr(stopped)
    assert signal.getsignal(signal.SIGINT) is handler
    training = go_on()
    assert training.finished is True
    assert "stopped" not in repr(training)
    assert saved(text / "r") == saved(text / "whole")


@pytest.mark.parametrize("first", ["python", "command"])
def test_python_and_the_command_go_on_with_each_others_runs(capsys, text, monkeypatch, first):
    train("whole", dropout=0.1)
    flags = ("train", "--data", "a.txt", "--out", "r", *TINY, "--dropout", 0.1)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        if first == "python":
            assert not train(dropout=0.1).finished
        else:
            assert command(capsys, *flags)[0] == 130
    assert steps(text / "r") == [1, 2, 3]
    if first == "python":
        assert command(capsys, "train", "--resume", "--out", "r")[0] == 0
    else:
        assert go_on().finished
    assert saved(text / "r") == saved(text / "whole")


def press_twice(*args):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("still running")


def test_a_second_interrupt_ends_at_once_and_leaves_nothing_running(text, monkeypatch):
    train("whole")
    threads = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr("npgpt.training.loop.train_step", press_twice)
        with pytest.raises(KeyboardInterrupt) as error:
            train(threads=2)
    assert threading.active_count() == threads, "even while the traceback is held, as a notebook holds it"
    assert error.tb is not None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert go_on(threads=1).finished
    assert saved(text / "r") == saved(text / "whole")


def test_threads_end_when_what_shows_the_progress_fails(text, monkeypatch):
    """The error's traceback holds the run; its threads must not wait for that."""
    threads = threading.active_count()

    def fail(*args, **kwargs):
        raise OSError("no screen")

    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # its own thread, which the first bar would start
    monkeypatch.setattr("tqdm.tqdm.set_postfix_str", fail)
    with pytest.raises(OSError, match="no screen") as error:
        train(threads=2)
    assert threading.active_count() == threads
    assert error.tb is not None


def in_a_thread(function):
    """Call a function off the main thread; return what it returns or raises."""
    found = []

    def work():
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def test_off_the_main_thread_it_trains_and_an_interrupt_leaves_what_was_saved(text, monkeypatch):
    from npgpt.training.step import train_step

    assert in_a_thread(lambda: train("whole")).finished

    def interrupted(workers, optimizer, batches, config, step, *rest):
        if step == 4:
            raise KeyboardInterrupt
        return train_step(workers, optimizer, batches, config, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("npgpt.training.loop.train_step", interrupted)
        assert isinstance(in_a_thread(train), KeyboardInterrupt)
    assert go_on().finished
    assert saved(text / "r") == saved(text / "whole")


def test_only_pythons_own_handlers_are_changed(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # as where a host program has set its own
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_on_interrupt() as stopped:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stopped == []
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_the_first_interrupt_is_announced():
    said = []
    with stop_on_interrupt(lambda: said.append("stopping")) as stopped:
        assert (stopped, said) == ([], [])
        signal.raise_signal(signal.SIGINT)
        assert (stopped, said) == ([signal.SIGINT], ["stopping"])


def test_resume_with_more_steps_keeps_all_records(text):
    train()
    training = go_on(max_steps=8)
    assert [record["step"] for record in training.records if "loss" in record] == list(range(1, 9))
    again = go_on()
    assert again.finished
    assert [record for record in again.records if "loss" in record] == [r for r in training.records if "loss" in r]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("a.txt", "r"), {"lerning_rate": 0.1}, "unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
        (("a.txt", "r"), {"n_heads": 2}, "did you mean 'n_head'?"),
        (("a.txt", "r"), {"drop_out": 0.1}, "did you mean 'dropout'?"),
        (("a.txt", "r"), {"learning_rate": "fast"}, "learning_rate='fast' must be of type float"),
        (("a.txt", "r"), {"n_head": 3}, "n_head=3 does not divide n_embd=8"),
        (("a.txt", "r"), {"preset": "tyni"}, "unknown preset 'tyni'; did you mean 'tiny'?"),
        (("a.txt", "r"), {"preset": 5}, "preset=5 must be a string"),
        (([], "r"), {}, "data is empty"),
        (("a.txt", ""), {}, "empty"),
        (("a.txt",), {"resume": True}, "resume=True needs out"),
        ((["a.txt", "tales:en"], "r"), {}, "tales must be the only"),
    ],
)
def test_what_cannot_be_is_a_value_error_and_writes_nothing(text, arguments, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        npgpt.train(*arguments, progress=False, **SMALL | settings)
    assert [path.name for path in text.iterdir()] == ["a.txt"]


def test_a_text_that_is_missing_is_not_found(text):
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        npgpt.train("b.txt", "r", progress=False)


def test_a_cell_that_is_run_again_says_how_to_go_on(text):
    train()
    before = saved(text / "r")
    with pytest.raises(ValueError, match=r"r already holds a run .*resume=True"):
        train()
    assert saved(text / "r") == before


def test_every_flag_is_a_setting_and_reaches_the_run(text, few_tales, known_machine):
    from tests.test_cli_train import DOCUMENTS, TOGETHER, settings

    (text / "a.txt").write_text(DOCUMENTS)
    npgpt.train("a.txt", "r", progress=False, **TOGETHER)
    assert settings(text / "r") == TOGETHER


@pytest.mark.parametrize("kind", ["one string", "one path", "strings", "paths", "tuple", "generator"])
def test_data_may_be_one_name_or_several(text, kind):
    (text / "b.txt").write_text("0123456789" * 9)
    data = {
        "one string": "a.txt",
        "one path": Path("a.txt"),
        "strings": ["a.txt", "b.txt"],
        "paths": [Path("a.txt"), Path("b.txt")],
        "tuple": ("a.txt", Path("b.txt")),
        "generator": (name for name in ("a.txt", "b.txt")),
    }[kind]
    training = npgpt.train(data, Path("r"), progress=False, **SMALL)
    files = json.loads((text / "r" / "train.json").read_text())["data"]["files"]
    assert files == [str(text / name) for name in ("a.txt", "b.txt")[: 1 if "one" in kind else 2]]
    assert training.tokenizer.vocab_size == len(set(TEXT)) + 10 * (len(files) - 1)


def test_a_path_is_a_file_even_if_it_is_called_as_the_tales_are(text):
    (text / "tales").write_text("abcdefgh" * 30)
    training = npgpt.train(Path("tales"), "r", progress=False, **SMALL)
    assert training.tokenizer.vocab_size == 8
    assert training.floor is None


def test_a_run_without_a_name_is_numbered(text):
    assert [npgpt.train("a.txt", progress=False, **SMALL | {"max_steps": 1}).folder for _ in range(2)] == [
        Path("runs/1"),
        Path("runs/2"),
    ]


@pytest.fixture(scope="module")
def tales(tmp_path_factory):
    """A run on tales, which know their floor, too small to learn anything."""
    out = tmp_path_factory.mktemp("tales") / "r"
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "tokenizer": "bpe:300", "n_positions": 1024, "batch_size": 1}
    with pytest.MonkeyPatch.context() as patch:
        found = Evaluation(5.5, 0.0, 100, True)  # a real one takes half a minute
        patch.setattr("npgpt.training.loop.evaluate", lambda *args: found)
        patch.setattr("npgpt.data.source.TOKENIZER_TALES", 50)
        patch.setattr("npgpt.data.source.VALIDATION_TALES", 20)
        steps = {"max_steps": 2, "eval_batches": 1, "threads": 1}
        return npgpt.train("tales:en", out, progress=False, **sizes, **steps)


def test_a_run_on_tales_knows_its_floor(tales):
    floor = json.loads((tales.folder / "train.json").read_text())["data"]["floor"]
    assert tales.floor == floor
    assert f"validation loss 5.5000 nats per token (step 2), floor {floor:.4f}" in repr(tales)


def test_a_tale_begins_after_the_end_token_and_shows_none(tales, monkeypatch):
    prompts = []
    end = tales.tokenizer.end_id

    def fake(model, ids, *settings):
        prompts.append(list(ids))
        return iter([72, 105, end])

    monkeypatch.setattr("npgpt.generation.answers.generate", fake)
    assert tales.sample() == tales.tokenizer.decode([72, 105])
    assert tales.sample("Hi") == "Hi" + tales.tokenizer.decode([72, 105])
    assert prompts == [[end], [end, *tales.tokenizer.encode("Hi")]]


def test_a_sample_is_what_the_command_writes(capsys, text):
    training = train()
    for settings in (
        {"temperature": 0.0, "max_new_tokens": 20},
        {"temperature": 1.5, "top_k": 5, "seed": 3, "max_new_tokens": 9},
        {"top_p": 0.5, "max_new_tokens": 30},
    ):
        flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        assert command(capsys, "sample", "r", *flags)[1] == training.sample(**settings) + "\n"
        assert command(capsys, "sample", "r", "--prompt", "fox", *flags)[1] == training.sample("fox", **settings) + "\n"


def test_a_sample_of_a_text_without_line_ends_begins_with_its_first_token(text):
    (text / "b.txt").write_text("qabcdefg" * 40)
    training = npgpt.train("b.txt", "r", progress=False, **SMALL)
    ids = npgpt.generate(training.model, training.tokenizer.encode("q"), 5, 0.0)
    assert training.sample(max_new_tokens=5, temperature=0) == training.tokenizer.decode(list(ids))


def test_the_text_of_a_run_says_where_it_is(text):
    training = train()
    whole = training.records[-1]
    assert repr(training) == (
        f"r: {training.model.size:,} parameters, 6 of 6 steps\n"
        f"validation loss {whole['val_loss']:.4f} nats per token (step {whole['step']})"
    )


def test_the_text_of_a_stopped_run_tells_its_best_evaluation(text, monkeypatch):
    losses = iter([1.0, 3.0])
    monkeypatch.setattr("npgpt.training.loop.estimate_loss", lambda *args: next(losses))
    interrupt_after(monkeypatch, 5)
    assert "5 of 6 steps\nvalidation loss 1.0000 nats per token (step 2)\nstopped" in repr(train())


def test_no_preset_is_no_setting(text):
    train(max_steps=1)
    assert go_on(preset=None, max_steps=2).finished
    with pytest.raises(ValueError, match="small"):
        go_on(preset="small")


def test_the_progress_is_a_bar_on_standard_error(capsys, text):
    training = npgpt.train("a.txt", "runs/mine", **SMALL)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip("\n").split("\r")[-1]
    assert last.startswith("mine: 100%")
    assert "6/6" in last
    assert f"validation {training.records[-1]['val_loss']:.4f}" in last
    npgpt.train(out="runs/mine", resume=True, max_steps=8)
    bars = capsys.readouterr().err.split("\r")
    assert "8/8" in bars[-1]
    assert not [bar for bar in bars if re.search(r"\b[1-6]/8", bar)], "the steps before are no progress"


def test_without_progress_nothing_is_written(capsys, text):
    train()
    assert capsys.readouterr() == ("", "")


def test_the_plot_shows_every_loss_and_the_floor(tales, text):
    pytest.importorskip("matplotlib")
    training = train()
    (axes,) = training.plot().axes
    losses, validation = (line.get_xydata().tolist() for line in axes.lines)
    assert losses == [[r["step"], r["loss"]] for r in training.records if "loss" in r]
    assert validation == [[r["step"], r["val_loss"]] for r in training.records[:-1] if "val_loss" in r]
    assert (axes.get_xlabel(), axes.get_title(), axes.get_yscale()) == ("step", "r", "linear")
    assert "nats" in axes.get_ylabel()
    assert len(axes.get_legend().get_texts()) == 2
    (axes,) = tales.plot().axes
    assert axes.get_yscale() == "log"
    assert axes.lines[-1].get_ydata() == [tales.floor] * 2
    assert f"floor {tales.floor:.3f}" in axes.get_legend().get_texts()[-1].get_text()


@pytest.mark.parametrize(("low", "high"), [(0.9, 7.7), (0.9, 1.2), (1.01, 1.03), (0.01, 90), (2.5, 2.6), (1e-7, 1e6)])
def test_a_logarithmic_axis_has_a_few_plain_numbers(low, high):
    matplotlib = pytest.importorskip("matplotlib")
    from npgpt.inspection.losses import draw

    ticks = log_ticks(low, high)
    assert ticks == sorted(tick for tick in ticks if low <= tick <= high)
    records = [{"step": 1, "loss": high}, {"step": 2, "loss": (low * high) ** 0.5}]
    figure = draw("r", records, floor=low)
    (axes,) = figure.axes
    figure.canvas.draw()
    bottom, top = axes.get_ylim()
    shown = [label.get_text() for label in axes.get_yticklabels() if bottom <= label.get_position()[1] <= top]
    assert 3 <= len(shown) <= 16
    assert len(set(shown)) == len(shown)
    assert isinstance(axes.yaxis.get_minor_locator(), matplotlib.ticker.NullLocator)


def test_a_notebook_shows_the_plot_of_a_run(text):
    pytest.importorskip("matplotlib")
    training = train()
    for shown in (training, training.plot()):
        assert shown._repr_png_().startswith(b"\x89PNG")


def test_without_matplotlib_a_run_is_text_and_the_plot_names_the_extra(text, monkeypatch):
    training = train()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert training._repr_png_() is None
    with pytest.raises(ValueError, match=re.escape("npgpt[plot]")):
        training.plot()


def test_a_run_of_one_step_is_drawn_as_a_dot_and_none_not_at_all():
    pytest.importorskip("matplotlib")
    from npgpt.inspection.losses import draw

    (axes,) = draw("r", [{"step": 1, "loss": 2.0}]).axes
    assert axes.lines[0].get_marker() == "o"
    assert len(axes.lines) == 1
    with pytest.raises(ValueError, match="r: there is no step"):
        draw("r", [{"step": 0, "val_loss": 2.0}])
