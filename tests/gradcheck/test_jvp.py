"""check_jvp: right forward-mode derivatives pass, and the slips that people make in them do not."""

import numpy as np
import pytest

from npgpt.gradcheck import check_jvp

RNG = np.random.default_rng(61)
X, Y, W, B = (RNG.standard_normal(shape) for shape in ((4, 3), (4, 3), (3, 5), (5,)))
SQUARE = RNG.standard_normal((3, 3)) + 3 * np.eye(3)
IDS = np.array([4, 1, 4, 2])


# --- layers, each with its jvp, its backward and the slips of the jvp


def dense(x, weight, bias):
    y = np.tanh(x @ weight + bias)
    return y, (x, weight, y)


def dense_jvp(tangents, cache, slip=""):
    (dx, dweight, dbias), (x, weight, y) = tangents, cache
    if slip == "only the input's tangent":
        dweight, dbias = 0 * dweight, 0 * dbias
    if slip == "the bias's tangent is forgotten":
        dbias = 0 * dbias
    dz = dx @ weight + x @ dweight + dbias
    if slip == "a term of second order":
        dz = dz + dx @ dweight
    if slip == "no derivative of tanh":
        return dz
    return (1 - (y if slip == "y for its square" else y * y)) * dz


def dense_backward(dout, cache):
    x, weight, y = cache
    dz = dout * (1 - y * y)
    return dz @ weight.T, x.T @ dz, dz.sum(axis=0)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p


def softmax_jvp(v, p, slip=""):
    if slip == "only the diagonal":
        return p * (1 - p) * v
    if slip == "the vjp's formula without the inner product":
        return p * v
    axis = 0 if slip == "summed over the wrong axis" else -1
    mean = (p * v).sum(axis=axis, keepdims=True)
    return p * (v + mean) if slip == "a sign" else p * (v - mean)


def softmax_backward(dout, p):
    return p * (dout - (p * dout).sum(axis=-1, keepdims=True))


def layernorm(x, weight):
    xhat = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((xhat * xhat).mean(axis=-1, keepdims=True) + 1e-5)
    return xhat * rstd * weight, (xhat * rstd, rstd, weight)


def layernorm_jvp(tangents, cache, slip=""):
    (dx, dweight), (xhat, rstd, weight) = tangents, cache
    centred = dx if slip == "the mean does not move" else dx - dx.mean(axis=-1, keepdims=True)
    drstd = 0 if slip == "the root does not move" else (xhat * dx).mean(axis=-1, keepdims=True)
    if slip == "sum for mean":
        drstd = drstd * xhat.shape[-1]
    dxhat = rstd * (centred - xhat * drstd)
    return dxhat * weight + (dweight if slip == "the weight's tangent is not times xhat" else xhat * dweight)


def layernorm_backward(dout, cache):
    xhat, rstd, weight = cache
    d = dout * weight
    mean, projected = d.mean(axis=-1, keepdims=True), (d * xhat).mean(axis=-1, keepdims=True)
    return rstd * (d - mean - xhat * projected), (dout * xhat).sum(axis=0)


def embedding(ids, table):
    return table[ids], ids


def embedding_jvp(v, ids, slip=""):
    return v[np.unique(ids)] if slip == "repeats are dropped" else v[ids[::-1]] if slip == "reversed" else v[ids]


def embedding_backward(dout, ids):
    dtable = np.zeros((6, 2))
    np.add.at(dtable, ids, dout)
    return dtable


def inverse(a):
    out = np.linalg.inv(a)
    return out, out


def inverse_jvp(v, out, slip=""):
    if slip == "a sign":
        return out @ v @ out
    return -(out.T @ v @ out.T) if slip == "transposed, as in the backward" else -(out @ v @ out)


def inverse_backward(dout, out):
    return -(out.T @ dout @ out.T)


def recurrent(x, weight):
    h, states = np.zeros(weight.shape[0]), []
    for row in x:
        h = np.tanh(row + h @ weight)
        states.append(h)
    return {"states": np.array(states), "last": h}, (states, weight)


