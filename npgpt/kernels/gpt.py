"""A whole training step's loss and gradients in three compiled calls, between which alone a worker needs the
interpreter's lock: everything below the head, the head with its backward, and the backward of the rest.

The definition is `loss_forward` and `loss_backward` in npgpt/models/gpt2.py, on the definitions of the layers. Here the
parameters and gradients are flat, and all memory is given, as one array that is cut into pieces (`memory.py`). The head
is computed a number of rows at a time: a row's logits are needed for its loss and its gradients only.
"""

from typing import NamedTuple

import numpy as np

from npgpt.kernels import decode
from npgpt.kernels.bf16 import SCRATCH, product_in
from npgpt.kernels.block import Block, Work, block_backward, block_forward, draw, dropped
from npgpt.kernels.clock import BACKWARD, EMBED, HEAD, LOSS, NORM, WAIT, lap, start
from npgpt.kernels.distilled import DISTILLED_ROWS, distilled_head, distilled_top_head
from npgpt.kernels.layernorm import normalize_rows, normalize_rows_backward
from npgpt.kernels.linear_cross_entropy import loss_and_dlogits
from npgpt.kernels.memory import DHIDDEN, LAST, Sizes, Views, batch_sizes, kept_at, layout, memory_at, passing_at
from npgpt.kernels.rows import add_up
from npgpt.kernels.team import abort, new_barrier, share, share_of_lines, wait
from npgpt.support.jit import jit

# what the model asks for, which knows this module as its ops' `step`
__all__ = [
    "DISTILLED_ROWS",
    "IGNORED",
    "SCRATCH",
    "Job",
    "Settings",
    "Views",
    "abort",
    "add_up",
    "batch_sizes",
    "count_targets",
    "decode",
    "distilled_head",
    "distilled_top_head",
    "features_backward",
    "features_forward",
    "head_loss",
    "hidden_of",
    "layout",
    "new_barrier",
]

IGNORED = -100  # a target that does not count, as in layers/cross_entropy.py
WTE, WPE, LN_WEIGHT, LN_BIAS, HEAD_WEIGHT = range(5)  # the columns of a model's places


class Settings(NamedTuple):
    """What a configuration says beside sizes."""

    eps: float
    exact_gelu: bool
    tied: bool
    embd_pdrop: float
    attn_pdrop: float
    resid_pdrop: float


class Job(NamedTuple):
    """A batch of N = B T tokens and everything that its computation needs; each member of a team has its own number.

    ids, targets, firsts  (N,), int64; firsts, where each position's own text begins, of size 0 if each row is one text
    params, grads         flat; grads of size 0 where no gradients are wanted
    places, block_places  where each parameter begins (5,) and (layers, 12), -1 for one that the model does not have
    at, blocks_at         the layout of the memory
    panels                (SCRATCH,) of uint32, if the operands of products are rounded to bfloat16; else of float32
    """

    ids: np.ndarray
    targets: np.ndarray
    firsts: np.ndarray
    params: np.ndarray
    grads: np.ndarray
    places: np.ndarray
    block_places: np.ndarray
    at: np.ndarray
    blocks_at: np.ndarray
    sizes: Sizes
    settings: Settings
    memory: Views
    member: int
    barrier: np.ndarray
    laps: np.ndarray
    panels: np.ndarray


@jit
def count_targets(ids: np.ndarray, targets: np.ndarray, V: int) -> int:
    """Return how many targets count, or -1 if one of the ids or of the targets is not in the vocabulary."""
    count = 0
    for n in range(len(ids)):
        counts = targets[n] != IGNORED
        if not 0 <= ids[n] < V or (counts and not 0 <= targets[n] < V):
            return -1
        count += counts
    return count


@jit
def features_forward(job: Job, rng: np.random.Generator) -> None:
    """Compute everything below the head, up to the final norm. All members of a team call this at once.

    rng  draws dropout masks, if the sizes have any; each member's own
    """
    s, laps = job.sizes, job.laps
    start(laps)
    m, work = memory_at(job.memory, job.at, s, job.member), work_of(job)
    passing = passing_at(job.memory, job.at, s, job.member)
    a, b = share(s.B * s.T, job.member, s.members)
    params, places = job.params, job.places
    embed(job, m.x[0], a, b)
    draw(rng, job.settings.embd_pdrop, m.mask, a, b)
    dropped(m.x[0], m.mask, job.settings.embd_pdrop, a, b, m.x[0])
    lap(laps, EMBED)
    slots = len(m.x)  # two, where nothing is kept for a backward
    for i in range(len(job.block_places)):
        kept = kept_at(job.memory, job.blocks_at[i if s.train else 0], s)
        block = block_at(params, params, 0, job.block_places[i], s.C, s.F)
        block_forward(m.x[i % slots], block, kept, passing, work, rng, m.x[(i + 1) % slots])
    x = m.x[len(job.block_places) % slots]
    weight, bias = vector(params, places[LN_WEIGHT], s.C), vector(params, places[LN_BIAS], s.C)
    normalize_rows(x[a:b], weight, bias, x.dtype.type(work.eps), m.hidden[a:b], m.norm[0, a:b], m.norm[1, a:b])
    if s.train:
        zero(m.dhidden[a:b])  # for the rows that have no target
    lap(laps, NORM)
    wait(job.barrier, s.members)
    lap(laps, WAIT)


