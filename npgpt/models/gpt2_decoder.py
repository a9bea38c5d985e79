"""A GPT's decoder: texts in slots, continued by one compiled call, which several threads may share (kernels/decode.py).

All memory is made at the start. That of the cache, 75 MB a slot for gpt2, is taken from the system when a slot is first
written to, so slots that are never used cost nothing.
"""

import ctypes
import dataclasses
import weakref
from typing import Any, Protocol

import numpy as np

from npgpt.config import GPTConfig
from npgpt.models.gpt2_step import names_of
from npgpt.support.crew import Crew
from npgpt.support.machine import cores

LINE = 64  # bytes: the width of a vector and of a line of the processor's caches
MOST = 1024  # threads

# Measured on Zen 4. One core reads weights at 25 GB/s. How many more cores read at once differs between machines, but
# threads that wait for memory slow nothing down. Other threads begin some 50 us after the call, and members wait for
# each other seven times a block: 1 us, and longer with each further member.
CORE_BYTES = 25e9
CALL, CALL_EACH, MEETING_EACH, MEETINGS = 50e-6, 7e-6, 0.7e-6, 7
GAIN = 1.05  # how much faster more threads must be


class Flat(Protocol):
    """Named numbers in one array, such as Parameters: `starts` says where each begins, -1 for one that is not there."""

    flat: np.ndarray

    def starts(self, names: tuple[str, ...]) -> np.ndarray: ...


def members_of(weight_bytes: int, n_layer: int, threads: int) -> int:
    """Return how many of at most `threads` threads to use for a token, by what each number of them would take.

    Example: gpt2 in float32 has 500 MB and 12 blocks: 20 ms on one thread, 10.2 on two, 5.3 on four.
    """

    def seconds(n: int) -> float:
        waiting = CALL + n * (CALL_EACH + n_layer * MEETINGS * MEETING_EACH) if n > 1 else 0
        return weight_bytes / (n * CORE_BYTES) + waiting

    took = {n: seconds(n) for n in range(1, threads + 1)}
    return next(n for n in took if took[n] <= GAIN * min(took.values()))


