"""The decoder of every model: texts in slots give the logits that each gives alone."""

import numpy as np
import pytest

from npgpt import GPT, GPTConfig
from npgpt.generation.decoder import PlainDecoder, new_decoder

CONFIG = GPTConfig(vocab_size=11, n_positions=12, n_embd=8, n_layer=2, n_head=2)


def model():
    gpt = GPT(CONFIG, dtype="float64", ops="reference")
    rng = np.random.default_rng(1)
    for name, array in gpt.params.items():
        gpt.params[name] = 0.8 * rng.standard_normal(array.shape)
    return gpt


def read(decoder, rows, wanted):
    slots, ids = np.array(rows, np.int64).T
    return decoder.read(slots.copy(), ids.copy(), np.array(wanted, np.int64)).copy()


def test_texts_of_different_lengths_are_read_side_by_side():
    gpt = model()
    decoder = PlainDecoder(gpt, slots=3)
    read(decoder, [(0, 1), (0, 2), (2, 5)], [])
    got = read(decoder, [(2, 7), (0, 3), (2, 8)], [0, 1, 2])
    for row, ids in enumerate([[5, 7], [1, 2, 3], [5, 7, 8]]):
        np.testing.assert_allclose(got[row], gpt.logits([ids])[0, -1], rtol=1e-11)
    assert list(decoder.lengths) == [3, 0, 3]


def test_forgotten_tokens_do_not_count():
    gpt = model()
    decoder = PlainDecoder(gpt, slots=1)
    read(decoder, [(0, 1), (0, 2), (0, 3)], [2])
    decoder.lengths[0] = 1
    np.testing.assert_allclose(read(decoder, [(0, 9)], [0])[0], gpt.logits([[1, 9]])[0, -1], rtol=1e-11)


def test_a_copy_goes_its_own_way():
    gpt = model()
    decoder = PlainDecoder(gpt, slots=2)
    read(decoder, [(0, 1), (0, 2), (0, 3)], [2])
    decoder.copy(0, 1, 2)
    got = read(decoder, [(0, 4), (1, 5)], [1, 0])
    np.testing.assert_allclose(got[0], gpt.logits([[1, 2, 5]])[0, -1], rtol=1e-11)
    np.testing.assert_allclose(got[1], gpt.logits([[1, 2, 3, 4]])[0, -1], rtol=1e-11)


def test_a_copy_of_all_of_a_text_is_not_read_again(monkeypatch):
    gpt, lengths = model(), []
    decoder = PlainDecoder(gpt, slots=3)
    read(decoder, [(0, 1), (0, 2), (0, 3)], [2])
    forward = gpt.forward
    monkeypatch.setattr(gpt, "forward", lambda ids, *args: lengths.append(ids.shape[1]) or forward(ids, *args))
    decoder.copy(0, 1, 3)
    got = read(decoder, [(0, 4), (1, 5)], [0, 1])
    decoder.copy(0, 2, 3)  # what it had before its last token, which is read again
    got = np.concatenate([got, read(decoder, [(2, 6), (1, 7)], [0, 1])])
    assert lengths == [1, 1, 4, 1]
    monkeypatch.undo()
    for row, ids in zip(got, [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6], [1, 2, 3, 5, 7]], strict=True):
        np.testing.assert_allclose(row, gpt.logits([ids])[0, -1], rtol=1e-11)


def test_hidden_states_are_those_of_the_wanted_rows():
    gpt = model()
    decoder = PlainDecoder(gpt, slots=2)
    read(decoder, [(0, 1), (1, 5), (0, 2), (0, 3)], [3, 0, 1])
    assert decoder.hidden().shape == (3, CONFIG.n_embd)
    for row, ids in zip(decoder.hidden(), [[1, 2, 3], [1], [5]], strict=True):
        np.testing.assert_allclose(row, gpt.features([ids])[0, -1], rtol=1e-11)
    decoder.lengths[0] = 1
    read(decoder, [(0, 4)], [0])
    np.testing.assert_allclose(decoder.hidden(), gpt.features([[1, 4]])[0, 1:], rtol=1e-11)


def test_hidden_states_of_a_model_that_has_none_are_refused_by_name():
    gpt = model()
    gpt.tap_names = lambda: ["logits"]
    decoder = PlainDecoder(gpt, slots=1)
    read(decoder, [(0, 1)], [0])
    with pytest.raises(ValueError, match=r"2 blocks.* has no value 'ln_f'"):
        decoder.hidden()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 tokens are more than the 2"):
        read(PlainDecoder(model(), 1, rows=2), [(0, 1)] * 3, [])
    with pytest.raises(ValueError, match="13 tokens are longer than n_positions=12"):
        read(PlainDecoder(model(), 1), [(0, 1)] * 13, [])


def test_a_model_without_a_decoder_gets_the_plain_one():
    class Plain:
        def __init__(self):
            self.new_past, self.tap_names = model().new_past, list

        def describe(self):
            return "a plain model"

    assert isinstance(new_decoder(Plain(), 2), PlainDecoder)
    with pytest.raises(ValueError, match=r"int8.*a plain model has no such weights"):
        new_decoder(Plain(), 2, weights="int8")


def test_more_threads_than_cores_are_not_used(monkeypatch):
    monkeypatch.setattr("npgpt.generation.decoder.cores", lambda environ: 2)
    asked = []
    fast = GPT(CONFIG)
    monkeypatch.setattr(fast, "decoder", lambda slots, rows, weights, threads: asked.append(threads), raising=False)
    for threads in (0, 1, 2, 12):
        new_decoder(fast, 1, threads=threads)
    assert asked == [0, 1, 2, 2]
