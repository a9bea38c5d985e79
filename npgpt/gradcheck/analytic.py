"""Whether a forward may be differentiated by complex steps: what it does to complex numbers, and what comes out."""

from collections.abc import Callable
from typing import Any

import numpy as np

# they give of a complex number something that is no analytic function of it
UFUNCS = {np.absolute, np.conjugate, np.sign}
FUNCTIONS = {np.vdot, np.linalg.norm, np.angle, np.real, np.imag, np.linalg.cond}


def watched(x: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return x as an array that notes what is applied to it and is not analytic, and the list for these notes.

    A complex step loses what has gone through abs, conj or real: `abs(w + ih)` is `|w|`. Whether that mattered no
    tolerance can tell where the term is small. np.asarray takes the watch off.
    """
    seen: list[str] = []

    class Watched(np.ndarray):
        def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
            if ufunc in UFUNCS and any(np.iscomplexobj(value) for value in inputs):
                seen.append(ufunc.__name__)
            options = {k: _map(_bare, v) if k == "out" else v for k, v in options.items()}
            return _map(watch, getattr(ufunc, method)(*(_bare(value) for value in inputs), **options))

        def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
            if function in FUNCTIONS:
                seen.append(function.__name__)
            return super().__array_function__(function, types, args, options)

        @property  # type: ignore[misc]
        def real(self) -> Any:
            seen.append("real")
            return _bare(self).real

        @property  # type: ignore[misc]
        def imag(self) -> Any:
            seen.append("imag")
            return _bare(self).imag

        def conj(self) -> Any:
            seen.append("conj")
            return watch(_bare(self).conj())

        conjugate = conj

    def watch(value: Any) -> Any:
        return value.view(Watched) if type(value) is np.ndarray else value

    return watch(np.asarray(x)), seen


def _bare(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, np.ndarray) else value


def _map(f: Callable[[Any], Any], value: Any) -> Any:
    return tuple(map(f, value)) if isinstance(value, tuple) else f(value)
