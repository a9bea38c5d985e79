"""A whole training step (forward, backward, clip, AdamW) beside PyTorch, JAX, transformers and its own products.

All start from the same parameters and are first held against each other: loss, every gradient, and the loss after some
steps. "Its products" are the matrix products of the step alone: once as BLAS runs them with all threads, once as the
workers do, each its part of the batch with one thread. Attention's are those of blocks of queries with the keys up to
each block's end. Two lines below each table compare the step with what the processor can do: the least products, with
only the keys that each query sees, at the rate that BLAS reaches in large ones.
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import peer_models as peers
from benchmarks.peak import peak_flops
from benchmarks.timing import Contestant, against, agree, as_json, in_turns, installed, machine, milliseconds
from npgpt import GPT, AdamW, GPTConfig
from npgpt.config import preset
from npgpt.data.batch import Batch
from npgpt.inspection.peaks import measured_peaks
from npgpt.models.gpt2_parameters import flops_per_token
from npgpt.optim.schedule import clip_scale
from npgpt.training.threads import n_threads
from npgpt.training.workers import Workers

# case: preset, vocabulary, batch, context, what is compared
CASES: dict[str, tuple[str, int, int, int, tuple[str, ...]]] = {
    "tiny": ("tiny", 65, 12, 64, ("eager", "compiled", "jax")),
    "small": ("small", 65, 8, 256, ("eager", "jax")),
    "gpt2": ("gpt2", 50257, 4, 64, ("eager", "transformers")),
}
BLOCK = 64  # queries that the products of attention take at once
PACKAGES = {"eager": "torch", "compiled": "torch", "jax": "jax", "transformers": "transformers"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="sizes (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant (default: 7)")
    parser.add_argument("--threads", type=int, default=0, help="of every contestant; 0 for all cores (default)")
    parser.add_argument("--json", action="store_true", help="print every time as JSON")


def run(options: argparse.Namespace) -> int:
    threads = n_threads(options.threads)
    where, data = machine([*PACKAGES.values(), "numba"]), {}
    if not options.json:  # each table as soon as it is measured: the whole takes some minutes
        print(f"{where}\n{threads} threads", flush=True)
    for name in options.case:
        title, contestants, skipped = contest(name, threads)
        in_turns(contestants, options.rounds, seconds=0.3)
        own, *others = contestants
        data[name] = as_json(contestants)
        if not options.json:
            print("\n".join([*against(title, own, others), *least_time(name, threads, own), *skipped]), flush=True)
    if options.json:
        print(json.dumps({"machine": where, "threads": threads, "cases": data}, indent=1))
    return 0


def least_time(name: str, threads: int, own: Contestant) -> list[str]:
    """Return in words how long the least products of a step would take at the rate of large ones, and their share."""
    size, V, B, T, _ = CASES[name]
    flops = 3 * flops_per_token(preset(size, vocab_size=V, n_positions=T)) * B * T
    reached, peak = measured_peaks(threads, "float32").flops, peak_flops(threads)
    took = f"{flops / 1e9:.3g} GFLOP in {milliseconds(own.median)}, {flops / own.median / 1e9:.0f} GFLOP/s"
    rates = (
        f"BLAS reaches {reached / 1e9:.0f} GFLOP/s in large products and the processor {peak / 1e9:.0f} in registers"
    )
    shares = (
        f"at these rates they are {flops / reached / own.median:.2f} and {flops / peak / own.median:.2f} of the step"
    )
    return ["", f"The step's least products: {took}.", f"On {threads} threads {rates}: {shares}."]


def contest(name: str, threads: int) -> tuple[str, list[Contestant], list[str]]:
    """Return the title of a case, its contestants, npgpt first, and a line for each peer that is not installed."""
    size, V, B, T, wanted = CASES[name]
    config = preset(size, vocab_size=V, n_positions=T)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, V, (2, B, T))
    start = GPT(config, seed=0)
    loss, grads = start.loss_and_grads(ids, targets)
    own, losses = own_step(config, B, threads), {}
    contestants = [own.contestant(ids, targets)]
    skipped = [f"{PACKAGES[p]} is not installed: {p} is skipped" for p in wanted if not installed(PACKAGES[p])]
    for peer in wanted:
        if not installed(PACKAGES[peer]):
            continue
        for label, step in peer_steps(peer, config, start.params, ids, targets, loss, grads, threads):
            losses[label] = [step(ids, targets) for _ in range(4)]
            contestants.append(Contestant(label, lambda step=step: step(ids, targets)))
    del grads, start
    with own.workers:
        expected = [own(ids, targets) for _ in range(4)]
    for label, found in losses.items():
        agree(label, {"losses": found}, {"losses": expected}, 1e-3)
    contestants += products(config, B, T, threads, min(own.workers.n, B))
    return f"{name}, batch {B} x {T}, {own.workers.n} workers", contestants, skipped


class own_step:  # noqa: N801, used as a function
    """npgpt's step, as its trainer takes it."""

    def __init__(self, config: GPTConfig, batch_size: int, threads: int) -> None:
        self.model = GPT(config, seed=0)
        self.workers = Workers(self.model, batch_size, threads)
        self.optimizer = AdamW(self.model.params, *peers.BETAS, peers.EPS, peers.DECAY, self.model.ops.adamw_update)

    def __call__(self, ids: np.ndarray, targets: np.ndarray) -> float:
        loss, _, norm = self.workers.loss_and_grads([Batch(ids, targets)])
        self.workers.update(self.optimizer, peers.LR, clip_scale(norm, peers.CLIP))
        return loss

    @property
    def plan(self) -> str:
        """How the workers share the threads: groups times members."""
        return "{} x {}".format(*self.workers.split)

    def contestant(self, ids: np.ndarray, targets: np.ndarray) -> Contestant:
        return Contestant("npgpt", lambda: self(ids, targets), lambda: self.workers)


