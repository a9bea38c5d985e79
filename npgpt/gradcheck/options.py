"""What a user may ask of a check."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Options:
    """The options of check_backward, checked; its docstring describes them.

    Raises ValueError for one that is not among those that are possible.
    """

    mode: str = "auto"
    dtype: Any = np.float64
    tolerance: float | None = None
    dout: Any = None
    strict: bool = False
    conjugate: bool = False
    progress: bool | None = None
    max_seconds: float | None = None
    noise: float = 0.0
    symmetric: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "elements", "directions"):
            raise ValueError(f"mode={self.mode!r} is not one of auto, elements, directions")
        if np.dtype(self.dtype).name not in ("float64", "float32"):
            raise ValueError(f"dtype={np.dtype(self.dtype).name} is not float64 or float32")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance} must be at least 0")
        if self.progress not in (None, True, False):
            raise ValueError(f"progress={self.progress!r} is not None, True or False")
        if isinstance(self.symmetric, str):
            raise TypeError(f"symmetric={self.symmetric!r} is not a list of names")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds={self.max_seconds} must be above 0")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise={self.noise} must be at least 0 and below 1")
