"""Physics, matrices, probability and optimisers, each with slips that its author has made or reviewed."""

import numpy as np

from tests.gradcheck.blind.dense import FACTOR
from tests.gradcheck.blind.slip import slips
from tests.gradcheck.example import normal


def springs(x, k):
    """Energy of a chain of masses at x (N, D), springs of strength k (N - 1) and length 1 between neighbours."""
    d = np.diff(x, axis=0)
    r = np.sqrt((d**2).sum(axis=1))
    return 0.5 * (k * (r - 1) ** 2).sum(), (d, r, k)


def springs_backward(dout, cache, slip=""):
    d, r, k = cache
    f = dout * (k * (r - 1) / r)[:, None] * d
    dx = np.zeros((len(d) + 1, d.shape[1]))
    dk = dout * 0.5 * (r - 1) ** 2
    match slip:
        case "forces, not gradients":
            f = -f
        case "half forgotten in dk":
            dk = 2 * dk
        case "no division by r":
            f = f * r[:, None]
    dx[1:] += f
    if slip != "no reaction":
        dx[:-1] -= f
    if slip == "last mass held":
        dx[-1] = 0
    return dx, dk


def gravity(x, m):
    """Potential energy of all pairs of masses m at x (N, 3)."""
    d = x[:, None] - x[None]
    r = np.sqrt((d**2).sum(axis=-1) + 0.01)
    e = -(m[:, None] * m[None] / r)
    np.fill_diagonal(e, 0)
    return e.sum() / 2, (d, r, m, e)


def gravity_backward(dout, cache, slip=""):
    d, r, m, e = cache
    f = -e / r**2
    dx, dm = dout * (f[..., None] * d).sum(axis=1), dout * e.sum(axis=1) / m
    match slip:
        case "each pair counted twice":
            dx = 2 * dx
        case "inverse square for the cube":
            dx = dout * ((f * r)[..., None] * d).sum(axis=1)
        case "summed over the wrong particle":
            dx = dout * (f[..., None] * d).sum(axis=0)
        case "z left out":
            dx[:, 2] = 0
        case "half of dm":
            dm = dm / 2
    return dx, dm


def heat(u, kappa):
    """Take one explicit step of the heat equation on a rod with fixed ends."""
    out = u.copy()
    out[1:-1] += kappa[1:-1] * (u[2:] - 2 * u[1:-1] + u[:-2])
    return out, (u, kappa)


def heat_backward(dout, cache, slip=""):
    u, kappa = cache
    du, dkappa = dout.copy(), np.zeros_like(kappa)
    dkappa[1:-1] = dout[1:-1] * (u[2:] - 2 * u[1:-1] + u[:-2])
    g = kappa[1:-1] * dout[1:-1]
    match slip:
        case "periodic":
            full = kappa * dout
            return dout + np.roll(full, 1) - 2 * full + np.roll(full, -1), dkappa
        case "identity lost":
            du = np.zeros_like(du)
        case "left neighbour forgotten":
            du[1:-1] += g
    du[2:] += g
    du[1:-1] -= 2 * g
    if slip != "left neighbour forgotten":
        du[:-2] += g
    if slip == "ends held":
        du[[0, -1]] = 0
    if slip == "kappa outside":
        du = dout.copy()
        du[1:-1] += kappa[1:-1] * (dout[2:] - 2 * dout[1:-1] + dout[:-2])
    return du, dkappa


def log_det(a):
    """Log of the determinant of a symmetric positive definite matrix a."""
    return np.linalg.slogdet(a)[1], a


def log_det_backward(dout, a, slip=""):
    inverse = np.linalg.inv(a)
    match slip:
        case "transpose forgotten":
            return dout * inverse
        case "diagonal alone":
            return dout * np.diag(np.diag(inverse.T))
        case "symmetrised":
            return dout * (inverse + inverse.T) / 2
        case "lower triangle alone":
            return dout * np.tril(inverse.T)
        case "a for its inverse":
            return dout * a.T
        case "both triangles added up":
            return dout * (inverse + inverse.T)
    return dout * inverse.T


def square_matrix(seed, n):
    (a,) = normal(seed, (n, n))
    return (a + n * np.eye(n),)


def solve(a, b):
    x = np.linalg.solve(a, b)
    return x, (a, x)


def solve_backward(dout, cache, slip=""):
    a, x = cache
    db = np.linalg.solve(a.T, dout)
    match slip:
        case "a not transposed":
            db = np.linalg.solve(a, dout)
        case "sign of da":
            return db @ x.T, db
        case "da transposed":
            return -(x @ db.T), db
        case "db from the right side":
            return -db @ x.T, dout
    return -db @ x.T, db


