"""npgpt: a GPT that you can read, check and use. The public names; each is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

from npgpt.support.version import __version__ as __version__

if TYPE_CHECKING:
    from npgpt.config import GPTConfig, TrainConfig
    from npgpt.generation.engine import Generator, generate
    from npgpt.generation.features import features
    from npgpt.generation.scores import score
    from npgpt.generation.settings import Sampling
    from npgpt.gradcheck import (
        check_accumulation,
        check_adjoint,
        check_autograd_function,
        check_backward,
        check_batch_independence,
        check_causality,
        check_double_backward,
        check_float32,
        check_gradient,
        check_gradient_penalty,
        check_hessian,
        check_jvp,
        check_layer,
        check_vjp,
        compare,
        find_dead,
        numerical_gradient,
    )
    from npgpt.models.gpt2 import GPT
    from npgpt.models.seq import Seq2Seq
    from npgpt.notebook.training import train
    from npgpt.optim import AdamW, Muon
    from npgpt.tokenizer import Tokenizer

_HOME = {
    "AdamW": "npgpt.optim",
    "GPT": "npgpt.models.gpt2",
    "GPTConfig": "npgpt.config",
    "Generator": "npgpt.generation.engine",
    "Muon": "npgpt.optim",
    "Sampling": "npgpt.generation.settings",
    "Seq2Seq": "npgpt.models.seq",
    "Tokenizer": "npgpt.tokenizer",
    "TrainConfig": "npgpt.config",
    "check_accumulation": "npgpt.gradcheck",
    "check_adjoint": "npgpt.gradcheck",
    "check_autograd_function": "npgpt.gradcheck",
    "check_backward": "npgpt.gradcheck",
    "check_batch_independence": "npgpt.gradcheck",
    "check_causality": "npgpt.gradcheck",
    "check_double_backward": "npgpt.gradcheck",
    "check_float32": "npgpt.gradcheck",
    "check_gradient": "npgpt.gradcheck",
    "check_gradient_penalty": "npgpt.gradcheck",
    "check_hessian": "npgpt.gradcheck",
    "check_jvp": "npgpt.gradcheck",
    "check_layer": "npgpt.gradcheck",
    "check_vjp": "npgpt.gradcheck",
    "compare": "npgpt.gradcheck",
    "features": "npgpt.generation.features",
    "find_dead": "npgpt.gradcheck",
    "generate": "npgpt.generation.engine",
    "numerical_gradient": "npgpt.gradcheck",
    "score": "npgpt.generation.scores",
    "train": "npgpt.notebook.training",
}

__all__ = [
    "GPT",
    "AdamW",
    "GPTConfig",
    "Generator",
    "Muon",
    "Sampling",
    "Seq2Seq",
    "Tokenizer",
    "TrainConfig",
    "check_accumulation",
    "check_adjoint",
    "check_autograd_function",
    "check_backward",
    "check_batch_independence",
    "check_causality",
    "check_double_backward",
    "check_float32",
    "check_gradient",
    "check_gradient_penalty",
    "check_hessian",
    "check_jvp",
    "check_layer",
    "check_vjp",
    "compare",
    "features",
    "find_dead",
    "generate",
    "numerical_gradient",
    "score",
    "train",
]


if not TYPE_CHECKING:  # for a type checker every name would be there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'npgpt' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
