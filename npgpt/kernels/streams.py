"""Products of few rows or many with a matrix, in which each row has the bits that it would have alone.

BLAS adds up in an order that depends on how many rows there are, so a text would be continued differently beside
others. Here each number of a result is one chain of fused multiply-adds along K, in order, from 0:

    sum = fma(x[m, 0], w[0, n], 0);  sum = fma(x[m, 1], w[1, n], sum);  ...

whatever rows and columns are computed together, and by however many threads. So parts of a prompt, a batch of texts
and a single token give the same bits. Few rows are as fast as the memory that holds the matrix, many nearly as fast as
BLAS. Weights may be int8: they become floats in registers. What handles vectors is in `stream_tiles.py`.
"""

from typing import Any

import numpy as np
from numba import extending

from npgpt.kernels.stream_tiles import (
    COLUMNS,
    SINGLE,
    VECTOR,
    WIDE,
    dot,
    dots_1,
    dots_2,
    dots_4,
    dots_8,
    fused,
    one_1,
    one_8,
    tiles_1,
    tiles_2,
    tiles_4,
    tiles_8,
)
from npgpt.support.jit import INNER, jit

PANEL = 128  # columns of a panel of int8
FEW = 16  # rows, below which a product waits for memory and not for arithmetic
# Terms that are added to one tile before the next, for one row, few and many. The processor reads so many rows of w
# side by side, best eight; several rows of x have more sums to keep; for many, what a tile needs of w stays in the
# nearest cache
DEPTH_ONE, DEPTH_FEW, DEPTH_MANY = 8, 32, 256
AHEAD = 2048  # bytes, how far ahead a panel is fetched


@jit(inner=True)
def _strip(
    x: np.ndarray, w: np.ndarray, right: int, w_step: int, ahead: int, k: int, terms: int, out: np.ndarray, j: int,
    last: int,
) -> int:  # fmt: skip
    """Continue the columns from j to last, as far as whole vectors go, with the terms from k on; return what is left.

    right  the address of w[k, j], after which a row of w is contiguous up to `last`
    """
    zero, weight = x.dtype.type(0), w.dtype.type(0)
    M, size, w_size = x.shape[0], x.itemsize, w.itemsize
    lanes = VECTOR // size
    x_step, step = x.strides[0], out.strides[0]
    left, to = np.int64(x.ctypes.data) + k * size, np.int64(out.ctypes.data) + j * size
    begin = np.int64(k == 0)
    while M == 1 and j + SINGLE * lanes <= last:
        one_8(zero, weight, left, x_step, right, w_step, ahead, terms, to, step, begin)
        j, right, to = j + SINGLE * lanes, right + SINGLE * lanes * w_size, to + SINGLE * VECTOR
    while j + COLUMNS * lanes <= last:
        i = 0
        while i + 8 <= M and WIDE:
            at = to + i * step
            tiles_8(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, at, step, begin)
            i += 8
        while i + 4 <= M:
            at = to + i * step
            tiles_4(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, at, step, begin)
            i += 4
        if i + 2 <= M:
            at = to + i * step
            tiles_2(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, at, step, begin)
            i += 2
        if i < M:
            tiles_1(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, to + i * step, step, begin)
        j, right, to = j + COLUMNS * lanes, right + COLUMNS * lanes * w_size, to + COLUMNS * VECTOR
    while j + lanes <= last:
        for i in range(M):
            one_1(zero, weight, left + i * x_step, x_step, right, w_step, ahead, terms, to + i * step, step, begin)
        j, right, to = j + lanes, right + lanes * w_size, to + VECTOR
    return j


@jit(inner=True)
def _scaled(out: np.ndarray, scale: np.ndarray, bias: np.ndarray, first: int, last: int) -> None:
    for m in range(out.shape[0]):
        if scale.size:
            for n in range(first, last):
                out[m, n] *= scale[n]
        if bias.size:
            for n in range(first, last):
                out[m, n] += bias[n]


