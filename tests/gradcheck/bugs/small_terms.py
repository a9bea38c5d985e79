"""Bugs in a small term that complex numbers pass through as if it were constant, beside a large analytic one.

The large one reaches only some elements: the small one is then all the gradient that the others have.
"""

from functools import partial

import numpy as np

from tests.gradcheck.example import normal, planted


def loud(size):
    """Return weights of 1e7 for every other element, and 0 for the rest."""
    return np.where(np.arange(size) % 2 == 0, 1e7, 0.0)


def apart(terms):
    """Return the forward that leaves the terms apart: their sum is the one that is checked."""
    return lambda *args: (terms(*args), args)


def summed(terms):
    return lambda *args: (terms(*args).sum(), args)


def term(x, slip):
    """Return the gradient of a small term, or what a slip leaves of it."""
    match slip:
        case "small term forgotten":
            return 0 * x
        case "small term doubled":
            return 2 * x
        case "sign of the small term":
            return -x
        case "small term a tenth too large":
            return 1.1 * x
    return x


def lasso_terms(x, w):
    return np.concatenate(((x @ (1e-4 * loud(len(w)) * w)) ** 2, 1e-3 * np.abs(w)))


def lasso_backward(dout, cache, slip=""):
    x, w = cache
    gain = 1e-4 * loud(len(w))
    d = 2 * dout * (x @ (gain * w))
    return np.outer(d, gain * w), gain * (x.T @ d) + term(1e-3 * dout * np.sign(w), slip)


KNOWN = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]])


def inpainting_terms(image):
    """Hold the known pixels to their values, and all to a small total variation."""
    known = 1e7 * KNOWN * np.cos(image)
    variation = np.abs(np.diff(image, axis=0)), np.abs(np.diff(image, axis=1))
    return np.concatenate((known.ravel(), *(1e-4 * part.ravel() for part in variation)))


def inpainting_backward(dout, cache, slip=""):
    (image,) = cache
    down, across = np.sign(np.diff(image, axis=0)), np.sign(np.diff(image, axis=1))
    small = np.zeros_like(image)
    small[1:] += down
    small[:-1] -= down
    if slip != "across forgotten":
        small[:, 1:] += across
        small[:, :-1] -= across
    if slip == "last row forgotten":
        small[-1] = 0
    return dout * (term(1e-4 * small, slip) - 1e7 * KNOWN * np.sin(image))


def group_terms(w):
    """Penalise each row's norm, as a group lasso does."""
    return np.concatenate(((loud(len(w))[:, None] * np.exp(w)).ravel(), 1e-3 * np.linalg.norm(w, axis=1)))


def group_backward(dout, cache, slip=""):
    (w,) = cache
    norm = np.sqrt((w * w).sum(axis=1, keepdims=True))
    if slip == "norm of the whole, not of the row":
        norm = np.sqrt((w * w).sum())
    return dout * (loud(len(w))[:, None] * np.exp(w) + term(1e-3 * w / norm, slip))


def ranked_terms(w):
    """Add an ordered L1 norm, whose weights go by rank."""
    return np.concatenate((loud(len(w)) * w**3, 1e-4 * np.sort(np.abs(w)) * np.arange(1, len(w) + 1)))


def ranked_backward(dout, cache, slip=""):
    (w,) = cache
    order = np.argsort(np.abs(w))
    rank = np.empty_like(w)
    rank[order] = np.arange(1, len(w) + 1)
    if slip == "order for rank":
        rank = order + 1.0
    return dout * (3 * loud(len(w)) * w * w + term(1e-4 * rank * np.sign(w), slip))


def median_forward(x):
    """Return rows less a thousandth of their median modulus, one row in two a million times as large."""
    gain = (1 + loud(len(x)))[:, None]
    return np.tanh(gain * x / 1e7) - 1e-3 * np.median(np.abs(x), axis=1, keepdims=True), (x, gain / 1e7)


def median_backward(dout, cache, slip=""):
    x, gain = cache
    size = np.abs(x)
    middle = size == np.median(size, axis=1, keepdims=True)
    small = -1e-3 * dout.sum(axis=1, keepdims=True) * middle * np.sign(x)
    return dout * (1 - np.tanh(gain * x) ** 2) * gain + term(small, slip)


