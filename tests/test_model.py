"""The GPT: its parameters, what it computes, its gradients as a whole."""

import copy
import math
import pickle

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.gradcheck import numerical_gradient
from npgpt.models.gpt2 import gpt_backward, gpt_forward
from npgpt.models.gpt2_parameters import init_parameters, parameter_shapes
from npgpt.ops import REFERENCE, get_ops
from npgpt.support.parameters import Parameters

SIZES = {"vocab_size": 7, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2}
IDS = np.array([[1, 2, 3, 1], [6, 0, 2, 2]])
TARGETS = np.array([[2, 3, -100, 5], [0, 2, 2, -100]])


def model(seed=0, dtype="float64", **changes):
    """Return a model whose parameters are all of order one."""
    gpt = GPT(GPTConfig(**(SIZES | changes)), dtype=dtype)
    rng = np.random.default_rng(seed)
    for name, array in gpt.params.items():
        gpt.params[name] = 0.7 * rng.standard_normal(array.shape)
    return gpt


def test_parameters_have_gpt2s_names_and_shapes():
    shapes = parameter_shapes(GPTConfig(n_layer=1))
    assert shapes["wte.weight"] == (50257, 768)
    assert shapes["wpe.weight"] == (1024, 768)
    assert shapes["h.0.attn.c_attn.weight"] == (768, 2304)
    assert shapes["h.0.mlp.c_proj.weight"] == (3072, 768)
    assert len(shapes) == 2 + 12 + 2


@pytest.mark.parametrize(
    ("name", "millions"), [("gpt2", 124.44), ("gpt2-medium", 354.82), ("gpt2-large", 774.03), ("gpt2-xl", 1557.61)]
)
def test_presets_have_gpt2s_sizes(name, millions):
    from npgpt.config import preset

    total = sum(math.prod(shape) for shape in parameter_shapes(preset(name)).values())
    assert total / 1e6 == pytest.approx(millions, abs=0.005)


def test_initialisation_is_gpt2s():
    params = init_parameters(GPTConfig(vocab_size=500, n_positions=300, n_embd=64, n_layer=8, n_head=4), seed=3)
    # four to five standard deviations of each estimate, which are 1 / sqrt(2 n) for n numbers
    assert params["wte.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert params["h.3.attn.c_attn.weight"].std() == pytest.approx(0.02, rel=0.03)
    assert params["h.3.attn.c_proj.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8 layers) = 4
    assert params["h.3.mlp.c_proj.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)
    for name, array in params.items():
        if name.endswith(".bias"):
            assert not array.any()
        elif "ln_" in name:
            assert (array == 1).all()


def test_a_seed_gives_the_same_numbers_in_both_dtypes():
    config = GPTConfig(**SIZES)
    single, double = init_parameters(config, 5, "float32"), init_parameters(config, 5, "float64")
    np.testing.assert_allclose(single.flat, double.flat, rtol=1e-7)
    assert not np.array_equal(single.flat, init_parameters(config, 6).flat)


def test_parameters_are_views_with_the_matrices_first():
    params = init_parameters(GPTConfig(**SIZES, tie_word_embeddings=False))
    matrices = sum(array.size for array in params.values() if array.ndim == 2)
    assert params.n_decayed == matrices
    params.flat[:] = np.arange(params.flat.size)
    assert sum(array.sum(dtype=np.float64) for array in params.values()) == params.flat.sum(dtype=np.float64)
    assert max(array.max() for array in params.values() if array.ndim == 2) == matrices - 1
    assert all(np.shares_memory(array, params.flat) for array in params.values())


def test_assigning_to_a_parameter_copies_into_its_view():
    params = init_parameters(GPTConfig(**SIZES))
    view = params["ln_f.bias"]
    params["ln_f.bias"] = np.arange(8)
    params.update({"ln_f.weight": np.full(8, 3)})
    params |= {"h.0.ln_1.bias": np.full(8, 4)}
    assert params["ln_f.bias"] is view
    assert view[5] == 5
    assert all(np.shares_memory(array, params.flat) for array in params.values())
    with pytest.raises(KeyError):
        params["nothing.weight"] = np.zeros(8)
    with pytest.raises(ValueError, match="broadcast"):
        params["ln_f.bias"] = np.zeros(9)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda params: pickle.loads(pickle.dumps(params))])
def test_a_copy_of_parameters_is_views_of_its_own_buffer(duplicate):
    params = init_parameters(GPTConfig(**SIZES))
    other = duplicate(params)
    other.flat[:] = 9
    assert all((array == 9).all() for array in other.values())
    assert not np.shares_memory(other.flat, params.flat)


def test_parameters_refuse_a_buffer_of_another_size():
    with pytest.raises(ValueError, match="buffer of 6"):
        Parameters({"a": (2, 3)}, np.zeros(5))


def test_initial_loss_is_that_of_a_uniform_guess():
    gpt = GPT(GPTConfig(vocab_size=65, n_positions=32, n_embd=32, n_layer=2, n_head=4))
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 65, (2, 4, 32))
    assert gpt.loss(ids, targets) == pytest.approx(math.log(65), abs=0.05)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_gradient_of_every_parameter(tied, bias):
    gpt = model(tie_word_embeddings=tied, bias=bias, n_embd=4)
    loss, grads = gpt.loss_and_grads(IDS, TARGETS)
    assert loss == gpt.loss(IDS, TARGETS)
    assert list(grads) == list(gpt.params)

    def f(flat):
        gpt.params.flat[:] = flat
        return gpt.loss(IDS, TARGETS)

    numeric = numerical_gradient(f, gpt.params.flat.copy())
    assert np.linalg.norm(grads.flat - numeric) < 1e-8 * np.linalg.norm(numeric)


