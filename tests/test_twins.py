"""Every kernel beside the layer that it is the twin of: same name, same signature, same numbers, same edges."""

import importlib
import inspect
import os
from pathlib import Path

import numpy as np
import pytest

from npgpt import kernels, layers, optim
from npgpt.cases import CASES, LAYERS
from npgpt.kernels import attention, cross_entropy, kl, kl_topk, linear_cross_entropy
from npgpt.kernels.exp import exp, exp32
from npgpt.ops import FAST, NAMES, REFERENCE
from npgpt.support.buffers import Buffers

FOLDER = Path(kernels.__file__).parent
OPTIMIZERS = {"adamw", "muon"}
WITHOUT_BACKWARD = {"int8"}  # weights of 8 bits are made from others, not trained; tests/test_int8.py has its cases
# what kernels are made of
SHARED = {
    *(
        "__init__",
        "attention_tiles",
        "bf16",
        "block",
        "clock",
        "decode",
        "distilled",
        "exp",
        "gpt",
        "gram",
        "memory",
        "normal",
        "products",
        "recurrence",
        "rows",
        "stream_tiles",
        "streams",
    ),
    "team",
}
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)
COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def public(module):
    """Return the functions of a module that others call: those with the file's name in theirs."""
    stem = module.__name__.rsplit(".", 1)[1]
    return {name: f for name, f in vars(module).items() if name.startswith(stem + "_") and inspect.isfunction(f)}


@pytest.mark.parametrize("name", FILES)
def test_every_kernel_has_a_twin_of_the_same_signature(name):
    functions = public(importlib.import_module(f"npgpt.kernels.{name}"))
    twins = importlib.import_module(f"npgpt.{'optim' if name in OPTIMIZERS else 'layers'}.{name}")
    assert functions
    for function, found in functions.items():
        assert inspect.signature(found) == inspect.signature(getattr(twins, function))
        assert function in kernels.__all__
        assert inspect.getdoc(found)
        assert getattr(FAST, function) is found
    if name in WITHOUT_BACKWARD:
        assert set(functions) == {f"{name}_linear_forward"}
    elif name not in OPTIMIZERS:
        assert set(functions) == {f"{name}_forward", f"{name}_backward"}
        assert name in {case.layer for case in CASES}


def test_fast_holds_the_definition_of_what_has_no_kernel():
    assert set(NAMES) == {*layers.__all__, *(f"{name}_update" for name in OPTIMIZERS)}
    for name in NAMES:
        of_optimizer = (
            importlib.import_module(f"npgpt.optim.{name.split('_')[0]}") if name.endswith("_update") else None
        )
        definition = getattr(of_optimizer or layers, name)
        assert getattr(REFERENCE, name) is definition
        assert getattr(FAST, name) is getattr(kernels, name, definition)


# --- the same numbers: in float32 no further from float64 than twice what the definition is


def as_tuple(grads):
    return grads if isinstance(grads, tuple) else (grads,)


def run(ops, layer, args, options, dtype):
    """Run an op forward and back in a dtype; return its results as float64."""
    args = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
    out, cache = getattr(ops, f"{layer}_forward")(*args, **options())
    dout = np.asarray(np.random.default_rng(2).standard_normal(np.shape(out)), dtype)
    grads = getattr(ops, f"{layer}_backward")(dout if dout.ndim else dout[()], cache)
    found = [g for g in (out, *as_tuple(grads)) if g is not None]
    assert {np.asarray(g).dtype for g in found} == {np.dtype(dtype)}
    return [np.asarray(g, np.float64) for g in found]


def error(found, exact):
    return np.linalg.norm(found - exact) / (np.linalg.norm(exact) or 1)


def assert_as_exact(layer, args, options, *more):
    """Compare the errors of an op and its definition; with more arguments, their means over all these runs."""

    def runs(ops, dtype):
        return list(zip(*[run(ops, layer, each, options, dtype) for each in (args, *more)], strict=True))

    def mean_error(found, exact):
        return np.mean([error(f, e) for f, e in zip(found, exact, strict=True)])

    exact, plain = runs(REFERENCE, np.float64), runs(REFERENCE, np.float32)
    fast, again = runs(FAST, np.float32), runs(FAST, np.float64)
    for e, p, f, a in zip(exact, plain, fast, again, strict=True):
        assert e[0].shape == p[0].shape == f[0].shape == a[0].shape
        # the definition may be exact by luck, where the results are few: a rounding of the result itself is allowed
        assert mean_error(f, e) <= 2 * max(mean_error(p, e), 2.0**-24)
        assert mean_error(a, e) <= 1e-13  # 900 roundings, or one of a number that is 900 times as large