@jit
def features_backward(job: Job, add: bool) -> None:
    """Put the gradients of everything below the head into grads, or add them to those that are there.

    The head's backward has put the gradient of the hidden states into the memory.
    """
    s, laps, grads = job.sizes, job.laps, job.grads
    start(laps)
    m, work = memory_at(job.memory, job.at, s, job.member), work_of(job)
    passing = passing_at(job.memory, job.at, s, job.member)
    a, b = share(s.B * s.T, job.member, s.members)
    # norms and biases lie behind all matrices, and each member has a part of its own for their gradients
    shift, vectors = len(job.params) - s.vectors, m.vectors[job.member]
    weight = vector(job.params, job.places[LN_WEIGHT], s.C)
    dweight = vector(vectors, job.places[LN_WEIGHT] - shift, s.C)
    dbias = vector(vectors, job.places[LN_BIAS] - shift, s.C)
    dx, dmid, dnext = m.dx
    x = m.x[len(job.block_places)]
    normalize_rows_backward(m.dhidden[a:b], x[a:b], m.norm[0, a:b], m.norm[1, a:b], weight, dx[a:b], dweight, dbias)
    lap(laps, BACKWARD + NORM)
    for i in range(len(job.block_places) - 1, -1, -1):
        kept = kept_at(job.memory, job.blocks_at[i], s)
        block = block_at(job.params, job.params, 0, job.block_places[i], s.C, s.F)
        dblock = block_at(grads, vectors, shift, job.block_places[i], s.C, s.F)
        block_backward(dx, m.x[i], block, dblock, kept, passing, work, add, dmid, dnext)
        dx, dmid, dnext = dnext, dx, dmid
    dropped(dx, m.mask, job.settings.embd_pdrop, a, b, dx)
    wait(job.barrier, s.members)
    lap(laps, WAIT)
    embed_backward(job, dx, add)
    add_vectors(m.vectors, job.member, add, grads[shift:])
    lap(laps, BACKWARD + EMBED)
    wait(job.barrier, s.members)  # the next batch may cut the memory otherwise
    lap(laps, WAIT)


@jit(inner=True, inline="always")
def add_vectors(parts: np.ndarray, member: int, add: bool, out: np.ndarray) -> None:
    """Add up the gradients of norms and biases, parts (members, n): each member does it for some of them."""
    a, b = share_of_lines(parts.shape[1], member, len(parts))
    for j in range(a, b):
        total = parts[0, j]
        for k in range(1, len(parts)):
            total += parts[k, j]
        out[j] = out[j] + total if add else total


@jit
def head_loss(job: Job, scale: float, add: bool) -> float:
    """Return the sum of -log p over a member's share of the targets, after features_forward. With gradients, put scale
    times those of the head into grads, or add them, and those of the hidden states into the memory.

    Only the rows that have a target are looked at, some at a time.
    """
    s, member, laps, targets = job.sizes, job.member, job.laps, job.targets
    start(laps)
    m = memory_at(job.memory, job.at, s, member)
    weight = cut(job.params, job.places[HEAD_WEIGHT], s.V, s.C)
    dweight = cut(job.grads, job.places[HEAD_WEIGHT], s.V if s.train else 0, s.C)
    count = 0
    for n in range(len(targets)):
        if targets[n] != IGNORED:
            m.order[count] = n
            count += 1
    v, w = share(len(dweight), member, s.members)
    if count == 0 and not add:
        zero(dweight[v:w])
    loss = 0.0
    for first in range(0, count, s.rows):
        n = min(s.rows, count - first)
        a, b = share(n, member, s.members)
        order = m.order[first : first + n]
        wanted = m.order[s.B * s.T :][:n]
        for i in range(a, b):
            wanted[i] = targets[order[i]]
            for c in range(s.C):
                m.rows[i, c] = m.hidden[order[i], c]
        product_in(m.rows[a:b], weight.T, m.logits[a:b], False, job.panels)
        lap(laps, HEAD)
        loss += loss_and_dlogits(m.logits[a:b], wanted[a:b], weight.dtype.type(scale))
        lap(laps, LOSS)
        if s.train:
            product_in(m.logits[a:b], weight, m.drows[a:b], False, job.panels)
            for i in range(a, b):
                for c in range(s.C):
                    m.dhidden[order[i], c] = m.drows[i, c]
            lap(laps, BACKWARD + HEAD)
            wait(job.barrier, s.members)
            lap(laps, WAIT)
            product_in(m.logits[:n, v:w].T, m.rows[:n], dweight[v:w], add or first > 0, job.panels)
            lap(laps, BACKWARD + HEAD)
            wait(job.barrier, s.members)
            lap(laps, WAIT)
    return loss


