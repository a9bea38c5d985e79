"""Bugs in functions that change within a small part of their argument's size: coarse steps find nothing, or alias."""

import math
from functools import partial

import numpy as np

from tests.gradcheck.bugs.attention import softmax
from tests.gradcheck.example import normal, planted

LENGTH = 0.01


def rbf_forward(x, y):
    """Take a Gaussian kernel of length 0.01 between points that are far apart but for a few."""
    r = (x[:, None] - y) / LENGTH
    kernel = np.exp(-(r**2))
    return kernel, (r, kernel)


def rbf_backward(dout, cache, slip=""):
    r, kernel = cache
    d = -2 * dout * kernel * r / LENGTH
    if slip == "length forgotten":
        d = d * LENGTH
    if slip == "factor 2 forgotten":
        d = d / 2
    dy = -d.sum(axis=0)
    return d.sum(axis=1), -dy if slip == "sign of dy" else dy


def rbf_points():
    x = np.array([0.2, 1.4, -0.9, 3.0])
    return x, np.array([0.21, 1.395, 2.0, -0.912, 3.004])


def narrow_forward(x, y):
    """Take the same of length 1e-5, the distance by its modulus."""
    r = np.abs(x[:, None] - y) / 1e-5
    kernel = np.exp(-(r**2))
    return kernel, (r * np.sign(x[:, None] - y), kernel)


def narrow_backward(dout, cache, slip=""):
    r, kernel = cache
    d = -2 * dout * kernel * r / 1e-5
    match slip:
        case "lost":
            return 0 * d.sum(axis=1), 0 * d.sum(axis=0)
        case "dy lost":
            return d.sum(axis=1), 0 * d.sum(axis=0)
        case "length forgotten":
            return 1e-5 * d.sum(axis=1), -1e-5 * d.sum(axis=0)
    return d.sum(axis=1), -d.sum(axis=0)


def far_points():
    """Draw points of which no two are near, but for one pair."""
    return np.array([0.5, 1.5, 2.5, -1.0]), np.array([0.0, 1.0, 2.0, -1.000007])


def matern_forward(x, centres):
    """Take a Matern kernel of order 3/2 and length 2e-5."""
    r = np.sqrt(3) * np.abs(x[:, None] - centres) / 2e-5
    return (1 + r) * np.exp(-r), (x, centres, r)


def matern_backward(dout, cache, slip=""):
    x, centres, r = cache
    sign = np.sign(x[:, None] - centres)
    d = -dout * r * np.exp(-r) * sign * np.sqrt(3) / 2e-5
    if slip == "polynomial not differentiated":
        d = -dout * (1 + r) * np.exp(-r) * sign * np.sqrt(3) / 2e-5
    if slip == "lost":
        d = 0 * d
    if slip == "dx lost":
        return 0 * d.sum(axis=1), -d.sum(axis=0)
    return d.sum(axis=1), -d.sum(axis=0) * (1.01 if slip == "dcentres a hundredth too large" else 1)


def matern_points():
    return np.array([-0.8, 0.3, 1.1]), np.array([-0.799991, 0.300017, 1.099996, 0.9])


def far_sine_forward(x):
    """Take the standard library's sine, which knows floats alone."""
    return np.array([math.sin(v) for v in x]), x


def far_sine_backward(dout, x, slip=""):
    match slip:
        case "lost":
            return 0 * dout
        case "sine for cosine":
            return dout * np.sin(x)
        case "sign":
            return -dout * np.cos(x)
        case "a thousandth too large":
            return 1.001 * dout * np.cos(x)
    return dout * np.cos(x)


def far_phases():
    """Give phases of 1e8, spread by as much: whole powers of two are exact in every precision."""
    return (np.array([1.0e8, -3.7e8, 2.25e8, 7.5e7]),)


TIMES = np.linspace(0, 1, 5)


def carrier_forward(frequency, phase):
    """Sample tones of about 1 MHz."""
    angle = 2 * np.pi * frequency[:, None] * TIMES + phase[:, None]
    return np.exp(1j * angle).real, angle


def carrier_backward(dout, angle, slip=""):
    d = -dout * np.sin(angle)
    dfrequency = d * TIMES
    if slip == "2 pi forgotten":
        return dfrequency.sum(axis=1), d.sum(axis=1)
    if slip == "times counted from the second":
        dfrequency = d * np.roll(TIMES, -1)
    return 2 * np.pi * dfrequency.sum(axis=1), d.sum(axis=1)


def tones():
    return np.array([1e6, 2.5e6, -7e5]), normal(351, (3,))[0]


def phases_forward(x, delay):
    """Delay a signal by turning the phases of its spectrum, at frequencies of up to 1e9."""
    omega = np.array([1e3, 1e5, 1e7, 1e9])
    return np.concatenate((x * np.cos(omega * delay), x * np.sin(omega * delay))), (x, omega, delay)


