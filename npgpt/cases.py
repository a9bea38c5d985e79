"""What `npgpt gradcheck` and the tests check: for every op at least one case, and whole two-block GPTs.

Arguments are random, of order one, in odd and unequal shapes: under small weights, weights of one or equal sides a
wrong gradient can look right.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.models.gpt2 import GPT, gpt_backward, gpt_forward, loss_backward, loss_forward
from npgpt.models.gpt2_parameters import parameter_shapes, zero_parameters
from npgpt.ops import Ops

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One way to call an op: `X_forward(*args(rng), **options())`.

    options are made anew for each call, so that a generator in them starts at its seed every time.
    """

    layer: str
    note: str
    args: Callable[[Rng], tuple]
    options: Callable[[], dict[str, Any]] = field(default=dict)

    @property
    def name(self) -> str:
        return f"{self.layer} {self.note}".strip()

    def pair(self, ops: Ops) -> tuple[Callable, Callable]:
        """Return the op's forward, with the options, and its backward."""
        forward = getattr(ops, f"{self.layer}_forward")
        return lambda *args: forward(*args, **self.options()), getattr(ops, f"{self.layer}_backward")

    def names(self, ops: Ops) -> list[str]:
        """Return the names of the forward's arguments."""
        code = getattr(ops, f"{self.layer}_forward").__code__
        return list(code.co_varnames[: code.co_argcount])


def _attention(rng: Rng) -> tuple:
    return (rng.standard_normal((2, 5, 18)),)


# rows of two texts, of three, and of one after which every position is alone
STARTS = np.array([[0, 0, 2, 2, 2], [0, 1, 1, 1, 4], [0, 0, 0, 3, 4]])


def _packed(rng: Rng) -> tuple:
    return (rng.standard_normal((3, 5, 18)),)


def _x(rng: Rng) -> tuple:
    return (2 * rng.standard_normal((3, 7)),)


def _layernorm(rng: Rng) -> tuple:
    return 1 + 2 * rng.standard_normal((2, 3, 5)), rng.standard_normal(5), rng.standard_normal(5)


def _linear(rng: Rng) -> tuple:
    return rng.standard_normal((2, 3, 5)), rng.standard_normal((5, 4)), rng.standard_normal(4)


def _lora(rng: Rng, r: int = 3) -> tuple:
    return rng.standard_normal((5, 7)), rng.standard_normal((r, 5)), rng.standard_normal((7, r))


def _cross(rng: Rng) -> tuple:
    return rng.standard_normal((3, 7, 6)), rng.standard_normal((3, 5, 12))


def _sequences(rng: Rng) -> tuple:
    return rng.standard_normal((3, 5, 4)), 2 * rng.standard_normal(4)


# of sources of five positions: one in part, an empty one, and a whole one
LENGTHS = np.array([3, 0, 5])


def _recurrent(gates: int, states: int, B: int = 3, T: int = 5, n_in: int = 4, H: int = 2) -> Callable[[Rng], tuple]:
    shapes = [(B, T, n_in), *[(B, H)] * states, (gates * H, n_in), (gates * H, H), (gates * H,), (gates * H,)]
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)


def _mlp(rng: Rng) -> tuple:
    shapes = (2, 3, 5), (5, 7), (7,), (7, 5), (5,)
    return tuple(rng.standard_normal(shape) for shape in shapes)


def _cross_entropy(rng: Rng) -> tuple:
    targets = rng.integers(0, 7, (2, 5))
    targets[0, 1] = targets[1, 4] = -100
    return 2 * rng.standard_normal((2, 5, 7)), targets


def _cosine(rng: Rng) -> tuple:
    return rng.standard_normal((2, 3, 5)), 2 * rng.standard_normal((2, 3, 5))


def _kl(rng: Rng) -> tuple:
    return 2 * rng.standard_normal((2, 5, 7)), 2 * rng.standard_normal((2, 5, 7))


def _kl_topk(rng: Rng, V: int = 7) -> tuple:
    return (2 * rng.standard_normal((2, 5, V)),)


# positions that count, and those of a prompt
COUNTED = np.array([[3, -100, 0, 1, 1], [2, 2, 5, 0, -100]])
# a teacher's three likeliest tokens, which have 0.9 of the mass; in any order
TOP = np.array([[[3, 0, 2], [6, 5, 4], [1, 2, 3], [0, 6, 3], [5, 1, 4]]] * 2)
TOP_LOGP = np.log(np.array([0.5, 0.1, 0.3])) + np.zeros((2, 5, 1))


def _linear_cross_entropy(rng: Rng) -> tuple:
    _, targets = _cross_entropy(rng)
    return rng.standard_normal((2, 5, 3)), rng.standard_normal((7, 3)), targets


