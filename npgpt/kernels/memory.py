"""The memory of a compiled step: one array, and where in it each piece begins.

Everything that a step writes beside gradients lies here, so a step allocates nothing, and the threads of a team see the
same pieces. `layout` is plain Python, computed once for each shape of a batch; the compiled functions cut.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from npgpt.kernels.attention import BLOCK, scratch_size
from npgpt.kernels.block import Kept, Passing
from npgpt.support.jit import jit

LINE = 128  # bytes; pieces begin at multiples of it, so that no two of them share a line of the cache
ROWS = 64  # of logits, for each member, that are computed at a time at least
LOGITS = 2**24  # logits that are computed at a time, 64 MB of them in float32, so that a large batch needs no more

# the columns of a layout: of a block's pieces, in the order of Kept, and of the others
LN_1, QKV, HEADS, MID, LN_2, SLOPE, HIDDEN, NORMS, STATS, PROBS, MASK, DROP_1, DROP_2 = range(13)
(
    X, LAST, LAST_NORM, EMBD_MASK, ROWS_AT, LOGITS_AT, DROWS, DHIDDEN, DX_1, DX_2, DX_3,
    Y, DHEADS, DQKV, DMLP, DROPPED_1, DROPPED_2, VECTORS, SCRATCH, ORDER,
) = range(20)  # fmt: skip


class Sizes(NamedTuple):
    """The sizes of a batch and of its model, as integers."""

    B: int
    T: int
    C: int
    H: int
    F: int
    V: int
    P: int  # positions in the table of embeddings
    layers: int  # whose pieces are kept: all of them, or one where there is no backward
    rows: int  # of logits at a time
    vectors: int  # elements of all norms and biases
    members: int
    scratch: int  # numbers that attention needs, for each thread
    embd_mask: int  # 1 with dropout there, else 0
    attn_mask: int
    resid_mask: int
    train: int


def batch_sizes(shape: tuple[int, ...], model: tuple[int, ...], members: int, train: bool, drops: tuple) -> Sizes:
    """Return the sizes of a batch (B, T) for a model of (C, H, F, V, P, layers, vectors).

    drops  the probabilities of dropout for embeddings, attention and the residual stream
    """
    C, H, F, V, P, layers, vectors = model
    B, T = shape
    rows = min(B * T, max(ROWS * members, LOGITS // V))
    kept = layers if train else 1
    scratch = scratch_size(T, C // H)
    masks = int(drops[0] > 0), int(drops[1] > 0), int(drops[2] > 0)
    return Sizes(B, T, C, H, F, V, P, kept, rows, vectors, members, scratch, *masks, int(train))


@functools.lru_cache(maxsize=256)
def layout(s: Sizes, itemsize: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return where the pieces of each block begin (layers, 13), where the others do (20,), and the size of the whole.

    All are counted in numbers of `itemsize` bytes. A piece that is not needed begins at -1.
    """
    N, heads = s.B * s.T, s.B * s.H
    kept = heads * s.T * s.T if s.T <= BLOCK else 0
    masks = [-(-n // itemsize) for n in (s.attn_mask * heads * s.T**2, s.resid_mask * N * s.C, s.resid_mask * N * s.C)]
    block = [N * s.C, 3 * N * s.C, N * s.C, N * s.C, N * s.C, N * s.F, N * s.F, 4 * N, 2 * heads * s.T, kept, *masks]
    back = s.train * N
    others = [
        N * s.C * (s.layers + 1),  # the residual stream before each block, and after the last
        N * s.C, 2 * N, s.embd_mask * -(-N * s.C // itemsize),  # after the last norm; its statistics; a mask
        s.rows * s.C, s.rows * s.V, s.train * s.rows * s.C,  # rows that have a target, their logits, their gradients
        back * s.C, back * s.C, back * s.C, back * s.C,  # gradients at the last norm, and of the residual stream
        N * s.C, back * s.C, 3 * back * s.C, back * s.F, back * s.resid_mask * s.C, back * s.resid_mask * s.C,
        s.train * s.members * s.vectors, s.members * s.scratch, s.members * 2 * N * 8 // itemsize,
    ]  # fmt: skip
    step = LINE // itemsize
    sizes = [math.ceil(n / step) * step for n in block * s.layers + others]
    starts = np.concatenate(([0], np.cumsum(sizes)))
    where = np.where(np.array(sizes) > 0, starts[:-1], -1).astype(np.int64)
    n = len(block) * s.layers
    return where[:n].reshape(s.layers, len(block)), where[n:], int(starts[-1])


class Views(NamedTuple):
    """The memory as numbers, as bytes and as integers: compiled code would need seconds to learn such views."""

    numbers: np.ndarray
    bytes: np.ndarray
    integers: np.ndarray


class Memory(NamedTuple):
    """The pieces of a batch's memory that do not belong to one block."""

    x: np.ndarray  # (layers + 1, N, C), the residual stream before each block, and after the last
    hidden: np.ndarray  # (N, C), after the last norm
    norm: np.ndarray  # (2, N), its mean and 1 / standard deviation
    mask: np.ndarray  # (N, C), bytes: what dropout keeps of the embeddings
    rows: np.ndarray  # (R, C), of hidden, at whose positions there is a target
    logits: np.ndarray  # (R, V)
    drows: np.ndarray  # (R, C)
    dhidden: np.ndarray  # (N, C)
    dx: tuple  # three arrays (N, C), for the gradients of the residual stream
    vectors: np.ndarray  # (members, vectors): the gradients of norms and biases, by each thread's rows
    order: np.ndarray  # (2 N,), integers, each thread's own


@jit(inner=True)
def matrix(memory: np.ndarray, start: int, rows: int, columns: int) -> np.ndarray:
    """Cut a piece (rows, columns); one of (0, columns) if it has no place."""
    n = rows if start >= 0 else 0
    start = max(start, 0)
    return memory[start : start + n * columns].reshape(n, columns)


@jit(inner=True)
def mask_at(views: Views, start: int, rows: int, columns: int) -> np.ndarray:
    """Cut a piece of bytes (rows, columns), likewise."""
    return matrix(views.bytes, start * views.numbers.itemsize, rows, columns)


@jit(inner=True)
def kept_at(views: Views, at: np.ndarray, s: Sizes) -> Kept:
    """Cut what a block keeps; `at` is its row of the layout."""
    memory = views.numbers
    N, C, heads = s.B * s.T, s.C, s.B * s.H
    kept = matrix(memory, at[PROBS], heads * s.T, s.T)
    return Kept(
        matrix(memory, at[LN_1], N, C),
        matrix(memory, at[QKV], N, 3 * C),
        matrix(memory, at[HEADS], N, C),
        matrix(memory, at[MID], N, C),
        matrix(memory, at[LN_2], N, C),
        matrix(memory, at[SLOPE], N, s.F),
        matrix(memory, at[HIDDEN], N, s.F),
        matrix(memory, at[NORMS], 4, N),
        matrix(memory, at[STATS], heads * s.T, 2).reshape(heads, s.T, 2),
        kept.reshape(len(kept) // s.T, s.T, s.T),
        mask_at(views, at[MASK], heads, s.T * s.T),
        mask_at(views, at[DROP_1], N, C),
        mask_at(views, at[DROP_2], N, C),
    )


@jit(inner=True)
def memory_at(views: Views, at: np.ndarray, s: Sizes, member: int) -> Memory:
    """Cut the pieces that belong to no block."""
    memory = views.numbers
    N, C = s.B * s.T, s.C
    order = matrix(views.integers, at[ORDER] * memory.itemsize // 8, s.members, 2 * N)
    return Memory(
        matrix(memory, at[X], (s.layers + 1) * N, C).reshape(s.layers + 1, N, C),
        matrix(memory, at[LAST], N, C),
        matrix(memory, at[LAST_NORM], 2, N),
        mask_at(views, at[EMBD_MASK], N, C),
        matrix(memory, at[ROWS_AT], s.rows, C),
        matrix(memory, at[LOGITS_AT], s.rows, s.V),
        matrix(memory, at[DROWS], s.rows, C),
        matrix(memory, at[DHIDDEN], N, C),
        (matrix(memory, at[DX_1], N, C), matrix(memory, at[DX_2], N, C), matrix(memory, at[DX_3], N, C)),
        matrix(memory, at[VECTORS], s.members, s.vectors),
        order[member],
    )


@jit(inner=True)
def passing_at(views: Views, at: np.ndarray, s: Sizes, member: int) -> Passing:
    """Cut what every block uses anew."""
    memory = views.numbers
    N, C = s.B * s.T, s.C
    scratch = matrix(memory, at[SCRATCH], s.members, s.scratch)
    return Passing(
        matrix(memory, at[Y], N, C),
        matrix(memory, at[DHEADS], N, C),
        matrix(memory, at[DQKV], N, 3 * C),
        matrix(memory, at[DMLP], N, s.F),
        matrix(memory, at[DROPPED_1], N, C),
        matrix(memory, at[DROPPED_2], N, C),
        scratch[member],
    )