def hidden_of(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden states (N, C) that features_forward has computed, and the place of their gradient, which
    features_backward reads; it is (0, C) where there will be no backward."""
    s, memory = job.sizes, job.memory.numbers
    size = s.B * s.T * s.C
    hidden, dhidden = (memory[job.at[k] :][: size if job.at[k] >= 0 else 0] for k in (LAST, DHIDDEN))
    return hidden.reshape(-1, s.C), dhidden.reshape(-1, s.C)


@jit(inner=True, inline="always")
def embed(job: Job, x: np.ndarray, first: int, last: int) -> None:
    """Put the sum of a token's embedding and of its position's into the rows first..last of x."""
    s = job.sizes
    wte, wpe = cut(job.params, job.places[WTE], s.V, s.C), cut(job.params, job.places[WPE], s.P, s.C)
    for n in range(first, last):
        token, position = job.ids[n], position_of(job, n)
        for c in range(s.C):
            x[n, c] = wte[token, c] + wpe[position, c]


@jit(inner=True, inline="always")
def embed_backward(job: Job, dx: np.ndarray, add: bool) -> None:
    """Add the gradients dx of all rows to those of the embeddings: each member does it for some of the channels."""
    s = job.sizes
    a, b = share_of_lines(s.C, job.member, s.members)
    dwte, dwpe = cut(job.grads, job.places[WTE], s.V, s.C), cut(job.grads, job.places[WPE], s.P, s.C)
    if not add:
        zero(dwpe[:, a:b])
        if not job.settings.tied:  # the gradient of a tied embedding begins with the head's share
            zero(dwte[:, a:b])
    for n in range(len(dx)):
        token, position = job.ids[n], position_of(job, n)
        for c in range(a, b):
            dwte[token, c] += dx[n, c]
            dwpe[position, c] += dx[n, c]


@jit(inner=True)
def position_of(job: Job, n: int) -> int:
    """Return the position of row n in its own text."""
    return n % job.sizes.T - (job.firsts[n] if job.firsts.size else 0)


@jit(inner=True, inline="always")
def work_of(job: Job) -> Work:
    """Return what the blocks need to know."""
    s, settings = job.sizes, job.settings
    return Work(
        s.B,
        s.T,
        s.H,
        settings.eps,
        settings.exact_gelu,
        settings.attn_pdrop,
        settings.resid_pdrop,
        job.firsts,
        job.member,
        s.members,
        job.barrier,
        job.laps,
        job.panels,
    )


@jit(inner=True)
def zero(x: np.ndarray) -> None:
    """Fill a matrix with zeros; in a loop, because an assignment takes seconds to compile."""
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[n, c] = 0


@jit(inner=True)
def cut(flat: np.ndarray, start: int, rows: int, columns: int) -> np.ndarray:
    """Return a matrix's place in a flat array."""
    return flat[start : start + rows * columns].reshape(rows, columns)


@jit(inner=True)
def vector(flat: np.ndarray, start: int, size: int) -> np.ndarray:
    """Return a vector's place in a flat array; one of size 0 if it has none."""
    return flat[max(start, 0) : max(start, 0) + (size if start >= 0 else 0)]


@jit(inner=True)
def block_at(flat: np.ndarray, vectors: np.ndarray, shift: int, at: np.ndarray, C: int, F: int) -> Block:
    """Return a block's parameters or gradients: matrices in flat, norms and biases `shift` earlier in vectors."""
    return Block(
        vector(vectors, at[0] - shift, C),
        vector(vectors, at[1] - shift, C),
        cut(flat, at[2], C, 3 * C),
        vector(vectors, at[3] - shift, 3 * C),
        cut(flat, at[4], C, C),
        vector(vectors, at[5] - shift, C),
        vector(vectors, at[6] - shift, C),
        vector(vectors, at[7] - shift, C),
        cut(flat, at[8], C, F),
        vector(vectors, at[9] - shift, F),
        cut(flat, at[10], F, C),
        vector(vectors, at[11] - shift, C),
    )
