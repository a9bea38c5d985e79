"""Keep warnings of calls at other points than the given ones from the user, who has not asked for them."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show no warnings, and raise none where they are errors: a moved point may overflow, and that is dealt with."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def quietly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that shows no warnings."""

    @functools.wraps(function, updated=())
    def silent(*args: Any, **options: Any) -> Any:
        with quiet():
            return function(*args, **options)

    return silent
