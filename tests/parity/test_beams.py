"""Beam search against transformers' on random models: the same ids, and the same scores."""

import numpy as np
import pytest

from npgpt import Generator, Sampling
from npgpt.generation.search import Beams, beam_search
from tests.parity.helpers import make_model, torch, torch_twin

EARLY = [False, True, "never"]


@pytest.mark.parametrize("trial", range(24))
def test_beams_are_those_of_transformers(trial):
    rng = np.random.default_rng(trial)
    vocab_size = int(rng.integers(12, 40))
    model = make_model(seed=trial, vocab_size=vocab_size, n_positions=24)
    # from all beams together, transformers looks at num_beams * (1 + the number of end tokens) candidates: there must
    # be so many at the first token, or it fills up with copies of the same text
    ends = sorted(rng.choice(vocab_size, int(rng.integers(0, 3)), replace=False).tolist())
    num_beams = int(rng.integers(2, 5))
    settings = {
        "num_beams": num_beams,
        "length_penalty": float(rng.choice([0, 1, -1, 2, 0.5])),
        "early_stopping": EARLY[trial % 3],
    }
    n = int(rng.integers(1, num_beams + 1))
    rules = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3} if trial % 2 else {}
    prompt = rng.integers(0, vocab_size, int(rng.integers(1, 8))).tolist()
    limit = max(int(rng.integers(1, 16)), rules.get("min_new_tokens", 0))

    sampling = Sampling(max_new_tokens=limit, stop_ids=ends, **rules)
    found = beam_search(Generator(model), prompt, Beams(**settings, n=n), sampling)

    twin = torch_twin(model)
    twin.generation_config.eos_token_id = ends or None
    out = twin.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=limit,
        num_return_sequences=n,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=0,
        eos_token_id=ends or None,
        **settings | rules,
    )
    for beam, row in zip(found, out.sequences[:, len(prompt) :].tolist(), strict=True):
        assert list(beam.ids) == row[: len(beam.ids)]
        assert len(beam.ids) == len(row) or beam.ids[-1] in ends  # what follows is padding
    # transformers rounds logits to float32: some 6e-8 of a logit, which is of order ten, at each token
    np.testing.assert_allclose([beam.score for beam in found], out.sequences_scores, rtol=1e-5, atol=2e-6 * limit)
