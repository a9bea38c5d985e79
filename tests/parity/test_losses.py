"""Cosine similarity, KL divergence and smoothed cross-entropy against PyTorch: the value, and every gradient."""

import numpy as np
import pytest

from .helpers import both_ops, torch
from .test_layers import assert_same, normal

F = torch.nn.functional


@both_ops
@pytest.mark.parametrize("shape", [(5,), (1, 1, 3), (3, 5, 7), (2, 129)])
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_cosine(ops: str, shape: tuple, eps: float) -> None:
    a, b = normal(*shape, 2)[..., 0], 3 * normal(2, *shape)[0]
    assert_same(ops, "cosine", lambda a, b: F.cosine_similarity(a, b, dim=-1, eps=eps), a, b, eps=eps)


@both_ops
def test_cosine_of_vectors_that_are_zero(ops: str) -> None:
    a, b = normal(4, 3), normal(3, 4).T.copy()
    a[1] = b[2] = a[3] = b[3] = 0
    assert_same(ops, "cosine", lambda a, b: F.cosine_similarity(a, b, dim=-1), a, b)


def torch_kl(temperature: float, counted: np.ndarray):
    """PyTorch's divergence of softened logits, with T^2, averaged over the positions that count."""

    def forward(logits, teacher):
        q, p = (F.log_softmax(x / temperature, dim=-1) for x in (logits, teacher))
        each = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
        return temperature**2 * each[torch.tensor(counted)].mean()

    return forward


@both_ops
@pytest.mark.parametrize(
    ("temperature", "shape", "scale"),
    [
        *((temperature, shape, 1.0) for temperature in (1.0, 0.5, 4.0) for shape in ((1, 5), (3, 7, 11), (2, 129))),
        # larger ones where both are nearly sure: in few positions alone, all that is left of a gradient is rounding
        *((temperature, (3, 7, 11), 30.0) for temperature in (1.0, 4.0)),
    ],
)
def test_kl(ops: str, temperature: float, shape: tuple, scale: float) -> None:
    student, teacher = scale * normal(*shape), scale * normal(2, *shape)[0]
    targets = np.zeros(shape[:-1], int)
    targets.flat[1::3] = -100
    options = {"temperature": temperature, "targets": targets}
    assert_same(ops, "kl", torch_kl(temperature, targets == 0), student, teacher, **options)


@both_ops
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("shape", "K"), [((1, 5), 1), ((3, 7, 11), 4), ((2, 129), 16), ((4, 6), 6)])
def test_kl_topk(ops: str, temperature: float, shape: tuple, K: int) -> None:
    V = shape[-1]
    student, teacher = 2 * normal(*shape), 2 * normal(2, *shape)[0]
    ids = np.argsort(-teacher, axis=-1)[..., :K]
    logp = F.log_softmax(torch.tensor(teacher) / temperature, dim=-1).gather(-1, torch.tensor(ids)).numpy()

    def forward(logits):
        q, p = F.softmax(logits / temperature, dim=-1), torch.tensor(np.exp(logp))
        known = q.gather(-1, torch.tensor(ids))
        each = (p * (p / known).log()).sum(-1)
        if K < V:
            r = 1 - p.sum(-1)
            each = each + r * (r / (1 - known.sum(-1))).log()
        return temperature**2 * each.mean()

    assert_same(ops, "kl_topk", forward, student, ids=ids, logp=logp, temperature=temperature)


@both_ops
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 7, 11), (13, 2)])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_label_smoothing(ops: str, label_smoothing: float, shape: tuple, scale: float) -> None:
    targets = np.random.default_rng(2).integers(0, shape[-1], shape[:-1])
    targets.flat[1::3] = -100

    def forward(logits, targets):
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), label_smoothing=label_smoothing)

    assert_same(ops, "cross_entropy", forward, normal(*shape, scale=scale), targets, label_smoothing=label_smoothing)
