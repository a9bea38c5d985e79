"""Best of n: several texts are drawn, and the likeliest is kept."""

from collections.abc import Iterable

import numpy as np

from npgpt.generation.requests import Completion


def best_of(completions: Iterable[Completion], length_penalty: float = 1.0) -> Completion:
    """Return the completion with the highest score: its log-probability over its length to the power of length_penalty.

    >>> best_of(generator.complete(["Once"], Sampling(seed=1), n=8))

    length_penalty  1 for the mean log-probability of a token; 0 for the sum, which prefers short texts

    The log-probabilities are the model's own, before any rule, and the length is the number of ids, an end token among
    them. Of equal scores the first is taken. A completion without ids has no score, and is taken only if all have none;
    so is one that does not match what constrains it, if all do not.

    Raises ValueError if there are no completions.
    """
    found = list(completions)
    if not found:
        raise ValueError("there are no completions to choose from")
    found = [completion for completion in found if completion.finish_reason != "unfinished"] or found
    scores = [sum(c.logprobs) / len(c.ids) ** length_penalty if c.ids else -np.inf for c in found]
    return found[int(np.argmax(scores))]