class GPTDecoder:
    """The decoder (npgpt.models.base.Decoder) of a GPT's configuration and numbers, which may lie in any order.

    floats   norms, biases and positions, in the precision of everything that is computed
    weights  the matrices, embeddings among them: the same numbers, or int8. Of int8 the blocks' matrices lie in panels
             (kernels/streams.py)
    scales   a scale for each row of output of int8 weights; None for others
    kernel   the module kernels/decode.py
    threads  0 for as many as pay
    layer    whose hidden states are wanted instead of logits: then the blocks after it and the head are not computed

    A Ctrl-C in `read` leaves everything as it was before it.
    """

    def __init__(
        self,
        config: GPTConfig,
        floats: Flat,
        weights: Flat,
        scales: Flat | None,
        kernel: Any,
        slots: int,
        rows: int,
        threads: int = 0,
        layer: int | None = None,
    ) -> None:
        for name, number, least, most in (
            ("slots", slots, 1, None), ("rows", rows, 1, None), ("threads", threads, 0, MOST),
        ):  # fmt: skip
            if number < least or (most is not None and number > most):
                raise ValueError(f"{name}={number} must be at least {least}" + (f" and at most {most}" if most else ""))
        self.config, self.kernel, self.rows, self.layer = config, kernel, rows, layer
        self.lengths = np.zeros(slots, np.int64)
        self.members = threads or members_of(weights.flat.nbytes, config.n_layer, cores())
        self._ends = np.zeros(rows, np.int64)
        self._owners = floats, weights, scales  # whose memory the jobs use
        self._barrier = kernel.new_barrier()
        self._jobs = self._new_jobs(floats, weights, scales, slots)
        self._crew: Crew | None = None

    def _new_jobs(self, floats: Flat, weights: Flat, scales: Flat | None, slots: int) -> list:
        """Return what each member is to do, in memory that all share."""
        c, kernel, R, dtype = self.config, self.kernel, self.rows, floats.flat.dtype
        C, H, F, V, P, n = c.n_embd, c.n_head, c.mlp_width, c.vocab_size, c.n_positions, self.members
        layers, columns = (
            (c.n_layer, V) if self.layer is None else (self.layer, 0)
        )  # without a head there are no logits
        sources = [floats, weights, weights if scales is None else scales]
        places = np.array([s.starts(names_of(layers, c.tie_word_embeddings)) for s in sources])
        small = weights.flat.dtype == np.int8
        lanes = kernel.LANES
        # an odd number of lines, so that the rows of a head do not all lie in the same places of the processor's caches
        keys = -(-P // lanes) * lanes + LINE // dtype.itemsize
        width = -(-(C // H) // (LINE // dtype.itemsize)) * (LINE // dtype.itemsize)

        def array(*shape: int) -> np.ndarray:
            return aligned(shape, dtype)

        def whole(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.int64)

        job = kernel.Job(
                writable(floats.flat), writable(weights.flat),
                np.zeros(0, dtype) if scales is None else writable(scales.flat),
                np.ascontiguousarray(places[:, :5]), np.ascontiguousarray(places[:, 5:]).reshape(3, layers, 12),
                kernel.Sizes(C, H, F, V, P, layers, kernel.PANEL if small else kernel.GRAIN),
                float(c.layer_norm_epsilon), c.activation_function == "gelu",
                whole(R), whole(R), whole(R), whole(R), whole(2),
                array(layers, slots, C, keys), array(layers, slots, H, P, width),
                *(array(R, N) for N in (C, C, C, 3 * C, C, F, F)), array(2, R), array(R, C), array(R, C),
                array(R, columns), array(n, kernel.QUERIES, keys), array(n, kernel.QUERIES, width),
                array(n, kernel.LINE), self._barrier, 0, n,
        )  # fmt: skip
        return [job._replace(member=member) for member in range(n)]

    def read(self, slots: np.ndarray, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Append tokens to slots, and return the logits after the wanted rows (npgpt.models.base.Decoder)."""
        kernel, job = self.kernel, self._jobs[0]
        slots, ids, wanted = (np.ascontiguousarray(a, np.int64) for a in (slots, ids, wanted))
        if len(ids) > self.rows or len(slots) != len(ids):
            raise ValueError(
                f"{len(slots)} slots and {len(ids)} tokens: one call reads at most {self.rows}, each in one"
            )
        if len(wanted) > self.rows:
            raise ValueError(f"{len(wanted)} wanted rows are more than the {self.rows} of one call")
        N, W, c = len(ids), len(wanted), self.config
        wrong = kernel.begin(slots, ids, wanted, self.lengths, c.vocab_size, c.n_positions, job.positions)
        if wrong != -1:
            raise ValueError(self._complaint(slots, ids, wanted, wrong))
        job.slots[:N], job.ids[:N], job.wanted[:W], job.counts[:] = slots, ids, wanted, (N, W)
        if N:
            self._run()
            np.add(job.positions[:N], 1, out=self._ends[:N])
            self.lengths[slots] = self._ends[:N]  # of several rows of a slot the last one counts
        return job.logits[:W]

    def _run(self) -> None:
        """Let all members compute what the jobs say."""
        if self.members == 1:
            self.kernel.decode(self._jobs[0])
            return
        if self._crew is None:
            self._crew = Crew(self.members).__enter__()
            weakref.finalize(self, self._crew.dismiss)
        self._barrier[:] = 0  # an error may have left members waiting
        self._crew.run(self.kernel.decode, self._jobs, lambda: self.kernel.abort(self._barrier))

    def hidden(self) -> np.ndarray:
        """Return the hidden states of the rows that the last call of `read` wanted: the last ones, or those of `layer`.

        Those of the last layer have gone through the final layer norm.
        """
        job = self._jobs[0]
        return (job.hidden if self.layer in (None, self.config.n_layer) else job.rows)[: job.counts[1]]

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot hold the first `length` tokens of another; their keys and values are copied."""
        if not 0 <= length <= self.lengths[source]:
            raise ValueError(f"length={length} must be from 0 to {self.lengths[source]}, what slot {source} holds")
        job = self._jobs[0]
        if source != target:
            job.keys[:, target, :, :length] = job.keys[:, source, :, :length]
            job.values[:, target, :, :length] = job.values[:, source, :, :length]
        self.lengths[target] = length

    def _complaint(self, slots: np.ndarray, ids: np.ndarray, wanted: np.ndarray, wrong: int) -> str:
        """Return what is wrong with the row that `begin` has found."""
        if wrong < -1:
            return f"wanted row {wanted[-2 - wrong]} is none of the {len(ids)} rows"
        V, P, slot = self.config.vocab_size, self.config.n_positions, slots[wrong]
        if not 0 <= ids[wrong] < V:
            return f"id {ids[wrong]} is outside the table of {V} rows (0..{V - 1})"
        if not 0 <= slot < len(self.lengths):
            return f"slot {slot} is none of the {len(self.lengths)} slots"
        if not 0 <= self.lengths[slot] <= P:
            return f"slot {slot} cannot have the length {self.lengths[slot]}"
        return f"{self.lengths[slot] + np.count_nonzero(slots == slot)} tokens are longer than n_positions={P}"


def reader_of(
    config: GPTConfig,
    floats: Flat,
    weights: Flat,
    scales: Flat | None,
    kernel: Any,
    slots: int,
    rows: int,
    length: int,
    layer: int,
    threads: int,
) -> GPTDecoder:
    """Return a decoder for the hidden states of a layer, with room for `length` tokens in each slot."""
    config = dataclasses.replace(config, n_positions=length)
    # many rows are a matter of arithmetic: some 100 GFLOPS a core, not of how fast the weights are read
    threads = threads or members_of(weights.flat.size * rows // 2, config.n_layer, cores())
    return GPTDecoder(config, floats, weights, scales, kernel, slots, rows, threads, layer)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros that begins where a vector does; the system gives it memory when it is written to."""
    size = int(np.prod(shape, dtype=np.int64))
    block = np.zeros(size + LINE // dtype.itemsize, dtype)
    return block[-block.ctypes.data % LINE // dtype.itemsize :][:size].reshape(shape)


def writable(array: np.ndarray) -> np.ndarray:
    """Return the same memory as an array that does not know whether it may be written.

    Compiled code is compiled again for arrays that may not, such as a file; the decoder does not write to these.
    """
    if array.flags.writeable:
        return array
    memory = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(memoryview(memory), array.dtype)