def recurrent_jvp(tangents, cache, slip=""):
    (dx, dweight), (states, weight) = tangents, cache
    dh, found, before = np.zeros(weight.shape[0]), [], np.zeros(weight.shape[0])
    for row, h in zip(dx, states, strict=True):
        carried = 0 * dh if slip == "the state's tangent is not carried" else dh @ weight
        dh = (1 - h * h) * (row + carried + (h if slip == "the next state" else before) @ dweight)
        before = h
        found.append(dh)
    return {"states": np.array(found), "last": found[0] if slip == "the first for the last" else dh}


def recurrent_backward(dout, cache):
    states, weight = cache
    dx, dweight, carried = [], np.zeros(weight.shape), dout["last"]
    for t in reversed(range(len(states))):
        dz = (carried + dout["states"][t]) * (1 - states[t] ** 2)
        dx.append(dz)
        dweight += np.outer(states[t - 1] if t else 0 * dz, dz)
        carried = dz @ weight.T
    return np.array(dx[::-1]), dweight


def mlp(x, params):
    h = np.maximum(x @ params["w"][0], 0)
    return (h @ params["w"][1]).sum(), (x, params, h)


def mlp_jvp(tangents, cache, slip=""):
    (dx, dparams), (x, params, h) = tangents, cache
    dh = (dx @ params["w"][0] + x @ dparams["w"][0]) * (1 if slip == "no mask" else h > 0)
    second = 0 * h @ params["w"][1] if slip == "the last weight's tangent is forgotten" else h @ dparams["w"][1]
    return (dh @ params["w"][1] + second).sum()


def mlp_backward(dout, cache):
    x, params, h = cache
    dy = np.full((len(x), params["w"][1].shape[1]), dout)
    dh = (dy @ params["w"][1].T) * (h > 0)
    return dh @ params["w"][0].T, {"w": (x.T @ dh, h.T @ dy), "heads": None}


def distance(x, y):
    d = np.sqrt(((x - y) ** 2).sum(axis=-1))
    return d, (x, y, d)


def distance_jvp(tangents, cache, slip=""):
    (dx, dy), (x, y, d) = tangents, cache
    difference = dx + dy if slip == "a sign" else dx - dy
    inner = ((x - y) * difference).sum(axis=-1)
    return 2 * inner if slip == "no chain through the root" else inner / d


def distance_backward(dout, cache):
    x, y, d = cache
    dx = (dout / d)[:, None] * (x - y)
    return dx, -dx


PARAMS = {"w": (W, RNG.standard_normal((5, 2))), "heads": 2}
LAYERS = {
    "dense": (dense, dense_jvp, dense_backward, (X, W, B)),
    "softmax": (softmax, softmax_jvp, softmax_backward, (X,)),
    "layernorm": (layernorm, layernorm_jvp, layernorm_backward, (X, 1 + 0.3 * X[0])),
    "embedding": (embedding, embedding_jvp, embedding_backward, (IDS, RNG.standard_normal((6, 2)))),
    "inverse": (inverse, inverse_jvp, inverse_backward, (SQUARE,)),
    "recurrent": (recurrent, recurrent_jvp, recurrent_backward, (X, 0.3 * SQUARE)),
    "mlp": (mlp, mlp_jvp, mlp_backward, (X, PARAMS)),
    "distance": (distance, distance_jvp, distance_backward, (X, Y)),
}
SLIPS = [
    ("dense", "only the input's tangent"),
    ("dense", "the bias's tangent is forgotten"),
    ("dense", "a term of second order"),
    ("dense", "no derivative of tanh"),
    ("dense", "y for its square"),
    ("softmax", "only the diagonal"),
    ("softmax", "the vjp's formula without the inner product"),
    ("softmax", "summed over the wrong axis"),
    ("softmax", "a sign"),
    ("layernorm", "the mean does not move"),
    ("layernorm", "the root does not move"),
    ("layernorm", "sum for mean"),
    ("layernorm", "the weight's tangent is not times xhat"),
    ("embedding", "repeats are dropped"),
    ("embedding", "reversed"),
    ("inverse", "a sign"),
    ("inverse", "transposed, as in the backward"),
    ("recurrent", "the state's tangent is not carried"),
    ("recurrent", "the next state"),
    ("recurrent", "the first for the last"),
    ("mlp", "no mask"),
    ("mlp", "the last weight's tangent is forgotten"),
    ("distance", "a sign"),
    ("distance", "no chain through the root"),
]


