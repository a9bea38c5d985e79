"""Functions that change within a small part of their argument's size: coarse steps agree where nothing is."""

import numpy as np

from tests.gradcheck.bugs import sharp as bugs
from tests.gradcheck.example import correct, normal


def mixture_forward(x, means):
    """Take the log likelihood of a mixture of widths 1e-3."""
    exponent = -0.5 * ((x[:, None] - means) / 1e-3) ** 2
    top = exponent.max(axis=1, keepdims=True)
    weights = np.exp(exponent - top)
    total = weights.sum(axis=1, keepdims=True)
    return np.log(total)[:, 0] + top[:, 0], (x, means, weights / total)


def mixture_backward(dout, cache):
    x, means, share = cache
    d = dout[:, None] * share * (means - x[:, None]) / 1e-6
    return d.sum(axis=1), -d.sum(axis=0)


NASTY = [
    correct(
        "kernel of length 0.01",
        bugs.rbf_forward,
        bugs.rbf_backward,
        bugs.rbf_points,
        "most have underflowed, and some not",
        step=1e-5,
    ),
    correct(
        "kernel of length 1e-5",
        bugs.narrow_forward,
        bugs.narrow_backward,
        bugs.far_points,
        "coarse steps see zeros only",
        step=1e-8,
        rtol=1e-8,
    ),
    correct(
        "Matern kernel of length 2e-5",
        bugs.matern_forward,
        bugs.matern_backward,
        bugs.matern_points,
        "coarse steps see zeros only, and a cusp is near",
        step=1e-8,
        rtol=1e-8,
    ),
    correct(
        "sin at 1e8",
        bugs.far_sine_forward,
        bugs.far_sine_backward,
        bugs.far_phases,
        "steps alias with the period",
        step=2.0**-7,
    ),
    correct(
        "tones of 1 MHz",
        bugs.carrier_forward,
        bugs.carrier_backward,
        bugs.tones,
        "steps alias with the period",
        step=2.0**-9,
        rtol=1e-7,
    ),
    correct(
        "phases of 1e9",
        bugs.phases_forward,
        bugs.phases_backward,
        lambda: (normal(352, (4,))[0], np.array([0.37])),
        "steps alias with three periods",
        step=1e-11,
        rtol=1e-6,
    ),
    correct(
        "Fourier features up to 2^20",
        bugs.fourier_forward,
        bugs.fourier_backward,
        lambda: (np.array([0.3, -1.7, 0.9]),),
        "six octaves apart",
        step=1e-8,
        rtol=1e-7,
    ),
    correct(
        "sigmoid of slope 1e7",
        bugs.gate_forward,
        bugs.gate_backward,
        bugs.gates,
        "saturated but for two",
        step=1e-10,
        rtol=1e-6,
    ),
    correct(
        "softmax at temperature 1e-4",
        bugs.cold_forward,
        bugs.cold_backward,
        bugs.near_ties,
        "one-hot but for ties that are near",
        step=1e-7,
        rtol=1e-8,
    ),
    correct(
        "lines of width 1e-6",
        bugs.lorentz_forward,
        bugs.lorentz_backward,
        bugs.lines,
        "changes within 1e-6",
        step=1e-9,
        rtol=1e-7,
    ),
    correct(
        "Lennard-Jones from 0.05 to 30",
        bugs.lennard_jones_forward,
        bugs.lennard_jones_backward,
        lambda: (np.array([0.05, 0.4, 1.0, 1.12, 2.5, 30.0]),),
        "slopes from 1e-10 to 1e18",
        each=True,
    ),
    correct(
        "cosine with bumps between the points",
        bugs.spikes_forward,
        bugs.spikes_backward,
        bugs.spiked,
        "coarse steps see the cosine alone",
        step=1e-8,
        rtol=1e-8,
    ),
    correct(
        "log likelihood of a narrow mixture",
        mixture_forward,
        mixture_backward,
        lambda: (np.array([0.3005, -0.2, 1.0]), np.array([0.3, 0.301, 0.999, -0.25])),
        "which component is nearest changes within 1e-3",
        step=1e-6,
        rtol=1e-8,
    ),
]
