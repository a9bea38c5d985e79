"""Complex arguments and outputs, checked by their real and imaginary parts, in both conventions."""

import json

import numpy as np
import pytest

from npgpt.gradcheck import check_backward
from npgpt.gradcheck.complex_report import complex_hint
from npgpt.gradcheck.forms import joined, split

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 4))
Y = rng.standard_normal((3, 4))
Z = rng.standard_normal((3, 4)) + 1j * rng.standard_normal((3, 4))
W = rng.standard_normal((4, 2)) + 1j * rng.standard_normal((4, 2))
B = rng.standard_normal(2) + 1j * rng.standard_normal(2)


def linear(z, weight, bias):
    return z @ weight + bias, (z, weight)


def linear_backward(dout, cache):
    z, weight = cache
    return dout @ weight.conj().T, z.conj().T @ dout, dout.sum(axis=0)


def modulus(z):
    r = np.abs(z)
    return r, (z, r)


def mod_relu(z, bias):
    """Unitary RNNs (Arjovsky et al., 2016): the modulus is shifted and cut off, the phase kept."""
    r = np.abs(z)
    on = r + bias > 0
    return np.where(on, (r + bias) / r, 0) * z, (z, r, bias, on)


def mod_relu_backward(dout, cache):
    z, r, bias, on = cache
    along = (dout * z.conj()).real / r  # dout by the direction of z
    dz = np.where(on, dout * (r + bias) / r - along * bias * z / r**2, 0)
    return dz, np.where(on, along, 0).sum(axis=0)


def spectrum(x):
    """Power by frequency: real to complex and back to real."""
    f = np.fft.rfft(x)
    return np.abs(f) ** 2, (f, x.shape[-1])


def spectrum_backward(dout, cache):
    f, n = cache
    padded = np.zeros((*f.shape[:-1], n), complex)
    padded[..., : f.shape[-1]] = 2 * dout * f
    return np.fft.ifft(padded).real * n


def filtered(x, h):
    """Filter a real signal in the frequency domain: irfft counts all but the first and the last frequency twice."""
    f = np.fft.rfft(x)
    return np.fft.irfft(f * h, x.shape[-1]), (f, h, x.shape[-1])


def filtered_backward(dout, cache, twice=True):
    f, h, n = cache
    weight = np.full(f.shape[-1], 2.0 if twice else 1.0)
    weight[[0, -1]] = 1.0
    dg = np.fft.rfft(dout) * weight / n
    dh = (dg * f.conj()).sum(axis=0)
    dh[[0, -1]] = (dg.real * f.conj()).sum(axis=0)[[0, -1]]  # irfft reads only their real part
    dg[..., [0, -1]] = dg[..., [0, -1]].real
    padded = np.zeros((*f.shape[:-1], n), complex)
    padded[..., : f.shape[-1]] = dg * h.conj()
    return np.fft.ifft(padded).real * n, dh


H = rng.standard_normal(3) + 1j * rng.standard_normal(3)


def rotate(q, angle):
    """Rotary positions: pairs of features as complex numbers, times a phase."""
    phase = np.exp(1j * angle)
    return q * phase, (q, phase)


