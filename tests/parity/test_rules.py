"""The rules of generation against transformers' logits processors, on random logits.

Both compute in float64, so 1e-6 leaves room for nothing but the float32 epsilon of EtaLogitsWarper. Two rules differ on
purpose: of equally likely tokens top-k keeps exactly k, the first ones, where transformers keeps all that equal the
k-th; and top-p keeps the first of them, where transformers' order is that of its sort.
"""

import numpy as np
import pytest

from npgpt.generation.rules import Rules, guide
from npgpt.generation.settings import ORDER, Sampling

from .helpers import torch, transformers

process = transformers.generation.logits_process
V, PROMPT = 300, 5


def draws(equal: bool):
    """Yield ids and logits, spread and flat, some of them excluded, and some equal if asked."""
    rng = np.random.default_rng(11)
    for spread in (0.2, 1.0, 4.0, 12.0):
        for excluded in (0.0, 0.5, 0.99):
            for _ in range(2):
                logits = spread * rng.standard_normal(V)
                if equal:
                    logits = np.round(2 * logits) / 2
                logits[rng.random(V) < excluded] = -np.inf
                logits[rng.integers(V)] = 1.0
                yield rng.integers(0, 12, 30), logits


def theirs(processor, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return processor(torch.tensor(ids[None]), torch.tensor(logits[None]))[0].numpy()


def ours(ids: np.ndarray, logits: np.ndarray, **settings) -> np.ndarray:
    return Rules(Sampling(**settings), None, V, (3, 7), PROMPT).apply(ids, logits)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare up to a constant, which changes no probability."""
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
    some = np.isfinite(found)
    np.testing.assert_allclose(found[some] - found.max(), expected[some] - expected.max(), rtol=0, atol=1e-6)


UNEQUAL = [  # exact only where no two logits are equal
    ({"top_k": 1}, process.TopKLogitsWarper(1)),
    ({"top_k": 40}, process.TopKLogitsWarper(40)),
    ({"top_k": 500}, process.TopKLogitsWarper(500)),
    ({"top_p": 0.1}, process.TopPLogitsWarper(0.1)),
    ({"top_p": 0.92}, process.TopPLogitsWarper(0.92)),
]
RULES = [
    ({"temperature": 0.3}, process.TemperatureLogitsWarper(0.3)),
    ({"temperature": 1.7}, process.TemperatureLogitsWarper(1.7)),
    ({"min_p": 0.05}, process.MinPLogitsWarper(0.05)),
    ({"min_p": 0.8}, process.MinPLogitsWarper(0.8)),
    ({"typical_p": 0.2}, process.TypicalLogitsWarper(0.2)),
    ({"typical_p": 0.9}, process.TypicalLogitsWarper(0.9)),
    ({"epsilon_cutoff": 3e-3}, process.EpsilonLogitsWarper(3e-3)),
    ({"epsilon_cutoff": 0.6}, process.EpsilonLogitsWarper(0.6)),
    ({"eta_cutoff": 3e-3}, process.EtaLogitsWarper(3e-3)),
    ({"eta_cutoff": 0.6}, process.EtaLogitsWarper(0.6)),
    ({"repetition_penalty": 1.3}, process.RepetitionPenaltyLogitsProcessor(1.3)),
    ({"repetition_penalty": 0.7}, process.RepetitionPenaltyLogitsProcessor(0.7)),
    (
        {"repetition_penalty": 1.3, "penalize_prompt": False},
        process.RepetitionPenaltyLogitsProcessor(1.3, prompt_ignore_length=PROMPT),
    ),
    ({"no_repeat_ngram_size": 1}, process.NoRepeatNGramLogitsProcessor(1)),
    ({"no_repeat_ngram_size": 2}, process.NoRepeatNGramLogitsProcessor(2)),
    ({"logit_bias": {2: 1.5, 8: -2.0}}, process.SequenceBiasLogitsProcessor({(2,): 1.5, (8,): -2.0})),
    ({"min_new_tokens": 20}, process.MinNewTokensLengthLogitsProcessor(PROMPT, 20, [3, 7])),
    ({"min_new_tokens": 25}, process.MinNewTokensLengthLogitsProcessor(PROMPT, 25, [3, 7])),
    ({"min_new_tokens": 26}, process.MinNewTokensLengthLogitsProcessor(PROMPT, 26, [3, 7])),
    (
        {"banned": [(4,), *((i, i + 1) for i in range(12)), (1, 2, 3)]},
        process.NoBadWordsLogitsProcessor([[4], *([i, i + 1] for i in range(12)), [1, 2, 3]]),
    ),
]


def name(settings) -> str:
    return "-".join(f"{k}_{v}" for k, v in settings.items()) if isinstance(settings, dict) else ""


@pytest.mark.parametrize(("settings", "processor"), [*UNEQUAL, *RULES], ids=name)
def test_a_rule_is_that_of_transformers(settings: dict, processor) -> None:
    for ids, logits in draws(equal=False):
        same(ours(ids, logits, **settings), theirs(processor, ids, logits))


@pytest.mark.parametrize(("settings", "processor"), RULES, ids=name)
def test_a_rule_is_that_of_transformers_for_equal_logits(settings: dict, processor) -> None:
    for ids, logits in draws(equal=True):
        same(ours(ids, logits, **settings), theirs(processor, ids, logits))


@pytest.mark.parametrize(("settings", "processor"), UNEQUAL, ids=name)
def test_of_equal_logits_as_many_are_kept_but_for_the_last_value(settings: dict, processor) -> None:
    for ids, logits in draws(equal=True):
        found, expected = ours(ids, logits, **settings), theirs(processor, ids, logits)
        least = found[np.isfinite(found)].min()
        np.testing.assert_array_equal(found[logits > least], expected[logits > least])
        assert np.isneginf(expected[logits < least]).all()


def test_guidance_is_that_of_transformers() -> None:
    rng = np.random.default_rng(11)
    for scale in (0.0, 0.5, 1.5, 4.0):
        logits, negative = 3 * rng.standard_normal((2, V))

        class Output(dict):
            logits = torch.tensor(negative[None, None])

        processor = process.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, lambda *args, **kwargs: Output())
        expected = theirs(processor, np.arange(4), logits)
        np.testing.assert_allclose(guide(logits, negative, scale), expected, rtol=0, atol=1e-6)


def test_the_default_order_is_that_of_transformers() -> None:
    classes = {
        "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance",
        "SequenceBiasLogitsProcessor": "bias",
        "RepetitionPenaltyLogitsProcessor": "repetition",
        "NoRepeatNGramLogitsProcessor": "no_repeat_ngram",
        "NoBadWordsLogitsProcessor": "banned",
        "MinNewTokensLengthLogitsProcessor": "min_length",
        "PrefixConstrainedLogitsProcessor": "prefix",
        "TemperatureLogitsWarper": "temperature",
        "TopKLogitsWarper": "top_k",
        "TopPLogitsWarper": "top_p",
        "MinPLogitsWarper": "min_p",
        "TypicalLogitsWarper": "typical_p",
        "EpsilonLogitsWarper": "epsilon",
        "EtaLogitsWarper": "eta",
    }
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    )
    config = transformers.GenerationConfig(
        guidance_scale=2.0, sequence_bias=[[[1], 1.0]], repetition_penalty=1.2, no_repeat_ngram_size=2,
        bad_words_ids=[[1, 2]], min_new_tokens=3, temperature=0.5, top_k=5, top_p=0.5, min_p=0.1, typical_p=0.5,
        epsilon_cutoff=0.1, eta_cutoff=0.1, do_sample=True, eos_token_id=0, num_beams=1, num_return_sequences=1,
    )  # fmt: skip
    config._eos_token_tensor = torch.tensor([0])
    found = model._get_logits_processor(
        config, input_ids_seq_length=2, prefix_allowed_tokens_fn=lambda *args: [1], device="cpu"
    )
    assert [classes[type(processor).__name__] for processor in found] == [
        rule for rule in ORDER if rule in classes.values()
    ]
