"""Greedy generation against transformers, within the context length and past it."""

import numpy as np
import pytest

from npgpt import GPT, generate

from .helpers import (
    TOLERANCES,
    both_ops,
    every_combination,
    make_model,
    random_ids,
    relative_error,
    torch,
    torch_twin,
)

LENGTH = 24


def lively_model(**changes) -> GPT:
    # Random models like to repeat one token for ever, which a wrong model might do as well. Under
    # this seed none of the combinations does.
    return make_model(seed=56, **changes)


def torch_greedy(twin, prompt: list[int], max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "max_new_tokens": max_new_tokens, "pad_token_id": 0}
    out = twin.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("prompt", [[3], [5, 0, 16, 2, 2]])
@every_combination
def test_within_the_context_length(changes: dict, prompt: list[int]) -> None:
    model, room = lively_model(n_positions=LENGTH, **changes), LENGTH - len(prompt)
    tokens = list(generate(model, prompt, room, temperature=0))
    assert tokens == torch_greedy(torch_twin(model), prompt, room)
    assert len(set(tokens)) > 2

    # both stop at the end token, and both give it
    stop = tokens[room // 2]
    model = lively_model(n_positions=LENGTH, eos_token_id=stop, **changes)
    tokens = list(generate(model, prompt, room, temperature=0))
    assert tokens == torch_greedy(torch_twin(model), prompt, room)
    assert tokens[-1] == stop


@pytest.mark.parametrize("prompt", [[1, 4, 9], list(range(11))])  # shorter and longer than 7
@every_combination
def test_past_a_full_context(changes: dict, prompt: list[int]) -> None:
    # transformers' generate does not slide: ask it for each token with the last n_positions alone
    model, context = lively_model(n_positions=7, **changes), prompt
    twin = torch_twin(model)
    for token in generate(model, prompt, max_new_tokens=20, temperature=0, context="slide"):
        window = torch.tensor([context[-7:]])
        assert token == twin(window).logits[0, -1].argmax().item()
        context = [*context, token]
    assert len(context) == len(prompt) + 20
    assert len(set(context[len(prompt) :])) > 1


@both_ops
@every_combination
def test_logits_with_kept_keys_and_values(changes: dict, ops: str) -> None:
    # the likeliest token may survive a small error; the logits do not
    model = make_model(ops=ops, **changes)
    ids = random_ids(np.random.default_rng(4), 1, 7)
    expected, past = torch_twin(model)(torch.tensor(ids)).logits[0], model.new_past()
    for start, stop in [(0, 3), (3, 4), (4, 7)]:
        logits = model.forward(ids[:, start:stop], past)[0]
        assert relative_error(logits, expected[start:stop]) < TOLERANCES["float64"]