@pytest.mark.parametrize("case", LAYERS, ids=[case.name for case in LAYERS])
def test_float32_is_as_exact_as_the_definitions(case):
    # states are so few that their errors differ by chance: the means over these many draws do so less
    draws = 16 if case.layer in ("gru", "lstm") else 1
    args, *more = [case.args(np.random.default_rng(1 + i)) for i in range(draws)]
    assert_as_exact(case.layer, args, case.options, *more)


def normal(*shape, scale=1.0, offset=0.0):
    return offset + scale * np.random.default_rng(sum(shape)).standard_normal(shape)


def targets(V, *shape):
    ids = np.random.default_rng(3).integers(0, V, shape)
    ids[..., 0] = -100
    return ids


def starts(B, T, share=0.03):
    """Return where the texts of rows begin: each position begins another with this probability."""
    begins = np.random.default_rng(B + T).random((B, T)) < share
    return np.maximum.accumulate(np.where(begins, np.arange(T), 0), axis=1)


def recurrent(gates, B, T, n_in, H, scale=1.0):
    states = [normal(B, H)] * (gates - 2)
    weights = [normal(*shape, scale=scale) for shape in ((gates * H, n_in), (gates * H, H), (gates * H,))]
    return normal(B, T, n_in), *states, *weights, normal(gates * H, 1)[:, 0]


def known(V, N, K):
    """Return the K likeliest tokens of a random teacher."""
    logp = np.log(np.random.default_rng(V).dirichlet(np.full(V, 0.02), N) + 1e-9)
    ids = np.argsort(-logp, axis=-1)[:, :K]
    return {"ids": ids, "logp": np.take_along_axis(logp, ids, -1)}


