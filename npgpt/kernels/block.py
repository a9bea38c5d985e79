"""A whole block, forward and backward, as compiled functions that call the loops of its layers on rows of its arrays.

Their definition is `block_forward` and `block_backward` in npgpt/models/gpt2.py. The names are the same, the order of
the sums too; what differs is that memory is given, and that several threads may share the work (`team.py`): rows of
linear layers and norms, heads of attention, rows of the weights' gradients. Each waits where it reads what others
wrote.
"""

from typing import NamedTuple

import numpy as np

from npgpt.kernels import gelu, gelu_new
from npgpt.kernels.attention import attend, attend_backward
from npgpt.kernels.bf16 import product_in
from npgpt.kernels.clock import ACTIVATION, ATTENTION, BACKWARD, DROPOUT, LINEAR, MLP, NORM, WAIT, lap
from npgpt.kernels.layernorm import normalize_rows, normalize_rows_backward
from npgpt.kernels.mlp import multiply_and_sum
from npgpt.kernels.rows import add_bias, sum_rows
from npgpt.kernels.team import share, wait
from npgpt.support.jit import jit


class Block(NamedTuple):
    """A block's parameters, or the places of their gradients. A bias that the model does not have has the size 0."""

    ln_1_weight: np.ndarray
    ln_1_bias: np.ndarray
    c_attn_weight: np.ndarray
    c_attn_bias: np.ndarray
    c_proj_weight: np.ndarray
    c_proj_bias: np.ndarray
    ln_2_weight: np.ndarray
    ln_2_bias: np.ndarray
    c_fc_weight: np.ndarray
    c_fc_bias: np.ndarray
    mlp_proj_weight: np.ndarray
    mlp_proj_bias: np.ndarray


class Kept(NamedTuple):
    """What a block's forward writes and its backward reads; N = B T rows. A mask without dropout has the size 0."""

    ln_1: np.ndarray  # (N, C)
    qkv: np.ndarray  # (N, 3C)
    heads: np.ndarray  # (N, C)
    mid: np.ndarray  # (N, C), the residual stream between attention and MLP
    ln_2: np.ndarray  # (N, C)
    slope: np.ndarray  # (N, F), of the activation
    hidden: np.ndarray  # (N, F)
    norms: np.ndarray  # (4, N): mean and 1 / standard deviation of both layer norms
    stats: np.ndarray  # (B H, T, 2), of attention's softmax
    probs: np.ndarray  # (B H, T, T), or of size 0 in a long context
    mask: np.ndarray  # (B H, T, T), bytes, as those that follow
    drop_1: np.ndarray  # (N, C)
    drop_2: np.ndarray  # (N, C)


class Passing(NamedTuple):
    """Memory that every block uses anew; scratch is each thread's own."""

    y: np.ndarray  # (N, C)
    dheads: np.ndarray  # (N, C)
    dqkv: np.ndarray  # (N, 3C)
    dhidden: np.ndarray  # (N, F)
    dropped_1: np.ndarray  # (N, C), or of size 0 without dropout; dropped_2 likewise
    dropped_2: np.ndarray
    scratch: np.ndarray


class Work(NamedTuple):
    """What is the same for all blocks of a batch: sizes, settings, and who of how many does it."""

    B: int
    T: int
    H: int
    eps: float
    exact_gelu: bool
    attn_pdrop: float
    resid_pdrop: float
    firsts: np.ndarray  # (N,), where each position's own text begins, or of size 0
    member: int
    members: int
    barrier: np.ndarray
    laps: np.ndarray  # seconds by op, or of size 0 (clock.py)
    panels: np.ndarray  # for products of rounded operands (`product_in` in bf16.py)


