"""Features beside the hidden states of transformers, which reads texts of different lengths with padding and a mask."""

import numpy as np
import pytest

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.tokenizer import ByteTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TEXTS = ["the quick brown fox", "a", "床前明月光 🙂"]


def test_each_layer_is_that_of_hidden_states_pooled_with_a_mask(tmp_path):
    gpt = GPT(GPTConfig(vocab_size=256, n_positions=40, n_embd=24, n_layer=3, n_head=2))
    gpt.params.flat[:] = 0.3 * np.random.default_rng(0).standard_normal(gpt.size)
    gpt.save_pretrained(tmp_path)
    theirs = transformers.GPT2Model.from_pretrained(tmp_path).eval()
    rows = [list(text.encode()) for text in TEXTS]
    mask = torch.tensor([[int(i < len(row)) for i in range(max(map(len, rows)))] for row in rows])
    ids = torch.tensor([row + [0] * (mask.shape[1] - len(row)) for row in rows])
    with torch.no_grad():
        states = theirs(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(states) == 4
    for layer in range(-4, 4):
        expected = ((states[layer] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
        found = npgpt.features(gpt, ByteTokenizer(), TEXTS, layer=layer, after="nothing")
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
        last = npgpt.features(gpt, ByteTokenizer(), TEXTS, "last", layer, after="nothing")
        for row, one, states_of in zip(rows, last, states[layer].numpy(), strict=True):
            np.testing.assert_allclose(one, states_of[len(row) - 1], rtol=2e-4, atol=2e-4)
