"""What a model writes after a prompt, by one call: a text, and the completions of a fine-tuned model."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from npgpt.data.templates import Template
from npgpt.generation.engine import Generator, draws, generate
from npgpt.generation.in_order import SLOTS, finished, in_order
from npgpt.generation.prompts import answer_prompt
from npgpt.generation.settings import Sampling
from npgpt.models.base import Model, end_ids
from npgpt.tokenizer import Tokenizer


def answer_tokens(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | np.random.Generator = 0,
    before: Sequence[tuple[str, str]] = (),
    special: bool = False,
) -> Iterator[int]:
    """Yield the tokens of a prompt's completion, without the end token.

    max_new_tokens  None for as many as fit into the context
    before          the earlier turns of the conversation, pairs of a prompt and its completion
    special         whether special tokens in the prompts are encoded as such, not as plain text

    Raises what answer_prompt and npgpt.generate raise.
    """
    ids = answer_prompt(model, tokenizer, prompt, before, special)
    room = model.config.n_positions - len(ids)
    n = room if max_new_tokens is None else min(room, max_new_tokens)
    return continue_text(model, tokenizer, ids, n, temperature, top_k, top_p, seed)


def continue_text(
    model: Model,
    tokenizer: Tokenizer,
    ids: Iterable[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | np.random.Generator = 0,
) -> Iterator[int]:
    """Yield the tokens that follow ids until the text ends, without the token that ends it.

    That is the tokenizer's end token, or any that the model's configuration names. The settings are those of
    npgpt.generate, and so are the errors.
    """
    ends = {*end_ids(model.config), *(() if tokenizer.end_id is None else (tokenizer.end_id,))}
    ends &= {*range(tokenizer.vocab_size)}
    n = tokenizer.vocab_size
    tokens = generate(model, ids, max_new_tokens, temperature, top_k, top_p, seed, n, ends, tokenizer)
    return (token for token in tokens if token not in ends)


def answers(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Iterable[str],
    temperature: float = 0.0,
    top_p: float | None = None,
    seed: int = 0,
    template: Template | None = None,
    of: Iterable[tuple[str, str]] | None = None,
) -> Iterator[str]:
    """Yield a completion of each prompt, in order. At temperature 0 each token is the likeliest one.

    Each has draws of its own: the first those of `seed`, as npgpt.generate.

    template  how the prompts are read; None for the usual way of such models
    of        the system message and the input of each prompt; None for none
    """
    prompts = list(prompts)
    others = list(of) if of is not None else [("", "")] * len(prompts)
    sampling = Sampling(max_new_tokens=None, temperature=temperature, top_p=top_p, seed=seed)
    generator = Generator(model, tokenizer, max(1, min(SLOTS, len(prompts))))
    texts = (
        (answer_prompt(model, tokenizer, prompt, template=template, system=system, input=given), draws(sampling, i))
        for i, (prompt, (system, given)) in enumerate(zip(prompts, others, strict=True))
    )
    for request in in_order(generator, texts, sampling):
        yield finished(generator, request).completion.text