def phases_backward(dout, cache, slip=""):
    x, omega, delay = cache
    real, imaginary = dout[:4], dout[4:]
    cosine, sine = np.cos(omega * delay), np.sin(omega * delay)
    turn = x * omega * (imaginary * cosine - real * sine)
    if slip == "the last frequency left out":
        turn = turn[:-1]
    if slip == "frequency forgotten":
        turn = turn / omega
    return real * cosine + imaginary * sine, turn.sum() * np.ones_like(delay)


def fourier_forward(x):
    """Take the Fourier features of a radiance field, up to 2^20."""
    scaled = x[:, None] * 2.0 ** np.arange(0, 21, 4)
    return np.concatenate((np.sin(scaled), np.cos(scaled)), axis=-1), x


def fourier_backward(dout, x, slip=""):
    bands = 2.0 ** np.arange(0, 21, 4)
    if slip == "bands one octave too low":
        bands = bands / 2
    scaled = x[:, None] * bands
    sine, cosine = np.split(dout, 2, axis=-1)
    if slip == "scale forgotten in the last band":
        return ((sine * np.cos(scaled) - cosine * np.sin(scaled)) * np.where(bands == bands[-1], 1, bands)).sum(axis=-1)
    return ((sine * np.cos(scaled) - cosine * np.sin(scaled)) * bands).sum(axis=-1)


def gate_forward(x, threshold):
    """Compare with a threshold by a sigmoid of slope 1e7, in its stable form."""
    z = 1e7 * (x - threshold)
    e = np.exp(-np.abs(z))
    s = np.where(z > 0, 1, e) / (1 + e)
    return s, (z, e)


def gate_backward(dout, cache, slip=""):
    z, e = cache
    d = dout * e / (1 + e) ** 2 * 1e7
    if slip == "s for s (1 - s)":
        d = dout * np.where(z > 0, 1, e) / (1 + e) * 1e7
    if slip == "lost, as by a hard threshold":
        d = 0 * d
    return d, -d.sum(keepdims=True) * (2 if slip == "dthreshold doubled" else 1)


def gates():
    return np.array([0.7, 0.5000001, 0.2, 0.49999995, 0.9]), np.array([0.5])


def cold_forward(x):
    """Take a softmax at a temperature of 1e-4, with ties that are near."""
    probs = softmax(x / 1e-4)
    return probs, probs


def cold_backward(dout, probs, slip=""):
    inner = (dout * probs).sum(axis=-1, keepdims=True)
    if slip == "temperature forgotten":
        return probs * (dout - inner)
    if slip == "diagonal alone":
        return dout * probs * (1 - probs) / 1e-4
    return probs * (dout - inner) / 1e-4


def near_ties():
    return (np.array([[1.0, 1.0001, -0.5, 0.3], [0.2, -0.7, 0.19995, 0.1], [2.0, 0.0, -1.0, 1.0]]),)


def lennard_jones_forward(r):
    """Take the potential at distances from well inside the core to far outside."""
    a = r**-6
    return 4 * (a * a - a), r


def lennard_jones_backward(dout, r, slip=""):
    twelve = 6 if slip == "the twelfth power's factor" else 12
    six = 0 if slip == "attraction forgotten" else 6
    return 4 * dout * (six * r**-7 - twelve * r**-13)


def arrhenius_forward(temperature, energy):
    """Take a rate exp(-E / (k T)) at energies of an electronvolt."""
    exponent = -energy / (8.617e-5 * temperature)
    rate = 1e13 * np.exp(exponent)
    return rate, (rate, temperature, energy)


def arrhenius_backward(dout, cache, slip=""):
    rate, temperature, energy = cache
    d = dout * rate / (8.617e-5 * temperature)
    if slip == "temperature not squared":
        return d * energy, -d
    return d * energy / temperature, d if slip == "sign of denergy" else -d


def lorentz_forward(frequency, width):
    """Take lines of a width of 1e-6 of their distance."""
    detuning = frequency[:, None] - np.array([1.0, 2.0, 3.0])
    line = width / (np.abs(detuning) ** 2 + width**2)
    return line, (detuning, line, width)


def lorentz_backward(dout, cache, slip=""):
    detuning, line, width = cache
    d = -2 * dout * detuning * line**2 / width
    dwidth = dout * (line / width - 2 * line**2)
    if slip == "dwidth of the numerator alone":
        dwidth = dout * line / width
    if slip == "dfrequency lost":
        d = 0 * d
    return d.sum(axis=1), dwidth.sum(axis=0)


def lines():
    return np.array([1.000001, 2.3, 2.9999995]), np.array([1e-6, 2e-6, 1.5e-6])


def spikes_forward(x):
    """Sum narrow bumps that lie between the points, so that all but one have underflowed."""
    r = np.abs(x[:, None] - np.array([0.1, 0.6, 1.3])) / 1e-5
    bumps = np.exp(-0.5 * r * r)
    return np.cos(x) + bumps.sum(axis=-1), (x, r * np.sign(x[:, None] - np.array([0.1, 0.6, 1.3])), bumps)