@pytest.mark.parametrize("mode", ["auto", "directions"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_right_jvp_passes(name, mode):
    forward, jvp, backward, args = LAYERS[name]
    report = check_jvp(forward, jvp, *args, backward=backward, mode=mode)
    assert report, report
    assert report.relative_error < 1e-9


@pytest.mark.parametrize("name", LAYERS)
def test_a_right_jvp_passes_in_float32(name):
    forward, jvp, backward, args = LAYERS[name]
    report = check_jvp(forward, jvp, *args, backward=backward, dtype=np.float32)
    assert report, report


@pytest.mark.big
@pytest.mark.parametrize(("name", "slip"), SLIPS)
def test_a_slip_fails_against_differences_and_against_the_backward(name, slip):
    forward, jvp, backward, args = LAYERS[name]

    def slipped(tangents, cache):
        return jvp(tangents, cache, slip)

    assert check_jvp(forward, slipped, *args).verdict == "fail"
    assert check_jvp(forward, slipped, *args, dtype=np.float32, mode="directions").verdict == "fail"
    # without a fitting shape there are no inner products; a term of second order vanishes along one argument alone
    if slip not in ("repeats are dropped", "a term of second order"):
        found = check_jvp(forward, slipped, *args, backward=backward, mode="directions").arguments
        assert "fail" in {row.verdict for row in found if row.name.endswith("against backward")}


def test_the_argument_whose_tangent_is_wrong_is_named():
    report = check_jvp(dense, lambda v, c: dense_jvp(v, c, "the bias's tangent is forgotten"), X, W, B)
    assert {row.name: row.verdict for row in report.arguments} == {"x": "pass", "weight": "pass", "bias": "fail"}
    assert report.labels == ("jvp", "numeric")


# --- a backward that does not belong to the jvp


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("x against backward", lambda dx, dw, db: (1.001 * dx, dw, db)),
        ("weight against backward", lambda dx, dw, db: (dx, dw[::-1], db)),
        ("bias against backward", lambda dx, dw, db: (dx, dw, db.mean() + 0 * db)),
        ("bias against backward", lambda dx, dw, db: (dx, dw, None)),
        ("weight against backward", lambda dx, dw, db: (dx, dw.T, db)),
    ],
)
def test_a_wrong_backward_fails_the_dot_test_alone(row, wrong):
    report = check_jvp(dense, dense_jvp, X, W, B, backward=lambda dout, cache: wrong(*dense_backward(dout, cache)))
    assert [found.name for found in report.arguments if found.verdict != "pass"] == [row]
    assert report.verdict == "fail"
    assert report.labels == ("jvp", "reference")


def test_the_dot_test_needs_no_differences():
    """Beside 1e12 differences say nothing, and the inner products still agree to the last digits."""
    forward = lambda x: (1e12 + np.abs(x) ** 3, x)  # noqa: E731, one expression a line to be read side by side
    jvp = lambda v, x: 3 * v * x * np.abs(x)  # noqa: E731
    report = check_jvp(forward, jvp, X, backward=jvp)
    assert [row.verdict for row in report.arguments] == ["inconclusive", "pass"]
    assert report.verdict == "inconclusive"
    wrong = check_jvp(forward, jvp, X, backward=lambda dout, x: 3.003 * dout * x * np.abs(x))
    assert wrong.arguments[1].verdict == "fail"


