"""What a fine-tuned model is for: the completion of a prompt."""

from collections.abc import Iterable, Iterator

import numpy as np

from npgpt.model import GPT
from npgpt.sampling import generate
from npgpt.tokenizer import Tokenizer


def answer_tokens(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | np.random.Generator = 0,
) -> Iterator[int]:
    """Yield the tokens of the completion of a prompt, without the one that ends it.

    max_new_tokens  None: as many as the context has room for

    The prompt is read as in training: behind the end token, and encoded by itself. Raises ValueError for a prompt that
    leaves no room, and what npgpt.generate raises.
    """
    end = tokenizer.require_end_id()
    ids = [end, *map(int, tokenizer.encode(prompt))]
    room = model.config.n_positions - len(ids)
    if room < 1:
        raise ValueError(
            f"the prompt is too long: {len(ids) - 1} tokens, and the model's context of {model.config.n_positions} "
            "must hold the completion, too"
        )
    n = room if max_new_tokens is None else min(room, max_new_tokens)
    tokens = generate(model, ids, n, temperature, top_k, top_p, seed, tokenizer.vocab_size, end)
    return (token for token in tokens if token != end)


def answers(model: GPT, tokenizer: Tokenizer, prompts: Iterable[str]) -> Iterator[str]:
    """Yield the likeliest completion of each prompt, token by token the likeliest."""
    for prompt in prompts:
        yield tokenizer.decode(list(answer_tokens(model, tokenizer, prompt)))
