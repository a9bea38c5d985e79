"""A GPT's loss and gradients by the compiled step (kernels/gpt.py), of one thread or of the members of a team."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.models.checks import checked_batch
from npgpt.support.buffers import workspace
from npgpt.support.parameters import Parameters

if TYPE_CHECKING:
    from npgpt.data.batch import Batch

Rng = np.random.Generator | None

NO_LAPS = np.zeros(0)
NO_STARTS = np.zeros(0, np.int64)
NO_PANELS = np.zeros(0, np.float32)
NO_DROPOUT = np.random.default_rng(0)  # never drawn from


@functools.cache
def names_of(n_layer: int, tied: bool) -> tuple[str, ...]:
    """Return the names of all parameters in the order in which the compiled step looks for their places."""
    model = ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", "wte.weight" if tied else "lm_head.weight")
    layers = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    blocks = (f"h.{i}.{layer}.{kind}" for i in range(n_layer) for layer in layers for kind in ("weight", "bias"))
    return (*model, *blocks)


class Step:
    """The compiled step of a model for its batches: `members` threads call it at once, each with its own number.

    barrier  where the members wait for each other
    memory   what all of them write to; it grows with the batches
    bf16     whether the operands of large products are rounded to bfloat16
    """

    def __init__(
        self, config: GPTConfig, params: Parameters, kernel: Any, members: int = 1, bf16: bool = False
    ) -> None:
        self.config, self.params, self.kernel, self.members = config, params, kernel, members
        self.bf16 = bf16
        self.barrier = kernel.new_barrier()
        self.memory: np.ndarray | None = None
        self.settings = kernel.Settings(
            float(config.layer_norm_epsilon),
            config.activation_function == "gelu",
            config.tie_word_embeddings,
            float(config.embd_pdrop),
            float(config.attn_pdrop),
            float(config.resid_pdrop),
        )

    def sizes(self, shape: tuple[int, ...], train: bool, drop: bool) -> Any:
        """Return the sizes of a batch (B, T). Raises ValueError if mapped weights were to be trained."""
        c = self.config
        if train:
            self.params.require_packed()  # where the gradients go follows from it
        vectors = self.params.size - self.params.n_matrices
        model = (c.n_embd, c.n_head, c.mlp_width, c.vocab_size, c.n_positions, c.n_layer, vectors)
        drops = (c.embd_pdrop, c.attn_pdrop, c.resid_pdrop) if drop else (0.0, 0.0, 0.0)
        return self.kernel.batch_sizes(shape, model, self.members, train, drops)

    def begin(self, batches: "Sequence[Batch]", drop: bool) -> None:
        """Prepare for batches, before the members start: make memory for the largest of them.

        drop  whether there will be dropout

        Raises ValueError or TypeError, as the methods of a GPT do: compiled code would read and write past its arrays.
        """
        self.barrier[:] = 0  # an error may have left members waiting
        some = [batch for batch in batches if len(batch)]
        for batch in some:
            checked_batch(batch, None, None, self.config.n_positions)
        shapes = {batch.ids.shape for batch in some}
        itemsize = self.params.flat.itemsize
        size = max((self.kernel.layout(self.sizes(shape, True, drop), itemsize)[2] for shape in shapes), default=0)
        if self.memory is None or self.memory.size < size:
            self.memory = None  # before the new one is made
            self.memory = workspace(size, self.params.flat.dtype)

    def accumulate_grads(
        self,
        member: int,
        batches: "Sequence[Batch]",
        total: int,
        grads: Parameters,
        rng: Rng,
        laps: np.ndarray | None = None,
    ) -> float:
        """Write the gradients of the batches' summed loss divided by `total` into grads; return a member's share of it.

        All members call this at once, for the same batches, each with its own number and generator.
        """
        loss, add = 0.0, False
        for batch in batches:
            if not len(batch):
                continue
            share = batch.n_targets / total
            part = self(batch.ids, batch.targets, batch.starts, grads, rng, share, member, add, laps)
            loss, add = loss + share * part, True
        if not add and member == 0:
            grads.flat.fill(0)
        return loss

    def abort(self) -> None:
        """Let all members go on who wait for others: one of them has failed."""
        self.kernel.abort(self.barrier)

    def add_up(self, gradients: np.ndarray, start: int, stop: int) -> float:
        """Add the rows of gradients (groups, size) into the first, from start to stop; return its sum of squares."""
        return self.kernel.add_up(gradients, start, stop)

    def __call__(
        self,
        ids: np.ndarray,
        targets: np.ndarray,
        starts: np.ndarray | None,
        grads: Parameters | None = None,
        rng: Rng = None,
        dloss: float = 1.0,
        member: int = 0,
        add: bool = False,
        laps: np.ndarray | None = None,
    ) -> float:
        """Return a member's share of the mean loss, whose gradients times dloss are put into grads or added to them.

        Raises ValueError if an id or a target is not in the vocabulary.
        """
        kernel = self.kernel
        job, count = self.job(ids, targets, starts, grads, rng is not None, member, laps)
        kernel.features_forward(job, NO_DROPOUT if rng is None else rng)
        total = kernel.head_loss(job, dloss / max(1, count), add)
        if grads is not None:
            kernel.features_backward(job, add)
        return total / max(1, count)

    def job(
        self,
        ids: np.ndarray,
        targets: np.ndarray,
        starts: np.ndarray | None,
        grads: Parameters | None,
        drop: bool,
        member: int = 0,
        laps: np.ndarray | None = None,
    ) -> tuple[Any, int]:
        """Return a member's job, in the memory that all jobs of this thread share, and how many targets count.

        drop  whether there will be dropout

        Raises ValueError if an id or a target is not in the vocabulary.
        """
        kernel, flat = self.kernel, self.params.flat
        firsts = NO_STARTS if starts is None else integers(starts)
        ids, targets, shape = integers(ids), integers(targets), ids.shape
        count = kernel.count_targets(ids, targets, self.config.vocab_size)
        if count < 0:
            raise ValueError(out_of_vocabulary(ids, targets, self.config.vocab_size, kernel.IGNORED))
        sizes = self.sizes(shape, grads is not None, drop)
        blocks_at, at, size = kernel.layout(sizes, flat.itemsize)
        memory = workspace(size, flat.dtype) if self.memory is None else self.memory
        places = self.params.starts(names_of(self.config.n_layer, self.config.tie_word_embeddings))
        flat_grads = flat[:0] if grads is None else grads.flat
        panels = workspace(kernel.SCRATCH, np.dtype(np.uint32)) if self.bf16 else NO_PANELS
        job = kernel.Job(
            ids, targets, firsts, flat, flat_grads, places[:5], places[5:].reshape(-1, 12), at, blocks_at, sizes,
            self.settings, kernel.Views(memory, memory.view(np.uint8), memory.view(np.int64)), member, self.barrier,
            NO_LAPS if laps is None else laps, panels,
        )  # fmt: skip
        return job, count


def integers(array: np.ndarray) -> np.ndarray:
    """Return integers as a flat array of int64; without a copy, if they are that already."""
    return np.ascontiguousarray(array, np.int64).reshape(-1)


def out_of_vocabulary(ids: np.ndarray, targets: np.ndarray, V: int, ignored: int) -> str:
    """Return what is wrong with ids or targets, in the words of the layers."""
    wrong = ids[(ids < 0) | (ids >= V)]
    if wrong.size:
        return f"id {wrong[0]} is outside the table of {V} rows (0..{V - 1})"
    wrong = targets[(targets != ignored) & ((targets < 0) | (targets >= V))]
    return f"target {wrong[0]} is neither in 0..{V - 1} nor ignore_index={ignored}"