def test_dloss_scales_the_gradients():
    gpt = model()
    _, grads = gpt.loss_and_grads(IDS, TARGETS)
    _, third = gpt.loss_and_grads(IDS, TARGETS, dloss=1 / 3)
    np.testing.assert_allclose(third.flat, grads.flat / 3, rtol=1e-12, atol=1e-15)


def test_gradients_fill_a_whole_new_buffer_each_time():
    gpt = model(tie_word_embeddings=False)
    _, first = gpt.loss_and_grads(IDS, TARGETS)
    kept = first.flat.copy()
    _, second = gpt.loss_and_grads(IDS, np.full_like(TARGETS, -100))
    np.testing.assert_array_equal(first.flat, kept)
    np.testing.assert_array_equal(second.flat, 0)  # nothing counted: no element may be left over from before
    assert not np.shares_memory(first.flat, gpt.params.flat)


def test_logits_depend_on_the_past_alone():
    gpt = model()
    logits = gpt.logits(IDS)
    changed = IDS.copy()
    changed[:, 2] = [4, 5]
    other = gpt.logits(changed)
    np.testing.assert_array_equal(logits[:, :2], other[:, :2])
    assert (logits[:, 2:] != other[:, 2:]).all(axis=-1).all()


def test_logits_are_the_head_of_features():
    for tied, head in ((True, "wte.weight"), (False, "lm_head.weight")):
        gpt = model(tie_word_embeddings=tied)
        np.testing.assert_allclose(gpt.features(IDS) @ gpt.params[head].T, gpt.logits(IDS), rtol=1e-13)


def test_dropout_needs_a_generator_and_follows_it():
    gpt = model(resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    plain = gpt.loss(IDS, TARGETS)
    assert gpt.loss_and_grads(IDS, TARGETS)[0] == plain

    def dropped(seed):
        return gpt.loss_and_grads(IDS, TARGETS, np.random.default_rng(seed))

    assert dropped(1)[0] == dropped(1)[0]
    np.testing.assert_array_equal(dropped(1)[1].flat, dropped(1)[1].flat)
    assert len({plain, dropped(1)[0], dropped(2)[0]}) == 3


@pytest.mark.parametrize("which", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])
def test_each_dropout_has_an_effect_of_its_own(which):
    gpt = model(**{which: 0.4})
    assert gpt.loss_and_grads(IDS, TARGETS, np.random.default_rng(1))[0] != gpt.loss(IDS, TARGETS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_leaves_its_dtype(dtype):
    gpt = model(dtype=dtype, resid_pdrop=0.1, attn_pdrop=0.1)
    _, grads = gpt.loss_and_grads(IDS, TARGETS, np.random.default_rng(0))
    assert gpt.logits(IDS).dtype == gpt.features(IDS).dtype == grads.flat.dtype == np.dtype(dtype)


def test_backward_twice_from_one_cache_gives_the_same():
    gpt = model()
    logits, cache = gpt_forward(gpt.params, IDS, gpt.config, REFERENCE)
    dlogits = np.random.default_rng(1).standard_normal(logits.shape)
    np.testing.assert_array_equal(gpt_backward(dlogits, cache).flat, gpt_backward(dlogits, cache).flat)


@pytest.mark.parametrize(
    ("ids", "error", "match"),
    [
        ([[0.0, 1.0]], TypeError, "integers"),
        ([0, 1], ValueError, r"\(B, T\)"),
        ([[]], TypeError, "integers"),
        (np.zeros((1, 0), int), ValueError, "at least 1"),
        ([[0] * 7], ValueError, "n_positions=6"),
        ([[0, 7]], ValueError, "id 7"),
        ([[0, -1]], ValueError, "id -1"),
    ],
)
def test_ids_that_cannot_be(ids, error, match):
    with pytest.raises(error, match=match):
        model().logits(ids)


def test_targets_that_cannot_be():
    gpt = model()
    with pytest.raises(ValueError, match="shape of ids"):
        gpt.loss(IDS, TARGETS[:, :2])
    with pytest.raises(TypeError, match="integers"):
        gpt.loss_and_grads(IDS, TARGETS.astype(float))
    with pytest.raises(ValueError, match="target 7"):
        gpt.loss(IDS, np.full_like(IDS, 7))


def test_ops_by_name():
    assert get_ops("reference") is REFERENCE
    assert get_ops(REFERENCE) is REFERENCE
    with pytest.raises(ValueError, match="'slow'"):
        get_ops("slow")
