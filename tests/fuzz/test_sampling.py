"""The sampling rules on any logits: always a distribution, and never a token that a rule took out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npgpt.generation.rules import apply_temperature, draw, keep_top_k, keep_top_p, softmax

logits = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=12).map(np.array)


@given(logits, st.floats(0, 100), st.integers(1, 15), st.floats(1e-6, 1), st.integers(0, 99))
def test_rules_leave_a_distribution(values, temperature, k, p, seed):
    cold = apply_temperature(values, temperature)
    few = keep_top_k(cold, k)
    kept = keep_top_p(few, p)
    probs = softmax(kept)
    assert abs(probs.sum() - 1) < 1e-12
    assert (probs[np.isneginf(kept)] == 0).all()
    assert 1 <= np.isfinite(kept).sum() <= min(k, len(values))
    assert np.isfinite(kept[values.argmax()])
    token = draw(kept, np.random.default_rng(seed))
    assert probs[token] > 0
    # top-p keeps enough, and not one token more than it needs
    before = softmax(few)
    chosen = np.sort(before[np.isfinite(kept)])
    assert chosen.sum() >= p - 1e-9 or len(chosen) == np.isfinite(few).sum()
    assert chosen[1:].sum() < p + 1e-9