LAYERS = [
    Case("attention", "", _attention, lambda: {"n_head": 3}),
    Case("attention", "one head", _attention, lambda: {"n_head": 1}),
    Case("attention", "dropout", _attention, lambda: _dropped(n_head=2)),
    Case("attention", "packed", _packed, lambda: {"n_head": 3, "starts": STARTS}),
    Case("attention", "packed dropout", _packed, lambda: _dropped(n_head=2, starts=STARTS)),
    Case("attention", "T=1", lambda rng: (rng.standard_normal((3, 1, 12)),), lambda: {"n_head": 2}),
    Case("attention_pool", "", _sequences),
    Case("attention_pool", "lengths", _sequences, lambda: {"lengths": LENGTHS}),
    Case("causal_softmax", "", lambda rng: (2 * rng.standard_normal((2, 3, 5, 5)),)),
    Case("causal_softmax", "earlier keys", lambda rng: (rng.standard_normal((2, 3, 5)),)),
    Case("causal_softmax", "packed", lambda rng: (rng.standard_normal((7, 3, 5, 5)),), lambda: {"starts": STARTS}),
    Case(
        "causal_softmax",
        "packed cached",
        lambda rng: (rng.standard_normal((2, 3, 3, 7)),),
        lambda: {"starts": np.array([[0, 4, 6], [4, 3, 0], [1, 5, 5]])},
    ),
    Case("cross_attention", "", _cross, lambda: {"n_head": 3}),
    Case("cross_attention", "one head", _cross, lambda: {"n_head": 1}),
    Case("cross_attention", "lengths", _cross, lambda: {"n_head": 2, "lengths": LENGTHS}),
    Case("cross_attention", "dropout", _cross, lambda: _dropped(n_head=3)),
    Case("cross_attention", "lengths dropout", _cross, lambda: _dropped(n_head=2, lengths=LENGTHS)),
    Case(
        "cross_attention",
        "T=1 S=1",
        lambda rng: (rng.standard_normal((2, 1, 6)), rng.standard_normal((2, 1, 12))),
        lambda: {"n_head": 2, "lengths": np.array([1, 0])},
    ),
    Case("cross_entropy", "", _cross_entropy),
    Case("cosine", "", _cosine),
    Case("cosine", "one row", lambda rng: tuple(x[0, 0] for x in _cosine(rng))),
    Case("cosine", "shorter than eps", _cosine, lambda: {"eps": 3.0}),
    Case("cross_entropy", "label smoothing", _cross_entropy, lambda: {"label_smoothing": 0.2}),
    Case("cross_entropy", "V=1", lambda rng: (rng.standard_normal((3, 1)), np.zeros(3, int))),
    Case("dropout", "", _x, lambda: _dropped()),
    Case("dropout", "off", _x, lambda: {"p": 0.3, "rng": None}),
    Case("embedding", "", lambda rng: (rng.integers(0, 4, (3, 5)), rng.standard_normal((6, 3)))),
    Case("gelu", "", _x),
    Case("gelu_new", "", _x),
    Case("gru", "", _recurrent(3, 1)),
    Case("gru", "lengths", _recurrent(3, 1), lambda: {"lengths": LENGTHS}),
    Case("gru", "lengths reverse", _recurrent(3, 1), lambda: {"lengths": LENGTHS, "reverse": True}),
    Case("kl", "", _kl),
    Case("kl", "temperature", _kl, lambda: {"temperature": 2.5}),
    Case("kl", "ignored", _kl, lambda: {"temperature": 0.8, "targets": COUNTED}),
    Case("kl_topk", "", _kl_topk, lambda: {"ids": TOP, "logp": TOP_LOGP}),
    Case("kl_topk", "ignored", _kl_topk, lambda: _top(temperature=2.5, targets=COUNTED)),
    Case("kl_topk", "all tokens", lambda rng: _kl_topk(rng, 3), lambda: _top(ids=np.argsort(TOP))),
    Case("layernorm", "", _layernorm),
    Case("layernorm", "no bias", lambda rng: (*_layernorm(rng)[:2], None)),
    Case("linear_cross_entropy", "", _linear_cross_entropy),
    Case("linear_cross_entropy", "V=1", lambda rng: (rng.standard_normal((3, 2)), np.ones((1, 2)), np.zeros(3, int))),
    Case("linear", "", _linear),
    Case("linear", "no bias", lambda rng: (*_linear(rng)[:2], None)),
    Case("lora", "", _lora, lambda: {"scale": 0.7}),
    Case("lora", "r=1", lambda rng: _lora(rng, 1), lambda: {"scale": 2.0}),
    Case("lstm", "", _recurrent(4, 2)),
    Case("lstm", "lengths", _recurrent(4, 2), lambda: {"lengths": LENGTHS}),
    Case("lstm", "lengths reverse", _recurrent(4, 2), lambda: {"lengths": LENGTHS, "reverse": True}),
    Case("mlp", "", _mlp),
    Case("mlp", "gelu", _mlp, lambda: {"activation": "gelu"}),
    Case("mlp", "no bias", lambda rng: tuple(a if a.ndim > 1 else None for a in _mlp(rng))),
    Case("pool", "mean", lambda rng: _sequences(rng)[:1]),
    Case("pool", "mean lengths", lambda rng: _sequences(rng)[:1], lambda: {"lengths": LENGTHS}),
    Case("pool", "last", lambda rng: _sequences(rng)[:1], lambda: {"how": "last"}),
    Case("pool", "last lengths", lambda rng: _sequences(rng)[:1], lambda: {"how": "last", "lengths": LENGTHS}),
    Case("rmsnorm", "", lambda rng: _layernorm(rng)[:2]),
]


