"""A generation_config.json does here what it does in transformers, and a folder of 8-bit weights is refused there."""

import json
from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT
from npgpt.generation.defaults import defaults_of
from npgpt.generation.rules import Rules
from npgpt.generation.settings import Sampling
from npgpt.models.base import end_ids
from npgpt.models.gpt2_int8 import Int8GPT

from .helpers import make_model, open_in_transformers, torch, transformers

PROMPT = [5, 0, 16, 2, 2, 7]


def saved(folder: Path, content: dict):
    """Save a model with a generation_config.json, and return it as transformers opens it."""
    ends = content.get("eos_token_id")  # of which the model must have been saved with one
    model = make_model(seed=56, n_positions=40, eos_token_id=ends[0] if isinstance(ends, list) else ends)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(content))
    return open_in_transformers(folder)


def likeliest(model: GPT, sampling: Sampling) -> list[int]:
    """Return the text after the prompt, computed from whole windows."""
    ends, ids = end_ids(model.config), list(PROMPT)
    rules = Rules(sampling, None, model.config.vocab_size, ends, len(PROMPT))
    while len(ids) < len(PROMPT) + sampling.max_new_tokens and not {*ids[len(PROMPT) :]} & {*ends}:
        logits = rules.apply(np.array(ids), model.logits(np.array([ids]))[0, -1])
        ids.append(int(logits.argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize(
    "content",
    [
        {"do_sample": False, "max_new_tokens": 30},
        {"do_sample": False, "max_new_tokens": 30, "temperature": 0.3, "top_k": 2},
        {"temperature": 0.7, "max_new_tokens": 20},
        {"do_sample": False, "max_new_tokens": 30, "repetition_penalty": 1.7},
        {"do_sample": False, "max_new_tokens": 30, "no_repeat_ngram_size": 2},
        {"do_sample": False, "max_new_tokens": 30, "bad_words_ids": [[3], [2, 7], [9]], "eos_token_id": 9},
        {"do_sample": False, "max_new_tokens": 30, "suppress_tokens": [1, 4, 8, 11]},
        {"do_sample": False, "max_new_tokens": 30, "sequence_bias": [[[3], -9.0], [[5], 4.0]]},
        {"do_sample": False, "max_new_tokens": 30, "eos_token_id": [3, 4], "min_new_tokens": 4},
        {"do_sample": False, "max_new_tokens": 30, "eos_token_id": [1, 3, 4]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_the_likeliest_text_is_that_of_transformers(tmp_path: Path, content: dict) -> None:
    twin = saved(tmp_path, content)
    model = GPT.from_pretrained(tmp_path, "float64")
    ids = torch.tensor([PROMPT])
    expected = twin.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0)[0, len(PROMPT) :].tolist()
    assert likeliest(model, Sampling(**defaults_of(tmp_path))) == expected
    assert len(expected) > 1


@pytest.mark.parametrize(
    "content",
    [
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.8},
        {"do_sample": True, "top_k": 3, "temperature": 2.0},
        {"do_sample": True, "top_k": 0, "min_p": 0.2},
        {"do_sample": True, "typical_p": 0.5},
        {"do_sample": True, "epsilon_cutoff": 0.05},
        {"do_sample": True, "eta_cutoff": 0.3, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_a_token_is_drawn_from_what_transformers_draws_from(tmp_path: Path, content: dict) -> None:
    """From a vocabulary of 60 tokens, so that the 50 likeliest ones are not all."""
    model = make_model(seed=3, vocab_size=60)
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    twin = open_in_transformers(tmp_path)
    ids = torch.tensor([PROMPT])
    out = twin.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=0, max_new_tokens=1, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    expected = torch.softmax(out.scores[0][0].double(), -1).numpy()
    sampling = Sampling(**defaults_of(tmp_path))
    logits = model.logits(np.array([PROMPT]))[0, -1]
    found = Rules(sampling, None, 60, (), len(PROMPT)).apply(np.array(PROMPT), logits)
    weights = np.exp(found - found.max())
    np.testing.assert_allclose(weights / weights.sum(), expected, atol=1e-6)


def test_transformers_refuses_weights_of_8_bits(tmp_path: Path) -> None:
    Int8GPT.of(make_model("float32")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="npgpt_gpt2_int8"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
