"""Bugs in forwards that refuse arguments which are not far away, or know one dtype, or whose cache can be used once."""

from functools import partial

import numpy as np

from tests.gradcheck.example import broken, normal, planted


def require(condition, message):
    if not np.all(condition):
        raise ValueError(message)


def log_forward(x):
    """Refuse what is not positive, as a domain check does."""
    require(np.real(x) > 0, "log of a number that is not positive")
    return np.log(x), x


def log_backward(dout, x, slip=""):
    if slip == "of base 10":
        return dout / (x * np.log(10))
    if slip == "smallest one lost":
        return np.where(x == x.min(), 0, dout / x)
    return dout / x


def near_zero():
    return (np.array([2.0, 1e-3, 0.5, 3e-5, 4.0]),)


def cholesky_forward(a):
    """Factor the symmetric part; a pivot that is not positive is refused."""
    s = (a + a.T) / 2
    n = len(s)
    factor = np.zeros_like(s)
    for j in range(n):
        pivot = s[j, j] - (factor[j, :j] ** 2).sum()
        if np.real(pivot) <= 0:
            raise np.linalg.LinAlgError("matrix is not positive definite")
        factor[j, j] = np.sqrt(pivot)
        for i in range(j + 1, n):
            factor[i, j] = (s[i, j] - (factor[i, :j] * factor[j, :j]).sum()) / factor[j, j]
    return factor, factor


def cholesky_backward(dout, factor, slip=""):
    middle = np.tril(factor.T @ np.tril(dout))
    if slip != "diagonal not halved":
        middle = middle - np.diag(np.diag(middle)) / 2
    inverse = np.linalg.inv(factor)
    d = inverse.T @ middle @ inverse
    return d if slip == "not made symmetric" else (d + d.T) / 2


def nearly_singular():
    return (np.array([[1.0, 0.9999, 0.3], [0.9999, 1.0, 0.3], [0.3, 0.3, 2.0]]),)


def logit_forward(p):
    require((np.real(p) > 0) & (np.real(p) < 1), "a probability outside of 0 to 1")
    return np.log(p / (1 - p)), p


def logit_backward(dout, p, slip=""):
    if slip == "second factor forgotten":
        return dout / p
    return dout / (p * (1 - p)) * (-1 if slip == "sign" else 1)


def chances():
    return (np.array([0.999, 0.5, 1e-4, 0.98]),)


def arcsin_forward(x):
    if np.any(np.abs(x) > 1):
        raise ArithmeticError(f"arcsin of {np.max(np.abs(x))}")
    return np.arcsin(x), x


def arcsin_backward(dout, x, slip=""):
    if slip == "root forgotten":
        return dout / (1 - x * x)
    return dout / np.sqrt(1 - x * x)


def table_forward(x, table):
    """Interpolate in a table, and refuse what is outside of it, by assert."""
    assert np.all(np.real(x) >= 0), "below the table"
    assert np.all(np.real(x) <= len(table) - 1), "beyond the table"
    low = np.minimum(np.floor(np.real(x)).astype(int), len(table) - 2)
    share = x - low
    return table[low] * (1 - share) + table[low + 1] * share, (low, share, table)


def table_backward(dout, cache, slip=""):
    low, share, table = cache
    if slip == "shares swapped":
        share = 1 - share
    dtable = np.zeros_like(table)
    np.add.at(dtable, low, dout * (1 - share))
    np.add.at(dtable, low + 1, dout * share)
    dx = dout * (table[low + 1] - table[low])
    return 2 * dx if slip == "dx doubled" else dx, dtable


def inside():
    return np.array([2.9999, 0.3, 1.75, 0.0002, 2.4]), normal(411, (4,))[0]


def solver_forward(c):
    """Iterate x = cos(c x), and raise if it does not converge in 52 iterations, as it does not where c is 1.02."""
    x = 0 * c + 0.5
    for _ in range(52):
        new = np.cos(c * x)
        if np.max(np.abs(new - x)) < 1e-9:
            return new, (new, c)
        x = new
    raise RuntimeError("no convergence in 52 iterations")


def exact_solver(c):
    x = 0 * c + 0.5
    for _ in range(400):
        x = np.cos(c * x)
    return x, None


