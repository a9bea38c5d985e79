"""Distillation: a GPT that learns from another one, by the triple loss of DistilBERT.

    loss = ce * cross-entropy + kl * T^2 KL(teacher || student) + cosine * mean(1 - cos(hidden, teacher's hidden))

KL compares the softmax of both models' logits / T. The cosine is that of the last hidden states, which a learned matrix
takes from the student's width to the teacher's, if these differ. All three are means over the targets that count.

The teacher is constant. Everything below the student's head, and the teacher, are computed by compiled steps where
there are any, and so is the head, with both models' logits, some rows at a time (kernels/distilled.py).

Sources: Sanh et al., "DistilBERT, a distilled version of BERT", arXiv:1910.01108; Hinton et al., "Distilling the
Knowledge in a Neural Network", arXiv:1503.02531.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npgpt.models.checks import checked_batch, rounds
from npgpt.models.gpt2 import GPT, features_backward, features_forward, head_name
from npgpt.models.gpt2_parameters import parameter_shapes
from npgpt.models.gpt2_step import NO_DROPOUT, Step
from npgpt.models.kv_cache import KVCache
from npgpt.models.taps import Taps
from npgpt.ops import Ops, bf16_ops
from npgpt.support.buffers import empty
from npgpt.support.parameters import Parameters

if TYPE_CHECKING:
    from npgpt.data.batch import Batch

Rng = np.random.Generator | None
PROJECTION = "projection.weight"
IGNORED = -100


class Teaching(NamedTuple):
    """The temperature, and the weights of the three losses."""

    temperature: float = 1.0
    ce: float = 0.3
    kl: float = 0.7
    cosine: float = 0.1


class Lesson(NamedTuple):
    """What a teacher says of N positions: all of its last hidden states, or the probabilities of K tokens.

    hidden  (N, Ct)
    head    (V, Ct), which makes its logits from them
    ids     (N, K), the likeliest tokens
    logp    (N, K), their log-probabilities at the temperature of the lesson
    """

    hidden: np.ndarray | None
    head: np.ndarray | None
    ids: np.ndarray | None = None
    logp: np.ndarray | None = None


def distilled_head_forward(
    hidden: np.ndarray, targets: np.ndarray, params: Parameters, head: str, lesson: Lesson, teaching: Teaching, ops: Ops
) -> tuple[np.ndarray, tuple]:
    """Return the triple loss of hidden states (N, C), whose targets (N,) all count, and what the backward needs.

    params  the student's, with the head's weight under that name, and with the projection if the widths differ
    """
    T = teaching.temperature
    logits, linear = ops.linear_forward(hidden, params[head].T, None)
    loss, ce = ops.cross_entropy_forward(logits, targets)
    loss = teaching.ce * loss
    if lesson.ids is None or lesson.logp is None:
        assert lesson.hidden is not None
        assert lesson.head is not None
        divergence, kl = ops.kl_forward(logits, lesson.hidden @ lesson.head.T, T)
    else:
        divergence, kl = ops.kl_topk_forward(logits, lesson.ids, lesson.logp, T)
    loss = loss + teaching.kl * divergence
    cosine = None
    if teaching.cosine:
        distance, cosine = distance_forward(hidden, params.get(PROJECTION), lesson, ops)
        loss = loss + teaching.cosine * distance
    return loss, (linear, ce, kl, lesson.ids is None, cosine, head, teaching, ops)


def distilled_head_backward(dloss: float, cache: tuple, grads: Parameters) -> np.ndarray:
    """Return the gradient of the hidden states, and put those of the head and the projection into grads."""
    linear, ce, kl, whole, cosine, head, teaching, ops = cache
    dlogits = ops.cross_entropy_backward(dloss * teaching.ce, ce)
    if whole:
        dlogits += ops.kl_backward(dloss * teaching.kl, kl, with_teacher=False)[0]
    else:
        dlogits += ops.kl_topk_backward(dloss * teaching.kl, kl)
    # logits = hidden @ head.T
    dhidden, dhead_t, _ = ops.linear_backward(dlogits, linear)
    grads[head] = dhead_t.T
    if cosine is not None:
        dhidden += distance_backward(dloss * teaching.cosine, cosine, grads.get(PROJECTION), ops)
    return dhidden


def distance_forward(
    hidden: np.ndarray, projection: np.ndarray | None, lesson: Lesson, ops: Ops
) -> tuple[np.ndarray, tuple]:
    """Return the mean of 1 - cos(hidden @ projection, teacher's hidden), and what the backward needs."""
    if lesson.hidden is None:
        raise ValueError("the cosine needs the teacher's hidden states, which a list of likely tokens does not have")
    projected, linear = (hidden, None) if projection is None else ops.linear_forward(hidden, projection, None)
    cosines, cache = ops.cosine_forward(projected, lesson.hidden)
    return 1 - cosines.mean(), (linear, cache, cosines)


def distance_backward(dout: float, cache: tuple, dprojection: np.ndarray | None, ops: Ops) -> np.ndarray:
    """Return the gradient of hidden, and put that of the projection into dprojection."""
    linear, cosine, cosines = cache
    # distance = 1 - cosines.mean()
    dcosines = np.full_like(cosines, -dout / cosines.size)
    dhidden, _ = ops.cosine_backward(dcosines, cosine)
    if linear is not None:
        dhidden, dweight, _ = ops.linear_backward(dhidden, linear)
        assert dprojection is not None
        dprojection[...] = dweight
    return dhidden


class Distilled:
    """A student and its teacher, as one model: its loss_and_grads are those of the triple loss.

    >>> model = Distilled(student, teacher, Teaching(temperature=1.0))
    >>> loss, grads = model.loss_and_grads(batch)

    params are the student's and, if the widths differ and the cosine counts, projection.weight (C, Ct). `loss` is the
    student's cross-entropy, by which runs are compared, and save_pretrained writes the student alone. A batch with the
    field `teacher` needs no computation of the teacher.

    student is a view of params. Raises ValueError for models whose vocabularies or contexts differ.
    """

    def __init__(self, student: GPT, teacher: GPT, teaching: Teaching | None = None, seed: int = 0) -> None:
        self.teacher, self.teaching = teacher, Teaching() if teaching is None else teaching
        for name in ("vocab_size", "n_positions"):
            of_student, of_teacher = getattr(student.config, name), getattr(teacher.config, name)
            if of_student != of_teacher:
                raise ValueError(f"{name} is {of_student} of the student and {of_teacher} of the teacher")
        if student.dtype != teacher.dtype:
            raise ValueError(f"the student is in {student.dtype}, and the teacher in {teacher.dtype}")
        self.config, self.ops, self.compute, self.seed = student.config, student.ops, "float32", seed
        self.params, self.student = student.params, student
        C, Ct = student.config.n_embd, teacher.config.n_embd
        if C != Ct and self.teaching.cosine:
            self.params = with_projection(student.params, C, Ct, seed)
            starts = {name: self.params.places[name].start for name in student.params}
            view = Parameters(parameter_shapes(student.config), self.params.flat, starts)
            self.student = GPT(student.config, ops=student.ops, params=view)

    @property
    def dtype(self) -> np.dtype:
        return self.params.flat.dtype

    @property
    def size(self) -> int:
        """The number of parameters, with the projection."""
        return self.params.size

    @property
    def matrices(self) -> dict[str, int]:
        return self.student.matrices

    @property
    def flops_per_token(self) -> float:
        return self.student.flops_per_token

    def describe(self) -> str:
        return f"{self.student.describe()}, taught by {self.teacher.describe()}"

    def tap_names(self) -> list[str]:
        return self.student.tap_names()

    def forward(
        self, ids: np.ndarray, past: KVCache | None = None, taps: Taps | None = None, last: bool = False
    ) -> np.ndarray:
        """Return the student's logits."""
        return self.student.forward(ids, past, taps, last)

    def new_past(self, batch_size: int = 1) -> KVCache:
        return self.student.new_past(batch_size)

    def decoder(self, slots: int, rows: int, weights: str | None = None, threads: int = 0) -> Any:
        return self.student.decoder(slots, rows, weights, threads)

    def reader(self, slots: int, rows: int, length: int, layer: int, threads: int = 0) -> Any:
        return self.student.reader(slots, rows, length, layer, threads)

    def loss(self, batch: "Batch") -> float:
        """Return the student's mean cross-entropy in nats over the counted targets of a batch."""
        return self.student.loss(batch)

    def loss_and_grads(
        self, batch: "Batch", *, rng: Rng = None, dloss: float = 1.0, grads: Parameters | None = None
    ) -> tuple[float, Parameters]:
        """Return the triple loss, and the gradient of dloss * loss for every parameter.

        rng  draws the student's dropout masks; the teacher has no dropout
        """
        if not (self.teaching.kl or self.teaching.cosine):  # nobody needs the teacher
            self.student.compute = self.compute
            loss, grads = self.student.loss_and_grads(batch, rng=rng, dloss=dloss * self.teaching.ce, grads=grads)
            return self.teaching.ce * loss, grads
        ids, targets, starts = checked_batch(batch, None, None, self.config.n_positions)
        counted = np.flatnonzero(targets.reshape(-1) != IGNORED)
        lesson = self.lesson(batch, counted)
        grads = self.params.empty_like() if grads is None else grads
        bf16 = rounds(self.compute, self.dtype)
        if self.ops.step is None or grads.shapes is not self.params.shapes:
            ops = bf16_ops(self.ops) if bf16 else self.ops
            hidden, features = features_forward(self.params, ids, self.config, ops, rng, starts)
            rows = hidden.reshape(-1, hidden.shape[-1])[counted]
            loss, drows = self.head(rows, targets.reshape(-1)[counted], lesson, dloss, grads)
            dhidden = np.zeros_like(hidden)
            dhidden.reshape(-1, hidden.shape[-1])[counted] = drows
            features_backward(dhidden, features, grads)
            return loss, grads
        kernel = self.ops.step
        job, _ = Step(self.config, self.params, kernel, bf16=bf16).job(ids, targets, starts, grads, rng is not None)
        kernel.features_forward(job, NO_DROPOUT if rng is None else rng)
        hidden, dhidden = kernel.hidden_of(job)
        loss, drows = self.head(hidden[counted], targets.reshape(-1)[counted], lesson, dloss, grads)
        dhidden[counted] = drows  # the rest is zero
        kernel.features_backward(job, False)
        return loss, grads

    def head(
        self, rows: np.ndarray, targets: np.ndarray, lesson: Lesson, dloss: float, grads: Parameters
    ) -> tuple[float, np.ndarray]:
        """Return the triple loss of hidden states (N, C) and their gradient; put all others of the head into grads."""
        name = head_name(self.config)
        if not len(rows):
            for each in {name, PROJECTION} & grads.keys():
                grads[each].fill(0)
            return 0.0, rows
        if self.ops.step is None or (lesson.head is None and self.teaching.cosine):
            whole, cache = distilled_head_forward(rows, targets, self.params, name, lesson, self.teaching, self.ops)
            return float(whole), distilled_head_backward(dloss, cache, grads)
        kernel, (T, ce, kl, cosine), n = self.ops.step, self.teaching, len(rows)
        weight, drows = self.params[name], empty(rows.shape, rows.dtype)
        shape = min(n, kernel.DISTILLED_ROWS), len(weight)
        logits = empty(shape, rows.dtype)
        out = dloss * ce / n, dloss * kl / n, T, drows, grads[name], logits
        if lesson.head is None:
            assert lesson.ids is not None
            checked_tokens(lesson.ids, len(weight))
            sums = kernel.distilled_top_head(rows, weight, lesson.ids, lesson.logp, targets, *out)
        else:
            sums = kernel.distilled_head(
                rows, weight, lesson.hidden, lesson.head, targets, *out, empty(shape, rows.dtype)
            )
        loss = float(ce * sums[0] + kl * sums[1]) / n
        if cosine:
            distance, cache = distance_forward(rows, self.params.get(PROJECTION), lesson, self.ops)
            loss += cosine * float(distance)
            drows += distance_backward(dloss * cosine, cache, grads.get(PROJECTION), self.ops)
        return loss, drows

    def lesson(self, batch: "Batch", counted: np.ndarray) -> Lesson:
        """Return what the teacher says of some positions of a batch, numbered row after row."""
        if batch.teacher is not None:
            top = batch.teacher.reshape(-1, batch.teacher.shape[-1])[counted]
            return Lesson(None, None, top["id"].astype(np.int64), top["logp"].astype(self.dtype))
        hidden = hidden_states(self.teacher, batch)
        return Lesson(hidden[counted], self.teacher.params[head_name(self.teacher.config)])

    def answers(self, batch: "Batch", k: int, dtype: np.dtype) -> np.ndarray:
        """Return the teacher's k likeliest tokens after each position, (B, T, k), for the field `teacher` of a batch.

        dtype  has the fields id and logp
        """
        found = np.empty((*batch.ids.shape, k), dtype)
        ids, logp = likeliest(self.teacher, batch, k, self.teaching.temperature)
        least = float(np.finfo(dtype["logp"]).min)  # log 0 would make a loss of NaN
        found["id"] = ids.reshape(found.shape)
        found["logp"] = np.maximum(logp.astype(np.float64), least).reshape(found.shape)
        return found

    def save_pretrained(self, folder: Path) -> None:
        """Write the student."""
        self.student.save_pretrained(folder)

    def load_pretrained(self, folder: Path) -> "Distilled":
        """Return this teacher with the student of a folder. A projection is not in it, and begins anew."""
        return Distilled(self.student.load_pretrained(folder), self.teacher, self.teaching, self.seed)


def checked_tokens(ids: np.ndarray, vocab_size: int) -> None:
    """Raise ValueError for an id outside the vocabulary: compiled code would read and write past its arrays."""
    if ids.size and not (0 <= ids.min() and ids.max() < vocab_size):
        wrong = ids[(ids < 0) | (ids >= vocab_size)][0]
        raise ValueError(f"id {wrong} of a teacher is not in 0..{vocab_size - 1}")


def with_projection(params: Parameters, C: int, Ct: int, seed: int) -> Parameters:
    """Return a student's parameters and a projection (C, Ct), drawn with standard deviation 1 / sqrt(C)."""
    shapes = {**params.shapes, PROJECTION: (C, Ct)}
    found = Parameters(shapes, np.empty(sum(map(math.prod, shapes.values())), params.flat.dtype))
    found.update(params)
    found[PROJECTION] = np.random.default_rng(seed).standard_normal((C, Ct), np.float32) / math.sqrt(C)
    return found


def hidden_states(model: GPT, batch: "Batch") -> np.ndarray:
    """Return a model's last hidden states (B T, C), by the compiled step if there is one.

    They are memory that the next step of this thread overwrites.
    """
    ids, targets, starts = checked_batch(batch, None, None, model.config.n_positions)
    kernel = model.ops.step
    if kernel is None:
        hidden, _ = features_forward(model.params, ids, model.config, model.ops, None, starts, keep=False)
        return hidden.reshape(-1, hidden.shape[-1])
    job, _ = Step(model.config, model.params, kernel).job(ids, targets, starts, None, False)
    kernel.features_forward(job, NO_DROPOUT)
    return kernel.hidden_of(job)[0]


def likeliest(teacher: GPT, batch: "Batch", k: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the k likeliest tokens after each position, the likeliest first, and their log-probabilities (B T, k).

    Example: logits [0, log 3] give, for k = 1, token 1 and log 0.75.
    """
    hidden = hidden_states(teacher, batch)
    z = hidden @ teacher.params[head_name(teacher.config)].T
    z /= z.dtype.type(temperature)
    some = np.argpartition(z, -k, axis=-1)[:, -k:] if k < z.shape[-1] else np.tile(np.arange(k), (len(z), 1))
    values = np.take_along_axis(z, some, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    ids = np.take_along_axis(some, order, -1)
    top = np.take_along_axis(values, order, -1)
    z -= top[:, :1]
    total = np.log(np.exp(z, out=z).sum(axis=-1, keepdims=True))
    return ids, top - top[:, :1] - total
