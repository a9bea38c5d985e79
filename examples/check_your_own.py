"""Check backward passes of your own: a pair of functions, an object, a scalar function, and a big tensor.

From this folder the same pair is checked by `npgpt gradcheck check_your_own:forward,backward`.
"""

import numpy as np

from npgpt.gradcheck import check_backward, check_gradient, check_layer


def forward(x, weight):  # a gated layer: out = tanh(x) * sigmoid(x @ weight)
    gate = 1 / (1 + np.exp(-(x @ weight)))
    return np.tanh(x) * gate, (x, weight, gate)


def backward(dout, cache):
    x, weight, gate = cache
    dz = dout * np.tanh(x) * gate * (1 - gate)
    return dout * gate * (1 - np.tanh(x) ** 2) + dz @ weight.T, x.T @ dz


def make_args():
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 3)), rng.standard_normal((3, 3))


class Scale:  # a layer as an object: its cache, its parameter and the gradient of it are attributes
    def __init__(self, size):
        self.weight = np.linspace(0.5, 1.5, size)

    def forward(self, x):
        self.x = x
        return x * self.weight

    def backward(self, dout):
        self.dweight = (dout * self.x).mean(axis=0)  # the slip: this must be a sum
        return dout * self.weight


def backward_of_square(dout, x):
    dx = 2 * dout * x
    dx[123, 45] *= 1.001  # the slip: one element of 50,000, by a thousandth
    return dx


if __name__ == "__main__":
    rng = np.random.default_rng(1)
    reports = {
        "a pair of functions": check_backward(forward, backward, *make_args()),
        "an object with a slip": check_layer(Scale(5), rng.standard_normal((7, 5))),
        "a scalar function": check_gradient(lambda x: np.sum(x**4), lambda x: 4 * x**3, rng.standard_normal(3)),
        "a big tensor with a slip": check_backward(
            lambda x: (x * x, x), backward_of_square, rng.standard_normal((250, 200))
        ),
    }
    for name, report in reports.items():
        print(f"{name}\n{report}\n")
