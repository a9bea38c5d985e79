"""Arrays of 200,000 elements and more, all of them right."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs.big import (
    embedding_backward,
    embedding_forward,
    layernorm_backward,
    layernorm_forward,
    linear_backward,
    linear_forward,
    mean_backward,
    mean_forward,
    table,
    tanh_backward,
    tanh_forward,
)
from tests.gradcheck.example import correct, normal


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, x):
    return dout * (x > 0)


def cumsum_forward(x):
    return np.cumsum(x), None


def cumsum_backward(dout, cache):
    return np.cumsum(dout[::-1])[::-1]


def sparse_forward(x):
    """Use one element of a thousand."""
    return x[::1000] ** 3, x


def sparse_backward(dout, x):
    dx = np.zeros_like(x)
    dx[::1000] = 3 * dout * x[::1000] ** 2
    return dx


NASTY = [
    correct(
        "linear of 204,800 weights",
        linear_forward,
        linear_backward,
        partial(normal, 281, (3, 512), (512, 400), (400,)),
        "too many to difference one at a time",
    ),
    correct("embedding of 240,056 weights", embedding_forward, embedding_backward, table, "zero but for 62 rows"),
    correct(
        "tanh of 200,003 elements",
        tanh_forward,
        tanh_backward,
        partial(normal, 282, (200_003,)),
        "a sum of 200,000 roundings",
    ),
    correct(
        "relu of 200,000 elements",
        relu_forward,
        relu_backward,
        partial(normal, 283, (500, 400)),
        "by chance some lie within 1e-5 of the kink",
        step=1e-9,
        rtol=1e-7,
    ),
    correct(
        "layernorm of 204,800 elements",
        layernorm_forward,
        layernorm_backward,
        partial(normal, 284, (512, 400), (400,)),
        "rows that share a mean",
    ),
    correct(
        "mse of 204,800 elements",
        mean_forward,
        mean_backward,
        partial(normal, 285, (512, 400), (512, 400)),
        "a scalar, with gradients of 1e-5",
    ),
    correct(
        "cumsum of 200,000 elements",
        cumsum_forward,
        cumsum_backward,
        partial(normal, 286, (200_000,)),
        "every output depends on all before",
    ),
    correct(
        "200 of 200,000 elements used",
        sparse_forward,
        sparse_backward,
        partial(normal, 287, (200_000,)),
        "zero for the others",
    ),
]
