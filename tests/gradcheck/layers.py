"""Layers as people write them: each a right one, one with a wrong gradient of W, and one that forgets that of b."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np

RNG = np.random.default_rng(21)
X = RNG.standard_normal((5, 3))
WEIGHT, BIAS = RNG.standard_normal((3, 4)), RNG.standard_normal(4)


def gradients(x, dout, slip):
    """Return dW and db of `x @ W + b`; a slip is "wrong" (an element of dW is off by 1%) or "missing" (no db)."""
    dW = x.T @ dout
    if slip == "wrong":
        dW[1, 2] *= 1.01
    return dW, None if slip == "missing" else dout.sum(axis=0)


class Attributes:
    """W, b and their gradients in attributes, under any names."""

    def __init__(self, slip="", names=("W", "b", "dW", "db")):
        self.slip, self.names, self.calls = slip, names, 0
        setattr(self, names[0], WEIGHT.copy())
        setattr(self, names[1], BIAS.copy())

    def forward(self, x):
        self.x = x
        self.calls += 1
        return x @ getattr(self, self.names[0]) + getattr(self, self.names[1])

    def backward(self, dout):
        for name, gradient in zip(self.names[2:], gradients(self.x, dout, self.slip), strict=True):
            if gradient is not None:
                setattr(self, name, gradient)
        return dout @ getattr(self, self.names[0]).T


class Book:
    """Deep Learning from Scratch: lists, and gradients that are written into what is there."""

    def __init__(self, slip="", W=WEIGHT, b=BIAS):
        self.slip, self.params = slip, [W.copy() if W is WEIGHT else W, b.copy() if b is BIAS else b]
        self.grads = [np.zeros_like(p) for p in self.params]
        self.x = None

    def forward(self, x):
        W, b = self.params
        self.x = x
        return x @ W + b

    def backward(self, dout):
        dW, db = gradients(self.x, dout, self.slip)
        self.grads[0][...] = dW
        if db is not None:
            self.grads[1][...] = db
        return dout @ self.params[0].T


class Sigmoid:
    params, grads = (), ()

    def forward(self, x):
        self.out = 1 / (1 + np.exp(-x))
        return self.out

    def backward(self, dout):
        return dout * self.out * (1 - self.out)


class BookModel:
    """Its second volume: a model gathers the lists of its layers."""

    def __init__(self, slip=""):
        W = RNG.standard_normal((4, 2))
        self.layers = [Book(slip), Sigmoid(), Book("", W, np.zeros(2))]
        self.params, self.grads = [], []
        for layer in self.layers:
            self.params += layer.params
            self.grads += layer.grads

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dout):
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout


class Affine:
    """Its first volume: handed W and b, and keeping their gradients."""

    def __init__(self, W, b, slip=""):
        self.W, self.b, self.dW, self.db, self.slip = W, b, None, None, slip

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW, self.db = gradients(self.x, dout, self.slip)
        return dout @ self.W.T


class BookNet(BookModel):
    """A dict of parameters that the layers share, and no gradients but those of the layers."""

    def __init__(self, slip=""):
        self.params = {"W": WEIGHT.copy(), "b": BIAS.copy()}
        self.named = OrderedDict(Affine1=Affine(self.params["W"], self.params["b"], slip), Sigmoid=Sigmoid())

    @property
    def layers(self):
        return list(self.named.values())


class Dicts:
    """CS231n: params and grads, two dicts with the same keys, or with `dW` for `W`."""

    prefix = ""

    def __init__(self, slip=""):
        self.slip, self.params, self.grads = slip, {"W": WEIGHT.copy(), "b": BIAS.copy()}, {}
        self.bn_params, self.reg, self.dtype = [{"mode": "train", "eps": 1e-5}], 0.1, np.float64

    def forward(self, x):
        self.cache = x, self.params["W"]
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dout):
        x, W = self.cache
        found = zip("Wb", gradients(x, dout, self.slip), strict=True)
        self.grads = {f"{self.prefix}{name}": g for name, g in found if g is not None}
        return dout @ W.T


class PrefixedDicts(Dicts):
    prefix = "d"


class Tuples(Dicts):
    def __init__(self, slip=""):
        self.slip, self.params, self.grads = slip, (WEIGHT.copy(), BIAS.copy()), ()

    def forward(self, x):
        self.x = x
        return x @ self.params[0] + self.params[1]

    def backward(self, dout):
        self.grads = tuple(g for g in gradients(self.x, dout, self.slip) if g is not None)
        return dout @ self.params[0].T


class Nested(Dicts):
    """A dict of dicts, and one for the gradients."""

    def __init__(self, slip=""):
        self.slip, self.gradients = slip, None
        self.parameters = {"first": {"W": WEIGHT.copy(), "b": BIAS.copy()}, "last": {"scale": np.array([2.0, 3, 4, 5])}}

    def forward(self, x):
        first = self.parameters["first"]
        self.x, self.h = x, x @ first["W"] + first["b"]
        return self.h * self.parameters["last"]["scale"]

    def backward(self, dout):
        dh = dout * self.parameters["last"]["scale"]
        dW, db = gradients(self.x, dh, self.slip)
        first = {"W": dW} if db is None else {"W": dW, "b": db}
        self.gradients = {"first": first, "last": {"scale": (dout * self.h).sum(axis=0)}}
        return dh @ self.parameters["first"]["W"].T


class Parameter:
    """micrograd and its kin: a value and what is added to its gradient."""

    def __init__(self, data):
        self.data, self.grad = data, np.zeros_like(data)

    def __mul__(self, other):
        return Parameter(self.data * other)


class Objects:
    """Parameters as objects, in attributes."""

    def __init__(self, slip=""):
        self.slip, self.W, self.b = slip, Parameter(WEIGHT.copy()), Parameter(BIAS.copy())

    def __call__(self, x):
        self.x = x
        return x @ self.W.data + self.b.data

    def backward(self, dout):
        dW, db = gradients(self.x, dout, self.slip)
        self.W.grad += dW
        self.b.grad += 0 if db is None else db
        return dout @ self.W.data.T


class ObjectList(Objects):
    """And in a list, which `parameters()` returns."""

    def __init__(self, slip=""):
        super().__init__(slip)
        self._parameters = [self.W, self.b]

    def parameters(self):
        return self._parameters


class Slots:
    __slots__ = ("W", "__b", "__db", "dW", "slip", "x")

    def __init__(self, slip=""):
        self.slip, self.W, self.__b = slip, WEIGHT.copy(), BIAS.copy()

    def forward(self, x):
        self.x = x
        return x @ self.W + self.__b

    def backward(self, dout):
        self.dW, self.__db = gradients(self.x, dout, self.slip)
        return dout @ self.W.T


class Properties:
    """Arrays under private names, seen through properties."""

    def __init__(self, slip=""):
        self.slip, self._kernel, self._offset = slip, WEIGHT.copy(), BIAS.copy()

    params = property(lambda self: {"W": self._kernel, "b": self._offset})
    grads = property(lambda self: dict(zip("Wb", gradients(self.x, self.dout, self.slip), strict=True)))

    def forward(self, x):
        self.x = x
        return x @ self._kernel + self._offset

    def backward(self, dout):
        self.dout = dout
        return dout @ self._kernel.T


class Scratch:
    """Neural Networks from Scratch: nothing is returned."""

    def __init__(self, slip=""):
        self.slip, self.weights, self.biases = slip, WEIGHT.copy(), BIAS[None].copy()

    def forward(self, inputs):
        self.inputs = inputs
        self.output = inputs @ self.weights + self.biases

    def backward(self, dvalues):
        self.dweights, db = gradients(self.inputs, dvalues, self.slip)
        if db is not None:
            self.dbiases = db[None]
        self.dinputs = dvalues @ self.weights.T


class Built:
    """Keras: weights are made in the first call, and kept in a list."""

    def __init__(self, slip=""):
        self.slip, self.built, self.trainable_weights, self.gradients = slip, False, [], []

    def __call__(self, x):
        if not self.built:
            self.trainable_weights, self.built = [WEIGHT[: x.shape[1]].copy(), BIAS.copy()], True
        self.x = x
        return x @ self.trainable_weights[0] + self.trainable_weights[1]

    def backward(self, dout):
        self.gradients = [g for g in gradients(self.x, dout, self.slip) if g is not None]
        return dout @ self.trainable_weights[0].T


class Flat:
    """One buffer for all parameters and one for all gradients; the arrays are views."""

    def __init__(self, slip=""):
        self.slip, self.theta, self.dtheta = slip, np.concatenate([WEIGHT.ravel(), BIAS]), np.zeros(16)
        self.W, self.b = self.theta[:12].reshape(3, 4), self.theta[12:]
        self.dW, self.db = self.dtheta[:12].reshape(3, 4), self.dtheta[12:]

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        dW, db = gradients(self.x, dout, self.slip)
        self.dW[...] = dW
        self.db[...] = 0 if db is None else db
        return dout @ self.W.T


Pair = namedtuple("Pair", "W b")


class NamedTuples(Tuples):
    def __init__(self, slip=""):
        self.slip, self.params, self.grads = slip, Pair(WEIGHT.copy(), BIAS.copy()), None

    def backward(self, dout):
        self.grads = Pair(*gradients(self.x, dout, self.slip))
        return dout @ self.params.W.T


@dataclass(frozen=True, eq=False)
class Frozen:
    slip: str = ""
    W: np.ndarray = None
    b: np.ndarray = None
    state: dict = None

    @classmethod
    def make(cls, slip=""):
        return cls(slip, WEIGHT.copy(), BIAS.copy(), {})

    def forward(self, x):
        self.state["x"] = x
        return x @ self.W + self.b

    def backward(self, dout):
        dW, db = gradients(self.state["x"], dout, self.slip)
        object.__setattr__(self, "dW", dW)
        object.__setattr__(self, "db", db)
        return dout @ self.W.T


class Children:
    """Layers inside layers, with a way back up, and the library as an attribute."""

    def __init__(self, slip=""):
        self.xp, self.fc1, self.act = np, Attributes(slip), Sigmoid()
        self.blocks = {"out": [Affine(RNG.standard_normal((4, 2)), np.zeros(2))]}
        self.fc1.parent = self.act.parent = self

    def forward(self, x):
        return self.blocks["out"][0].forward(self.act.forward(self.fc1.forward(x)))

    def backward(self, dout):
        return self.fc1.backward(self.act.backward(self.blocks["out"][0].backward(dout)))


def named(*names):
    return lambda slip="": Attributes(slip, names)


# a way to write a layer: the maker, whether its gradients accumulate, the names of W and b, and the others'
STYLES = {
    "W and dW": (Attributes, False, "W", "b", ()),
    "grad_weight": (named("weight", "bias", "grad_weight", "grad_bias"), False, "weight", "bias", ()),
    "weight_grad": (named("weight", "bias", "weight_grad", "bias_grad"), False, "weight", "bias", ()),
    "weight_gradient": (named("weight", "bias", "weight_gradient", "bias_gradient"), False, "weight", "bias", ()),
    "gradWeight": (named("weight", "bias", "gradWeight", "gradBias"), False, "weight", "bias", ()),
    "dL_dW": (named("W", "b", "dL_dW", "dL_db"), False, "W", "b", ()),
    "coef_": (named("coef_", "intercept_", "coef_grad_", "intercept_grad_"), False, "coef_", "intercept_", ()),
    "private": (named("_w", "_b", "_dw", "_db"), False, "_w", "_b", ()),
    "lists": (Book, False, "params[0]", "params[1]", ()),
    "a model of lists": (BookModel, False, "params[0]", "params[1]", ("params[2]", "params[3]")),
    "a shared dict": (BookNet, False, "W", "b", ()),
    "dicts": (Dicts, False, "W", "b", ()),
    "dicts with dW": (PrefixedDicts, False, "W", "b", ()),
    "tuples": (Tuples, False, "params[0]", "params[1]", ()),
    "named tuples": (NamedTuples, False, "params.W", "params.b", ()),
    "nested dicts": (
        Nested,
        False,
        "parameters['first']['W']",
        "parameters['first']['b']",
        ("parameters['last']['scale']",),
    ),
    "objects": (Objects, True, "W.data", "b.data", ()),
    "a list of objects": (ObjectList, True, "W.data", "b.data", ()),
    "slots": (Slots, False, "W", "_Slots__b", ()),
    "properties": (Properties, False, "W", "b", ()),
    "nothing is returned": (Scratch, False, "weights", "biases", ()),
    "made at first": (Built, False, "trainable_weights[0]", "trainable_weights[1]", ()),
    "frozen": (Frozen.make, False, "W", "b", ()),
    "layers inside": (Children, False, "fc1.W", "fc1.b", ("blocks['out'][0].W", "blocks['out'][0].b")),
}