# the sizes of real models, one more and one less than a vector or a block, a single one, large offsets and scores
SIZES = {
    "layernorm 768": ("layernorm", lambda: (normal(2, 63, 768, offset=3), normal(768), normal(768)), {}),
    "layernorm C=1": ("layernorm", lambda: (normal(5, 1), normal(1), normal(1)), {}),
    "layernorm far from zero": ("layernorm", lambda: (normal(9, 33, offset=300), normal(33), normal(33)), {}),
    "gelu_new far out": ("gelu_new", lambda: (normal(17, 31, scale=6),), {}),
    "gelu far out": ("gelu", lambda: (normal(17, 31, scale=6),), {}),
    "linear 768": ("linear", lambda: (normal(65, 129), normal(129, 257), normal(257)), {}),
    "mlp one row": ("mlp", lambda: (normal(1, 17), normal(17, 67), normal(67), normal(67, 17), normal(17)), {}),
    "mlp": ("mlp", lambda: (normal(33, 17), normal(17, 67), normal(67), normal(67, 17), normal(17)), {}),
    "causal_softmax 65": ("causal_softmax", lambda: (normal(3, 65, 65, scale=9),), {}),
    "attention T=1": ("attention", lambda: (normal(1, 1, 3 * 64),), {"n_head": 1}),
    "attention T=63": ("attention", lambda: (normal(2, 63, 3 * 24, scale=3),), {"n_head": 3}),
    "attention T=128": ("attention", lambda: (normal(1, 128, 3 * 8),), {"n_head": 2}),
    "attention T=129": ("attention", lambda: (normal(2, 129, 3 * 10, scale=2),), {"n_head": 2}),
    "attention T=300": ("attention", lambda: (normal(1, 300, 3 * 6, scale=2),), {"n_head": 1}),
    "packed T=127": ("attention", lambda: (normal(2, 127, 3 * 8, scale=2),), {"n_head": 2, "starts": starts(2, 127)}),
    "packed T=129": ("attention", lambda: (normal(2, 129, 3 * 8, scale=2),), {"n_head": 2, "starts": starts(2, 129)}),
    "packed T=300": ("attention", lambda: (normal(2, 300, 3 * 6, scale=2),), {"n_head": 1, "starts": starts(2, 300)}),
    "cross_attention T=1": (
        "cross_attention",
        lambda: (normal(5, 1, 24), normal(5, 63, 48, scale=2)),
        {"n_head": 3, "lengths": np.array([63, 1, 0, 31, 62])},
    ),
    "cross_attention T=33": (
        "cross_attention",
        lambda: (normal(2, 33, 64, scale=2), normal(2, 17, 128)),
        {"n_head": 1, "lengths": np.array([17, 16])},
    ),
    "cross_attention S=300": ("cross_attention", lambda: (normal(2, 65, 10), normal(2, 300, 20)), {"n_head": 2}),
    "cross_attention far out": (
        "cross_attention",
        lambda: (normal(2, 7, 6, scale=9), normal(2, 9, 12, scale=9)),
        {"n_head": 2},
    ),
    "rmsnorm 768": ("rmsnorm", lambda: (normal(2, 63, 768, offset=3), normal(768)), {}),
    "rmsnorm far from zero": ("rmsnorm", lambda: (normal(9, 33, offset=300), normal(33)), {}),
    "cross_entropy 513": ("cross_entropy", lambda: (normal(7, 513, scale=5), targets(513, 7)), {}),
    "cross_entropy far from zero": ("cross_entropy", lambda: (normal(7, 33, offset=500), targets(33, 7)), {}),
    "cross_entropy 50257": ("cross_entropy", lambda: (normal(3, 50257, scale=3), targets(50257, 3)), {}),
    "head 50257": ("linear_cross_entropy", lambda: (normal(7, 33), normal(50257, 33), targets(50257, 7)), {}),
    "head": ("linear_cross_entropy", lambda: (normal(2, 9, 33), normal(65, 33), targets(65, 2, 9)), {}),
    "gru 128": ("gru", lambda: recurrent(3, 5, 17, 128, 128, 0.1), {}),
    "gru of weights of 0.1": ("gru", lambda: recurrent(3, 3, 9, 31, 33, 0.1), {"lengths": np.array([9, 2, 5])}),
    "gru saturated": ("gru", lambda: recurrent(3, 2, 3, 7, 5, 20), {"reverse": True}),
    "lstm 128": ("lstm", lambda: recurrent(4, 5, 17, 128, 128, 0.1), {}),
    "lstm of weights of 0.1": ("lstm", lambda: recurrent(4, 3, 9, 31, 33, 0.1), {"lengths": np.array([9, 2, 5])}),
    "lstm saturated": ("lstm", lambda: recurrent(4, 2, 3, 7, 5, 20), {"reverse": True}),
    "smoothed 50257": ("cross_entropy", lambda: (normal(3, 50257), targets(50257, 3)), {"label_smoothing": 0.1}),
    "cosine 768": ("cosine", lambda: (normal(2, 7, 768, offset=0.5), normal(2, 7, 768)), {}),
    "cosine C=1": ("cosine", lambda: (normal(5, 1), normal(5, 1, scale=3)), {"eps": 0.5}),
    "cosine nearly equal": ("cosine", lambda: (normal(9, 33), normal(9, 33) + normal(9, 33, 1)[..., 0] / 9), {}),
    "kl 513": ("kl", lambda: (normal(7, 513, scale=5), normal(513, 7, scale=5).T), {"temperature": 2.0}),
    "kl far from zero": ("kl", lambda: (normal(7, 33, offset=500), normal(33, 7, offset=-300).T), {}),
    "kl V=1": ("kl", lambda: (normal(3, 1), normal(1, 3).T), {}),
    "kl 50257": ("kl", lambda: (normal(3, 50257), normal(50257, 3).T), {"targets": targets(9, 3)}),
    "kl_topk 513": ("kl_topk", lambda: (normal(7, 513, scale=5),), known(513, 7, 8)),
    "kl_topk 50257": ("kl_topk", lambda: (normal(5, 50257),), known(50257, 5, 64) | {"targets": targets(9, 5)}),
    "kl_topk far from zero": ("kl_topk", lambda: (normal(7, 33, offset=500),), known(33, 7, 5) | {"temperature": 2.0}),
    "embedding": ("embedding", lambda: (targets(9, 3, 40).clip(0), normal(9, 5)), {}),
}
# In plain Python they would take minutes, or add up 512 numbers one by one, less exactly than in the lanes of a vector
LONG = ("T=129", " 128", "T=300", "S=300", "T=127", "T=128", "768", "50257", "513")


@pytest.mark.parametrize("size", [s for s in SIZES if COMPILED or not s.endswith(LONG)])
def test_float32_is_as_exact_as_the_definitions_at_other_sizes(size):
    layer, args, options = SIZES[size]
    assert_as_exact(layer, args(), lambda: options)


