"""Edges of the layers and of the model that `python -m tests.mutation` found without a test."""

import math

import numpy as np
import pytest

from npgpt import layers
from npgpt.config import GPTConfig
from npgpt.models.gpt2 import (
    features_backward,
    features_forward,
    gpt_backward,
    gpt_forward,
    loss_backward,
    loss_forward,
)
from npgpt.models.gpt2_block import block_backward, block_forward
from npgpt.models.gpt2_parameters import zero_parameters
from npgpt.ops import REFERENCE
from npgpt.support.parameters import Parameters
from tests.test_layers import attention_by_loops


def test_attention_names_channels_that_are_not_three_times_the_heads():
    with pytest.raises(ValueError, match=r"16 channels of qkv .* n_head=4"):
        layers.attention_forward(np.zeros((1, 2, 16)), 4)  # 16 is 4 times 4, but q, k and v would need 12 or 24


def test_causal_softmax_with_earlier_keys_is_the_end_of_the_whole(rng):
    scores = rng.standard_normal((2, 5, 5))
    whole, _ = layers.causal_softmax_forward(scores)
    last, _ = layers.causal_softmax_forward(scores[:, 3:])  # the last two queries, which see three keys more
    np.testing.assert_array_equal(last, whole[:, 3:])
    assert (last[:, 0, :4] > 0).all()
    assert (last[:, 1] > 0).all()


def test_dropout_that_is_off_hands_on_its_input_and_draws_nothing():
    x, rng = np.ones((2, 3)), np.random.default_rng(0)
    assert layers.dropout_forward(x, 0.0, rng)[0] is x
    assert layers.dropout_forward(x, 0.3, None)[0] is x
    assert rng.random() == np.random.default_rng(0).random()


def test_dropout_drops_the_draws_below_p():
    class Draws:
        def random(self, shape):
            return np.array([0.0, 0.49, 0.5, 0.51])  # of uniforms in [0, 1), exactly the share p is below p

    out, _ = layers.dropout_forward(np.ones(4), 0.5, Draws())
    np.testing.assert_array_equal(out, [0, 0, 2, 2])


def test_embedding_of_no_ids():
    out, cache = layers.embedding_forward(np.zeros((2, 0), int), np.ones((4, 3)))
    assert out.shape == (2, 0, 3)
    np.testing.assert_array_equal(layers.embedding_backward(out, cache), np.zeros((4, 3)))


def test_gelu_of_nothing():
    out, cache = layers.gelu_forward(np.zeros((0, 3), np.float32))
    assert out.shape == layers.gelu_backward(out, cache).shape == (0, 3)
    assert out.dtype == np.float32


@pytest.mark.parametrize("layer", ["linear", "layernorm"])
def test_a_complex_step_in_the_bias_alone_goes_through(layer):
    weight = np.eye(3) if layer == "linear" else np.ones(3)
    bias = np.array([1, 2 + 1e-20j, 3])  # the complex-step derivative: x and weight stay real
    out, _ = getattr(layers, f"{layer}_forward")(np.array([[4.0, 5.0, 9.0]]), weight, bias)
    np.testing.assert_array_equal(out.imag, [[0, 1e-20, 0]])


SIZES = {"vocab_size": 7, "n_positions": 5, "n_embd": 6, "n_layer": 2, "n_head": 2, "n_inner": 9}
IDS = np.array([[1, 2, 3, 1], [6, 0, 2, 2]])


def model(**changes):
    """Return a config and parameters of order one."""
    config, rng = GPTConfig(**(SIZES | changes)), np.random.default_rng(3)
    params = zero_parameters(config, "float64")
    params.flat[:] = rng.standard_normal(params.flat.size)
    return config, params


