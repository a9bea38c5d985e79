"""Matrices: the transposes of inverses, and what symmetry does not give."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def inverse_forward(A):
    inverse = np.linalg.inv(A)
    return inverse, inverse


def inverse_backward(dout, inverse, slip=""):
    if slip == "inverse not transposed":
        return -inverse @ dout @ inverse
    return -inverse.T @ dout @ inverse.T


def det_forward(A):
    return np.linalg.det(A), A


def det_backward(dout, A, slip=""):
    inverse = np.linalg.inv(A)
    return dout * np.linalg.det(A) * (inverse if slip == "inverse not transposed" else inverse.T)


def solve_forward(A, b):
    y = np.linalg.solve(A, b)
    return y, (A, y)


def solve_backward(dout, cache, slip=""):
    A, y = cache
    db = np.linalg.solve(A if slip == "solved with A, not its transpose" else A.T, dout)
    return (np.outer(db, y) if slip == "sign of dA" else -np.outer(db, y)), db


def cholesky_forward(A):
    """Factor (A + A.T) / 2, so that every element of A counts."""
    L = np.linalg.cholesky((A + A.T) / 2)
    return L, L


def cholesky_backward(dout, L, slip=""):
    P = np.tril(L.T @ np.tril(dout))
    if slip != "diagonal not halved":
        P[np.diag_indices_from(P)] /= 2
    inverse = np.linalg.inv(L)
    S = inverse.T @ P @ inverse
    return S if slip == "not made symmetric" else (S + S.T) / 2


def trace_forward(A, B):
    return np.einsum("ij,ji->", A, B), (A, B)


def trace_backward(dout, cache, slip=""):
    A, B = cache
    return dout * (B if slip == "B for its transpose" else B.T), dout * A.T


def quadratic_forward(x, A):
    return x @ A @ x, (x, A)


def quadratic_backward(dout, cache, slip=""):
    x, A = cache
    return dout * (2 * A @ x if slip == "as if A were symmetric" else (A + A.T) @ x), dout * np.outer(x, x)


def spd():
    (x,) = normal(122, (4, 4))
    return (x @ x.T + np.eye(4),)


def regular():
    return (normal(133, (3, 3))[0] + 2 * np.eye(3),)


BUGS = [
    planted("inverse", "inverse not transposed", inverse_forward, inverse_backward, regular),
    planted("determinant", "inverse not transposed", det_forward, det_backward, regular),
    planted(
        "solve",
        "solved with A, not its transpose",
        solve_forward,
        solve_backward,
        lambda: (*regular(), *normal(134, (3,))),
    ),
    planted("solve", "sign of dA", solve_forward, solve_backward, lambda: (*regular(), *normal(134, (3,)))),
    planted(
        "cholesky",
        "not made symmetric",
        cholesky_forward,
        cholesky_backward,
        spd,
        source="https://github.com/HIPS/autograd/pull/56",
    ),
    planted("cholesky", "diagonal not halved", cholesky_forward, cholesky_backward, spd),
    planted(
        "trace of a product", "B for its transpose", trace_forward, trace_backward, partial(normal, 135, (3, 3), (3, 3))
    ),
    planted(
        "quadratic form",
        "as if A were symmetric",
        quadratic_forward,
        quadratic_backward,
        partial(normal, 136, (4,), (4, 4)),
    ),
]
