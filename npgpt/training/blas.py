"""How many threads BLAS uses for a model's forward passes, outside training, whose workers set it themselves."""

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

from npgpt.models.base import Model
from npgpt.support.machine import cores

# The threads of BLAS wait for each other by spinning, after each product and however small it is. Beside a busy
# neighbour, a token of the preset tiny takes 3 to 60 ms with two threads, and 2 to 4 ms with one; of gpt2, 300 ms and
# 40 ms. Two threads pay only where the products are large, as when gpt2 reads a prompt of 64 tokens (105 and 185 ms).
PARAMETERS_TIMES_TOKENS = 2**31


def blas_threads(model: Model, n_tokens: int) -> AbstractContextManager[object]:
    """Limit the threads of BLAS, within a `with` block, to the number that suits a forward pass over n_tokens."""
    large = model.size * n_tokens > PARAMETERS_TIMES_TOKENS
    return _controller().limit(limits=cores() if large else 1, user_api="blas")


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks for the libraries that are loaded, which takes a millisecond
