"""What a fine-tuned model is for: the completion of a prompt."""

from collections.abc import Iterable, Iterator, Sequence

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
    before: Sequence[tuple[str, str]] = (),
) -> Iterator[int]:
    """Yield the tokens of the completion of a prompt, without the one that ends it.

    max_new_tokens  None: as many as the context has room for
    before          the earlier turns of the conversation, pairs of a prompt and its completion

    The prompt is read as in training: behind the end token, as every turn is, and encoded by itself. Raises ValueError
    for one that leaves no room, and what npgpt.generate raises.
    """
    end = tokenizer.require_end_id()
    ids = [end]
    for turn in before:
        ids += [*(int(i) for text in turn for i in tokenizer.encode(text)), end]
    ids += map(int, tokenizer.encode(prompt))
    room = model.config.n_positions - len(ids)
    if room < 1:
        what = "conversation" if before else "prompt"
        raise ValueError(
            f"the {what} is too long: {len(ids) - 1} tokens, and the model's context of {model.config.n_positions} "
            "must hold the completion, too"
        )
    n = room if max_new_tokens is None else min(room, max_new_tokens)
    tokens = generate(model, ids, n, temperature, top_k, top_p, seed, tokenizer.vocab_size, end)
    return (token for token in tokens if token != end)


def answers(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Iterable[str],
    temperature: float = 0.0,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """Yield a completion of each prompt, unless a temperature is given token by token the likeliest."""
    rng = np.random.default_rng(seed)
    for prompt in prompts:
        tokens = answer_tokens(model, tokenizer, prompt, temperature=temperature, top_p=top_p, seed=rng)
        yield tokenizer.decode(list(tokens))