def in_tiles(monkeypatch, queries, keys, BLOCK):
    """Let attention have tiles of this size, and keep the weights of contexts of up to BLOCK."""
    for name, size in (("QUERIES", queries), ("KEYS", keys), ("BLOCK", BLOCK)):
        monkeypatch.setattr(attention, name, size)


@pytest.mark.parametrize(
    ("queries", "keys", "BLOCK"),  # BLOCK 7 keeps the weights, and 6 does not
    [(1, 1, 6), (2, 3, 6), (3, 2, 6), (4, 4, 6), (7, 1, 6), (1, 7, 6), (7, 7, 6), (1, 7, 7), (3, 7, 7), (7, 7, 7)],
)
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(
    "starts",
    [
        None,
        [[0, 0, 2, 2, 2, 5, 5], [0, 1, 2, 3, 3, 3, 3]],
        [[0] * 3 + [3] * 4] * 2,
        [[0, 1, 2, 3, 3, 0, 0]] * 2,  # the last queries see keys that those before them do not
    ],
)
def test_attention_in_any_tiles(monkeypatch, queries, keys, BLOCK, p, starts):
    in_tiles(monkeypatch, queries, keys, BLOCK)
    starts = starts and np.array(starts)
    rng = np.random.default_rng
    assert_as_exact("attention", (normal(2, 7, 27),), lambda: {"n_head": 3, "p": p, "rng": rng(5), "starts": starts})


@pytest.mark.skipif(COMPILED, reason="a compiled kernel has its chunk compiled in")
@pytest.mark.parametrize("chunk", [1, 3, 7, 8])
def test_cross_entropy_in_any_chunks(monkeypatch, chunk):
    for module in (cross_entropy, kl, kl_topk, linear_cross_entropy):
        monkeypatch.setattr(module, "CHUNK", chunk)
    # rows enough that the mean's rounding errors are alike from chunk to chunk
    assert_as_exact("cross_entropy", (normal(31, 7), targets(7, 31)), dict)
    assert_as_exact("linear_cross_entropy", (normal(31, 5), normal(7, 5), targets(7, 31)), dict)
    assert_as_exact("kl", (normal(31, 7), normal(7, 31).T), dict)
    assert_as_exact("kl_topk", (normal(31, 7),), lambda: known(7, 31, 2))


def test_adamw_is_as_exact_as_the_definition():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(1001), 1e-3 * rng.standard_normal(1001), rng.standard_normal(1001), rng.random(1001)]
    found = {}
    for name, update, dtype in (
        ("exact", optim.adamw.adamw_update, np.float64),
        ("plain", optim.adamw.adamw_update, np.float32),
        ("fast", kernels.adamw_update, np.float32),
        ("again", kernels.adamw_update, np.float64),
    ):
        param, grad, *averages = (a.astype(dtype) for a in arrays)
        before = grad.copy()
        for step in (1, 2, 40):
            update(param, grad, *averages, step, 700, 1e-2, 0.9, 0.99, 1e-8, 0.1, 0.7)
        np.testing.assert_array_equal(grad, before)
        assert param.dtype == averages[0].dtype == averages[1].dtype == dtype
        found[name] = [a.astype(np.float64) for a in (param, *averages)]
    for exact, plain, fast, again in zip(*found.values(), strict=True):
        assert error(fast, exact) <= 2 * max(error(plain, exact), 2.0**-24)
        assert error(again, exact) <= 1e-14


# --- NaN and infinity stay visible