def _top(**options: Any) -> dict[str, Any]:
    return {"ids": TOP, "logp": TOP_LOGP} | options


def _dropped(**options: Any) -> dict[str, Any]:
    return {"p": 0.3, "rng": np.random.default_rng(7)} | options


@dataclass(frozen=True)
class GPTCase:
    """A two-block GPT as a function of every parameter, from ids to logits or to the loss.

    step  to the loss, as training computes it: by the compiled step, if the ops have one
    """

    note: str
    config: GPTConfig
    loss: bool = False
    packed: bool = False
    step: bool = False
    layer: str = "gpt"

    @property
    def name(self) -> str:
        return f"gpt {self.note}"

    def args(self, rng: Rng) -> tuple:
        # wider embeddings: where dropout leaves little of one, layer norm bends too sharply for a difference
        shapes = parameter_shapes(self.config)
        scales = {name: 2.0 if name in ("wte.weight", "wpe.weight") else 0.6 for name in shapes}
        return tuple(scales[name] * rng.standard_normal(shape) for name, shape in shapes.items())

    def names(self, ops: Ops) -> list[str]:
        return list(parameter_shapes(self.config))

    def pair(self, ops: Ops) -> tuple[Callable, Callable]:
        ids = np.array([[0, 3, 3, 1], [2, 0, 4, 3]])  # repeated, so that their gradients must add up
        targets = np.array([[3, 3, -100, 0], [0, 4, 3, -100]])
        starts = np.array([[0, 0, 2, 2], [0, 1, 1, 1]]) if self.packed else None

        def forward(*arrays: np.ndarray) -> tuple[np.ndarray, tuple]:
            params = zero_parameters(self.config, np.result_type(*arrays).name)
            params |= dict(zip(params, arrays, strict=True))
            rng = np.random.default_rng(7)
            if self.step and ops.step is not None:
                if np.iscomplexobj(params.flat):  # numba would find it out after seconds, in each process again
                    raise TypeError("the compiled step takes real numbers")
                model = GPT(self.config, ops=ops, params=params)
                loss, _ = model.loss_and_grads(ids, targets, rng, starts=starts)
                return params.flat.dtype.type(loss), (model,)
            if self.loss or self.step:
                return loss_forward(params, ids, targets, self.config, ops, rng, starts)
            return gpt_forward(params, ids, self.config, ops, rng, starts)

        def backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
            if self.step and ops.step is not None:
                (model,) = cache
                _, grads = model.loss_and_grads(ids, targets, np.random.default_rng(7), float(dout), starts=starts)
                return tuple(grads.values())
            return tuple((loss_backward if self.loss or self.step else gpt_backward)(dout, cache).values())

        return forward, backward


def _config(**changes: Any) -> GPTConfig:
    sizes = {
        "vocab_size": 5,
        "n_positions": 6,
        "n_embd": 6,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 7,
    }
    return GPTConfig(**(sizes | changes))


_DROPOUT = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}

MODELS = [
    GPTCase("tied", _config()),
    GPTCase("untied", _config(tie_word_embeddings=False)),
    GPTCase("tied loss", _config(), loss=True),
    GPTCase("untied loss", _config(tie_word_embeddings=False), loss=True),
    GPTCase("packed", _config(), packed=True),
    GPTCase("packed loss", _config(), loss=True, packed=True),
    GPTCase("dropout", _config(**_DROPOUT)),
    GPTCase(
        "untied no bias gelu",
        _config(tie_word_embeddings=False, bias=False, activation_function="gelu"),
    ),
    GPTCase("packed step", _config(), step=True, packed=True),
    GPTCase("dropout step", _config(**_DROPOUT), step=True),
    GPTCase(
        "untied no bias gelu step",
        _config(tie_word_embeddings=False, bias=False, activation_function="gelu"),
        step=True,
    ),
]

CASES: list[Case | GPTCase] = [*LAYERS, *MODELS]
