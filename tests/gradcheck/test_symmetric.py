"""Symmetric arguments: forward may read one triangle alone, and the gradient keep any convention."""

import numpy as np
import pytest

from npgpt import check_backward

ROOT = np.random.default_rng(21).standard_normal((4, 4))
A = ROOT @ ROOT.T + np.eye(4)


def cholesky(A):
    L = np.linalg.cholesky(A)
    return L, L


def symmetric(dout, L):
    P = np.tril(L.T @ np.tril(dout))
    P[np.diag_indices_from(P)] /= 2
    inverse = np.linalg.inv(L)
    S = inverse.T @ P @ inverse
    return (S + S.T) / 2


def lower(dout, L):
    g = symmetric(dout, L)
    return np.tril(2 * g) - np.diag(np.diag(g))


@pytest.mark.parametrize("backward", [symmetric, lower, lambda d, L: lower(d, L).T])
def test_every_convention_passes(backward):
    assert check_backward(cholesky, backward, A, symmetric=["A"]).verdict == "pass"


def test_without_the_option_only_the_triangle_that_is_read_passes():
    assert check_backward(cholesky, lower, A).verdict == "pass"
    report = check_backward(cholesky, symmetric, A)
    assert report.verdict == "fail"
    assert report.arguments[0].hint == "forward reads the lower triangle of A alone: symmetric=['A'] says that it may"


def test_a_wrong_gradient_fails_with_the_option():
    def halved_diagonal(dout, L):
        g = symmetric(dout, L)
        return g - np.diag(np.diag(g)) / 2

    assert check_backward(cholesky, halved_diagonal, A, symmetric=["A"]).verdict == "fail"
    report = check_backward(cholesky, lambda d, L: 1.1 * lower(d, L), A, symmetric=["A"])
    assert report.arguments[0].hint == "every element is 1.1 times what it should be"


def test_the_upper_triangle_is_named_too():
    def backward(dout, A):
        g = 2 * np.triu(dout) * A
        return (g + g.T) / 2

    report = check_backward(lambda A: (np.triu(A) ** 2, A), backward, A)
    assert report.arguments[0].hint.startswith("forward reads the upper triangle of A alone")


def test_one_of_several_arguments_and_one_in_a_dict():
    def forward(x, params):
        return x @ np.tril(params["A"]), (x, params["A"])

    def backward(dout, cache):
        x, A = cache
        g = np.tril(x.T @ dout)
        return dout @ np.tril(A).T, {"A": (g + g.T) / 2}

    x = np.random.default_rng(22).standard_normal((2, 4))
    assert check_backward(forward, backward, x, {"A": A}).verdict == "fail"

    def symmetric_backward(dout, cache):
        dx, grads = backward(dout, cache)
        return dx, {"A": grads["A"].copy()}

    assert check_backward(forward, symmetric_backward, x, {"A": A}, symmetric=["params['A']"]).verdict == "pass"


def test_a_batch_of_matrices():
    batch = np.stack([A, 2 * A])
    assert check_backward(lambda A: (np.tril(A) ** 2, A), lambda d, A: 2 * np.tril(d) * A, batch, symmetric=["A"])


@pytest.mark.parametrize(
    ("argument", "names", "error", "words"),
    [
        (A, ["B"], ValueError, "symmetric='B' is not an argument; those are: A"),
        (A, "A", TypeError, "symmetric='A' is not a list of names"),
        (ROOT, ["A"], ValueError, "symmetric='A' is not a symmetric matrix"),
        (A[:2], ["A"], ValueError, "symmetric='A' is not a symmetric matrix"),
    ],
)
def test_a_wrong_name_or_argument_is_an_error(argument, names, error, words):
    with pytest.raises(error, match=words.replace("(", "\\(")):
        check_backward(lambda A: (A * A, A), lambda d, A: 2 * d * A, argument, symmetric=names)