# --- what a jvp must keep to


def square(x):
    return x * x, x


def writes(v, x):
    v *= 2
    v *= x
    return v


def into_the_cache(v, x):
    x *= 2
    return x * v


class Stateful:
    def forward(self, x):
        self.x = x.copy()
        return x * x, None

    def jvp(self, v, cache):
        return 2 * self.x * v


BUFFER = np.empty(X.shape)
STATE = Stateful()
CONTRACT = {
    "writes into the tangents": (square, writes),
    "writes into the arguments of forward": (square, into_the_cache),
    "keeps state outside the cache": (STATE.forward, STATE.jvp),
    "changes the tangents that an earlier one": (square, lambda v, x: np.multiply(2 * x, v, out=BUFFER)),
    "not for large ones": (square, lambda v, x: 2 * x * np.clip(v, -50, 50)),
    "not for small ones": (square, lambda v, x: 2 * x * np.where(np.abs(v) < 1e-6, 0, v)),
    "of zero tangents is not zero": (square, lambda v, x: 2 * x * v + 1e-3),
    "jvp is not linear": (square, lambda v, x: 2 * x * np.abs(v)),
    "is float32, where": (square, lambda v, x: np.float32(2 * x * v)),
    "int64, not floats": (lambda x: (np.round(x), x), lambda v, x: np.zeros(x.shape, np.int64)),
}


@pytest.mark.parametrize("sentence", CONTRACT)
def test_a_broken_contract_fails(sentence):
    report = check_jvp(*CONTRACT[sentence], X)
    assert report.verdict == "fail"
    assert any(sentence in found for found in report.contract), report
    assert not any("backward" in found for found in report.contract)


def test_a_jvp_that_must_be_linear_in_all_tangents_together():
    def skips(tangents, cache):  # a shortcut for tangents of zero that is not one
        dx, dy = tangents
        return dx + dy if np.any(dx) and np.any(dy) else 2 * dx + 2 * dy

    report = check_jvp(lambda x, y: (2 * x + 2 * y, None), skips, X, Y)
    assert "jvp of all tangents together is not the sum of that of each" in report.contract


# --- what cannot be compared


@pytest.mark.parametrize(
    ("jvp", "reason"),
    [
        (lambda v, x: None, "jvp returned None"),
        (lambda v, x: (2 * x * v).sum(axis=0), "jvp returned the shape (3,) where out has (4, 3)"),
        (lambda v, x: 2j * x * v, "jvp returned complex128 for out, not floats"),
        (lambda v, x: x.pop(), "a second jvp from the same cache raises IndexError"),
    ],
)
def test_a_tangent_that_cannot_be_compared_fails(jvp, reason):
    once = lambda x: (x * x, [x] if "second" in reason else x)  # noqa: E731
    report = check_jvp(once, jvp, X)
    assert report.verdict == "fail"
    assert reason in report.arguments[0].reason


def test_a_missing_tangent_of_one_output_fails():
    pair = lambda x: ({"a": x * x, "n": 3, "b": 2 * x}, x)  # noqa: E731
    assert check_jvp(pair, lambda v, x: {"a": 2 * x * v, "n": None, "b": 2 * v}, X)
    report = check_jvp(pair, lambda v, x: {"a": 2 * x * v, "n": None, "b": None}, X)
    assert report.arguments[0].reason == "jvp returned None for out['b']"


def test_a_pair_of_output_and_tangent_is_refused():
    with pytest.raises(ValueError, match="a tangent in the structure of out, alone, but returned a tuple of 2"):
        check_jvp(square, lambda v, x: (x * x, 2 * x * v), X)