@jit(inner=True)
def _columns(x: np.ndarray, w: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    M, K = x.shape
    depth = DEPTH_ONE if M == 1 and w.itemsize > 1 else DEPTH_FEW if M < FEW else DEPTH_MANY
    w_at, w_step = np.int64(w.ctypes.data), w.strides[0]
    for k in range(0, K, depth):
        terms = min(depth, K - k)
        right = w_at + k * w_step + first * w.itemsize
        done = _strip(x, w, right, w_step, depth * w_step, k, terms, out, first, last)
        for n in range(done, last):
            for m in range(M):
                total = out[m, n] if k else x.dtype.type(0)
                for i in range(k, k + terms):
                    total = fused(x[m, i], x.dtype.type(w[i, n]), total)
                out[m, n] = total


@jit(inner=True)
def _panels(x: np.ndarray, w: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    M, K = x.shape
    depth = K if M < FEW else DEPTH_MANY
    w_at, w_step, width = np.int64(w.ctypes.data), w.strides[1], w.shape[2]
    for j in range(first, last, width):
        panel, stop = j // width, min(j + width, last)
        for k in range(0, K, depth):
            terms = min(depth, K - k)
            right = w_at + panel * w.strides[0] + k * w_step
            done = _strip(x, w, right, w_step, AHEAD, k, terms, out, j, stop)
            for n in range(done, stop):
                for m in range(M):
                    total = out[m, n] if k else x.dtype.type(0)
                    for i in range(k, k + terms):
                        total = fused(x[m, i], x.dtype.type(w[panel, i, n - j]), total)
                    out[m, n] = total


@jit(inner=True)
def _rows(x: np.ndarray, w: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    zero, weight = x.dtype.type(0), w.dtype.type(0)
    M, K = x.shape
    size = x.itemsize
    whole = K * size // VECTOR
    x_at, w_at, out_at = np.int64(x.ctypes.data), np.int64(w.ctypes.data), np.int64(out.ctypes.data)
    x_step, w_step, step = x.strides[0], w.strides[0], out.strides[0]
    high = 4 if WIDE else 2
    n = first
    while n < last and whole:
        right, to = w_at + n * w_step, out_at + n * size
        if M == 1 and n + 8 <= last:
            dots_8(zero, weight, x_at, x_step, right, w_step, whole, to, step)
            n += 8
        elif n + 4 <= last:
            i = 0
            while i + high <= M:
                dots_4(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
                i += high
            if i + 2 <= M:
                dots_2(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
                i += 2
            if i < M:
                dots_1(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
            n += 4
        else:
            for i in range(M):
                dot(zero, weight, x_at + i * x_step, x_step, right, w_step, whole, to + i * step, step)
            n += 1
    done = whole * (VECTOR // size)
    if done < K:
        for n in range(first, last):
            for m in range(M):
                total = out[m, n] if whole else zero
                for i in range(done, K):
                    total = fused(x[m, i], x.dtype.type(w[n, i]), total)
                out[m, n] = total


def columns_product(
    x: np.ndarray, w: np.ndarray, scale: np.ndarray, bias: np.ndarray, out: np.ndarray, first: int, last: int
) -> None:
    """Put (x @ w) * scale + bias into out, in the columns from first to last.

    x, out      (M, K) and (M, N), of one dtype, float32 or float64; contiguous rows
    w           (K, N), contiguous rows, or (P, K, PANEL) as `panels` makes it; of that dtype, or int8
    scale, bias (N,), of size 0 where there is none

    `first` is 0 or a multiple of PANEL if w is in panels. Whole vectors of columns are fast, what is left over is slow.
    """
    if w.ndim == 3:
        w = w.transpose(1, 0, 2).reshape(w.shape[1], -1)
    part = x @ w[:, first:last].astype(x.dtype)
    part = part * scale[first:last] if scale.size else part
    out[:, first:last] = part + bias[first:last] if bias.size else part


def rows_product(x: np.ndarray, w: np.ndarray, scale: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    """Put (x @ w.T) * scale into out, in the columns from first to last; w (N, K), contiguous rows, else as above."""
    part = x @ w[first:last].astype(x.dtype).T
    out[:, first:last] = part * scale[first:last] if scale.size else part


def panels(w: np.ndarray) -> np.ndarray:
    """Return a matrix (K, N) as contiguous panels of columns, (P, K, PANEL); the last is padded with 0.

    One token needs a matrix once, so its time is that of reading it. Half a row of int8 is too short to be read at the
    speed of memory, a panel is not. The rows of `rows_product` are contiguous as they are.
    """
    K, N = w.shape
    out = np.zeros((-(-N // PANEL), K, PANEL), w.dtype)
    for p in range(len(out)):
        part = w[:, p * PANEL : (p + 1) * PANEL]
        out[p, :, : part.shape[1]] = part
    return out


@extending.overload(columns_product, inline="never", jit_options=INNER)
def _columns_product(x: Any, w: Any, scale: Any, bias: Any, out: Any, first: Any, last: Any) -> Any:
    multiply = _panels if w.ndim == 3 else _columns

    def call(x: Any, w: Any, scale: Any, bias: Any, out: Any, first: Any, last: Any) -> None:
        multiply(x, w, out, first, last)
        _scaled(out, scale, bias, first, last)

    return call


@extending.overload(rows_product, inline="never", jit_options=INNER)
def _rows_product(x: Any, w: Any, scale: Any, out: Any, first: Any, last: Any) -> Any:
    def call(x: Any, w: Any, scale: Any, out: Any, first: Any, last: Any) -> None:
        _rows(x, w, out, first, last)
        _scaled(out, scale, scale[:0], first, last)

    return call
