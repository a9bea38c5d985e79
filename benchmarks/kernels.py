"""Each compiled op, forward and backward, beside its definition in NumPy and the op in PyTorch, one thread each."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.timing import Contestant, agree, as_json, in_turns, installed, machine, milliseconds, show, table
from npgpt.ops import FAST, REFERENCE, Ops
from npgpt.support.buffers import Buffers
from npgpt.support.crew import Crew

Arrays = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """An op of npgpt with its arguments, and the same in PyTorch as a function of tensors."""

    op: str
    note: str
    args: Callable[[np.random.Generator], Arrays]
    torch: Callable[..., Any]
    options: tuple[tuple[str, Any], ...] = ()
    slow_definition: bool = False  # too slow to be timed in every round
    rows: int = 0  # how many of the first arguments have an axis of the batch, which threads then share as in training

    @property
    def name(self) -> str:
        return f"{self.op} {self.note}"


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Arrays]:
    return lambda rng: tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def with_ids(high: int, shape: tuple[int, ...], *shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Arrays]:
    return lambda rng: (*normal(*shapes)(rng), rng.integers(0, high, shape))


def embedding_args(rng: np.random.Generator) -> Arrays:
    weight, ids = with_ids(50257, (4, 64), (50257, 768))(rng)
    return ids, weight


def sdpa(qkv: Any, n_head: int) -> Any:
    """Attention as nanoGPT calls it, from the same (B, T, 3C)."""
    from torch.nn.functional import scaled_dot_product_attention

    B, T, C3 = qkv.shape
    q, k, v = (part.view(B, T, n_head, -1).transpose(1, 2) for part in qkv.split(C3 // 3, dim=2))
    return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C3 // 3)


def across(q: Any, kv: Any, n_head: int) -> Any:
    """Cross-attention in PyTorch, from the same (B, T, C) and (B, S, 2C)."""
    from torch.nn.functional import scaled_dot_product_attention

    C = q.shape[2]
    parts = (part.unflatten(2, (n_head, -1)).transpose(1, 2) for part in (q, *kv.split(C, dim=2)))
    return scaled_dot_product_attention(*parts).transpose(1, 2).reshape(q.shape)


def recurrent(gates: int, B: int, T: int, H: int) -> Callable[[np.random.Generator], Arrays]:
    """Return x, the states and the weights of a GRU or LSTM as PyTorch initialises them: of at most 1 / sqrt(H)."""
    shapes = [(gates * H, H), (gates * H, H), (gates * H,), (gates * H,)]
    scale = np.float32(1 / np.sqrt(3 * H))
    states = [(B, H)] * (gates - 2)
    return lambda rng: (*normal((B, T, H), *states)(rng), *(scale * a for a in normal(*shapes)(rng)))


def torch_recurrent(x: Any, *others: Any) -> Any:
    """Return the outputs of what torch.nn.GRU or LSTM calls."""
    import torch

    *states, w_ih, w_hh, b_ih, b_hh = others
    given = [state[None] for state in states]
    function, hx = (torch.gru, given[0]) if len(given) == 1 else (torch.lstm, given)
    return function(x, hx, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, True, False, True)[0]


def kl(logits: Any, teacher: Any) -> Any:
    """The divergence at temperature 2 in PyTorch, averaged over the rows."""
    q, p = (_f().log_softmax(x / 2, dim=-1) for x in (logits, teacher))
    return 4 * _f().kl_div(q, p, reduction="batchmean", log_target=True)


# sixteen tokens of a teacher for each of 768 positions, each with a share of 0.05
KNOWN_IDS = (np.arange(768)[:, None] * 7 + np.arange(16) * 101) % 4096
KNOWN_LOGP = np.full(KNOWN_IDS.shape, np.log(0.05), np.float32)


def kl_topk(logits: Any) -> Any:
    """The divergence from such a teacher in PyTorch, averaged over the rows."""
    import torch

    known = _f().softmax(logits, dim=-1).gather(-1, torch.from_numpy(KNOWN_IDS))
    rest = 0.2 * (np.log(0.2) - (1 - known.sum(-1)).log())
    return (0.05 * (np.log(0.05) - known.log()).sum(-1) + rest).mean()


def torch_functional() -> Any:
    from torch.nn import functional

    return functional


CASES = [
    Case(
        "layernorm", "768 x 128", normal((768, 128), (128,), (128,)), lambda x, w, b: _f().layer_norm(x, w.shape, w, b)
    ),
    Case(
        "layernorm", "256 x 768", normal((256, 768), (768,), (768,)), lambda x, w, b: _f().layer_norm(x, w.shape, w, b)
    ),
    Case("gelu_new", "768 x 512", normal((768, 512)), lambda x: _f().gelu(x, approximate="tanh")),
    Case("gelu", "768 x 512", normal((768, 512)), lambda x: _f().gelu(x)),
    Case(
        "mlp",
        "768 x 128",
        normal((768, 128), (128, 512), (512,), (512, 128), (128,)),
        lambda x, w, b, u, c: _f().gelu(x @ w + b, approximate="tanh") @ u + c,
    ),
    Case("linear", "768 x 128 x 384", normal((768, 128), (128, 384), (384,)), lambda x, w, b: x @ w + b),
    Case("attention", "B12 H4 D32 T64", normal((12, 64, 384)), lambda x: sdpa(x, 4), (("n_head", 4),)),
    Case("attention", "B8 H6 D64 T256", normal((8, 256, 1152)), lambda x: sdpa(x, 6), (("n_head", 6),)),
    Case("attention", "B1 H12 D64 T1024", normal((1, 1024, 2304)), lambda x: sdpa(x, 12), (("n_head", 12),)),
    Case("attention", "B1 H12 D64 T2048", normal((1, 2048, 2304)), lambda x: sdpa(x, 12), (("n_head", 12),)),
    # fewer heads, because the definition needs 1.3 GB for four
    Case("attention", "B1 H4 D64 T4096", normal((1, 4096, 768)), lambda x: sdpa(x, 4), (("n_head", 4),)),
    Case(
        "cross_attention",
        "B12 H4 D32 T64 S64",
        normal((12, 64, 128), (12, 64, 256)),
        lambda q, kv: across(q, kv, 4),
        (("n_head", 4),),
    ),
    Case(
        "cross_attention",
        "B8 H6 D64 T256 S256",
        normal((8, 256, 384), (8, 256, 768)),
        lambda q, kv: across(q, kv, 6),
        (("n_head", 6),),
    ),
    Case("rmsnorm", "768 x 128", normal((768, 128), (128,)), lambda x, w: _f().rms_norm(x, w.shape, w, 1e-6)),
    Case("rmsnorm", "256 x 768", normal((256, 768), (768,)), lambda x, w: _f().rms_norm(x, w.shape, w, 1e-6)),
    Case("cosine", "768 x 128", normal((768, 128), (768, 128)), lambda a, b: _f().cosine_similarity(a, b, dim=-1)),
    Case("kl", "V=4096", normal((768, 4096), (768, 4096)), kl, (("temperature", 2.0),)),
    Case("kl_topk", "V=4096 K=16", normal((768, 4096)), kl_topk, (("ids", KNOWN_IDS), ("logp", KNOWN_LOGP))),
    Case("cross_entropy", "V=65", with_ids(65, (768,), (768, 65)), lambda x, ids: _f().cross_entropy(x, ids)),
    Case("cross_entropy", "V=50257", with_ids(50257, (256,), (256, 50257)), lambda x, ids: _f().cross_entropy(x, ids)),
    Case(
        "linear_cross_entropy",
        "V=50257 C=768",
        with_ids(50257, (256,), (256, 768), (50257, 768)),
        lambda x, w, ids: _f().cross_entropy(x @ w.T, ids),
    ),
    Case("gru", "B12 T64 H128", recurrent(3, 12, 64, 128), torch_recurrent, rows=2),
    Case("lstm", "B12 T64 H128", recurrent(4, 12, 64, 128), torch_recurrent, rows=3),
    Case("embedding", "V=50257 C=768", embedding_args, lambda ids, w: _f().embedding(ids, w), (), True),
]


def _f() -> Any:
    return torch_functional()


def add_options(parser: argparse.ArgumentParser) -> None:
    names = sorted({case.op for case in CASES} | {"adamw"})
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="OP", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and PyTorch (default: 1)")
    parser.add_argument("--json", action="store_true", help="print every time as JSON")


def run(options: argparse.Namespace) -> int:
    has_torch = installed("torch")
    rows, data = [], {}
    for case in [case for case in CASES if case.op in options.only]:
        contestants = contest(case, options.threads, has_torch)
        in_turns(contestants, options.rounds, seconds=0.05)
        rows.append(row(case.name, contestants))
        data[case.name] = as_json(contestants)
    if "adamw" in options.only:
        contestants = adamw(options.threads, has_torch)
        in_turns(contestants, options.rounds, seconds=0.05)
        rows.append(row("adamw, 10.7M parameters", contestants))
        data["adamw"] = as_json(contestants)
    header = ["forward and backward", "npgpt", "definition", "PyTorch", "against definition", "against PyTorch"]
    lines = [machine(["torch", "numba"]), f"{options.threads} thread(s) each", "", *table(header, rows)]
    lines += [] if has_torch else ["torch is not installed: PyTorch is skipped"]
    show(lines, {"machine": lines[0], "threads": options.threads, "cases": data}, options.json)
    return 0


def row(name: str, contestants: list[Contestant]) -> list[str]:
    by_name = {c.name: c for c in contestants}
    own = by_name["npgpt"]
    others = [by_name.get(peer) for peer in ("definition", "PyTorch")]
    return [
        name,
        milliseconds(own.median),
        *(milliseconds(c.median) if c else "" for c in others),
        *(f"{own.median / c.median:.2f}" if c else "" for c in others),
    ]


def contest(case: Case, threads: int, has_torch: bool) -> list[Contestant]:
    """Return the contestants of an op, after their results have been held against each other."""
    rng = np.random.default_rng(0)
    args, options = case.args(rng), dict(case.options)
    out, _ = getattr(REFERENCE, f"{case.op}_forward")(*args, **options)
    dout = rng.standard_normal(np.shape(out), np.float32)
    dout = dout if np.ndim(dout) else np.float32(1.0)

    def both(ops: Ops) -> list[Any]:
        out, cache = getattr(ops, f"{case.op}_forward")(*args, **options)
        grads = getattr(ops, f"{case.op}_backward")(dout, cache)
        return [out, *(grads if isinstance(grads, tuple) else (grads,))]

    expected = dict(enumerate(np.copy(a) for a in both(REFERENCE)))
    agree(f"{case.name}, FAST", dict(enumerate(both(FAST))), expected, 1e-5)
    buffers = Buffers()

    def fast() -> None:
        with buffers:
            both(FAST)

    limit = lambda: threadpool_limits(threads)  # noqa: E731
    own = Contestant("npgpt", fast, limit)
    if case.rows and threads > 1:
        own = in_shares(case, args, dout, expected, threads)
    contestants = [own, Contestant("definition", lambda: both(REFERENCE), limit)]
    if has_torch:
        contestants.append(torch_contestant(case, args, dout, expected, threads))
    return contestants


def in_shares(case: Case, args: Arrays, dout: Any, expected: dict, threads: int) -> Contestant:
    """Return npgpt as training runs it: each thread computes rows of the batch, and gradients of weights are added."""
    shares = np.array_split(np.arange(len(dout)), threads)
    crew, pools = Crew(threads), [Buffers() for _ in shares]
    forward, backward = getattr(FAST, f"{case.op}_forward"), getattr(FAST, f"{case.op}_backward")

    def share(k: int) -> list[Any]:
        rows = slice(shares[k][0], shares[k][-1] + 1)
        with pools[k]:
            out, cache = forward(*(a[rows] for a in args[: case.rows]), *args[case.rows :])
            return [out, *backward(dout[rows], cache)]

    def call() -> list[list[Any]]:
        results = crew.run(share, range(threads))
        for other in results[1:]:
            for grad, more in zip(results[0][1 + case.rows :], other[1 + case.rows :], strict=True):
                grad += more
        return results

    @contextmanager
    def setting() -> Iterator[None]:
        with threadpool_limits(1), crew:
            yield

    with setting():
        results = call()
        whole = [np.concatenate(parts) for parts in list(zip(*results, strict=True))[: 1 + case.rows]]
        found = dict(enumerate([*whole, *results[0][1 + case.rows :]]))
        agree(f"{case.name}, FAST in shares", found, expected, 1e-5)
    return Contestant("npgpt", call, setting)


def torch_contestant(case: Case, args: Arrays, dout: Any, expected: dict, threads: int) -> Contestant:
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.from_numpy(np.array(a)) for a in args]
    wanted = [t.requires_grad_() for t in tensors if t.is_floating_point()]
    seed = torch.from_numpy(np.asarray(dout))

    def call() -> list[Any]:
        for tensor in wanted:
            tensor.grad = None
        out = case.torch(*tensors)
        out.backward(seed)
        return [out, *(tensor.grad for tensor in wanted)]

    found = dict(enumerate(t.detach().numpy() for t in call()))
    agree(f"{case.name}, PyTorch", found, expected, 1e-4)
    return Contestant("PyTorch", call)


def adamw(threads: int, has_torch: bool) -> list[Contestant]:
    """Return one optimizer step over as many parameters as `small` has."""
    rng, n = np.random.default_rng(0), 10_700_000
    param, grad = rng.standard_normal((2, n), np.float32)
    settings = (0.9, 0.99, 1e-8, 0.1)
    contestants, results = [], {}
    for name, ops in (("npgpt", FAST), ("definition", REFERENCE)):
        arrays = [param.copy(), grad, np.zeros_like(param), np.zeros_like(param)]
        contestants.append(
            Contestant(name, lambda ops=ops, arrays=arrays: ops.adamw_update(*arrays, 1, n, 1e-3, *settings))
        )
        contestants[-1].call()
        results[name] = {"param": arrays[0].copy()}
    agree("adamw", results["npgpt"], results["definition"], 1e-6)
    if has_torch:
        import torch

        torch.set_num_threads(threads)
        tensor = torch.from_numpy(param.copy()).requires_grad_()
        tensor.grad = torch.from_numpy(grad)
        optimizer = torch.optim.AdamW([tensor], lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
        optimizer.step()
        agree("adamw, PyTorch", {"param": tensor.detach().numpy()}, results["definition"], 1e-6)
        contestants.append(Contestant("PyTorch", optimizer.step))
    return contestants