def test_options_are_those_of_check_backward():
    assert check_jvp(dense, lambda v, c: dense_jvp((v, 0 * W, 0 * B), c), X, W, B, wrt="x")
    assert [row.name for row in check_jvp(square, lambda v, x: 2 * x * v, X, names=["y"]).arguments] == ["y"]
    assert check_jvp(square, lambda v, x: 2.02 * x * v, X, tolerance=0.1)
    with pytest.raises(ValueError, match="wrt='z'"):
        check_jvp(square, lambda v, x: 2 * x * v, X, wrt="z")
    with pytest.raises(ValueError, match="mode='some'"):
        check_jvp(square, lambda v, x: 2 * x * v, X, mode="some")


def test_random_and_infinite_forwards_are_inconclusive():
    rng = np.random.default_rng()

    def dropout(x):
        mask = rng.random(x.shape) < 0.5
        return x * mask, mask

    assert check_jvp(dropout, lambda v, mask: v * mask, X).verdict == "inconclusive"
    with np.errstate(all="ignore"):
        exp = lambda x: (np.exp(x), np.exp(x))  # noqa: E731
        assert check_jvp(exp, lambda v, e: v * e, np.array([1.0, 800.0])).verdict == "inconclusive"


def test_a_kink_is_set_aside():
    relu = lambda x: (np.maximum(x, 0), x)  # noqa: E731
    at = np.linspace(-1, 1, 21).round(1)
    report = check_jvp(relu, lambda v, x: v * (x > 0), at)
    assert report
    assert report.arguments[0].kinks == 1
    assert not check_jvp(relu, lambda v, x: v * (x > 0) + 3 * v * (x == 0), at)


# --- complex numbers, and numbers that are no arrays


def intensity(z):
    return (z * z.conj()).real, z


Z = X + 1j * Y


@pytest.mark.parametrize("options", [{}, {"mode": "directions"}, {"dtype": np.float32}])
def test_complex_arguments_and_outputs(options):
    squared = lambda z: (z * z, z)  # noqa: E731
    jvp = lambda v, z: 2 * z * v  # noqa: E731
    assert check_jvp(squared, jvp, Z, backward=lambda dout, z: 2 * z.conj() * dout, **options)
    assert check_jvp(squared, jvp, Z, backward=lambda dout, z: 2 * z * dout, conjugate=True, **options)
    assert not check_jvp(squared, jvp, Z, backward=lambda dout, z: 2 * z * dout, **options)
    assert check_jvp(intensity, lambda v, z: 2 * (z.conj() * v).real, Z, **options)
    assert not check_jvp(intensity, lambda v, z: 2 * (z * v).real, Z, **options)


def test_numbers_are_constants_unless_wrt_names_them():
    scaled = lambda x, scale: (x * scale, (x, scale))  # noqa: E731
    report = check_jvp(scaled, lambda v, cache: v * cache[1], X, 1.5)
    assert report, report
    assert [(item.name, item.kind) for item in report.not_checked] == [("scale", "float")]
    assert check_jvp(scaled, lambda v, cache: v * cache[1], X, 1.5, strict=True).verdict == "inconclusive"
    both = lambda v, cache: v[0] * cache[1] + cache[0] * v[1]  # noqa: E731
    assert [row.name for row in check_jvp(scaled, both, X, 1.5, wrt=["x", "scale"]).arguments] == ["x", "scale"]
    assert check_jvp(square, lambda v, x: 2 * x * v, 1.5)


# --- sizes and seeds


@pytest.mark.parametrize("x", [np.array(1.5), np.float64(-0.5), np.zeros((0, 3)), np.ones((2, 1, 3), np.float32)])
def test_scalars_and_odd_shapes(x):
    assert check_jvp(square, lambda v, x: 2 * x * v, x)
    assert check_jvp(square, lambda v, x: 2 * x * v, x, mode="directions")


def test_the_same_seed_gives_the_same_report():
    reports = [str(check_jvp(*LAYERS["dense"][:2], X, W, B, rng=np.random.default_rng(s))) for s in (1, 1, 2)]
    assert reports[0] == reports[1] != reports[2]
    assert str(check_jvp(*LAYERS["softmax"][:2], X)) == str(check_jvp(*LAYERS["softmax"][:2], X))
