"""The next tokens of several texts in one compiled call, each text with the bits that it has alone.

The definition is `features_forward` and the head of npgpt/models/gpt2.py, with a past. Rows are tokens of any texts:
one of each, or a part of a prompt. Products are those of `streams.py`, whose numbers do not depend on what stands
beside a row; norms, softmax and activation go by rows, or by parts of a row that are always the same ones. Several
threads share the columns of products and the heads of attention (`team.py`).

The keys of a head are kept transposed, so that the scores of a query are a product with a matrix of few long rows, and
the values as they are, so that their average is one, too. Both are read straight from the cache.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import extending, types

from npgpt.kernels import gelu, gelu_new
from npgpt.kernels.attention_tiles import part
from npgpt.kernels.exp import exp2
from npgpt.kernels.layernorm import normalize_rows
from npgpt.kernels.memory import matrix
from npgpt.kernels.rows import largest
from npgpt.kernels.streams import PANEL, columns_product, panels, rows_product
from npgpt.kernels.team import abort, new_barrier, share, wait
from npgpt.support.jit import INNER, jit

__all__ = ["GRAIN", "LANES", "LINE", "PANEL", "QUERIES", "Job", "Sizes", "abort", "begin", "decode"]
__all__ += ["new_barrier", "panels"]

LOG2E = math.log2(math.e)
QUERIES = 32  # of one text that attention takes at a time
LANES = 32  # keys are computed in multiples of it: two vectors
LINE = 16  # numbers that are written side by side
STRIP = PANEL  # columns of a product of many rows that are computed at a time
GRAIN = 64  # columns of a product that one thread takes at least; of int8 it is PANEL
WTE, WPE, LN_WEIGHT, LN_BIAS, HEAD = range(5)  # the columns of a model's places
# and those of a block's
(
    LN_1_WEIGHT, LN_1_BIAS, ATTN_WEIGHT, ATTN_BIAS, PROJ_WEIGHT, PROJ_BIAS,
    LN_2_WEIGHT, LN_2_BIAS, FC_WEIGHT, FC_BIAS, MLP_WEIGHT, MLP_BIAS,
) = range(12)  # fmt: skip


class Sizes(NamedTuple):
    """The sizes of a model, as integers."""

    C: int
    H: int
    F: int
    V: int
    P: int  # positions
    layers: int
    grain: int  # columns of a product that one thread takes at least


class Job(NamedTuple):
    """What a call of `decode` reads and writes; R rows at most. Each member of a team has its own number and scratch.

    floats, weights, scales  flat: norms, biases and positions; matrices, perhaps of int8; their scales, or of size 0
    at, blocks_at            where each parameter begins in these, (3, 5) and (3, layers, 12); -1 if it does not
    slots, ids, positions    (R,) int64, of which counts[0] are to be read
    wanted                   (R,) int64, rows whose logits are wanted, counts[1] of them
    keys, values             (layers, slots, C, P or more), (layers, slots, H, P, D or more)
    scores, heads            (members, QUERIES, P or more), (members, QUERIES, D or more)
    """

    floats: np.ndarray
    weights: np.ndarray
    scales: np.ndarray
    at: np.ndarray
    blocks_at: np.ndarray
    sizes: Sizes
    eps: float
    exact_gelu: bool
    slots: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    wanted: np.ndarray
    counts: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    x: np.ndarray  # (R, C), the residual stream
    y: np.ndarray  # (R, C), what is added to it
    normed: np.ndarray  # (R, C)
    qkv: np.ndarray  # (R, 3C)
    mixed: np.ndarray  # (R, C), what the heads have found
    bent: np.ndarray  # (R, F), before the activation
    inner: np.ndarray  # (R, F), after it
    stats: np.ndarray  # (2, R), of norms
    rows: np.ndarray  # (R, C), of the residual stream, whose logits are wanted
    hidden: np.ndarray  # (R, C), after the last norm
    logits: np.ndarray  # (R, V), or of size 0 where only hidden states are wanted
    scores: np.ndarray
    heads: np.ndarray
    sums: np.ndarray  # (members, LINE)
    barrier: np.ndarray
    member: int
    members: int


@jit
def begin(
    slots: np.ndarray, ids: np.ndarray, wanted: np.ndarray, lengths: np.ndarray, V: int, P: int, positions: np.ndarray
) -> int:
    """Put the position of each row into positions. Return -1, or the first row that cannot be read, or -2 - i for the
    i-th of `wanted`, which is no row.
    """
    for i in range(len(wanted)):
        if not 0 <= wanted[i] < len(ids):
            return -2 - i
    for n in range(len(ids)):
        slot = slots[n]
        if not (0 <= ids[n] < V and 0 <= slot < len(lengths)):
            return n
        position = lengths[slot]
        for i in range(n - 1, -1, -1):  # the last row of the same text
            if slots[i] == slot:
                position = positions[i] + 1
                break
        if not 0 <= position < P:
            return n
        positions[n] = position
    return -1


@jit
def decode(job: Job) -> None:
    """Read rows: append their keys and values to the cache, and compute the logits of those that are wanted.

    All members of a team call this at once.
    """
    s, N, W = job.sizes, job.counts[0], job.counts[1]
    a, b = share(N, job.member, job.members)
    embed(job, a, b)
    for layer in range(s.layers):
        block(job, layer, N)
    a, b = share(W, job.member, job.members)
    for i in range(a, b):
        for c in range(s.C):
            job.rows[i, c] = job.x[job.wanted[i], c]
    normalize(job, job.rows, job.at[0, LN_WEIGHT], job.at[0, LN_BIAS], a, b, job.hidden)
    wait(job.barrier, job.members)
    if W and job.logits.size:
        first, last = columns_of(s.V, job)
        weight = matrix(job.weights, job.at[1, HEAD], s.V, s.C)
        out = part(job.logits, 0, 0, W, s.V)
        rows_product(part(job.hidden, 0, 0, W, s.C), weight, scale_at(job, job.at[2, HEAD], s.V), out, first, last)


@jit(inner=True, inline="always")
def block(job: Job, layer: int, N: int) -> None:
    """Run a block on the residual stream of N rows, in place."""
    s, floats, weights, scales = job.sizes, job.blocks_at[0, layer], job.blocks_at[1, layer], job.blocks_at[2, layer]
    a, b = share(N, job.member, job.members)
    normalize(job, job.x, floats[LN_1_WEIGHT], floats[LN_1_BIAS], a, b, job.normed)
    wait(job.barrier, job.members)
    first, last = columns_of(3 * s.C, job)
    product(job, job.normed, s.C, weights[ATTN_WEIGHT], scales[ATTN_WEIGHT], floats[ATTN_BIAS], 3 * s.C, job.qkv, N)
    keep(job, layer, N, first, last)
    wait(job.barrier, job.members)
    attend(job, layer, N)
    wait(job.barrier, job.members)
    product(job, job.mixed, s.C, weights[PROJ_WEIGHT], scales[PROJ_WEIGHT], floats[PROJ_BIAS], s.C, job.y, N)
    add(job, N)
    wait(job.barrier, job.members)
    normalize(job, job.x, floats[LN_2_WEIGHT], floats[LN_2_BIAS], a, b, job.normed)
    wait(job.barrier, job.members)
    product(job, job.normed, s.C, weights[FC_WEIGHT], scales[FC_WEIGHT], floats[FC_BIAS], s.F, job.bent, N)
    bend(job, N)
    wait(job.barrier, job.members)
    product(job, job.inner, s.F, weights[MLP_WEIGHT], scales[MLP_WEIGHT], floats[MLP_BIAS], s.C, job.y, N)
    add(job, N)
    wait(job.barrier, job.members)


@jit(inner=True)
def columns_of(n: int, job: Job) -> tuple[int, int]:
    """Return a member's share of n columns, in whole grains: what is computed by grains has the same bits then."""
    grain = job.sizes.grain
    a, b = share((n + grain - 1) // grain, job.member, job.members)
    return min(n, a * grain), min(n, b * grain)


@jit(inner=True)
def vector(flat: np.ndarray, start: int, size: int) -> np.ndarray:
    """Return a vector's place in a flat array; one of size 0 if it has none."""
    return flat[max(start, 0) : max(start, 0) + (size if start >= 0 else 0)]


@jit(inner=True)
def scale_at(job: Job, start: int, size: int) -> np.ndarray:
    """Return the scales of a matrix, of size 0 where there are none."""
    return vector(job.scales, start if job.scales.size else -1, size)


def weight_at(flat: np.ndarray, start: int, rows: int, columns: int) -> np.ndarray:
    """Return a matrix (rows, columns) in a flat array; of int8 it lies in panels (`streams.panels`)."""
    if flat.dtype != np.int8:
        return matrix(flat, start, rows, columns)
    n = (columns + PANEL - 1) // PANEL
    return flat[start : start + n * rows * PANEL].reshape(n, rows, PANEL)


@extending.overload(weight_at, jit_options=INNER)
def _weight_at(flat: Any, start: Any, rows: Any, columns: Any) -> Any:
    def floats(flat: Any, start: Any, rows: Any, columns: Any) -> Any:
        return matrix(flat, start, rows, columns)

    def small(flat: Any, start: Any, rows: Any, columns: Any) -> Any:
        n = (columns + PANEL - 1) // PANEL
        return flat[start : start + n * rows * PANEL].reshape(n, rows, PANEL)

    return small if flat.dtype == types.int8 else floats


@jit(inner=True)
def product(
    job: Job, x: np.ndarray, K: int, weight: int, scale: int, bias: int, columns: int, out: np.ndarray, N: int
) -> None:
    """Put N rows of x times a matrix (K, columns), plus its bias, into a member's columns of out."""
    first, last = columns_of(columns, job)
    w, b = weight_at(job.weights, weight, K, columns), vector(job.floats, bias, columns)
    s = scale_at(job, scale, columns)
    # many rows by strips of columns, whose sums stay in the processor's cache until they are whole
    step = max(1, last - first if N <= QUERIES else STRIP)
    for start in range(first, last, step):
        stop = min(start + step, last)
        columns_product(part(x, 0, 0, N, K), w, s, b, part(out, 0, 0, N, columns), start, stop)


@jit(inner=True)
def normalize(job: Job, x: np.ndarray, weight: int, bias: int, a: int, b: int, out: np.ndarray) -> None:
    """Put the layer norm of the rows a..b-1 of x into out."""
    C = job.sizes.C
    w, shift = vector(job.floats, weight, C), vector(job.floats, bias, C)
    normalize_rows(x[a:b], w, shift, x.dtype.type(job.eps), out[a:b], job.stats[0, a:b], job.stats[1, a:b])


@jit(inner=True, inline="always")
def embed(job: Job, a: int, b: int) -> None:
    """Put the sum of a token's embedding and of its position's into the rows a..b-1 of the residual stream."""
    s = job.sizes
    wte, wpe = matrix(job.weights, job.at[1, WTE], s.V, s.C), matrix(job.floats, job.at[0, WPE], s.P, s.C)
    scale = scale_at(job, job.at[2, WTE], s.V)
    one = job.x.dtype.type(1)
    for n in range(a, b):
        token, position = job.ids[n], job.positions[n]
        factor = scale[token] if scale.size else one
        for c in range(s.C):
            job.x[n, c] = job.x.dtype.type(wte[token, c]) * factor + wpe[position, c]


@jit(inner=True)
def keep(job: Job, layer: int, N: int, first: int, last: int) -> None:
    """Put keys and values of N rows into the cache, from the columns first..last-1 of qkv."""
    C, D = job.sizes.C, job.sizes.C // job.sizes.H
    # some columns of all rows at a time: consecutive rows then write to the same lines of the cache
    for start in range(max(first, C), min(last, 2 * C), LINE):
        stop = min(start + LINE, last, 2 * C)
        for n in range(N):
            keys, position = job.keys[layer, job.slots[n]], job.positions[n]
            for c in range(start, stop):
                keys[c - C, position] = job.qkv[n, c]
    for n in range(N):
        values, position = job.values[layer, job.slots[n]], job.positions[n]
        for c in range(max(first, 2 * C), last):
            values[(c - 2 * C) // D, position, (c - 2 * C) % D] = job.qkv[n, c]


@jit(inner=True)
def attend(job: Job, layer: int, N: int) -> None:
    """Put what each row's heads find among the keys of its text, up to its own position, into `mixed`.

    Consecutive rows of one text are a tile; members take tiles and heads in turn.
    """
    s, turn, n = job.sizes, 0, 0
    while n < N:
        rows = 1
        while n + rows < N and rows < QUERIES and job.slots[n + rows] == job.slots[n]:
            rows += 1
        for h in range(s.H):
            if turn % job.members == job.member:
                attend_tile(job, layer, h, n, rows)
            turn += 1
        n += rows


@jit(inner=True)
def attend_tile(job: Job, layer: int, h: int, n: int, rows: int) -> None:
    """Compute one head of consecutive rows of a text."""
    D = job.sizes.C // job.sizes.H
    slot, first = job.slots[n], job.positions[n]
    last = first + rows  # keys that the last of them sees
    scores, out, none = job.scores[job.member], job.heads[job.member], job.floats[:0]
    keys, values = job.keys[layer, slot, h * D : (h + 1) * D], job.values[layer, slot, h, :last]
    wide, width = (last + LANES - 1) // LANES * LANES, out.shape[1]
    q = part(job.qkv, n, h * D, rows, D)
    columns_product(q, keys, none, none, part(scores, 0, 0, rows, wide), 0, wide)
    scale = out.dtype.type(LOG2E / math.sqrt(D))
    for i in range(rows):
        softmax(scores[i], first + i + 1, last, scale, job.sums[job.member])
    columns_product(part(scores, 0, 0, rows, last), values, none, none, part(out, 0, 0, rows, width), 0, width)
    for i in range(rows):
        # 0 times what is not a number is none: a value of a later token must not reach an earlier one
        missing = False
        for c in range(D):
            missing |= out[i, c] != out[i, c]
        if missing and i < rows - 1:
            end = first + i + 1
            columns_product(part(scores, i, 0, 1, end), values[:end], none, none, part(out, i, 0, 1, width), 0, width)
        for c in range(D):
            job.mixed[n + i, h * D + c] = out[i, c]


# Without "reassoc" the sum is taken in this order
@jit(inner=True, fastmath={"contract"})
def softmax(row: np.ndarray, n: int, end: int, scale: float, sums: np.ndarray) -> None:
    """Turn the first n scores of a row into weights, and put 0 where later keys are, up to `end`.

    The weights are added up in LINE sums, whatever `end` is.
    """
    top, zero, one = largest(row[:n]), row.dtype.type(0), row.dtype.type(1)
    for k in range(n):
        row[k] = exp2((row[k] - top) * scale)
    whole = (n + LINE - 1) // LINE * LINE
    for k in range(n, max(whole, end)):
        row[k] = zero
    for i in range(LINE):
        sums[i] = zero
    for k in range(0, whole, LINE):
        for i in range(LINE):
            sums[i] += row[k + i]
    total = zero
    for i in range(LINE):
        total += sums[i]
    grow = one / total
    for k in range(n):
        row[k] *= grow


@jit(inner=True)
def add(job: Job, N: int) -> None:
    """Add a member's columns of y to the residual stream."""
    first, last = columns_of(job.sizes.C, job)
    for n in range(N):
        for c in range(first, last):
            job.x[n, c] += job.y[n, c]


@jit(inner=True)
def bend(job: Job, N: int) -> None:
    """Apply the activation to a member's columns, a grain at a time."""
    first, last = columns_of(job.sizes.F, job)
    none = job.floats[:0]
    for n in range(N):
        for start in range(first, last, job.sizes.grain):
            stop = min(start + job.sizes.grain, last)
            x, out = job.bent[n, start:stop].reshape(1, -1), job.inner[n, start:stop].reshape(1, -1)
            if job.exact_gelu:
                gelu.bend(x, none, out)
            else:
                gelu_new.bend(x, none, out)
