"""Numerical derivatives, with an error bar: complex step, Richardson extrapolation, and the noise of a function."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

EPS = float(np.finfo(np.float64).eps)


def largest(x: np.ndarray) -> float:
    """Return the largest absolute value in an array, 0 if it is empty."""
    return float(np.max(np.abs(x), initial=0.0))


def norm(x: np.ndarray | float) -> float:
    """Return the Euclidean norm of all numbers in an array, without overflow on the way."""
    flat = np.ravel(x)
    square = float(np.dot(flat, flat))
    if 1e-200 < square < 1e200:
        return math.sqrt(square)
    top = largest(flat)
    return top * float(np.linalg.norm(flat / top)) if 0 < top < math.inf else top


# --- the plain numerical gradient

# With h the truncation error is h^4 / 30 times the fifth derivative, the rounding error about 1.5 eps / h times the
# function. They balance near eps^(1/5) = 7e-4; a power of two near it makes x + h exact more often.
STEP = 2.0**-10


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = STEP) -> np.ndarray:
    """Differentiate a scalar function at x, one element after another.

        (f(x - 2h) - 8 f(x - h) + 8 f(x + h) - f(x + 2h)) / (12 h),    h = step * max(1, |x|)

    f  takes a float64 array in the shape of x and returns a number; it is called four times per element
    x  (...) floats; it is copied, and left as it is
    Returns the gradient in the shape of x, float64; infinity or NaN where f overflows.
    Raises TypeError for complex x, and if f returns no number.
    """
    if np.iscomplexobj(x):
        raise TypeError("x is complex: numerical_gradient takes real numbers")
    x = np.array(x, dtype=np.float64, order="C")  # a copy, in an order whose flat view writes into it
    gradient = np.empty_like(x)
    elements, out = x.reshape(-1), gradient.reshape(-1)
    for i, centre in enumerate(elements.copy()):
        h, values = step * max(1.0, abs(centre)), []
        for multiple in (-2, -1, 1, 2):
            elements[i] = centre + multiple * h
            values.append(_number(f(x)))
        elements[i] = centre
        out[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return gradient


def _number(value: Any) -> float:
    if np.size(value) != 1 or np.asarray(value).dtype.kind not in "biuf":
        raise TypeError(f"f must return a number, but returned {type(value).__name__} of shape {np.shape(value)}")
    return float(np.asarray(value).reshape(()))


# --- derivatives along a line, with an error bar
#
# A line is a function of t that returns the weighted outputs dout * out, flat, at x + t * direction. Differences are
# taken output by output before they are summed, so that outputs that do not move add no rounding.

Line = Callable[[Any], np.ndarray]

LEVELS = 34  # halvings: down to 2^-40 of the scale, for kinks that are close and functions that bend sharply
WINDOW = 4  # central differences in one extrapolation, so that all error terms below h^8 drop out
GOOD = 1e-9  # a relative error bar that needs no further halving
# by how much smaller than the one before are the steps that hold a bar to its word; noise leaves little room for them
PROBES, PROBES_IN_NOISE = (64, 4096), (4, 4, 4, 64, 64)


class Differences:
    """Central differences of `sum(line(t))` at 0, and how far noise may put each of them off.

    noise     the standard error of each output, as `noise_level` finds it, or one for all of them
    position  the size of the number that moves, if it is one: x + h and x - h are rounded, too

    Only the outputs that have moved so far count: what no step moves adds no noise to a difference.
    """

    def __init__(self, line: Line, noise: np.ndarray | float, position: float = 0.0) -> None:
        self.line, self.noise, self.position = line, noise, position
        self.moved = np.zeros(0, dtype=bool)

    def at(self, h: float) -> tuple[float, float]:
        """Return the difference over the step h, and four standard errors of it."""
        with np.errstate(all="ignore"):
            ahead, behind = self.line(h), self.line(-h)
            change = ahead - behind
            self.moved = (change != 0) | (self.moved if self.moved.size else False)
            any_moved = self.moved.any()
            # far from 0 the outputs may be larger, and so is their rounding
            here = norm(np.where(self.moved, np.abs(ahead) + np.abs(behind), 0.0)) if any_moved else 0.0
            noise = norm(np.where(self.moved, self.noise, 0.0) if any_moved else self.noise + np.zeros(change.shape))
            difference = float(np.sum(change) / (2 * h))
            return difference, (4 * noise + EPS * (2 * here + abs(difference) * self.position / 2)) / h


def richardson(line: Line, scale: float, noise: np.ndarray | float) -> tuple[float, float]:
    """Return the derivative of `sum(line(t))` at 0 and an error bar.

    Central differences over a ladder of halved steps are extrapolated to step 0; the level whose estimates agree best
    is taken. Its error bar is how far they disagree, plus what the function's noise does to a difference over its step.
    A bar is a claim about all finer steps, too: some of them are tried, and if one disagrees the ladder begins anew
    there. Steps that are too coarse may agree by chance, or because the function is flat at both of their ends.

    scale  the step at which the function may begin to look different; the ladder starts below it
    noise  the standard error of each output, as `noise_level` finds it, or one for all of them

    Source: Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Adv. Eng. Software 4 (1982).
    """
    return extrapolate(Differences(line, noise), scale)


def extrapolate(differences: Differences, scale: float, good: float = GOOD) -> tuple[float, float]:
    """Do what `richardson` says; afterwards the differences tell which outputs have moved.

    good  a relative error bar that needs no further halving
    """
    # 0.83: in step with no period of the function. Where there is noise, long steps may be the best
    first = 0.83 * scale * (1.0 if norm(differences.noise) > 1e-11 else 2.0**-6)
    last = first * 2.0**-LEVELS
    best, error, h = math.nan, math.inf, first
    while True:
        value, bar, h, curvature = _descend(differences, h, last, good)
        if bar < error or abs(value - best) > error + bar:
            best, error = value, bar
        h = _contradiction(differences, best, error, h, curvature, last)
        if not h:
            return best, error


def _descend(differences: Differences, h: float, last: float, good: float) -> tuple[float, float, float, float]:
    """Halve h until the estimates agree or noise takes over.

    Returns the best estimate, its error bar, the last step, and how far a difference over it is off, over its square.
    """
    best, error = math.nan, math.inf
    row: list[float] = []
    level, change = 0, 0.0
    while True:
        difference, noise = differences.at(h)
        new = [difference]
        for order, coarser in enumerate(row[: WINDOW - 1], start=1):
            new.append(new[-1] + (new[-1] - coarser) / (4.0**order - 1))
        if len(row) >= 2 and all(map(math.isfinite, (*new, *row))):
            spread = max(abs(new[-1] - new[-2]), abs(new[-1] - row[-1]))
            # at a branch point such as x^1.5 at 0 a halved step leaves 0.7 of the error: the rest of the way is longer
            ratio = min(abs(new[-1] - row[-1]) / change, 0.9) if change > 0 else 0.0
            bar = 2 * spread / (1 - ratio) + noise
            if bar < error or abs(new[-1] - best) > error + 2 * bar:
                best, error = new[-1], bar
            # enough, or noise has taken over and will only grow
            if error <= good * abs(best) or (noise > error and level >= 4):
                break
        change = abs(new[-1] - row[-1]) if row else 0.0
        row = new if math.isfinite(difference) else []
        if h / 2 <= last:
            break
        h, level = h / 2, level + 1
    return best, error, h, abs(difference - best) / h**2


def _contradiction(
    differences: Differences, best: float, error: float, h: float, curvature: float, last: float
) -> float:
    """Return a step below h at which the difference is not what the estimate and its bar allow; 0 if there is none."""
    for share in PROBES if error <= 1e-6 * abs(best) else PROBES_IN_NOISE:
        h /= share
        if h <= last or not math.isfinite(best):
            return 0.0
        difference, noise = differences.at(h)
        if abs(difference - best) > error + 2 * noise + 2 * curvature * h**2:
            return h
    return 0.0


def seen_nearby(differences: Differences, scale: float, claimed: float, value: float, error: float) -> bool:
    """Return whether the finest differences that can tell a claim from an estimate speak for the claim.

    Where noise leaves no fine steps, all that are left may reach over a kink. The two finest that could still show the
    distance between claim and estimate must then decide: both nearer to the claim, and off the estimate.
    """
    h, votes = 0.83 * scale * 2.0**-6, [False, False]
    for _ in range(LEVELS):
        difference, noise = differences.at(h)
        if not noise < abs(claimed - value):
            break
        off = abs(difference - value)
        votes = [votes[1], abs(difference - claimed) < min(noise, off) and off > error + noise / 2]
        h /= 2
    return all(votes)


TINY = 1e-25  # the complex step: its square is lost beside any number, so it costs no accuracy


def complex_step(line: Line) -> float:
    """Return the derivative at 0 of an analytic function, `imag(f(i h)) / h`: without a difference nothing cancels.

    Source: Squire, Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Rev. 40 (1998).
    """
    return float(np.sum(complex_parts(line)))


def complex_parts(line: Line, step: float = TINY) -> np.ndarray:
    """Return the same for each output of the line."""
    return np.imag(line(1j * step)) / step


def one_sided(line: Line, scale: float, noise: np.ndarray | float) -> tuple[float, float, float]:
    """Return the least and the greatest slope that a gradient at a kink may claim, and an error bar.

    Each output has a slope to the left of 0 and one to the right; a subgradient lies between them, output by output.
    The slopes are taken from f(0), f(h) and f(2h) over a ladder of steps; they are equal where there is no kink.
    """
    start = line(0.0)
    total = norm(noise)

    def slopes(sign: float) -> tuple[np.ndarray, float]:
        best, error, previous = np.full(start.shape, np.nan), math.inf, None
        h = 0.83 * scale * 2.0**-6
        for _ in range(12):
            with np.errstate(all="ignore"):
                found = sign * (4 * (line(sign * h) - start) - (line(sign * 2 * h) - start)) / (2 * h)
            if previous is not None:
                bar = 2 * float(np.sum(np.abs(found - previous))) + 8 * total / h
                if bar < error:
                    best, error = found, bar
            previous = found
            h /= 8
        return best, error

    (left, left_error), (right, right_error) = slopes(-1.0), slopes(1.0)
    low, high = float(np.sum(np.minimum(left, right))), float(np.sum(np.maximum(left, right)))
    return low, high, left_error + right_error


DELTAS = tuple(2.0**-k for k in range(36, 11, -4))
EQUAL = np.arange(-4, 5)
UNEQUAL = EQUAL + np.random.default_rng(1).uniform(-0.5, 0.5, 9)
# times nine values at these distances: how far they are from the quintic that fits them best
OFF_QUINTIC = np.eye(9) - np.vander(UNEQUAL, 6) @ np.linalg.pinv(np.vander(UNEQUAL, 6))


def noise_level(line: Line, smallest: float = 0.0) -> np.ndarray:
    """Return the standard error of each output of line near 0: how much of it is rounding.

    It is read from the fourth differences of nine values so close together that the function is a straight line there.
    A function that rounds to float32 or to eight digits may not move at all over so little; then a larger distance is
    tried, and unequal ones: nine values at equal distances may all hit the grid that a function is rounded to, and look
    exact. Where the outputs' errors are alike, so that those of their sum are larger, all are scaled up to it.

    Source: More, Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011).
    """
    start = line(0.0)
    found = np.zeros(start.shape)
    settled, late = np.zeros(start.shape, dtype=bool), np.zeros(start.shape, dtype=bool)
    # outputs that are rounded by float32 move over this, while few are so close to a kink
    open_ = _moved(line, start, max(2.0**-22, smallest))
    if not open_.any():
        open_ = _moved(line, start, 4 * max(DELTAS[-1], smallest))
    for delta in DELTAS:
        multiples, spread = (EQUAL, fourth_differences) if delta == DELTAS[0] else (UNEQUAL, _off_quintic)
        values = np.array([line(float(k) * max(delta, smallest)) - start for k in multiples])
        distinct = 1 + np.count_nonzero(np.diff(np.sort(values, axis=0), axis=0), axis=0)
        new = open_ & (distinct >= 5) if delta < DELTAS[-1] else open_
        found[new] = spread(values[:, new])
        total, apart = float(spread(values[:, new].sum(axis=1))), norm(found[new])
        if total > apart > 0:
            found[new] *= total / apart
        settled, open_ = settled | new, open_ & ~new
        late |= new if delta > DELTAS[0] else False
        if not open_.any():
            break
    last_place = EPS * np.abs(start)
    known = settled & (start != 0)
    if known.any():  # those that are too steady to show their rounding have the usual one
        usual = float(np.median(found[known] / np.abs(start[known])))
        # where most lie on a grid, and not a few at a kink, those that do not move at all may do so, too
        grid = float(np.median(found[late])) if late.sum() > settled.sum() / 2 else 0.0
        found = np.where(settled, found, np.maximum(usual * np.abs(start), grid))
    return np.maximum(found, last_place)


def _off_quintic(values: np.ndarray) -> np.ndarray:
    """Return the standard error of each element of nine values at the distances UNEQUAL, a bend left out."""
    rest = OFF_QUINTIC @ values
    return np.sqrt(np.sum(rest * rest, axis=0) / (len(UNEQUAL) - 6))


def _moved(line: Line, start: np.ndarray, distance: float) -> np.ndarray:
    return (line(distance) != start) | (line(-distance) != start)


def fourth_differences(values: Any) -> np.ndarray:
    """Return the standard error of each element of nine equally spaced values of a smooth function."""
    fourth = np.diff(np.array(values), 4, axis=0)
    # a fourth difference of independent errors has 1 + 16 + 36 + 16 + 1 = 70 times their variance
    return np.sqrt(np.mean(fourth * fourth, axis=0) / 70)