@jit(inner=True, inline="always")
def block_forward(
    x: np.ndarray, w: Block, kept: Kept, passing: Passing, work: Work, rng: np.random.Generator, out: np.ndarray
) -> None:
    """Run a block: x (N, C) -> out (N, C)."""
    member, members = work.member, work.members
    a, b = share(len(x), member, members)
    eps = x.dtype.type(work.eps)
    normalize_rows(x[a:b], w.ln_1_weight, w.ln_1_bias, eps, kept.ln_1[a:b], kept.norms[0, a:b], kept.norms[1, a:b])
    lap(work.laps, NORM)
    linear(kept.ln_1[a:b], w.c_attn_weight, w.c_attn_bias, kept.qkv[a:b], work.panels)
    lap(work.laps, LINEAR)
    wait(work.barrier, members)
    lap(work.laps, WAIT)
    first, last = share(work.B * work.H, member, members)
    draw(rng, work.attn_pdrop, kept.mask, first, last)
    lap(work.laps, DROPOUT)
    attend(
        kept.qkv, work.T, work.H, work.firsts, kept.mask, x.dtype.type(work.attn_pdrop), first, last,
        kept.heads, kept.stats, kept.probs, passing.scratch,
    )  # fmt: skip
    lap(work.laps, ATTENTION)
    wait(work.barrier, members)
    lap(work.laps, WAIT)
    y = passing.y[a:b]
    linear(kept.heads[a:b], w.c_proj_weight, w.c_proj_bias, y, work.panels)
    lap(work.laps, LINEAR)
    draw(rng, work.resid_pdrop, kept.drop_1, a, b)
    lap(work.laps, DROPOUT)
    add_dropped(x[a:b], y, kept.drop_1, a, work.resid_pdrop, kept.mid[a:b])
    mean, rstd = kept.norms[2, a:b], kept.norms[3, a:b]
    normalize_rows(kept.mid[a:b], w.ln_2_weight, w.ln_2_bias, eps, kept.ln_2[a:b], mean, rstd)
    lap(work.laps, NORM)
    product_in(kept.ln_2[a:b], w.c_fc_weight, kept.slope[a:b], False, work.panels)
    lap(work.laps, MLP)
    if work.exact_gelu:
        gelu.bend(kept.slope[a:b], w.c_fc_bias, kept.hidden[a:b])
    else:
        gelu_new.bend(kept.slope[a:b], w.c_fc_bias, kept.hidden[a:b])
    lap(work.laps, ACTIVATION)
    linear(kept.hidden[a:b], w.mlp_proj_weight, w.mlp_proj_bias, y, work.panels)
    lap(work.laps, MLP)
    draw(rng, work.resid_pdrop, kept.drop_2, a, b)
    lap(work.laps, DROPOUT)
    add_dropped(kept.mid[a:b], y, kept.drop_2, a, work.resid_pdrop, out[a:b])
    lap(work.laps, NORM)


@jit(inner=True, inline="always")
def block_backward(
    dx: np.ndarray,
    x: np.ndarray,
    w: Block,
    dw: Block,
    kept: Kept,
    passing: Passing,
    work: Work,
    add: bool,
    dmid: np.ndarray,
    out: np.ndarray,
) -> None:
    """Put the gradient at the block's input into out, and the parameters' gradients into dw.

    dx (N, C) is the gradient at the block's output. dmid (N, C) is overwritten, with the gradient at `mid`.

    add  add to the gradients of the weights that are there already. Those of norms and biases are this thread's own,
         of its rows alone, and are overwritten
    """
    member, members = work.member, work.members
    a, b = share(len(x), member, members)
    y = passing.y[a:b]
    mlp_branch_backward(dx, w, dw, kept, passing, work, dmid)
    dout = passing.dropped_2 if len(kept.drop_2) else dx
    dropped(dmid, kept.drop_1, work.resid_pdrop, a, b, passing.dropped_1)
    lap(work.laps, BACKWARD + DROPOUT)
    dattn = passing.dropped_1 if len(kept.drop_1) else dmid
    bias_backward(dattn[a:b], dw.c_proj_bias)
    product_in(dattn[a:b], w.c_proj_weight.T, passing.dheads[a:b], False, work.panels)
    lap(work.laps, BACKWARD + LINEAR)
    wait(work.barrier, members)
    lap(work.laps, WAIT)
    first, last = share(work.B * work.H, member, members)
    attend_backward(
        passing.dheads, kept.qkv, kept.heads, work.T, work.H, work.firsts, kept.mask, x.dtype.type(work.attn_pdrop),
        first, last, kept.stats, kept.probs, passing.dqkv, passing.scratch,
    )  # fmt: skip
    lap(work.laps, BACKWARD + ATTENTION)
    wait(work.barrier, members)
    lap(work.laps, WAIT)
    weight_backward(kept.hidden, dout, dw.mlp_proj_weight, work, add)
    weight_backward(kept.ln_2, passing.dhidden, dw.c_fc_weight, work, add)
    lap(work.laps, BACKWARD + MLP)
    weight_backward(kept.heads, dattn, dw.c_proj_weight, work, add)
    weight_backward(kept.ln_1, passing.dqkv, dw.c_attn_weight, work, add)
    bias_backward(passing.dqkv[a:b], dw.c_attn_bias)
    product_in(passing.dqkv[a:b], w.c_attn_weight.T, y, False, work.panels)
    lap(work.laps, BACKWARD + LINEAR)
    mean, rstd = kept.norms[0, a:b], kept.norms[1, a:b]
    normalize_rows_backward(y, x[a:b], mean, rstd, w.ln_1_weight, out[a:b], dw.ln_1_weight, dw.ln_1_bias)
    add_rows(out[a:b], dmid[a:b])
    lap(work.laps, BACKWARD + NORM)
    wait(work.barrier, members)  # until all have read what the next block overwrites
    lap(work.laps, WAIT)


