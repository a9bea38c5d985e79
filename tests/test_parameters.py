"""Initial weights: GPT-2's, and those of a copier."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.models.gpt2_parameters import init_parameters
from npgpt.models.taps import Taps

CONFIG = GPTConfig(
    vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2, initializer_range=0.08, tie_word_embeddings=False
)


def test_a_copier_hands_on_what_it_looks_at():
    """Values and output together are 0.3 of the identity, in each block by other matrices."""
    params = init_parameters(CONFIG, seed=3, dtype="float64", init="copy")
    values = [params[f"h.{i}.attn.c_attn.weight"][:, 32:] for i in range(2)]
    for i in range(2):
        np.testing.assert_allclose(values[i] @ params[f"h.{i}.attn.c_proj.weight"], 0.3 * np.eye(16), atol=1e-6)
    assert np.abs(values[0] - values[1]).max() > 0.1


def test_a_copiers_positions_turn():
    """One rotation leads from each position to the next: so a query can ask for a distance."""
    waves = init_parameters(CONFIG, seed=3, dtype="float64", init="copy")["wpe.weight"]
    turn, *_ = np.linalg.lstsq(waves[:-1], waves[1:])
    np.testing.assert_allclose(waves[:-1] @ turn, waves[1:], atol=1e-9)
    assert np.abs(waves).max() <= 0.08


def test_a_copier_is_likelier_to_say_what_it_has_read():
    """Without any training; a model with GPT-2's weights is not. With tied embeddings the head cannot be chosen."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(40)[:12] for _ in range(50)])
    read = np.zeros((50, 40), bool)
    np.put_along_axis(read, ids[:, :-1], True, axis=1)  # but for the last token itself, which it always favours
    np.put_along_axis(read, ids[:, -1:], False, axis=1)
    for init, more in ("copy", True), ("normal", False):
        params = init_parameters(CONFIG, seed=3, init=init)
        logits = GPT(CONFIG, params=params).logits(ids)[:, -1]
        difference = logits[read].mean() - logits[~read].mean()
        assert (difference > 0.1) == more, (init, difference)
    assert "lm_head.weight" not in init_parameters(GPTConfig(40, 12, 16, 2, 2), init="copy")


@pytest.mark.parametrize("init", ["normal", "copy", "shift"])
def test_a_seed_gives_the_same_weights_in_both_dtypes(init):
    single, double = (init_parameters(CONFIG, 5, dtype, init).flat for dtype in ("float32", "float64"))
    np.testing.assert_allclose(single, double, atol=1e-7)
    assert np.abs(single - init_parameters(CONFIG, 6, "float32", init).flat).max() > 0.01


@pytest.mark.parametrize(("heads", "width"), [(4, 64), (2, 64), (1, 32), (3, 48)])
def test_a_shifting_heads_attention_is_on_one_earlier_token(heads, width):
    """Head h of the first block looks h + 1 tokens back, wherever it is in the context, and whatever it reads."""
    config = GPTConfig(40, 48, width, 2, heads, initializer_range=0.04, tie_word_embeddings=False)
    model = GPT(config, params=init_parameters(config, seed=3, init="shift"))
    taps = Taps("h.0.attn.probs")
    model.forward(np.random.default_rng(0).integers(0, 40, (3, 48)), taps=taps)
    for h in range(heads):
        places = taps["h.0.attn.probs"][:, h, h + 1 :].argmax(axis=-1)
        right = (places == np.arange(47 - h)).mean()
        assert right > 0.8, (h, right)  # random weights beside the waves move a few; a head without them has 0.04