@pytest.mark.parametrize("case", LAYERS, ids=[case.name for case in LAYERS])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, on infinity minus infinity
def test_what_is_not_finite_comes_out_where_the_definition_has_it(case, value):
    for dtype in (np.float32, np.float64):
        args = [a.copy() if isinstance(a, np.ndarray) else a for a in case.args(np.random.default_rng(1))]
        first = next(a for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f")
        first.flat[first.size // 2] = value
        plain = run(REFERENCE, case.layer, args, case.options, dtype)
        fast = run(FAST, case.layer, args, case.options, dtype)
        roundings = 900 * np.finfo(dtype).eps  # as in assert_as_exact, here of each element
        for p, f in zip(plain, fast, strict=True):
            # no number where the definition has none; where both have one, it is the same up to roundings
            assert not (np.isfinite(f) & ~np.isfinite(p)).any()
            both = np.isfinite(f) & np.isfinite(p)
            np.testing.assert_allclose(f[both], p[both], rtol=roundings, atol=roundings)


def test_exp_is_right_to_two_units_and_at_its_ends():
    for x in [*np.linspace(-87, 88, 4001), 0.0, 1e-30, -1e-30]:
        x = np.float32(x)
        assert abs(float(exp32(x)) / np.exp(np.float64(x)) - 1) < 2 * 2.0**-23
    for x, want in [(np.nan, np.nan), (np.inf, np.inf), (-np.inf, 0), (-88, 0), (100, np.inf), (1e30, np.inf)]:
        np.testing.assert_equal(float(exp32(np.float32(x))), want)
    assert exp(np.float64(1)) == np.exp(1.0)
    assert exp(np.float32(1)) == exp32(np.float32(1))


# --- memory


@pytest.mark.parametrize("case", LAYERS, ids=[case.name for case in LAYERS])
def test_a_second_run_in_buffers_needs_no_more_memory_and_gives_the_same(case):
    args = [
        a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
        for a in case.args(np.random.default_rng(1))
    ]

    def once():
        out, cache = getattr(FAST, f"{case.layer}_forward")(*args, **case.options())
        dout = np.asarray(np.random.default_rng(2).standard_normal(np.shape(out)), np.float32)
        grads = as_tuple(getattr(FAST, f"{case.layer}_backward")(dout if dout.ndim else dout[()], cache))
        return [np.copy(g) for g in (out, *grads) if g is not None]

    expected = once()
    with Buffers() as buffers:
        for _ in range(3):
            for found, want in zip(once(), expected, strict=True):
                np.testing.assert_array_equal(found, want)
            nbytes = buffers.nbytes
        once()
        assert buffers.nbytes == nbytes


def test_attention_keeps_nothing_of_the_size_of_t_squared():
    T, H = attention.BLOCK + 8, 2
    if COMPILED:
        with Buffers() as buffers:
            sizes = []
            for t in (T, 2 * T, 4 * T):
                buffers.arrays.clear()
                _, cache = FAST.attention_forward(normal(1, t, 3 * 4 * H).astype(np.float32), H)
                sizes.append(sum(a.nbytes for a in cache if isinstance(a, np.ndarray)))
        assert sizes[1] == 2 * sizes[0]
        assert sizes[2] == 4 * sizes[0]


def test_a_dtype_without_kernels_is_refused():
    with pytest.raises(TypeError, match="float32 or float64, got complex128"):
        FAST.linear_forward(np.ones((2, 3), complex), np.ones((3, 2)), None)


@pytest.mark.parametrize(
    "layer",
    ["causal_softmax", "cross_entropy", "linear_cross_entropy", "embedding", "attention", "cross_attention"],
)
def test_the_same_mistakes_are_refused_in_the_same_words(layer):
    wrong = {
        "causal_softmax": [
            (normal(3, 2),),
            (normal(2, 3), np.array([0, 3])),
            (normal(2, 3), np.array([-1, 0])),
            (normal(4, 2, 3), np.array([0, 1, 2])),
        ],
        "cross_entropy": [(normal(2, 3), np.array([0, 3])), (normal(2, 3), np.array([-1, 0]))],
        "linear_cross_entropy": [(normal(2, 4), normal(3, 4), np.array([0, 3]))],
        "embedding": [(np.array([0, 4]), normal(4, 2)), (np.array([-1]), normal(4, 2))],
        "cross_attention": [
            (normal(1, 2, 6), normal(1, 3, 12), 4),
            (normal(1, 2, 6), normal(1, 3, 11), 3),
            (normal(1, 2, 6), normal(2, 3, 12), 3),
            (normal(1, 2, 6), normal(1, 12), 3),
            (normal(1, 2, 6), normal(1, 3, 12), 3, np.array([4])),
            (normal(1, 2, 6), normal(1, 3, 12), 3, np.array([3]), 1.0, np.random.default_rng(0)),
        ],
        "attention": [
            (normal(1, 2, 18), 4),
            (normal(1, 2, 18), 3, 1.0, np.random.default_rng(0)),
            (normal(2, 2, 18), 3, 0.0, None, np.array([0, 1])),
            (normal(2, 2, 18), 3, 0.0, None, np.array([[0, 1], [0, 2]])),
            (normal(2, 2, 18), 3, 0.0, None, np.array([[0, -1], [0, 0]])),
        ],
    }
    for args in wrong[layer]:
        with pytest.raises(ValueError) as plain:  # noqa: PT011, the text is compared below
            getattr(REFERENCE, f"{layer}_forward")(*args)
        with pytest.raises(ValueError) as fast:  # noqa: PT011
            getattr(FAST, f"{layer}_forward")(*args)
        assert str(fast.value) == str(plain.value)


@pytest.mark.parametrize("ops", [REFERENCE, FAST], ids=["reference", "fast"])
def test_starts_that_are_no_integers_are_refused(ops):
    with pytest.raises(TypeError, match="starts must be integers, got float64"):
        ops.attention_forward(normal(1, 2, 18), 3, starts=np.zeros((1, 2)))
    with pytest.raises(TypeError, match="starts must be integers, got bool"):
        ops.causal_softmax_forward(normal(1, 2, 2), np.zeros((1, 2), bool))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int32", "uint64"])
@pytest.mark.parametrize("ops", [REFERENCE, FAST], ids=["reference", "fast"])
def test_starts_of_any_integer_dtype(ops, dtype):
    qkv, where = normal(2, 7, 18), starts(2, 7, 0.4)
    assert len(np.unique(where)) > 3
    np.testing.assert_array_equal(
        ops.attention_forward(qkv, 3, starts=where.astype(dtype))[0], ops.attention_forward(qkv, 3, starts=where)[0]
    )


@pytest.mark.parametrize("BLOCK", [4, 128])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_ranges_of_pairs_compute_their_part_and_write_nothing_else(monkeypatch, p, BLOCK):
    B, T, H, D = 2, 5, 3, 4
    qkv, dout = normal(B * T, 3 * H * D), normal(B * T, H * D)
    mask = attention.dropout_mask((B, H, T, T), p, np.random.default_rng(0))
    options = T, H, np.tile([0, 0, 2, 2, 4], B), mask, p
    scratch, sizes = np.empty(attention.scratch_size(T, D)), (attention.QUERIES, attention.KEYS)

    def results(ranges):
        written = [np.full(shape, 7.0) for shape in (dout.shape, (B * H, T, 2), (B * H * (T <= BLOCK), T, T))]
        dqkv = np.full_like(qkv, 7)
        for first, last in ranges:
            attention.attend(qkv, *options, first, last, *written, scratch, *sizes)
        for first, last in reversed(ranges):
            attention.attend_backward(dout, qkv, written[0], *options, first, last, *written[1:], dqkv, scratch, *sizes)
        return *written, dqkv

    whole = results([(0, 6)])
    for ranges in ([(0, 2), (2, 6)], [(5, 6), (3, 3), (0, 5)]):
        for found, want in zip(results(ranges), whole, strict=True):
            np.testing.assert_array_equal(found, want)
    out, stats, kept, dqkv = results([(1, 3)])  # both heads of the first sequence but one
    channels = np.r_[D : 3 * D]
    np.testing.assert_array_equal(out[:T, channels], whole[0][:T, channels])
    for found, where in (
        (out, (slice(T), channels)),
        (stats, slice(1, 3)),
        (kept, slice(1, 3)),
        (dqkv, (slice(T), np.concatenate([channels + part * H * D for part in range(3)]))),
    ):
        found[where] = 7
        assert (found == 7).all()


@pytest.mark.parametrize("T", [1, 5, 31, 63, 129, 300] if COMPILED else [1, 5])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_attention_needs_no_more_scratch_memory_than_it_says(monkeypatch, T, p):
    if not COMPILED:
        in_tiles(monkeypatch, 3, 4, 4)
    D, sizes = 3, (attention.QUERIES, attention.KEYS)
    mask = attention.dropout_mask((1, 1, T, T), p, np.random.default_rng(0))
    options = T, 1, np.empty(0, np.int64), mask, p, 0, 1
    out, stats, kept = np.empty((T, D)), np.empty((1, T, 2)), np.empty((0, T, T))
    qkv, size = normal(T, 3 * D), attention.scratch_size(T, D)
    memory = np.full(size + 1000, 7.0)
    attention.attend(qkv, *options, out, stats, kept, memory[:size], *sizes)
    attention.attend_backward(out, qkv, out, *options, stats, kept, np.empty_like(qkv), memory[:size], *sizes)
    assert (memory[size:] == 7).all()


def test_scratch_memory_of_attention_grows_with_t():
    assert attention.scratch_size(8000, 64) < 8 * attention.scratch_size(1000, 64)