def spikes_backward(dout, cache, slip=""):
    x, r, bumps = cache
    if slip == "bumps forgotten":
        bumps = 0 * bumps
    if slip == "sign of the bumps":
        r = -r
    return dout * (-np.sin(x) - (r * bumps).sum(axis=-1) / 1e-5)


def spiked():
    return (np.array([0.35, 0.600007, -0.4, 1.0, 1.9]),)


rbf = partial(planted, "kernel of length 0.01", forward=rbf_forward, right=rbf_backward, args=rbf_points, step=1e-5)
far = partial(
    planted,
    "kernel of length 1e-5",
    forward=narrow_forward,
    right=narrow_backward,
    args=far_points,
    step=1e-8,
    rtol=1e-8,
)
matern = partial(
    planted,
    "Matern kernel of length 2e-5",
    forward=matern_forward,
    right=matern_backward,
    args=matern_points,
    step=1e-8,
    rtol=1e-8,
)
sine = partial(planted, "sin at 1e8", forward=far_sine_forward, right=far_sine_backward, args=far_phases, step=2.0**-7)
carrier = partial(
    planted,
    "tones of 1 MHz",
    forward=carrier_forward,
    right=carrier_backward,
    args=tones,
    step=2.0**-9,
    rtol=1e-7,
)
phases = partial(
    planted,
    "phases of 1e9",
    forward=phases_forward,
    right=phases_backward,
    args=lambda: (normal(352, (4,))[0], np.array([0.37])),
    step=1e-11,
    rtol=1e-6,
)
fourier = partial(
    planted,
    "Fourier features up to 2^20",
    forward=fourier_forward,
    right=fourier_backward,
    args=lambda: (np.array([0.3, -1.7, 0.9]),),
    step=1e-8,
    rtol=1e-7,
)
gate = partial(
    planted, "sigmoid of slope 1e7", forward=gate_forward, right=gate_backward, args=gates, step=1e-10, rtol=1e-6
)
cold = partial(
    planted,
    "softmax at temperature 1e-4",
    forward=cold_forward,
    right=cold_backward,
    args=near_ties,
    step=1e-7,
    rtol=1e-8,
)
lennard_jones = partial(
    planted,
    "Lennard-Jones from 0.05 to 30",
    forward=lennard_jones_forward,
    right=lennard_jones_backward,
    args=lambda: (np.array([0.05, 0.4, 1.0, 1.12, 2.5, 30.0]),),
    each=True,
)
arrhenius = partial(
    planted,
    "rate of Arrhenius",
    forward=arrhenius_forward,
    right=arrhenius_backward,
    args=lambda: (np.array([300.0, 1200.0, 77.0]), np.array([0.5, 1.1, 0.4])),
    each=True,
)
lorentz = partial(
    planted,
    "lines of width 1e-6",
    forward=lorentz_forward,
    right=lorentz_backward,
    args=lines,
    step=1e-9,
    rtol=1e-7,
)
spikes = partial(
    planted,
    "cosine with bumps between the points",
    forward=spikes_forward,
    right=spikes_backward,
    args=spiked,
    step=1e-8,
    rtol=1e-8,
)

BUGS = [
    rbf("length forgotten", called="a factor"),
    rbf("factor 2 forgotten", called="a factor of 1/2"),
    far("lost", called="lost"),
    far("dy lost", called="lost"),
    far("length forgotten", called="a factor"),
    matern("polynomial not differentiated"),
    matern("lost", called="lost"),
    matern("dx lost", called="lost"),
    matern("dcentres a hundredth too large", called="a factor"),
    sine("lost", called="lost"),
    sine("sine for cosine"),
    sine("sign", called="the sign"),
    sine("a thousandth too large", called="a factor"),
    carrier("2 pi forgotten", called="a factor"),
    carrier("times counted from the second"),
    phases("the last frequency left out", called="a lost term"),
    phases("frequency forgotten"),
    fourier("bands one octave too low"),
    fourier("scale forgotten in the last band"),
    gate("s for s (1 - s)"),
    gate("lost, as by a hard threshold", called="lost"),
    gate("dthreshold doubled", called="a factor of 2"),
    cold("temperature forgotten", called="a factor"),
    cold("diagonal alone", called="the diagonal alone"),
    lennard_jones("the twelfth power's factor"),
    lennard_jones("attraction forgotten", called="a lost term"),
    arrhenius("temperature not squared"),
    arrhenius("sign of denergy", called="the sign"),
    lorentz("dwidth of the numerator alone", called="a lost term"),
    lorentz("dfrequency lost", called="lost"),
    spikes("bumps forgotten", called="a lost term"),
    spikes("sign of the bumps"),
]
