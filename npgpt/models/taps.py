"""Taps: see the values inside a forward by their names, and replace them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from npgpt.support.hints import nearest

Change = Callable[[np.ndarray], np.ndarray]


class Taps:
    """What to see in a forward, by names or patterns, and what to replace.

    >>> taps = Taps("h.*.attn.probs", replace={"h.1.mlp.out": lambda out: 0 * out})
    >>> logits = model.forward(ids, taps=taps)
    >>> taps["h.0.attn.probs"].shape
    (1, 4, 64, 64)

    names    as model.tap_names() lists them; `*`, `?` and `[...]` match as in file names
    replace  {name or pattern: function from the value to another of its shape}; the forward goes on with the new one

    Values are copies, those of the last forward. A value that is both replaced and seen is seen as it was replaced.
    Replaced keys and values count in this forward alone: a past keeps the model's own.
    """

    def __init__(self, *names: str, replace: Mapping[str, Change] | None = None) -> None:
        self.names = names
        self.replace = dict(replace or {})
        self.values: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a name's value in the last forward. Raises KeyError, with the nearest name, if it was not seen."""
        if name not in self.values:
            raise KeyError(f"no value of {name!r} was seen{nearest(name, self.values)}")
        return self.values[name]

    def __call__(self, name: str, value: np.ndarray) -> np.ndarray:
        """Record a value if it is asked for; return it, or its replacement. The model calls this."""
        for pattern, change in self.replace.items():
            if fnmatchcase(name, pattern):
                new = np.asarray(change(value.copy()))
                if new.shape != value.shape:
                    raise ValueError(f"{name} has the shape {value.shape}, but its replacement {new.shape}")
                value = new.astype(value.dtype)
        if any(fnmatchcase(name, pattern) for pattern in self.names):
            self.values[name] = value.copy()
        return value

    def want(self, names: Iterable[str]) -> bool:
        """Say whether any of these names is to be seen or replaced."""
        patterns = (*self.names, *self.replace)
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    def begin(self, known: Sequence[str]) -> None:
        """Forget the values of the last forward. Raise ValueError for a pattern that fits none of the known names."""
        self.values.clear()
        for pattern in (*self.names, *self.replace):
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ValueError(f"the model has no value {pattern!r}{nearest(pattern, known)}")


class TapsUnder(Taps):
    """Taps of a model that is a part of another one, whose names for its values begin with a prefix."""

    def __init__(self, taps: Taps, prefix: str) -> None:
        super().__init__()
        self.taps, self.prefix = taps, prefix

    def __call__(self, name: str, value: np.ndarray) -> np.ndarray:
        return self.taps(self.prefix + name, value)

    def want(self, names: Iterable[str]) -> bool:
        return self.taps.want(self.prefix + name for name in names)


class NoTaps(Taps):
    """Taps that see and replace nothing, at no cost. Training runs with them."""

    def __call__(self, name: str, value: np.ndarray) -> np.ndarray:
        return value

    def want(self, names: Iterable[str]) -> bool:
        return False


NO_TAPS = NoTaps()
