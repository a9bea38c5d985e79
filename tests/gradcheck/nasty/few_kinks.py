"""A few kinks among thousands of elements: to be found and set aside, not to fill the sample."""

from functools import partial

import numpy as np

from tests.gradcheck.bugs import few_kinks as bugs
from tests.gradcheck.example import correct, normal

kinked = partial(correct, kink=True)


def variation_forward(x):
    """Sum each row's variation; some neighbours are equal."""
    return np.abs(np.diff(x, axis=1)).sum(axis=1), x


def variation_backward(dout, x):
    sign = np.sign(np.diff(x, axis=1)) * dout[:, None]
    dx = np.zeros_like(x)
    dx[:, 1:] += sign
    dx[:, :-1] -= sign
    return dx


def equal_neighbours():
    (x,) = normal(426, (12, 100))
    x[::3, 50] = x[::3, 51]
    return (x,)


def hinge_forward(scores):
    return np.maximum(0, 1 - scores).mean(axis=1), scores


def hinge_backward(dout, scores):
    return -dout[:, None] * (scores < 1) / scores.shape[1]


NASTY = [
    kinked("relu of 3,000, 30 zeros", bugs.relu_forward, bugs.relu_backward, bugs.zeros, "one kink in a hundred"),
    kinked(
        "moduli of 3,000, 30 zeros", bugs.modulus_forward, bugs.modulus_backward, bugs.zeros, "one kink in a hundred"
    ),
    kinked("max-pool of 600, 10 tied", bugs.pool_forward, bugs.pool_backward, bugs.some_dead, "ten windows of zeros"),
    kinked(
        "layer of relu, two rows of padding",
        bugs.linear_relu_forward,
        bugs.linear_relu_backward,
        bugs.padded_rows,
        "a direction meets kinks by rows",
    ),
    kinked("clip of 2,000, 25 at 1", bugs.clip_forward, bugs.clip_backward, bugs.at_the_limits, "one kink in eighty"),
    kinked(
        "soft thresholds, 20 of 1,200 met",
        bugs.shrink_forward,
        bugs.shrink_backward,
        bugs.thresholds,
        "a constant decides who is at a kink",
    ),
    kinked(
        "variation with equal neighbours",
        variation_forward,
        variation_backward,
        equal_neighbours,
        "four kinks in 1,200",
    ),
    kinked(
        "hinges, 15 of 3,000 at their margin",
        hinge_forward,
        hinge_backward,
        lambda: (bugs.sprinkled(427, (30, 100), 200, 1.0),),
        "slopes of a hundredth",
    ),
]
