"""Muon by its Gram matrix: the iterations run on squares of the shorter side, and only two products are longer.

The definition iterates on X. Each of its iterations multiplies X from the left by a polynomial of X X^T. These
polynomials commute with one another and are symmetric, so here

    R = X X^T, Q = 1
    P = a + b R + c R^2, Q = Q P, R = R P^2        for each polynomial
    X = Q X

and all products but the first and the last are of symmetric squares with a symmetric result, of which half is computed.
In float32, the squares of small singular values are lost in the roundings of R. But while they are small, the result is
the product of the first coefficients, whatever they are. For singular values from 1e-4 to 1 and up to 384 x 1536, the
result is within 5e-4 of the definition's in the spectral norm, where the largest singular values are 1.5.
"""

import numpy as np

from npgpt.kernels.gram import LINE, transpose, transposed_product
from npgpt.support.jit import jit


def muon_update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    places: np.ndarray,
    polynomials: np.ndarray,
    lr: float,
    beta: float,
    weight_decay: float,
    scale: float,
    memory: np.ndarray,
) -> None:
    """Do what npgpt.optim.muon_update does."""
    _update(param, grad, exp_avg, places, polynomials, lr, beta, weight_decay, scale, memory)


@jit
def _update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    places: np.ndarray,
    polynomials: np.ndarray,
    lr: float,
    beta: float,
    weight_decay: float,
    scale: float,
    memory: np.ndarray,
) -> None:
    f, unit = param.dtype.type, LINE // param.itemsize
    start = -np.int64(memory.ctypes.data) % LINE // param.itemsize
    for p in range(len(places)):
        at, own, step, m, n = places[p]
        s, long = min(m, n), max(m, n)
        S, S_step, L, L_step = padded(s, unit), spaced(s, unit), padded(long, unit), spaced(long, unit)
        squares = start + S * L_step + L * S_step
        wide, tall = cut(memory, start, S, L_step), cut(memory, start + S * L_step, L, S_step)
        r, q = cut(memory, squares, S, S_step), cut(memory, squares + S * S_step, S, S_step)
        squares += 2 * S * S_step
        poly, spare = cut(memory, squares, S, S_step), cut(memory, squares + S * S_step, S, S_step)
        if m > n:
            advance(grad[at:], exp_avg[own:], step, m, n, f(beta), f((1 - beta) * scale), tall, L, S)
            transpose(tall, wide, L, S)
        else:
            advance(grad[at:], exp_avg[own:], step, m, n, f(beta), f((1 - beta) * scale), wide, S, L)
            transpose(wide, tall, S, L)
        transposed_product(tall, tall, r, long, S, S, True)
        shrink = f(1)
        for k in range(len(polynomials)):
            transposed_product(r, r, poly, s, S, S, True)
            if k == 0:
                shrink = f(1 / norm_of(poly, s, s) ** 0.5)
            combine(poly, r, shrink if k == 0 else f(1), polynomials[k], s)
            if k + 1 < len(polynomials):
                transposed_product(r, poly, spare, s, S, S, True)
                transposed_product(spare, poly, r, s, S, S, True)
            if k == 0:
                q, poly = poly, q
            else:
                transposed_product(q, poly, spare, s, S, S, True)
                q, spare = spare, q
        rate = f(lr * 0.2 * (long * shrink) ** 0.5)
        if m > n:
            transposed_product(wide, q, tall, s, L, S, False)
            move(param[at:], step, m, n, f(1 - lr * weight_decay), rate, tall)
        else:
            # it may reach into r, which has served its time
            turned = cut(memory, start + S * L_step, S, L_step)
            transposed_product(q, wide, turned, s, S, L, False)
            move(param[at:], step, m, n, f(1 - lr * weight_decay), rate, turned)


@jit(inner=True)
def padded(n: int, unit: int) -> int:
    return -(-n // unit) * unit


@jit(inner=True)
def spaced(n: int, unit: int) -> int:
    """Return the numbers from row to row: an odd number of lines, or a column would crowd into a part of a cache."""
    return (-(-n // unit) | 1) * unit


@jit(inner=True)
def cut(memory: np.ndarray, start: int, rows: int, step: int) -> np.ndarray:
    return memory[start : start + rows * step].reshape(rows, step)


@jit(inner=True)
def advance(
    grad: np.ndarray,
    exp_avg: np.ndarray,
    step: int,
    m: int,
    n: int,
    beta: float,
    rest: float,
    x: np.ndarray,
    rows: int,
    columns: int,
) -> None:
    """Put the gradient into the average, and Nesterov's look ahead, divided by its norm, into x; zeros around it."""
    for i in range(m):
        g, average, ahead = grad[i * step : i * step + n], exp_avg[i * step : i * step + n], x[i]
        for j in range(n):
            share = rest * g[j]
            average[j] = beta * average[j] + share
            ahead[j] = beta * average[j] + share
    norm = x.dtype.type(norm_of(x, m, n))
    for i in range(rows):
        row = x[i]
        for j in range(n if i < m else 0):
            row[j] /= norm
        for j in range(n if i < m else 0, columns):
            row[j] = 0


@jit(inner=True)
def norm_of(x: np.ndarray, m: int, n: int) -> float:
    """Return the square root of the sum of the squares of x[:m, :n], in float64, in which none is lost; 1 for zeros."""
    squares = 0.0
    for i in range(m):
        row = x[i]
        for j in range(n):
            squares += np.float64(row[j]) * np.float64(row[j])
    return squares**0.5 if squares != 0 else 1.0


@jit(inner=True)
def combine(poly: np.ndarray, r: np.ndarray, shrink: float, coefficients: np.ndarray, s: int) -> None:
    """Multiply r by shrink, and turn poly, the square of r as it was, into a + b r + c r^2."""
    f = r.dtype.type
    a, b, c = f(coefficients[0]), f(coefficients[1]), f(coefficients[2] * shrink * shrink)
    for i in range(s):
        square, row = poly[i], r[i]
        for j in range(len(row)):
            row[j] *= shrink
            square[j] = c * square[j] + b * row[j]
        square[i] += a


@jit(inner=True)
def move(param: np.ndarray, step: int, m: int, n: int, keep: float, rate: float, x: np.ndarray) -> None:
    for i in range(m):
        row, direction = param[i * step : i * step + n], x[i]
        for j in range(n):
            row[j] = keep * row[j] - rate * direction[j]