def peak_terms(x):
    """Penalise each row's largest modulus, as quantisation does."""
    return np.concatenate(((loud(x.size).reshape(x.shape) * x * x).ravel(), 1e-3 * np.abs(x).max(axis=1)))


def peak_backward(dout, cache, slip=""):
    (x,) = cache
    top = np.arange(x.shape[1]) == np.abs(x).argmax(axis=1)[:, None]
    if slip == "largest, not largest modulus":
        top = np.arange(x.shape[1]) == x.argmax(axis=1)[:, None]
    return dout * (2 * loud(x.size).reshape(x.shape) * x + term(1e-3 * top * np.sign(x), slip))


def robust_terms(prediction, target):
    """Add a robust loss of small weight to one of a few precise instruments."""
    r = prediction - target
    size = np.abs(r)
    robust = np.where(size < 1, 0.5 * size**2, size - 0.5)
    return np.concatenate((loud(r.size) * np.sin(prediction) ** 2, 1e-3 * robust))


def robust_backward(dout, cache, slip=""):
    prediction, target = cache
    r = prediction - target
    small = term(1e-3 * dout * (r if slip == "not clipped" else np.clip(r, -1, 1)), slip)
    return dout * loud(r.size) * np.sin(2 * prediction) + small, -small


def spectral_terms(x):
    """Add the magnitudes of a signal's spectrum to the energy of some of its samples."""
    return np.concatenate((loud(len(x)) * x**4, 1e-3 * np.abs(np.fft.rfft(x))))


def spectral_backward(dout, cache, slip=""):
    (x,) = cache
    spectrum = np.fft.rfft(x)
    phase = spectrum / np.abs(spectrum)
    if slip == "conjugate phase":
        phase = np.conj(phase)
    turns = np.exp(2j * np.pi * np.outer(np.arange(len(phase)), np.arange(len(x))) / len(x))
    return dout * (4 * loud(len(x)) * x**3 + term(1e-3 * (phase[:, None] * turns).real.sum(axis=0), slip))


def decay_terms(w):
    """Add weight decay by conjugates, as np.vdot takes it, where inputs are dead."""
    return np.concatenate(((loud(len(w)) * np.tanh(w)), 0.5e-4 * w * np.conj(w)))


def decay_backward(dout, cache, slip=""):
    (w,) = cache
    return dout * (loud(len(w)) * (1 - np.tanh(w) ** 2) + term(1e-4 * w, slip))


def adapter_forward(x, gain):
    """Add a small branch of relu, written with a modulus, to channels of which some are loud."""
    relu = (x + np.abs(x)) / 2
    return loud(len(gain)) * np.sin(x) + gain * relu, (x, gain, relu)


def adapter_backward(dout, cache, slip=""):
    x, gain, relu = cache
    dx = dout * loud(len(gain)) * np.cos(x) + term(dout * gain * (x > 0), slip)
    return dx, (dout * relu).sum(axis=0) * (2 if slip == "dgain doubled" else 1)


def sparse_terms(code):
    """Take a penalty that is smooth but real: log(1 + |c|)."""
    return np.concatenate((loud(len(code)) * np.exp(code), 1e-2 * np.log1p(np.abs(code))))


def sparse_backward(dout, cache, slip=""):
    (code,) = cache
    small = 1e-2 * np.sign(code) / (1 + np.abs(code))
    if slip == "as if it were L1":
        small = 1e-2 * np.sign(code)
    return dout * (loud(len(code)) * np.exp(code) + term(small, slip))


def leak_terms(x):
    """Add a leak by the sign of the real part."""
    return np.concatenate((loud(len(x)) * np.exp(-x * x), 1e-3 * x.real * np.sign(x.real)))


def leak_backward(dout, cache, slip=""):
    (x,) = cache
    return dout * (-2 * loud(len(x)) * x * np.exp(-x * x) + term(1e-3 * np.sign(x), slip))


def correction_terms(x, y):
    """Return a product, and a small correction that keeps the real part alone."""
    return np.concatenate((loud(len(x)) * x * y, 1e-4 * np.real(x) * np.real(y) ** 2))