def solver_backward(dout, cache, slip=""):
    x, c = cache
    s = np.sin(c * x)
    if slip == "implicit part forgotten":
        return -dout * x * s
    return -dout * x * s / (1 + c * s) * (1.01 if slip == "a hundredth too large" else 1)


def conditioned():
    return (np.array([0.4, 1.0, 0.8]),)


def single_forward(x, weight):
    """Refuse all but float32, as a binding of a kernel does."""
    if x.dtype != np.float32 or weight.dtype != np.float32:
        raise TypeError(f"expected float32, got {x.dtype} and {weight.dtype}")
    return np.tanh(x @ weight), (x, weight)


def any_forward(x, weight):
    return np.tanh(x @ weight), None


def single_backward(dout, cache, slip=""):
    x, weight = cache
    d = dout if slip == "tanh forgotten" else dout * (1 - np.tanh(x @ weight) ** 2)
    dweight = x.T @ d
    if slip == "dweight a tenth too large":
        dweight = dweight * np.float32(1.1)
    return d @ weight.T, dweight


def singles():
    return tuple(a.astype(np.float32) for a in normal(412, (4, 3), (3, 2)))


# --- caches that can be used once; the formula is right


def stack_forward(x):
    return np.sin(x), [x]


def stack_backward(dout, stack):
    return dout * np.cos(stack.pop())


def keyed_forward(x, weight):
    return x * weight, {"x": x, "weight": weight}


def keyed_backward(dout, cache):
    x = cache.pop("x")
    return dout * cache["weight"], dout * x


def lazy_forward(x):
    """Keep the layers' outputs in a generator."""
    hidden = np.tanh(x)
    return np.sin(hidden), iter([hidden])


def lazy_backward(dout, cache):
    hidden = next(cache)
    return dout * np.cos(hidden) * (1 - hidden * hidden)


def freed_forward(x):
    return x**3, {"x": x}


def freed_backward(dout, cache):
    dx = 3 * dout * cache["x"] ** 2
    cache["x"] = None
    return dx


log = partial(planted, "log that refuses", forward=log_forward, right=log_backward, args=near_zero)
cholesky = partial(
    planted,
    "Cholesky of a nearly singular matrix",
    forward=cholesky_forward,
    right=cholesky_backward,
    args=nearly_singular,
    step=1e-7,
    rtol=1e-7,
)
logit = partial(planted, "logit that refuses", forward=logit_forward, right=logit_backward, args=chances, step=2e-5)
arcsin = partial(
    planted,
    "arcsin that refuses",
    forward=arcsin_forward,
    right=arcsin_backward,
    args=lambda: (np.array([0.9999, -0.5, -0.99, 0.1]),),
    step=1e-6,
)
table = partial(planted, "table with ends", forward=table_forward, right=table_backward, args=inside, step=2e-5)
solver = partial(
    planted,
    "solver that gives up",
    forward=solver_forward,
    right=solver_backward,
    args=conditioned,
    exact=exact_solver,
    rtol=1e-7,
)
single = partial(
    planted,
    "float32 alone",
    forward=single_forward,
    right=single_backward,
    args=singles,
    exact=any_forward,
    rtol=1e-5,
    check={"dtype": np.float32},
)

BUGS = [
    log("of base 10", called="a factor"),
    log("smallest one lost", called="lost in some elements"),
    cholesky("diagonal not halved"),
    cholesky("not made symmetric"),
    logit("second factor forgotten"),
    logit("sign", called="the sign"),
    arcsin("root forgotten"),
    table("shares swapped"),
    table("dx doubled", called="a factor of 2"),
    solver("implicit part forgotten"),
    solver("a hundredth too large", called="a factor"),
    single("tanh forgotten", called="a multiple of dout"),
    single("dweight a tenth too large", called="a factor"),
    broken("cache: a stack that backward pops", "repeat", stack_forward, stack_backward, partial(normal, 413, (4,))),
    broken(
        "cache: a key that backward pops", "repeat", keyed_forward, keyed_backward, partial(normal, 414, (4,), (4,))
    ),
    broken("cache: a generator", "repeat", lazy_forward, lazy_backward, partial(normal, 415, (4,))),
    broken("cache: freed by backward", "repeat", freed_forward, freed_backward, partial(normal, 416, (4,))),
]
