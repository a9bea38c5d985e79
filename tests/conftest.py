"""Shared fixtures. HYPOTHESIS_PROFILE=fuzz draws more examples, and new ones each time."""

import os
import signal
from pathlib import Path

# Before NumPy starts them: for the small products of the tests BLAS threads only get into each other's way
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A test that mistypes a folder asks nobody else's hub; test_hub.py has its own
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("default", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# In the background of a script, or under nohup, these are ignored, and npgpt leaves them so. The tests send them.
for name, handler in ("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL), ("SIGTERM", signal.SIG_DFL):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)


def mostly_big(cases, keep):
    """Return cases to parametrize with: those for which keep(case) is true run always, the others with `-m big`."""
    return [pytest.param(*as_tuple(case), marks=() if keep(case) else pytest.mark.big) for case in cases]


def as_tuple(case):
    return case if isinstance(case, tuple) else (case,)


SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def quick_measurements():
    """`npgpt info` measures a speed for a few tokens only, and `npgpt profile` the machine with small arrays."""
    from npgpt.inspection import peaks, speed

    speed.SECONDS = peaks.SECONDS = 0
    peaks.SIDE = peaks.COPIED = peaks.COPIED_BY_EACH = 64


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def few_tales(monkeypatch):
    """Where a training tells tales, there are few to learn from, to learn a vocabulary from, and for validation."""
    monkeypatch.setattr("npgpt.training.warmstart.TALES", 200)
    monkeypatch.setattr("npgpt.data.source.TOKENIZER_TALES", 300)
    monkeypatch.setattr("npgpt.data.source.VALIDATION_TALES", 20)


@pytest.fixture
def known_machine(monkeypatch):
    """A run of some minutes measures nothing: this machine is as fast as the one of test_choosing."""
    from tests.test_choosing import ZEN

    monkeypatch.setattr("npgpt.training.minutes.measure", lambda config, computes: ZEN)


@pytest.fixture
def shared_text():
    """Return a function that reads one of the real texts, or skips the test where they are absent."""

    def read(name: str) -> str:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{path} is not on this machine")
        return path.read_text(encoding="utf-8")

    return read


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A current folder with a text in it."""
    from tests.test_cli_train import TEXT

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT)
    return tmp_path