def correction_backward(dout, cache, slip=""):
    x, y = cache
    small_x, small_y = 1e-4 * y * y, 2e-4 * x * y
    if slip == "small term of dy halved":
        small_y = small_y / 2
    gain = loud(len(x))
    return dout * (gain * y + term(small_x, slip)), dout * (gain * x + term(small_y, slip))


def barrier_forward(x):
    """Add a barrier that only some elements feel, by comparison and modulus."""
    over = np.abs(x) - 1
    return np.cos(x) + 1e-3 * np.where(over > 0, over, 0) ** 2, x


def barrier_backward(dout, x, slip=""):
    over = np.maximum(np.abs(x) - 1, 0)
    return dout * (-np.sin(x) + term(2e-3 * over * np.sign(x), slip))


SUMS = {
    "squares and L1": (lasso_terms, lasso_backward, 371, (4, 3), (3,)),
    "inpainting with total variation": (inpainting_terms, inpainting_backward, 372, (3, 4)),
    "exponentials and group lasso": (group_terms, group_backward, 373, (3, 4)),
    "cubes and ordered L1": (ranked_terms, ranked_backward, 374, (6,)),
    "squares and their peaks": (peak_terms, peak_backward, 399, (3, 5)),
    "waves and a robust loss": (robust_terms, robust_backward, 377, (6,), (6,)),
    "energy and spectrum": (spectral_terms, spectral_backward, 378, (7,)),
    "layer and weight decay": (decay_terms, decay_backward, 379, (5,)),
    "sparse code": (sparse_terms, sparse_backward, 382, (6,)),
    "bells and leak": (leak_terms, leak_backward, 383, (6,)),
    "products and correction": (correction_terms, correction_backward, 384, (5,), (5,)),
}
FORWARDS = {name: (summed(terms), apart(terms)) for name, (terms, *_) in SUMS.items()}


def plant(name):
    forward, exact = FORWARDS[name]
    return partial(
        planted, name, forward=forward, right=SUMS[name][1], args=ARGS[name], each=True, exact=exact, size=1e-4
    )


ARGS = {name: partial(normal, *drawn) for name, (_, _, *drawn) in SUMS.items()}

(
    lasso,
    inpainting,
    group,
    ranked,
    peak,
    robust,
    spectral,
    decay,
    sparse,
    leak,
    correction,
) = map(plant, SUMS)
median = partial(
    planted,
    "tanh less a median",
    forward=median_forward,
    right=median_backward,
    args=partial(normal, 375, (3, 5)),
    each=True,
)
adapter = partial(
    planted,
    "layer and adapter of 1e-3",
    forward=adapter_forward,
    right=adapter_backward,
    args=lambda: (normal(390, (5, 3))[0], 1e-3 * normal(381, (3,))[0]),
    each=True,
    rtol=1e-5,
)
barrier = partial(
    planted, "cosine and barrier", forward=barrier_forward, right=barrier_backward, args=partial(normal, 385, (8,))
)

LOST = "a lost term"
BUGS = [
    lasso("small term forgotten", called=LOST),
    lasso("sign of the small term"),
    inpainting("small term forgotten", called=LOST),
    inpainting("across forgotten", called=LOST),
    inpainting("last row forgotten"),
    group("small term forgotten", called=LOST),
    group("norm of the whole, not of the row"),
    ranked("small term forgotten", called=LOST),
    ranked("order for rank"),
    median("small term forgotten", called=LOST),
    peak("small term forgotten", called=LOST),
    peak("largest, not largest modulus"),
    robust("small term forgotten", called=LOST),
    robust("not clipped"),
    spectral("small term doubled"),
    spectral("conjugate phase"),
    decay("small term forgotten", called=LOST),
    decay("small term a tenth too large"),
    adapter("small term forgotten", called=LOST),
    adapter("dgain doubled", called="a factor of 2"),
    sparse("small term forgotten", called=LOST),
    sparse("as if it were L1"),
    leak("small term doubled"),
    correction("small term forgotten", called=LOST),
    correction("small term of dy halved"),
    barrier("small term forgotten", called=LOST),
    barrier("sign of the small term"),
]
