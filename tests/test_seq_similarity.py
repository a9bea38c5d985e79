"""The similarity loss of a generator: its value, and its gradient through the critic's input."""

import math

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.gradcheck import check_backward
from npgpt.models.seq_similarity import similarity_backward, similarity_forward

V, C = 7, 6
IDS = np.array([[1, 2, 3, 1, 5], [6, 0, 2, -100, -100], [4, 4, -100, -100, -100]])
LENGTHS = np.array([5, 3, 0])
both_ops = pytest.mark.parametrize("ops", ["reference", "fast"])


def critic(ops="reference", dtype="float64", **changes):
    """Return a GPT whose parameters are all of order one."""
    sizes = {"vocab_size": V, "n_positions": 6, "n_embd": C, "n_layer": 2, "n_head": 2, "n_inner": 9}
    gpt = GPT(GPTConfig(**(sizes | changes)), dtype=dtype, ops=ops)
    rng = np.random.default_rng(0)
    for name, array in gpt.params.items():
        scale = 1.5 if name in ("wte.weight", "wpe.weight") else 0.6
        gpt.params[name] = scale * rng.standard_normal(array.shape)
    return gpt


def logits_of(dtype=np.float64, scale=1.0):
    return (scale * np.random.default_rng(1).standard_normal((3, 5, V))).astype(dtype)


def check(gpt, tau):
    """Check the gradient for examples of three, two and no positions."""
    ids, lengths = IDS[:, :3], np.array([3, 2, 0])

    def forward(logits):
        return similarity_forward(logits, ids, lengths, gpt, tau)

    report = check_backward(forward, similarity_backward, logits_of()[:, :3], tolerance=1e-8)
    assert report, report


@pytest.mark.parametrize(("ops", "tau"), [("reference", 1.0), ("reference", 0.5), ("fast", 3.0)])
def test_gradient_through_the_critics_input(ops, tau):
    check(critic(ops), tau)


def test_gradient_with_an_untied_head_and_the_exact_gelu():
    check(critic("reference", tie_word_embeddings=False, activation_function="gelu", bias=False, n_layer=1), 0.8)


def by_formula(logits, gpt, tau):
    """Compute the loss one example at a time, each alone and without padding."""
    each = []
    for row, ids, length in zip(logits, IDS, LENGTHS, strict=True):
        if length:
            expected = []
            for t in range(length):
                weights = [math.exp(v / tau) for v in row[t]]
                expected.append(
                    sum(w * e for w, e in zip(weights, gpt.params["wte.weight"], strict=True)) / sum(weights)
                )
            found = gpt.features(inputs_embeds=np.array([expected]))[0].mean(axis=0)
            wanted = gpt.features(ids[None, :length])[0].mean(axis=0)
            each.append(length * (1 - found @ wanted / math.sqrt((found @ found) * (wanted @ wanted))))
    return sum(each) / LENGTHS.sum()


@both_ops
@pytest.mark.parametrize("tau", [1.0, 0.4])
def test_value(ops, tau):
    gpt, logits = critic(ops), logits_of()
    loss, _ = similarity_forward(logits, IDS, LENGTHS, gpt, tau)
    assert loss == pytest.approx(by_formula(logits, gpt, tau), rel=1e-12)
    assert 0.01 < loss < 1.99


def test_the_wanted_tokens_themselves_have_no_distance_and_no_gradient():
    logits = np.where(np.arange(V) == IDS[:, :, None], 1e4, 0.0)
    loss, cache = similarity_forward(logits, IDS, LENGTHS, critic())
    assert abs(loss) < 1e-15  # some roundings of a cosine of 1
    np.testing.assert_array_equal(similarity_backward(1.0, cache), np.zeros_like(logits))


def test_a_step_against_the_gradient_comes_closer():
    gpt, logits = critic(), logits_of()
    loss, cache = similarity_forward(logits, IDS, LENGTHS, gpt)
    dlogits = similarity_backward(1.0, cache)
    closer, _ = similarity_forward(logits - 0.1 * dlogits / np.abs(dlogits).max(), IDS, LENGTHS, gpt)
    assert closer < loss - 1e-3
    np.testing.assert_allclose(
        similarity_backward(3.0, cache), 3 * dlogits, rtol=1e-14, atol=1e-17
    )  # terms of 1e-2 cancel


@both_ops
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_stands_beyond_a_length_does_not_matter(ops, value):
    gpt, logits = critic(ops), logits_of()
    loss, cache = similarity_forward(logits, IDS, LENGTHS, gpt)
    beyond = np.arange(5) >= LENGTHS[:, None]
    other, ids = logits.copy(), IDS.copy()
    other[beyond], ids[beyond] = value, 99
    again, again_cache = similarity_forward(other, ids, LENGTHS, gpt)
    assert again == loss
    dlogits = similarity_backward(0.7, again_cache)
    np.testing.assert_array_equal(dlogits, similarity_backward(0.7, cache))
    assert not dlogits[beyond].any()
    assert np.abs(dlogits[~beyond]).max() > 1e-3


def test_nothing_that_counts_is_no_loss():
    loss, cache = similarity_forward(logits_of(), IDS, np.zeros(3, int), critic())
    assert loss == 0
    np.testing.assert_array_equal(similarity_backward(1.0, cache), np.zeros((3, 5, V)))


@both_ops
def test_float32_stays_float32_and_near_and_the_arguments_stay_as_they_are(ops):
    logits = logits_of(np.float32)
    before, weights = logits.copy(), critic(ops, "float32").params.flat.copy()
    gpt = critic(ops, "float32")
    loss, cache = similarity_forward(logits, IDS, LENGTHS, gpt, 0.7)
    dlogits = similarity_backward(1.0, cache)
    assert loss.dtype == dlogits.dtype == np.float32
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(gpt.params.flat, weights)
    exact, exact_cache = similarity_forward(logits.astype(float), IDS, LENGTHS, critic(), 0.7)
    # a few hundred roundings of 6e-8, of numbers of order one
    assert loss == pytest.approx(exact, abs=1e-5)
    np.testing.assert_allclose(dlogits, similarity_backward(1.0, exact_cache), atol=1e-5)
    np.testing.assert_array_equal(similarity_backward(1.0, cache), dlogits)


def test_nan_stays_visible():
    logits = logits_of()
    logits[0, 1, 2] = np.nan
    loss, cache = similarity_forward(logits, IDS, LENGTHS, critic())
    assert np.isnan(loss)
    assert np.isnan(similarity_backward(1.0, cache)[0]).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tau": 0.0}, "temperature=0.0 must be positive"),
        ({"ids": IDS[:, :4]}, r"logits \(3, 5, 7\) must be those of ids \(3, 4\)"),
        ({"logits": np.zeros((3, 5, 8))}, "the critic's 7 tokens"),
        ({"lengths": np.array([5, 6, 0])}, "6"),
        ({"critic": critic(n_positions=4)}, "5 tokens are longer than n_positions=4"),
        ({"ids": np.full_like(IDS, 7)}, "id 7 is outside"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    arguments = {"logits": logits_of(), "ids": IDS, "lengths": LENGTHS, "critic": critic()} | change
    with pytest.raises(ValueError, match=match):
        similarity_forward(**arguments)


def test_a_token_that_does_not_count_is_refused_by_name():
    ids = IDS.copy()
    ids[LENGTHS > 1, 0] = -100
    with pytest.raises(ValueError, match="compares whole completions"):
        similarity_forward(logits_of(), ids, LENGTHS, critic())