def cosine(a, b):
    """Cosine of the angle between the rows of a and b."""
    na, nb = (np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return ((a / na) * (b / nb)).sum(axis=1), (a, b, na, nb)


def cosine_backward(dout, cache, slip=""):
    a, b, na, nb = cache
    ua, ub = a / na, b / nb
    c, g = (ua * ub).sum(axis=1, keepdims=True), dout[:, None]
    da, db = g * (ub - c * ua) / na, g * (ua - c * ub) / nb
    match slip:
        case "norms detached":
            return g * ub / na, g * ua / nb
        case "da and db swapped":
            return db, da
        case "norm squared":
            return da / na, db
        case "db forgotten":
            return da, np.zeros_like(db)
        case "norm over the batch":
            return g * (ub - c * ua) / np.linalg.norm(a), db
    return da, db


EPS = normal(49, (6, 3))[0]


def vae(mu, logvar):
    """Give the sample mu + exp(logvar / 2) eps, and the divergence from a unit normal, averaged over the batch."""
    z = mu + np.exp(logvar / 2) * EPS
    kl = 0.5 * (np.exp(logvar) + mu**2 - 1 - logvar).sum() / len(mu)
    return (z, kl), (mu, logvar)


def vae_backward(dout, cache, slip=""):
    mu, logvar = cache
    dz, dkl = dout
    n, half, minus = len(mu), 0.5, 1
    match slip:
        case "half of logvar forgotten":
            half = 1
        case "divergence not averaged":
            n = 1
        case "minus one forgotten":
            minus = 0
        case "sample's gradient lost":
            dz = np.zeros_like(dz)
        case "sample's noise detached":
            half = 0
    dmu = dz + dkl * mu / n
    return dmu, dz * half * np.exp(logvar / 2) * EPS + dkl * 0.5 * (np.exp(logvar) - minus) / n


def ridge(w, x, y):
    """Mean squared error of x w, plus 0.1 times the square of w, 0.01 of its absolute values."""
    r = x @ w - y
    return (r**2).mean() + 0.1 * (w**2).sum() + 0.01 * np.abs(w).sum(), (w, x, r)


def ridge_backward(dout, cache, slip=""):
    w, x, r = cache
    dr, decay, lasso = dout * 2 * r / len(r), 0.2, 0.01
    match slip:
        case "weight decay forgotten":
            decay = 0
        case "decay without its 2":
            decay = 0.1
        case "2 of the square forgotten":
            dr = dr / 2
        case "lasso forgotten":
            lasso = 0
        case "decay not times dout":
            return x.T @ dr + decay * w + lasso * np.sign(w), np.outer(dr, w), -dr
        case "sign of dy":
            return x.T @ dr + dout * (decay * w + lasso * np.sign(w)), np.outer(dr, w), dr
        case "sum for the mean":
            dr = dr * len(r)
    return x.T @ dr + dout * (decay * w + lasso * np.sign(w)), np.outer(dr, w), -dr


def adam(g, m, v, step=3):
    """Give Adam's update of gradient g and moments m and v > 0."""
    m1, v1 = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
    mhat, vhat = m1 / (1 - 0.9**step), v1 / (1 - 0.99**step)
    return mhat / np.sqrt(vhat), (g, mhat, vhat, step)


def adam_backward(dout, cache, slip=""):
    g, mhat, vhat, step = cache
    dm1 = dout / np.sqrt(vhat) / (1 - 0.9**step)
    dv1 = -0.5 * dout * mhat / vhat**1.5 / (1 - 0.99**step)
    match slip:
        case "bias correction of m forgotten":
            dm1 = dm1 * (1 - 0.9**step)
        case "preconditioner detached":
            dv1 = 0 * dv1
        case "betas swapped":
            return 0.9 * dm1 + 0.99 * 2 * g * dv1, 0.1 * dm1, 0.01 * dv1
        case "2 g forgotten":
            return 0.1 * dm1 + 0.01 * dv1, 0.9 * dm1, 0.99 * dv1
    return 0.1 * dm1 + 0.01 * 2 * g * dv1, 0.9 * dm1, 0.99 * dv1


def film(x, scale, shift):
    """Scale and shift the channels of (B, T, C) by (B, C) each."""
    return x * scale[:, None] + shift[:, None], (x, scale)


def film_backward(dout, cache, slip=""):
    x, scale = cache
    dx, dscale, dshift = dout * scale[:, None], (dout * x).sum(axis=1), dout.sum(axis=1)
    match slip:
        case "time and batch mixed up":
            dscale, dshift = (dout * x).sum(axis=0), dout.sum(axis=0)
        case "scale along time":
            dx = dout * scale
        case "dshift averaged":
            dshift = dshift / x.shape[1]
        case "dscale of the first step":
            dscale = (dout * x)[:, 0]
        case "dshift shaped (B, 1, C)":
            dshift = dshift[:, None]
    return dx, dscale, dshift


def gate(a, b):
    """Gate a by the sigmoid of b."""
    s = 1 / (1 + np.exp(-b))
    return a * s, (a, s)


def gate_backward(dout, cache, slip=""):
    a, s = cache
    da, db = dout * s, dout * a * s * (1 - s)
    match slip:
        case "gradients swapped":
            return db, da
        case "sigmoid for its derivative":
            return da, dout * a * s
        case "tanh's derivative":
            return da, dout * a * (1 - s**2)
        case "gate handed through":
            return dout, db
        case "db transposed":
            return da, db.T
    return da, db


def interpolate(y, at):
    """Read the table y (N, C) at real positions, linearly."""
    i = np.floor(at).astype(int)
    f = (at - i)[:, None]
    return (1 - f) * y[i] + f * y[i + 1], (y, i, f)


def interpolate_backward(dout, cache, slip=""):
    y, i, f = cache
    dy, dat = np.zeros_like(y), (dout * (y[i + 1] - y[i])).sum(axis=1)
    match slip:
        case "weights exchanged":
            f = 1 - f
        case "right neighbour forgotten":
            np.add.at(dy, i, (1 - f) * dout)
            return dy, dat
        case "repeats overwritten":
            dy[i] += (1 - f) * dout
            dy[i + 1] += f * dout
            return dy, dat
        case "difference reversed":
            dat = -dat
        case "positions averaged over channels":
            dat = dat / y.shape[1]
    np.add.at(dy, i, (1 - f) * dout)
    np.add.at(dy, i + 1, f * dout)
    return dy, dat


MATHS = [
    *slips(
        "springs",
        springs,
        springs_backward,
        lambda: (2 * normal(40, (7, 2))[0], np.arange(1.0, 7.0) / 3),
        ("forces, not gradients", "sign", "the sign of dx is wrong", "sign", "-1", "negat", "minus"),
        ("half forgotten in dk", "factor", "dk is twice too large", "2", *FACTOR),
        ("no division by r", "lost factor", "the direction is not of length 1"),
        ("no reaction", "lost term", "the other end's share is lost"),
        ("last mass held", "edge", "the last row is zero", "last", "row", "6", "zero", "lost"),
    ),
    *slips(
        "gravity",
        gravity,
        gravity_backward,
        lambda: (normal(41, (6, 3))[0], np.array([1.0, 0.3, 2.0, 0.7, 1.5, 1.1])),
        ("each pair counted twice", "factor", "twice too large", "2", *FACTOR),
        ("inverse square for the cube", "lost factor", "the power of the distance is wrong"),
        (
            "summed over the wrong particle",
            "sign",
            "the other axis of pairs gives the opposite sign",
            "sign",
            "-1",
            "negat",
        ),
        ("z left out", "one part", "the third column is zero", "column", "2", "zero", "lost"),
        ("half of dm", "factor", "dm is half", "1/2", "0.5", "half", *FACTOR),
    ),
    *slips(
        "heat",
        heat,
        heat_backward,
        lambda: (normal(42, (12,))[0], 0.2 + 0.02 * np.arange(12.0)),
        ("periodic", "edge", "the ends are wrong", "end", "edge", "first", "last", "0"),
        ("identity lost", "skip", "du lacks dout", "dout", "skip", "residual"),
        ("left neighbour forgotten", "lost term", "one neighbour's share is added in the wrong place"),
        ("ends held", "edge", "the ends are zero", "end", "edge", "first", "last", "zero", "lost"),
        ("kappa outside", "wrong point", "kappa is that of the wrong cell"),
    ),
    *slips(
        "log determinant",
        log_det,
        log_det_backward,
        lambda: square_matrix(43, 5),
        ("transpose forgotten", "transposed", "the inverse is not transposed", "transpos"),
        ("diagonal alone", "one part", "all but the diagonal is lost", "diagonal"),
        ("symmetrised", "transposed", "averaged with its transpose", "symmetr", "transpos"),
        ("lower triangle alone", "mask", "what is above the diagonal is lost", "triang", "above the diagonal"),
        ("a for its inverse", "wrong point", "the matrix for its inverse"),
        ("both triangles added up", "factor", "the transpose is added", "symmetr", "transpos"),
    ),
    *slips(
        "solve",
        solve,
        solve_backward,
        lambda: (*square_matrix(44, 4), *normal(45, (4, 4))),
        ("a not transposed", "transposed", "a is not transposed in db"),
        ("sign of da", "sign", "da has the wrong sign", "sign", "-1", "negat", "minus"),
        ("da transposed", "transposed", "da is transposed", "transpos"),
        ("db from the right side", "activation", "db is dout", "dout"),
    ),
    *slips(
        "cosine",
        cosine,
        cosine_backward,
        lambda: normal(46, (7, 4), (7, 4)),
        ("norms detached", "detached", "the norms are constants"),
        ("da and db swapped", "swapped", "da and db are swapped", "swap"),
        ("norm squared", "factor", "da is divided by the norm once too often", "row", *FACTOR),
        ("db forgotten", "lost", "db is zero", "zero", "lost", "missing", "0"),
        ("norm over the batch", "axis", "the norm of all rows is taken", "row", *FACTOR),
    ),
    *slips(
        "vae",
        vae,
        vae_backward,
        lambda: normal(47, (6, 3), (6, 3)),
        ("half of logvar forgotten", "factor", "the sample's part of dlogvar is twice too large"),
        ("divergence not averaged", "factor", "the divergence's part is 6 times too large"),
        (
            "minus one forgotten",
            "lost term",
            "the derivative of -logvar is lost",
            "constant",
            "same",
            "term",
            "add",
            "offset",
        ),
        ("sample's gradient lost", "lost term", "dmu lacks the sample's dout", "dout", "skip"),
        ("sample's noise detached", "detached", "dlogvar lacks the sample's part"),
    ),
    *slips(
        "ridge",
        ridge,
        ridge_backward,
        lambda: normal(48, (5,), (13, 5), (13,)),
        ("weight decay forgotten", "weight decay", "dw lacks 0.2 w", "multiple of w", " w", "decay", "argument"),
        ("decay without its 2", "weight decay", "dw lacks 0.1 w", "multiple of w", " w", "decay", "argument"),
        ("2 of the square forgotten", "factor", "dx and dy are half", "1/2", "0.5", "half", *FACTOR),
        ("lasso forgotten", "lost term", "dw lacks 0.01 sign(w)", "sign", "term"),
        ("decay not times dout", "dout", "the decay's part ignores dout", " w", "dout"),
        ("sign of dy", "sign", "dy has the wrong sign", "sign", "-1", "negat", "minus"),
        ("sum for the mean", "factor", "dx and dy are 13 times too large", "13", *FACTOR),
    ),
    *slips(
        "adam",
        adam,
        adam_backward,
        lambda: (*normal(50, (4, 5), (4, 5)), normal(51, (4, 5))[0] ** 2 + 0.3),
        ("bias correction of m forgotten", "factor", "dm is 0.271 times what it should be", "0.271", *FACTOR),
        ("preconditioner detached", "detached", "dv is zero", "zero", "lost", "missing", "0"),
        ("betas swapped", "factor", "each gradient has another's decay", *FACTOR),
        ("2 g forgotten", "lost factor", "dg lacks 2 g"),
    ),
    *slips(
        "film",
        film,
        film_backward,
        lambda: normal(52, (5, 5, 3), (5, 3), (5, 3)),
        ("time and batch mixed up", "axis", "summed over the batch, not over time", "axis"),
        ("scale along time", "broadcast", "the scale is broadcast along the wrong axis"),
        ("dshift averaged", "factor", "dshift is a mean over 5 steps", "mean", "1/5", *FACTOR),
        ("dscale of the first step", "one part", "dscale is not summed over time"),
        ("dshift shaped (B, 1, C)", "shape", "dshift has a shape of its own", "shape", "axis", "squeeze", "sum"),
    ),
    *slips(
        "gate",
        gate,
        gate_backward,
        lambda: normal(53, (4, 6), (4, 6)),
        ("gradients swapped", "swapped", "da and db are swapped", "swap"),
        ("sigmoid for its derivative", "activation", "1 - s is lost"),
        ("tanh's derivative", "activation", "tanh's derivative for the sigmoid's"),
        ("gate handed through", "activation", "da is dout", "dout"),
        ("db transposed", "shape", "db comes transposed", "transpos"),
    ),
    *slips(
        "interpolate",
        interpolate,
        interpolate_backward,
        lambda: (normal(54, (8, 3))[0], np.array([0.3, 2.6, 2.8, 5.1, 6.7])),
        ("weights exchanged", "swapped", "each neighbour gets the other's weight"),
        ("right neighbour forgotten", "lost term", "the right neighbour's share is lost", "row", "zero", "lost"),
        ("repeats overwritten", "repeats", "positions in one cell are not added up", "add", "repeat", "row"),
        ("difference reversed", "sign", "dat has the wrong sign", "sign", "-1", "negat", "minus"),
        ("positions averaged over channels", "factor", "dat is a mean over 3", "mean", "1/3", *FACTOR),
    ),
]
