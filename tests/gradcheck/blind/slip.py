"""What a slip of the blind set is: a bug, what it is in plain words, and words that a hint for it must hold one of."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.gradcheck.example import Example, planted


@dataclass(frozen=True)
class Slip:
    """A planted bug and what a hint should say of it.

    kind     the kind of slip, for the score by kind
    said     the slip in plain words
    words    an acceptable hint holds at least one of them, in lower case; None where no pattern could tell the slip
    """

    example: Example
    kind: str
    said: str
    words: tuple[str, ...] | None

    @property
    def name(self) -> str:
        return self.example.name


def slips(layer: str, forward: Callable, right: Callable, args: Callable, *cases: tuple) -> list[Slip]:
    """Plant each case `(slip, kind, said, *words)` in one layer; a case without words is one that no pattern tells."""
    found = []
    for slip, kind, said, *words in cases:
        found.append(Slip(planted(layer, slip, forward, right, args), kind, said, tuple(words) or None))
    return found
