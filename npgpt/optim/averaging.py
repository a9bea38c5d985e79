"""The mean of a run's weights over its last steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from npgpt.support.parameters import Parameters

CHUNK = 2**16  # numbers that are worked on at a time, so that they stay in a core's cache


class Mean:
    """The uniform mean of parameters after each of some steps.

        mean_n = mean_(n-1) + (params_n - mean_(n-1)) / n

    It is like a lower learning rate at no cost to the steps before: it takes the steps' noise out of the weights. In
    this form a weight that does not change, such as a frozen one, keeps its bits.

    params  the parameters, which an optimizer changes
    values  their mean, of their dtype, once there is one
    count   n, the number of steps in the mean; setting it to 0 starts again

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", arXiv:1803.05407;
    Sanyal et al., "Early Weight Averaging meets High Learning Rates for LLM Pre-training", arXiv:2306.03241.
    """

    def __init__(self, params: Parameters) -> None:
        self.params = params
        self.values = params.empty_like()
        self.count = 0

    def add(self) -> None:
        """Take the parameters as they are now into the mean."""
        self.count += 1
        if self.count == 1:
            self.values.flat[:] = self.params.flat
            return
        memory, share = np.empty(CHUNK, self.params.flat.dtype), 1 / self.count
        for here in self._chunks():
            mean = self.values.flat[here]
            change = np.subtract(self.params.flat[here], mean, out=memory[: len(mean)])
            change *= share
            mean += change

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters be their mean for a while. Afterwards they have the bits that they had before."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for here in self._chunks():
            kept = self.params.flat[here].copy()
            self.params.flat[here] = self.values.flat[here]
            self.values.flat[here] = kept

    def _chunks(self) -> Iterator[slice]:
        return (slice(start, start + CHUNK) for start in range(0, self.params.flat.size, CHUNK))