def gpt_by_formula(params, ids, config):
    """Compute the logits from GPT-2's definition, with nothing of npgpt but the names of the parameters."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_epsilon)
        return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]

    def linear(x, name):
        return x @ params[f"{name}.weight"] + params[f"{name}.bias"]

    def activation(x):
        if config.activation_function == "gelu":
            return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    x = params["wte.weight"][ids] + params["wpe.weight"][: ids.shape[1]]
    for i in range(config.n_layer):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        x = x + linear(attention_by_loops(qkv, config.n_head), f"h.{i}.attn.c_proj")
        x = x + linear(activation(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ params["wte.weight"].T


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("loss", [True, False])
def test_the_models_gradient_along_random_directions(rng, loss, tied, bias, dropout):
    """What the gradient check says of each number by itself, here of all at once, in a few runs of the model."""
    rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    config, params = model(tie_word_embeddings=tied, bias=bias, layer_norm_epsilon=0.1, **rates)  # a smooth one
    dout, targets = rng.standard_normal((2, 4, 7)), np.array([[2, 3, -100, 5], [0, 2, 2, -100]])

    def run(flat):
        given = Parameters(params.shapes, flat)
        if loss:
            out, cache = loss_forward(given, IDS, targets, config, REFERENCE, np.random.default_rng(1))
            return 0.7 * out, lambda: loss_backward(0.7, cache)
        out, cache = gpt_forward(given, IDS, config, REFERENCE, np.random.default_rng(1))
        return (dout * out).sum(), lambda: gpt_backward(dout, cache)

    grads = run(params.flat)[1]()
    for _ in range(3):
        step = 1e-3 * rng.standard_normal(params.flat.size) / math.sqrt(params.flat.size)
        near, far = (run(params.flat + n * step)[0] - run(params.flat - n * step)[0] for n in (1, 2))
        along = (8 * near - far) / 12  # the error is of order step^4, 1e-12, and of the roundings of the model, 1e-15
        assert abs(along - grads.flat @ step) < 1e-10 * np.linalg.norm(grads.flat) * np.linalg.norm(step)


@pytest.mark.parametrize("tied", [True, False])
def test_the_models_gradients_go_into_the_parameters_that_are_given(rng, tied):
    config, params = model(tie_word_embeddings=tied)
    _, whole = gpt_forward(params, IDS, config)
    loss, with_loss = loss_forward(params, IDS, np.roll(IDS, 1), config)
    for backward, dout, cache in (
        (gpt_backward, rng.standard_normal((2, 4, 7)), whole),
        (loss_backward, 0.7 * np.ones_like(loss), with_loss),
    ):
        given = Parameters(params.shapes, np.full_like(params.flat, 7))
        plain = backward(dout, cache)
        assert plain.flat is not params.flat
        assert backward(dout, cache, given) is given
        np.testing.assert_array_equal(given.flat, plain.flat)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_gpt_value(activation):
    # an epsilon and dropout rates of a size that shows where one is taken for the other, or for its default
    rates = {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}
    config, params = model(activation_function=activation, layer_norm_epsilon=0.1, **rates)
    logits, _ = gpt_forward(params, IDS, config)
    np.testing.assert_allclose(logits, gpt_by_formula(params, IDS, config), rtol=1e-11, atol=1e-11)


def test_dropping_all_of_both_branches_leaves_the_embeddings():
    config, params = model(resid_pdrop=1 - 1e-12)
    hidden, _ = features_forward(params, IDS, config, rng=np.random.default_rng(0))
    x = params["wte.weight"][IDS] + params["wpe.weight"][:4]
    wanted, _ = layers.layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"], config.layer_norm_epsilon)
    np.testing.assert_array_equal(hidden, wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_model_writes_into_nothing_that_it_is_given(rng, dropout):
    config, params = model(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
    given = {"x": rng.standard_normal((2, 4, 6)), "dx": rng.standard_normal((2, 4, 6)), "params": params.flat}
    given["dlogits"] = rng.standard_normal((2, 4, 7))
    before = {name: array.copy() for name, array in given.items()}
    _, block = block_forward(given["x"], params, "h.0", config, REFERENCE, np.random.default_rng(1))
    _, features = features_forward(params, IDS, config, rng=np.random.default_rng(1))
    _, whole = gpt_forward(params, IDS, config, rng=np.random.default_rng(1))
    block_backward(given["dx"], block, zero_parameters(config, "float64"))
    features_backward(given["dx"], features, zero_parameters(config, "float64"))
    gpt_backward(given["dlogits"], whole)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
