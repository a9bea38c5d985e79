"""The PyTorch model of the benchmarks holds npgpt's weights and gives them back."""

import numpy as np

from benchmarks import peer_models
from npgpt import GPT, GPTConfig

from .helpers import torch


def test_weights_go_to_pytorch_and_back_without_a_change():
    config = GPTConfig(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)
    first, second = (GPT(config, seed=seed).params for seed in (1, 2))
    model = peer_models.torch_model(config, first)
    for params in (first, second):
        peer_models.load(model, params)
        found = peer_models.torch_weights(model)
        assert found.keys() == set(params)
        for name, value in found.items():
            np.testing.assert_array_equal(value, params[name])
    with torch.no_grad():
        model.ln_f.weight.fill_(7)
    assert (found["ln_f.weight"] == second["ln_f.weight"]).all()  # a copy, which later steps leave alone