@jit(inner=True, inline="always")
def mlp_branch_backward(
    dx: np.ndarray, w: Block, dw: Block, kept: Kept, passing: Passing, work: Work, dmid: np.ndarray
) -> None:
    """Put the gradient at `mid` into dmid, for a member's rows; the weights' gradients are left for later."""
    a, b = share(len(dx), work.member, work.members)
    y, dhidden = passing.y[a:b], passing.dhidden[a:b]
    dropped(dx, kept.drop_2, work.resid_pdrop, a, b, passing.dropped_2)
    lap(work.laps, BACKWARD + DROPOUT)
    dout = passing.dropped_2 if len(kept.drop_2) else dx
    bias_backward(dout[a:b], dw.mlp_proj_bias)
    product_in(dout[a:b], w.mlp_proj_weight.T, dhidden, False, work.panels)
    lap(work.laps, BACKWARD + MLP)
    multiply_and_sum(dhidden, kept.slope[a:b], dw.c_fc_bias)
    lap(work.laps, BACKWARD + ACTIVATION)
    product_in(dhidden, w.c_fc_weight.T, y, False, work.panels)
    lap(work.laps, BACKWARD + MLP)
    mean, rstd = kept.norms[2, a:b], kept.norms[3, a:b]
    normalize_rows_backward(y, kept.mid[a:b], mean, rstd, w.ln_2_weight, dmid[a:b], dw.ln_2_weight, dw.ln_2_bias)
    add_rows(dmid[a:b], dx[a:b])
    lap(work.laps, BACKWARD + NORM)


@jit(inner=True)
def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray, panels: np.ndarray) -> None:
    """Put x @ weight + bias into out."""
    product_in(x, weight, out, False, panels)
    if bias.size:
        add_bias(out, bias)


@jit(inner=True)
def weight_backward(x: np.ndarray, dout: np.ndarray, dweight: np.ndarray, work: Work, add: bool) -> None:
    """Put a member's rows of x.T @ dout into dweight, or add them to it."""
    a, b = share(len(dweight), work.member, work.members)
    product_in(x[:, a:b].T, dout, dweight[a:b], add, work.panels)


@jit(inner=True)
def bias_backward(dout: np.ndarray, dbias: np.ndarray) -> None:
    """Put the sum of dout's rows into dbias, if the model has that bias."""
    if dbias.size:
        sum_rows(dout, dbias)


@jit(inner=True)
def draw(rng: np.random.Generator, p: float, mask: np.ndarray, first: int, last: int) -> None:
    """Draw which elements of the rows first..last dropout keeps, in the order in which NumPy would."""
    for n in range(first, last if mask.size else first):
        for c in range(mask.shape[1]):
            mask[n, c] = rng.random() >= p


@jit(inner=True)
def add_dropped(x: np.ndarray, y: np.ndarray, mask: np.ndarray, first: int, p: float, out: np.ndarray) -> None:
    """Put x + dropout(y) into out; the mask's row `first` is that of the first row of y."""
    keep, zero = x.dtype.type(1 / (1 - p)), x.dtype.type(0)
    for n in range(len(y)):
        if mask.size:
            for c in range(y.shape[1]):
                out[n, c] = x[n, c] + y[n, c] * (keep if mask[first + n, c] else zero)
        else:
            for c in range(y.shape[1]):
                out[n, c] = x[n, c] + y[n, c]


@jit(inner=True)
def dropped(x: np.ndarray, mask: np.ndarray, p: float, first: int, last: int, out: np.ndarray) -> None:
    """Put dropout of the rows first..last of x into out; without dropout do nothing."""
    keep, zero = x.dtype.type(1 / (1 - p)), x.dtype.type(0)
    for n in range(first, last if mask.size else first):
        for c in range(x.shape[1]):
            out[n, c] = x[n, c] * (keep if mask[n, c] else zero)


@jit(inner=True)
def add_rows(x: np.ndarray, y: np.ndarray) -> None:
    """Add y to x, in place."""
    for n in range(len(x)):
        for c in range(x.shape[1]):
            x[n, c] += y[n, c]