# name: (forward, right backward, args)
RIGHT = {
    "square": (lambda z: (z * z, z), lambda d, z: 2 * d * z.conj(), (Z,)),
    "exp": (lambda z: (np.exp(z), z), lambda d, z: d * np.exp(z).conj(), (Z,)),
    "conj": (lambda z: (z.conj(), None), lambda d, _: d.conj(), (Z,)),
    "real part": (lambda z: (z.real, None), lambda d, _: d.astype(complex), (Z,)),
    "real part, a real gradient": (lambda z: (z.real, None), lambda d, _: d, (Z,)),
    "imaginary part": (lambda z: (z.imag, None), lambda d, _: 1j * d, (Z,)),
    "power": (lambda z: (np.abs(z) ** 2, z), lambda d, z: 2 * d * z, (Z,)),
    "modulus": (modulus, lambda d, c: d * c[0] / c[1], (Z,)),
    "modulus at 0": (modulus, lambda d, c: d * c[0] / np.maximum(c[1], 1e-300), (np.array([0, *Z.ravel()]),)),
    "phase": (lambda z: (np.angle(z), z), lambda d, z: 1j * d * z / np.abs(z) ** 2, (Z,)),
    "quotient": (
        lambda a, b: (a / b, (a, b)),
        lambda d, c: (d / c[1].conj(), -d * (c[0] / c[1] ** 2).conj()),
        (Z, Z.T.reshape(3, 4)),
    ),
    "linear layer": (linear, linear_backward, (Z, W, B)),
    "modReLU": (mod_relu, mod_relu_backward, (Z, np.array([0.1, -0.3, 0.2, -2.5]))),
    "parts into a complex number": (lambda x, y: (x + 1j * y, None), lambda d, _: (d.real, d.imag), (X, Y)),
    "polar form": (
        lambda r, angle: (r * np.exp(1j * angle), (r, angle)),
        lambda d, c: ((d * np.exp(-1j * c[1])).real, c[0] * (d * np.exp(-1j * c[1])).imag),
        (X, Y),
    ),
    "rotary positions": (
        rotate,
        lambda d, c: (d * c[1].conj(), (d * (1j * c[0] * c[1]).conj()).real.sum(axis=0)),
        (Z, X[0]),
    ),
    "fft": (lambda x: (np.fft.fft(x), None), lambda d, _: (np.fft.ifft(d) * d.shape[-1]).real, (X,)),
    "fft of complex": (lambda z: (np.fft.fft(z), None), lambda d, _: np.fft.ifft(d) * d.shape[-1], (Z,)),
    "power spectrum": (spectrum, spectrum_backward, (X,)),
    "filter": (filtered, filtered_backward, (X, H)),
    "real times complex": (lambda x, z: (x * z, (x, z)), lambda d, c: ((d * c[1].conj()).real, d * c[0]), (X, Z)),
    "a number": (lambda z: (z * z, z), lambda d, z: 2 * d * np.conj(z), (0.7 + 0.2j,)),
    "a 0-d array": (lambda z: (z * z, z), lambda d, z: 2 * d * np.conj(z), (np.array(0.7 + 0.2j),)),
    "in a dict, to a dict": (
        lambda p: ({"out": p["a"] * p["b"], "power": np.abs(p["a"]) ** 2}, p),
        lambda d, p: {"a": d["out"] * p["b"].conj() + 2 * d["power"] * p["a"], "b": d["out"] * p["a"].conj()},
        ({"a": Z, "b": Z + 1},),
    ),
    "complex64": (lambda z: (z * z, z), lambda d, z: 2 * d * z.conj(), (Z.astype(np.complex64),)),
    "Fortran order": (linear, linear_backward, (np.asfortranarray(Z), W[::-1], B)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_gradient_passes(name):
    forward, backward, args = RIGHT[name]
    report = check_backward(forward, backward, *args)
    assert report.verdict == "pass", str(report)
    assert [a.shape for a in report.arguments] == [
        np.shape(x) for arg in args for x in getattr(arg, "values", [arg].copy)()
    ]
    assert report.not_checked == ()


def conjugated(tree):
    """Return a pair's dout or gradients in the other convention."""
    if isinstance(tree, dict):
        return {key: conjugated(value) for key, value in tree.items()}
    return tuple(map(conjugated, tree)) if isinstance(tree, tuple) else np.conj(tree)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_gradient_in_the_other_convention_passes_with_conjugate(name):
    forward, backward, args = RIGHT[name]
    report = check_backward(forward, lambda d, c: conjugated(backward(conjugated(d), c)), *args, conjugate=True)
    assert report.verdict == "pass", str(report)


# name: (forward, wrong backward, args, the arguments that are wrong)
WRONG = {
    "square: conj forgotten": (RIGHT["square"][0], lambda d, z: 2 * d * z, (Z,), [0]),
    "square: factor 2 forgotten": (RIGHT["square"][0], lambda d, z: d * z.conj(), (Z,), [0]),
    "square: real part only": (RIGHT["square"][0], lambda d, z: (2 * d * z.conj()).real, (Z,), [0]),
    "square: imaginary part of one element": (
        RIGHT["square"][0],
        lambda d, z: 2 * d * z.conj() + 1e-3j * (np.arange(12).reshape(3, 4) == 7),
        (Z,),
        [0],
    ),
    "square: dout conjugated": (RIGHT["square"][0], lambda d, z: 2 * d.conj() * z.conj(), (Z,), [0]),
    "exp: conj forgotten": (RIGHT["exp"][0], lambda d, z: d * np.exp(z), (Z,), [0]),
    "conj: forgotten": (RIGHT["conj"][0], lambda d, _: d, (Z,), [0]),
    "imaginary part: without i": (RIGHT["imaginary part"][0], lambda d, _: d, (Z,), [0]),
    "imaginary part: -i": (RIGHT["imaginary part"][0], lambda d, _: -1j * d, (Z,), [0]),
    "power: conjugate": (RIGHT["power"][0], lambda d, z: 2 * d * z.conj(), (Z,), [0]),
    "power: Wirtinger's, half of it": (RIGHT["power"][0], lambda d, z: d * z, (Z,), [0]),
    "power: of the real part": (RIGHT["power"][0], lambda d, z: 2 * d * z.real, (Z,), [0]),
    "modulus: without dividing": (modulus, lambda d, c: d * c[0], (Z,), [0]),
    "modulus: sign of the real part": (modulus, lambda d, c: d * np.sign(c[0].real), (Z,), [0]),
    "linear layer: weight not conjugated": (
        linear,
        lambda d, c: (d @ c[1].T, c[0].conj().T @ d, d.sum(axis=0)),
        (Z, W, B),
        [0],
    ),
    "linear layer: input not conjugated": (
        linear,
        lambda d, c: (d @ c[1].conj().T, c[0].T @ d, d.sum(axis=0)),
        (Z, W, B),
        [1],
    ),
    "linear layer: real bias": (linear, lambda d, c: (*linear_backward(d, c)[:2], d.sum(axis=0).real), (Z, W, B), [2]),
    "modReLU: as if the phase were fixed": (
        mod_relu,
        lambda d, c: (np.where(c[3], d * (c[1] + c[2]) / c[1], 0), mod_relu_backward(d, c)[1]),
        (Z, np.array([0.1, -0.3, 0.2, -2.5])),
        [0],
    ),
    "parts: swapped": (RIGHT["parts into a complex number"][0], lambda d, _: (d.imag, d.real), (X, Y), [0, 1]),
    "parts: minus": (RIGHT["parts into a complex number"][0], lambda d, _: (d.real, -d.imag), (X, Y), [1]),
    "fft: of dout, not its inverse": (RIGHT["fft"][0], lambda d, _: np.fft.fft(d).real, (X,), [0]),
    "fft: n forgotten": (RIGHT["fft of complex"][0], lambda d, _: np.fft.ifft(d), (Z,), [0]),
    "filter: each frequency once": (filtered, lambda d, c: filtered_backward(d, c, twice=False), (X, H), [0, 1]),
    "power spectrum: irfft": (spectrum, lambda d, c: np.fft.irfft(2 * d * c[0], c[1]) * c[1], (X,), [0]),
    "rotary positions: rotated on": (
        rotate,
        lambda d, c: (d * c[1], (d * (1j * c[0] * c[1]).conj()).real.sum(axis=0)),
        (Z, X[0]),
        [0],
    ),
    "real times complex: imaginary part": (
        RIGHT["real times complex"][0],
        lambda d, c: ((d * c[1].conj()).imag, d * c[0]),
        (X, Z),
        [0],
    ),
    "a complex gradient of a real argument": (RIGHT["fft"][0], lambda d, _: np.fft.ifft(d) * d.shape[-1], (X,), [0]),
    "None": (RIGHT["square"][0], lambda d, z: None, (Z,), [0]),
    "transposed": (RIGHT["square"][0], lambda d, z: (2 * d * z.conj()).T, (Z,), [0]),
    "pairs for complex numbers": (RIGHT["square"][0], lambda d, z: split(2 * d * z.conj()), (Z,), [0]),
    "a number: conj forgotten": (RIGHT["a number"][0], lambda d, z: 2 * d * z, (0.7 + 0.2j,), [0]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_fails(name):
    forward, backward, args, wrong = WRONG[name]
    report = check_backward(forward, backward, *args)
    assert [i for i, a in enumerate(report.arguments) if a.verdict != "pass"] == wrong, str(report)
    assert report.verdict == "fail"


@pytest.mark.parametrize("mode", ["elements", "directions"])
def test_large_arrays(mode):
    z = rng.standard_normal((30, 20)) + 1j * rng.standard_normal((30, 20))
    forward, right, _ = RIGHT["square"]

    def one_part_wrong(dout, z):
        dz = 2 * dout * z.conj()
        dz[17, 3] += 1e-2j
        return dz

    assert check_backward(forward, right, z, mode=mode).verdict == "pass"
    (argument,) = check_backward(forward, one_part_wrong, z, mode=mode).arguments
    assert (argument.verdict, argument.index, argument.part) == ("fail", (17, 3), "imag")


# --- the contract


def test_writing_into_a_complex_argument_is_seen():
    def forward(z):
        z *= 2
        return z * z, z.copy()

    assert check_backward(forward, lambda d, z: 4 * d * z.conj(), Z).contract == ("forward writes into its arguments",)


@pytest.mark.parametrize("conjugate", [False, True])
def test_writing_into_a_complex_dout_is_seen(conjugate):
    def backward(dout, z):
        dout *= 2
        return dout * (z if conjugate else z.conj())

    report = check_backward(lambda z: (z * z, z), backward, Z, conjugate=conjugate)
    assert report.contract == ("backward writes into dout",)


@pytest.mark.parametrize("conjugate", [False, True])
def test_one_complex_buffer_for_all_gradients_is_seen(conjugate):
    buffer = np.zeros_like(Z)

    def backward(dout, z):
        return np.multiply(2 * dout, z if conjugate else z.conj(), out=buffer)

    (broken,) = check_backward(lambda z: (z * z, z), backward, Z, conjugate=conjugate).contract
    assert broken == "a later backward changes the gradients that an earlier one has returned"


def test_a_complex_dout_that_lies_in_memory_in_another_way():
    def backward(dout, z):
        flat = dout.ravel(order="K")  # in another order where dout is
        return 2 * flat.reshape(z.shape) * z.conj()

    report = check_backward(lambda z: (z * z, z), backward, Z)
    assert report.contract == ("backward gives another gradient for a dout that lies in memory in another way",)


def test_a_backward_that_is_linear_in_complex_factors_only_in_part():
    """conj(dout) is linear in real factors, which is all that a backward must be."""
    forward, backward, args = RIGHT["conj"]
    assert check_backward(forward, backward, *args).contract == ()


def test_less_precise_gradients_are_named_as_complex():
    report = check_backward(lambda z: (z * z, z), lambda d, z: (2 * d * z.conj()).astype(np.complex64), Z)
    assert "the gradient of z is complex64, where argument and output are complex128" in report.contract


def test_single_precision():
    kinds = []

    def forward(z):
        kinds.append(z.dtype.name)
        return z * z, z

    right = check_backward(forward, lambda d, z: 2 * d * z.conj(), Z, dtype=np.float32)
    assert right.verdict == "pass", str(right)
    assert set(kinds) == {"complex64", "complex128"}
    assert check_backward(forward, lambda d, z: 2.001 * d * z.conj(), Z, dtype=np.float32).verdict == "fail"


# --- options


@pytest.mark.parametrize("conjugate", [False, True])
def test_a_given_dout_may_be_complex_and_is_handed_on_as_it_is(conjugate):
    seen = []

    def backward(dout, z):
        seen.append(np.array(dout))
        return 2 * dout * (z if conjugate else z.conj())

    options = {"dout": 1j * Z, "conjugate": conjugate}
    assert check_backward(lambda z: (z * z, z), backward, Z, **options).verdict == "pass"
    assert np.array_equal(seen[0], 1j * Z)
    assert check_backward(lambda z: (z * z, z), lambda d, z: backward(d.conj(), z), Z, **options).verdict == "fail"


def test_a_given_dout_of_another_shape():
    with pytest.raises(ValueError, match=r"dout has the shape \(4, 3\) where out has \(3, 4\)"):
        check_backward(lambda z: (z * z, z), lambda d, z: 2 * d * z.conj(), Z, dout=Z.T)


def test_complex_steps_are_for_real_problems_only():
    right = check_backward(*RIGHT["real times complex"][:2], X, Z)
    assert [a.method for a in right.arguments] == ["differences", "differences"]
    alone = check_backward(lambda x, z: ((x * z).real, z), lambda d, z: (d * z).real, X, Z, wrt="x")
    assert alone.verdict == "pass"


# --- what is printed


def test_the_worst_part_is_named():
    report = check_backward(*RIGHT["square"][:1], WRONG["square: imaginary part of one element"][1], Z)
    (argument,) = report.arguments
    assert (argument.index, argument.part, argument.shape) == ((1, 3), "imag", (3, 4))
    assert "(1, 3) imag" in str(report)
    found = json.loads(report.to_json())["arguments"][0]
    assert (found["index"], found["part"]) == ([1, 3], "imag")
    assert "(1, 3) imag" in report.to_html()
    assert argument.difference.shape == (3, 4)


def test_a_kink_of_one_part_is_named_with_it():
    z = np.array([1 + 1j, 2 + 0j])
    forward = lambda z: (np.abs(z.imag), z)  # noqa: E731
    (argument,) = check_backward(forward, lambda d, z: 1j * d * np.where(z.imag, 1.0, 3.0), z).arguments
    assert argument.verdict == "fail"
    assert "at (1,) imag the slopes of the two sides are" in argument.reason


def test_the_other_convention_is_suggested():
    power = RIGHT["power"][0]
    (argument,) = check_backward(power, lambda d, z: 2 * d * z.conj(), Z).arguments
    assert argument.hint == "it is right in the other convention, that of JAX and autograd: conjugate=True"
    (argument,) = check_backward(power, lambda d, z: 2 * d * z, Z, conjugate=True).arguments
    assert argument.hint == "it is right in the other convention, PyTorch's: conjugate=False"


def test_the_other_convention_is_not_suggested_if_one_gradient_is_wrong_in_it():
    report = check_backward(linear, WRONG["linear layer: input not conjugated"][1], Z, W, B)
    assert "convention" not in report.arguments[1].hint


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (lambda g: g.conj(), "it is the complex conjugate of what it should be"),
        (lambda g: 2 * g, "it is 2 times what it should be"),
        (lambda g: -1j * g, "it is -1i times what it should be"),
        (lambda g: (1 - 2j) * g, "it is (1 -2i) times what it should be"),
        (lambda g: 0.5 * g.conj(), "it is 0.5 times the complex conjugate of what it should be"),
        (lambda g: g.real, "the imaginary part is missing"),
        (lambda g: 1j * g.imag, "the real part is missing"),
        (
            lambda g: np.where(np.arange(4) > 1, g.conj(), g),
            "at the wrong elements it is the complex conjugate of what it should be",
        ),
        (lambda g: np.full_like(g, np.nan), "the gradient is not finite"),
        (lambda g: g + 1, ""),
        (lambda g: g * (1 + 1e-8 * X), ""),
        (lambda g: 0 * g, ""),
    ],
)
def test_hints(factor, text):
    wrong = split(factor(Z))
    assert complex_hint(wrong, split(Z), wrong != split(Z)) == text


# --- pairs


def test_pairs_and_back():
    assert np.shares_memory(split(Z), Z)
    assert np.shares_memory(joined(split(Z)), Z)
    assert np.array_equal(split(X)[..., 1], np.zeros_like(X))
    for pairs in (split(Z), np.asfortranarray(split(Z)), np.stack([split(Z)] * 2, axis=-1)[..., 0]):
        assert np.array_equal(joined(pairs), Z)
        assert joined(pairs).flags.c_contiguous == pairs.flags.c_contiguous
    assert joined(split(np.complex64(1 + 2j))) == 1 + 2j
    assert joined(split(np.inf + 1j))[()] == np.inf + 1j
