"""Layer by layer against PyTorch: the output, and every gradient for a random dout."""

import numpy as np
import pytest

from npgpt.ops import get_ops

from .helpers import both_ops, relative_error, torch

F = torch.nn.functional

# Both sides round some dozen operations, among them sums of up to a few hundred terms, by 1.1e-16
# each, in another order: that is some 1e-15 of an array's norm, and 1e-14 where a small gradient is
# left over from larger terms. A wrong formula is off by far more than the bound.
TOLERANCE = 1e-12


def assert_same(ops: str, layer: str, torch_forward, *args, **options) -> None:
    """Compare X_forward(*args, **options) and X_backward with torch_forward(*args) and autograd."""
    table = get_ops(ops)
    forward, backward = getattr(table, f"{layer}_forward"), getattr(table, f"{layer}_backward")
    out, cache = forward(*args, **options)
    leaves = [a if a is None else torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in args]
    expected = torch_forward(*leaves)
    assert relative_error(out, expected) < TOLERANCE

    # never ones: under them softmax's gradient is zero whatever the code does
    dout = np.random.default_rng(1).standard_normal(np.shape(out))
    expected.backward(torch.tensor(dout))
    grads = backward(dout, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    wanted = [leaf for leaf in leaves if leaf is None or leaf.requires_grad]
    for grad, leaf in zip(grads, wanted, strict=True):
        if leaf is None:
            assert grad is None
        else:
            assert relative_error(grad, leaf.grad) < TOLERANCE


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(shape).standard_normal(shape)


def torch_attention(n_head: int):
    def forward(qkv):
        q, k, v = (x.unflatten(-1, (n_head, -1)).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    return forward


@both_ops
@pytest.mark.parametrize("shape", [(3, 1, 2, 5), (1, 2, 1, 1), (2, 5, 3, 7), (1, 67, 2, 9)])
def test_attention(ops: str, shape: tuple) -> None:
    B, T, H, D = shape
    assert_same(ops, "attention", torch_attention(H), normal(B, T, 3 * H * D), n_head=H)


@both_ops
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 7), (2, 129)])
@pytest.mark.parametrize("bias", [True, False])
def test_layernorm(ops: str, shape: tuple, bias: bool) -> None:
    C = shape[-1]
    args = 1 + normal(*shape, scale=2), normal(C), normal(1, C)[0] if bias else None

    def torch_forward(x, weight, bias):
        return F.layer_norm(x, (C,), weight, bias, eps=1e-3)

    assert_same(ops, "layernorm", torch_forward, *args, eps=1e-3)


@both_ops
@pytest.mark.parametrize(("layer", "approximate"), [("gelu", "none"), ("gelu_new", "tanh")])
@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])  # the middle, the bends, and both flat ends
def test_gelu(ops: str, layer: str, approximate: str, scale: float) -> None:
    x = normal(3, 1, 17, scale=scale)
    assert_same(ops, layer, lambda x: F.gelu(x, approximate=approximate), x)


@both_ops
@pytest.mark.parametrize("ignore_index", [-100, 2])
@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 7, 11), (13, 2)])
@pytest.mark.parametrize("scale", [1.0, 300.0])  # 300: exp of the logits themselves would overflow
def test_cross_entropy(ops: str, ignore_index: int, shape: tuple, scale: float) -> None:
    targets = np.random.default_rng(2).integers(0, shape[-1], shape[:-1])
    targets.flat[::3] = ignore_index
    targets.flat[0] = 1  # where no target counts PyTorch's mean is NaN, and npgpt's 0 on purpose

    def torch_forward(logits, targets):
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignore_index)

    args = normal(*shape, scale=scale), targets
    assert_same(ops, "cross_entropy", torch_forward, *args, ignore_index=ignore_index)


@both_ops
@pytest.mark.parametrize("bias", [True, False])
def test_linear(ops: str, bias: bool) -> None:
    args = normal(2, 3, 5), normal(5, 7), normal(7) if bias else None
    assert_same(ops, "linear", lambda x, w, b: F.linear(x, w.T, b), *args)


@both_ops
@pytest.mark.parametrize("r", [1, 3])
def test_lora(ops: str, r: int) -> None:
    args = normal(5, 7), normal(r, 5), normal(7, r)
    assert_same(ops, "lora", lambda w, a, b: w + 0.7 * (b @ a).T, *args, scale=0.7)


@both_ops
@pytest.mark.parametrize(("activation", "approximate"), [("gelu", "none"), ("gelu_new", "tanh")])
@pytest.mark.parametrize("bias", [True, False])
def test_mlp(ops: str, activation: str, approximate: str, bias: bool) -> None:
    def torch_forward(x, fc_weight, fc_bias, proj_weight, proj_bias):
        hidden = F.gelu(F.linear(x, fc_weight.T, fc_bias), approximate=approximate)
        return F.linear(hidden, proj_weight.T, proj_bias)

    biases = (normal(7), normal(5)) if bias else (None, None)
    args = normal(2, 3, 5), normal(5, 7), biases[0], normal(7, 5), biases[1]
    assert_same(ops, "mlp", torch_forward, *args, activation=activation)


@both_ops
def test_embedding(ops: str) -> None:
    ids = np.array([[0, 3, 3], [3, 0, 5]])  # rows named several times, and rows never named
    assert_same(ops, "embedding", F.embedding, ids, normal(7, 3))
