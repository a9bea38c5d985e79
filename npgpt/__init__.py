"""npgpt: a GPT that you can read, check and use. The public names; each is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from npgpt.config import GPTConfig, TrainConfig
    from npgpt.gradcheck import check_backward, numerical_gradient
    from npgpt.model import GPT
    from npgpt.optim import AdamW, Muon
    from npgpt.sampling import generate
    from npgpt.tokenizer import Tokenizer

_HOME = {
    "AdamW": "npgpt.optim",
    "GPT": "npgpt.model",
    "GPTConfig": "npgpt.config",
    "Muon": "npgpt.optim",
    "Tokenizer": "npgpt.tokenizer",
    "TrainConfig": "npgpt.config",
    "check_backward": "npgpt.gradcheck",
    "generate": "npgpt.sampling",
    "numerical_gradient": "npgpt.gradcheck",
}

__all__ = [
    "GPT",
    "AdamW",
    "GPTConfig",
    "Muon",
    "Tokenizer",
    "TrainConfig",
    "check_backward",
    "generate",
    "numerical_gradient",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'npgpt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