def peer_steps(
    peer: str, config: GPTConfig, params: Any, ids: Any, targets: Any, loss: float, grads: Any, threads: int
) -> list[tuple[str, peers.Step]]:
    """Return a peer's training steps under their labels, after it has been seen to compute the same gradients."""
    if peer == "jax":
        found, jax_grads = peers.jax_grads(config, params, ids, targets)
        agree(peer, {"loss": found} | jax_grads, {"loss": loss} | grads, 1e-4)
        return [("JAX, jit", peers.jax_step(config, params))]
    import torch

    torch.set_num_threads(threads)
    if peer == "transformers":
        model = peers.transformers_loss(peers.transformers_model(config, params))
        found = model(torch.from_numpy(ids), torch.from_numpy(targets)).item()
        agree(peer, {"loss": found}, {"loss": loss}, 1e-5)
        return [("transformers, eager", peers.torch_step(model))]
    model = peers.torch_model(config, params)
    found, torch_grads = peers.torch_grads(model, ids, targets)
    agree(peer, {"loss": found} | torch_grads, {"loss": loss} | grads, 1e-4)
    if peer == "compiled":
        return [("PyTorch, compiled", peers.torch_step(model, compiled=True))]
    steps = [("PyTorch, eager", peers.torch_step(model))]
    if config.vocab_size < 1000:  # on a large model the two are the same, and each has all parameters three times
        other = peers.torch_model(config, params)
        steps.append(("PyTorch, eager, foreach AdamW", peers.torch_step(other, fused=False)))
    return steps


def products(config: GPTConfig, B: int, T: int, threads: int, workers: int) -> list[Contestant]:
    """Return the limit: only the step's matrix products."""

    def limit(n: int) -> Callable[[], AbstractContextManager]:
        return lambda: threadpool_limits(n)

    found = [Contestant("its products, BLAS threads", matrix_products(config, B, T), limit(threads))]
    if workers > 1:
        parts = [matrix_products(config, B * (i + 1) // workers - B * i // workers, T) for i in range(workers)]
        pool = ThreadPoolExecutor(workers)
        found.append(
            Contestant("its products, a part a worker", lambda: list(pool.map(lambda f: f(), parts)), limit(1))
        )
    return found


def matrix_products(config: GPTConfig, B: int, T: int) -> Callable[[], None]:
    """Return a function that does every matrix product of one forward and backward, and nothing else."""
    C, F, H, V, N = config.n_embd, config.mlp_width, config.n_head, config.vocab_size, B * T
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    x, h, qkv, dlogits = normal(N, C), normal(N, F), normal(N, 3 * C), normal(N, V)
    weights = {name: normal(*shape) for name, shape in {"qkv": (C, 3 * C), "att": (C, C), "fc": (C, F)}.items()}
    proj, wte = normal(F, C), normal(V, C)
    dweights = {name: np.empty_like(weight) for name, weight in weights.items()}
    dproj, dwte = np.empty_like(proj), np.empty_like(wte)
    out_c, out_f, out_3c, out_v = (np.empty_like(a) for a in (x, h, qkv, dlogits))
    q, k, v = normal(B, T, 3, H, C // H).transpose(2, 0, 3, 1, 4)
    heads = normal(B, T, H, C // H).transpose(0, 2, 1, 3)
    blocks = [(slice(t, min(t + BLOCK, T)), slice(0, min(t + BLOCK, T))) for t in range(0, T, BLOCK)]
    scores = [np.empty((B, H, rows.stop - rows.start, keys.stop), np.float32) for rows, keys in blocks]

    def attention() -> None:
        for (rows, keys), s in zip(blocks, scores, strict=True):
            np.matmul(q[:, :, rows], k[:, :, keys].swapaxes(-1, -2), out=s)
            np.matmul(s, v[:, :, keys], out=heads[:, :, rows])
            np.matmul(heads[:, :, rows], v[:, :, keys].swapaxes(-1, -2), out=s)
            np.matmul(s.swapaxes(-1, -2), q[:, :, rows], out=heads[:, :, keys])
            np.matmul(s, k[:, :, keys], out=heads[:, :, rows])
            np.matmul(s.swapaxes(-1, -2), q[:, :, rows], out=heads[:, :, keys])

    def call() -> None:
        for _ in range(config.n_layer):
            for a, name, out in ((x, "qkv", out_3c), (x, "att", out_c), (x, "fc", out_f)):
                np.dot(a, weights[name], out=out)
            np.dot(h, proj, out=out_c)
            np.dot(x, proj.T, out=out_f)
            np.dot(h.T, x, out=dproj)
            for dout, name in ((qkv, "qkv"), (x, "att"), (h, "fc")):
                np.dot(dout, weights[name].T, out=out_c)
                np.dot(x.T, dout, out=dweights[name])
            attention()
        np.dot(x, wte.T, out=out_v)
        np.dot(dlogits, wte, out=out_c)
        np.dot(dlogits.T, x, out=dwte)

    return call
