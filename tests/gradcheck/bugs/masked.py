"""Bugs beside outputs that no argument moves: masks of -1e20 and -inf, sentinels, offsets."""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted

CAUSAL = np.tril(np.ones((5, 5), dtype=bool))
LEGAL = np.array([[True, False, True, True], [False, True, True, True], [True, True, True, False]])
LENGTHS = np.array([3, 5, 1])
VALID = np.arange(5) < LENGTHS[:, None]


def scores_forward(fill, q, k):
    """Return causal scores before their softmax, what may not be seen at `fill`."""
    return np.where(CAUSAL, q @ k.T, fill), (q, k)


def scores_backward(dout, cache, slip=""):
    q, k = cache
    d = dout if slip == "mask forgotten" else np.where(CAUSAL, dout, 0)
    if slip == "mask of the other triangle":
        d = np.where(CAUSAL.T, dout, 0)
    if slip == "diagonal masked, too":
        d = np.tril(dout, -1)
    match slip:
        case "dq doubled":
            return 2 * d @ k, d.T @ q
        case "dk not transposed":
            return d @ k, d @ q
        case "dk a hundred-thousandth too large":
            return d @ k, (1 + 1e-5) * d.T @ q
    return d @ k, d.T @ q


def legal_forward(fill, logits):
    """Return the log probabilities of legal actions, `fill` for the others."""
    shifted = np.where(LEGAL, logits, -np.inf)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    probs = np.exp(shifted)
    total = probs.sum(axis=-1, keepdims=True)
    return np.where(LEGAL, shifted - np.log(total), fill), probs / total


def legal_backward(dout, probs, slip=""):
    d = dout if slip == "illegal actions counted in the sum" else np.where(LEGAL, dout, 0)
    if slip == "sum over the batch":
        return d - probs * d.sum(axis=0)
    if slip == "softmax term forgotten":
        return d
    return d - probs * d.sum(axis=-1, keepdims=True)


def logit_forward(fill, x):
    """Return logits with their padding filled, one length a row."""
    return np.where(VALID, np.tanh(x), fill), x


def logit_backward(dout, x, slip=""):
    d = np.where(VALID, dout, 0)
    if slip == "padding one too short":
        d = np.where(np.arange(5) <= LENGTHS[:, None], dout, 0)
    if slip == "every row masked like the first":
        d = np.where(VALID[0], dout, 0)
    if slip == "derivative of tanh forgotten":
        return d
    return d * (1 - np.tanh(x) ** 2)


def scatter_forward(x):
    """Write into rows of a table full of a sentinel, as a depth map is."""
    out = np.full((4, 4), 1e30, dtype=x.dtype)
    out[[2, 0, 3], [1, 1, 0]] = x * x
    return out, x


def scatter_backward(dout, x, slip=""):
    d = dout[[2, 0, 3], [1, 1, 0]]
    if slip == "rows and columns swapped":
        d = dout[[1, 1, 0], [2, 0, 3]]
    return (1 if slip == "factor 2 forgotten" else 2) * x * d


def distances_forward(x):
    """Return squared distances, a point to itself at 1e20 so that it is nobody's neighbour."""
    difference = x[:, None] - x[None]
    squared = (difference**2).sum(axis=-1)
    np.fill_diagonal(squared, 1e20)
    return squared, difference


def distances_backward(dout, difference, slip=""):
    d = 2 * dout[..., None] * difference
    if slip == "the second point's share lost":
        return d.sum(axis=1)
    return d.sum(axis=1) - (0.999 if slip == "the second point's share a thousandth too small" else 1) * d.sum(axis=0)


def report_forward(x):
    """Return a loss beside numbers that are constant, one of them infinite."""
    constants = np.array([np.inf, -1e300, 7.0])
    return {"loss": (np.sin(x) ** 2).mean(), "bounds": constants}, x


def report_backward(dout, x, slip=""):
    N = 1 if slip == "mean taken for a sum" else x.size
    sine = np.sin(2 * x) / 2 if slip == "factor 2 lost" else np.sin(2 * x)
    return dout["loss"] * sine / N


def energy_forward(x):
    """Return each row's energy beside the logarithm of a one-hot target, -inf but for one."""
    with np.errstate(divide="ignore"):
        target = np.log(np.eye(4)[[1, 3, 0]])
    return ((x * x * x).sum(axis=-1), target), x


def energy_backward(dout, x, slip=""):
    power = 1 if slip == "x for its square" else 2
    d = dout[0] if slip != "every row gets the first row's dout" else np.full(len(x), dout[0][0])
    return 3 * d[:, None] * x**power


def offset_forward(x):
    """Return constant energies of 1e15 beside a small part that moves."""
    return np.concatenate((np.array([1e15, 0.0, -1e15], x.dtype), 1e-3 * np.cos(x))), x


def offset_backward(dout, x, slip=""):
    return -(1.001 if slip == "a thousandth too large" else 1.0) * 1e-3 * dout[3:] * np.sin(x)


def clipped_forward(x):
    """Return rewards that are all at their limit, beside squares."""
    return np.concatenate((np.clip(1e12 * x, -1e10, 1e10), x * x)), x


def clipped_backward(dout, x, slip=""):
    limit, square = dout[: len(x)], dout[len(x) :]
    if slip == "gradient through the limit":
        return 2 * x * square + limit
    return (1 if slip == "factor 2 of the square" else 2) * x * square


def pool_forward(x):
    """Take each row's least valid number, the others out of the race at 1e30, and return the race, too."""
    race = np.where(VALID, x, 1e30)
    return (race.min(axis=-1), race), (race, x)


def pool_backward(dout, cache, slip=""):
    race, _ = cache
    winner = np.arange(5) == race.argmin(axis=-1)[:, None]
    if slip == "the greatest wins":
        winner = np.arange(5) == race.argmax(axis=-1)[:, None]
    through = dout[1] if slip == "invalid ones get a gradient" else np.where(VALID, dout[1], 0)
    return winner * dout[0][:, None] + through


def rounded_forward(x):
    """Quantise some channels, and pass on the others."""
    return np.concatenate((1e9 * np.round(4 * x[:3]), np.sin(x[3:]))), x


def rounded_backward(dout, x, slip=""):
    dx = np.concatenate((0 * dout[:3], dout[3:] * np.cos(x[3:])))
    if slip == "straight through":
        dx[:3] = dout[:3]
    return dx


def frozen_forward(x):
    """Return labels, which no small change of x moves."""
    return 1.0 * (x > 0.25) + np.floor(x), x


def frozen_backward(dout, x, slip=""):
    return 1e-3 * dout if slip == "a thousandth of dout" else 0 * dout


def scores(fill, name):
    return partial(
        planted,
        f"causal scores with {name}",
        forward=SCORES[fill],
        right=scores_backward,
        args=partial(normal, 331, (5, 3), (5, 3)),
    )


SCORES = {fill: partial(scores_forward, fill) for fill in (-1e20, -1e9, -np.inf)}
LOGITS = {fill: partial(legal_forward, fill) for fill in (-1e9, -np.inf)}
PADDED = {fill: partial(logit_forward, fill) for fill in (-1e20, np.inf)}

large, small, infinite = scores(-1e20, "-1e20"), scores(-1e9, "-1e9"), scores(-np.inf, "-inf")
legal, never = (
    partial(
        planted,
        f"log probabilities of legal actions with {name}",
        forward=LOGITS[fill],
        right=legal_backward,
        args=partial(normal, 332, (3, 4)),
    )
    for fill, name in ((-1e9, "-1e9"), (-np.inf, "-inf"))
)
padded = partial(
    planted, "padded logits", forward=PADDED[-1e20], right=logit_backward, args=partial(normal, 333, (3, 5))
)
scatter = partial(
    planted, "table of 1e30", forward=scatter_forward, right=scatter_backward, args=partial(normal, 334, (3,))
)
distances = partial(
    planted,
    "distances, the diagonal 1e20",
    forward=distances_forward,
    right=distances_backward,
    args=partial(normal, 335, (4, 2)),
)
report = partial(
    planted, "loss beside its bounds", forward=report_forward, right=report_backward, args=partial(normal, 336, (5,))
)
energy = partial(
    planted, "energy beside log(0)", forward=energy_forward, right=energy_backward, args=partial(normal, 337, (3, 4))
)
offset = partial(
    planted, "offsets of 1e15", forward=offset_forward, right=offset_backward, args=partial(normal, 338, (4,))
)
clipped = partial(
    planted, "rewards at their limit", forward=clipped_forward, right=clipped_backward, args=partial(normal, 339, (5,))
)
pool = partial(
    planted, "min-pool of valid ones", forward=pool_forward, right=pool_backward, args=partial(normal, 340, (3, 5))
)
rounded = partial(
    planted, "channels rounded to 1e9", forward=rounded_forward, right=rounded_backward, args=partial(normal, 343, (6,))
)
frozen = partial(
    planted, "labels that do not move", forward=frozen_forward, right=frozen_backward, args=partial(normal, 344, (6,))
)

BUGS = [
    large("mask forgotten", called="a mask, the upper triangle"),
    large("dq doubled", called="a factor of 2"),
    large("dk not transposed", called="transposed"),
    small("diagonal masked, too", called="a mask, the diagonal"),
    small("dk a hundred-thousandth too large", called="a factor"),
    infinite("mask of the other triangle", called="a mask, the triangle"),
    infinite("dq doubled", called="a factor of 2"),
    legal("illegal actions counted in the sum"),
    legal("softmax term forgotten", called="a lost term"),
    never("sum over the batch", called="the sum over the wrong axis"),
    padded("padding one too short", called="a mask"),
    padded("every row masked like the first", called="a mask"),
    padded("derivative of tanh forgotten", called="a multiple of dout"),
    scatter("rows and columns swapped"),
    scatter("factor 2 forgotten", called="a factor of 1/2"),
    distances("the second point's share lost", called="a lost term"),
    distances("the second point's share a thousandth too small"),
    report("mean taken for a sum", called="a factor of N"),
    report("factor 2 lost", called="a factor of 1/2"),
    energy("x for its square"),
    energy("every row gets the first row's dout"),
    offset("a thousandth too large", called="a factor"),
    clipped("factor 2 of the square", called="a factor of 1/2"),
    clipped("gradient through the limit", called="a multiple of dout"),
    pool("the greatest wins"),
    pool("invalid ones get a gradient", called="a mask"),
    rounded("straight through", called="a multiple of dout"),
    frozen("a thousandth of dout", called="a multiple of dout"),
]
