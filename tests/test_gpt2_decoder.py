"""The compiled decoder of a GPT: the logits of the definition, with the bits that a text has alone."""

import copy
import gc
import threading
import tracemalloc

import numpy as np
import pytest

from npgpt import GPT, Generator, GPTConfig
from npgpt.generation.decoder import PlainDecoder, new_decoder
from npgpt.kernels import products
from npgpt.models.gpt2_decoder import GPTDecoder, members_of
from npgpt.ops import FAST
from npgpt.support.crew import Crew
from npgpt.support.parameters import zeros
from tests.test_twins import COMPILED

pytestmark = pytest.mark.skipif(not products.FOUND, reason="NumPy's BLAS has no function that compiled code could call")

SIZES = {"vocab_size": 83, "n_positions": 70, "n_embd": 36, "n_layer": 2, "n_head": 3}
FORMS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "no bias": {"bias": False},
    "exact gelu": {"activation_function": "gelu"},
    "one head, one block": {"n_head": 1, "n_layer": 1},
    "wide": {"n_embd": 160, "n_head": 2, "n_inner": 70},
}
LENGTHS = (1, 45, 2, 33, 12)  # of texts, more than a tile of queries and less
TEXTS = [np.random.default_rng(n).integers(0, SIZES["vocab_size"], n) for n in LENGTHS]


def model(form="plain", dtype="float32", seed=0):
    gpt = GPT(GPTConfig(**SIZES | FORMS[form]), 1, dtype)
    gpt.params.flat[:] = np.random.default_rng(seed).standard_normal(gpt.size) * 0.4
    return gpt


def rows_of(slot, ids):
    return [(slot, i) for i in ids]


def read(decoder, rows, wanted=None):
    """Read rows (slot, id) and return the logits after the wanted ones, or after all."""
    slots, ids = np.array(rows, np.int64).reshape(-1, 2).T
    wanted = range(len(rows)) if wanted is None else wanted
    return decoder.read(slots.copy(), ids.copy(), np.array(wanted, np.int64)).copy()


def alone(gpt, ids, **options):
    """Return the logits after each token of a text, which is read at once, or a number of tokens at a time."""
    return read(gpt.decoder(1, 64, threads=1, **options), rows_of(0, ids))


def bits_equal(found, exact):
    np.testing.assert_array_equal(found.view(np.uint8), np.ascontiguousarray(exact).view(np.uint8))


def same(found, exact):
    """Demand the same bits of compiled code. NumPy's products, in its place, depend on the rows beside."""
    if COMPILED:
        bits_equal(found, exact)
    else:
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4 * abs(exact).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "bar"), [("float64", 1e-12), ("float32", 1e-5)])
def test_logits_and_hidden_states_are_those_of_the_definition(form, dtype, bar):
    gpt = model(form, dtype)
    exact = GPT(gpt.config, dtype="float64", ops="reference")
    exact.params.flat[:] = gpt.params.flat
    decoder = new_decoder(gpt, 3, 48)
    assert isinstance(decoder, GPTDecoder)
    for slot, ids in ((2, TEXTS[1]), (0, TEXTS[0]), (1, TEXTS[3])):
        found, want = read(decoder, rows_of(slot, ids)), exact.logits([ids])[0]
        assert found.dtype == dtype
        assert abs(found - want).max() <= bar * abs(want).max()
        features = exact.features([ids])[0]
        assert abs(decoder.hidden() - features).max() <= bar * abs(features).max()
    assert list(decoder.lengths) == [1, 33, 45]


@pytest.mark.skipif(not COMPILED, reason="NumPy's products, in place of the compiled ones, depend on the rows beside")
@pytest.mark.parametrize("members", [1, 2, 3, 5])
@pytest.mark.parametrize(("form", "dtype"), [("plain", "float32"), ("wide", "float32"), ("untied", "float64")])
def test_a_text_has_the_bits_that_it_has_alone(form, dtype, members):
    gpt = model(form, dtype)
    expected = [alone(gpt, ids) for ids in TEXTS]
    decoder = gpt.decoder(len(TEXTS), 128, threads=members)
    assert decoder.members == members
    # all texts at once, in an order in which each is in parts of other lengths
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(TEXTS)), LENGTHS))
    order = np.concatenate([[1] * 40, order[order != 1][:20], [1] * 5, order[order != 1][20:]])
    texts = [iter(ids) for ids in TEXTS]
    found = read(decoder, [(slot, next(texts[slot])) for slot in order])
    for slot, want in enumerate(expected):
        bits_equal(found[order == slot], want)


@pytest.mark.skipif(not COMPILED, reason="NumPy's products, in place of the compiled ones, depend on the rows beside")
@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 31, 32, 44])
def test_a_prompt_has_the_same_bits_in_any_chunks(chunk):
    gpt = model()
    decoder = gpt.decoder(2, 64, threads=1)
    read(decoder, rows_of(1, TEXTS[1]))  # what lies in the memory from before has no effect
    found = [read(decoder, rows_of(0, TEXTS[1][i : i + chunk])) for i in range(0, len(TEXTS[1]), chunk)]
    bits_equal(np.concatenate(found), alone(gpt, TEXTS[1]))


def test_only_wanted_rows_have_logits_in_the_order_asked_for():
    gpt = model()
    every = alone(gpt, TEXTS[1])
    decoder = gpt.decoder(1, 64)
    assert read(decoder, rows_of(0, TEXTS[1]), []).shape == (0, SIZES["vocab_size"])
    decoder.lengths[0] = 0
    some = read(decoder, rows_of(0, TEXTS[1]), [44, 3])
    same(some, every[[44, 3]])
    assert decoder.hidden().shape == (2, SIZES["n_embd"])
    assert read(decoder, []).shape == (0, SIZES["vocab_size"])


def test_forgotten_tokens_do_not_count():
    gpt = model()
    decoder = gpt.decoder(1, 64, threads=1)
    read(decoder, rows_of(0, TEXTS[1]))
    decoder.lengths[0] = 11
    found = read(decoder, rows_of(0, TEXTS[4]))
    same(found, alone(gpt, [*TEXTS[1][:11], *TEXTS[4]])[11:])


def test_a_copy_goes_its_own_way():
    gpt = model()
    decoder = gpt.decoder(3, 64, threads=1)
    read(decoder, rows_of(2, TEXTS[1]))
    decoder.copy(2, 0, 40)
    decoder.copy(2, 2, 45)
    found = read(decoder, [(2, 7), (0, 5), (2, 8)])
    same(found[1], alone(gpt, [*TEXTS[1][:40], 5])[-1])
    same(found[2], alone(gpt, [*TEXTS[1], 7, 8])[-1])
    with pytest.raises(ValueError, match="length=42 must be from 0 to 41, what slot 0 holds"):
        decoder.copy(0, 1, 42)


@pytest.mark.parametrize("members", [1, 2])
def test_what_compiled_code_would_read_past_its_memory_for_is_refused(members):
    gpt = model()
    decoder = gpt.decoder(2, 69, threads=members)
    read(decoder, rows_of(1, TEXTS[1]))
    for rows, wanted, message in (
        ([(0, 83)], [], r"id 83 is outside the table of 83 rows \(0\.\.82\)"),
        ([(0, 1), (0, -1)], [], "id -1 is outside"),
        ([(2, 1)], [], "slot 2 is none of the 2 slots"),
        ([(-1, 1)], [], "slot -1 is none"),
        ([(0, 1)], [1], "wanted row 1 is none of the 1 rows"),
        ([(0, 1)], [0, -1], "wanted row -1 is none"),
        ([(0, 1)] * 70, [], "at most 69"),
        ([(1, 1), (0, 1), *[(1, 1)] * 25], [], "71 tokens are longer than n_positions=70"),
    ):
        with pytest.raises(ValueError, match=message):
            read(decoder, rows, wanted)
    with pytest.raises(ValueError, match="2 slots and 1 tokens"):
        decoder.read(np.zeros(2, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64))
    decoder.lengths[0] = -1
    with pytest.raises(ValueError, match="slot 0 cannot have the length -1"):
        read(decoder, [(0, 1)])
    decoder.lengths[0] = 0
    want = alone(gpt, [*TEXTS[1], 3])[-1]
    same(read(decoder, [(1, 3)])[0], want)  # nothing has changed


def test_a_full_slot_is_read_to_its_last_position():
    gpt = model(dtype="float64")
    ids = np.random.default_rng(0).integers(0, 83, 70)
    found = read(gpt.decoder(1, 70), rows_of(0, ids))
    want = gpt.logits([ids])[0]
    assert abs(found - want).max() <= 1e-12 * abs(want).max()


def test_settings_that_are_not_possible_are_refused():
    gpt = model()
    for slots, rows, threads, message in ((0, 1, 1, "slots=0"), (1, 0, 1, "rows=0"), (1, 1, 1025, "threads=1025")):
        with pytest.raises(ValueError, match=message):
            gpt.decoder(slots, rows, threads=threads)


def test_only_unchanged_fast_ops_have_the_decoder():
    table = copy.copy(FAST)
    table.gelu_new_forward = FAST.gelu_new_forward
    for ops in (table, "reference"):
        gpt = GPT(GPTConfig(**SIZES), ops=ops)
        assert gpt.decoder(1, 1) is None
        assert isinstance(new_decoder(gpt, 1), PlainDecoder)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, on what it computes in place of compiled code
@pytest.mark.parametrize("name", ["h.1.attn.c_attn.weight", "h.0.mlp.c_proj.bias", "ln_f.bias", "wpe.weight"])
def test_what_is_not_a_number_in_a_weight_stays_visible(name):
    gpt = model()
    gpt.params[name].reshape(-1)[-1] = np.nan
    ids = np.zeros(70, np.int64)
    assert np.isnan(alone_long(gpt, ids)[-1]).any()


def alone_long(gpt, ids):
    return read(gpt.decoder(1, 70, threads=1), rows_of(0, ids), [len(ids) - 1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # as above
@pytest.mark.parametrize("members", [1, 2])
def test_a_token_that_is_not_a_number_does_not_reach_earlier_ones(members):
    gpt = model("untied")
    gpt.params["wte.weight"][5] = np.nan
    ids = [1, 2, 5, 3]
    found = read(gpt.decoder(1, 8, threads=members), rows_of(0, ids))
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2:]).all()
    same(found[:2], alone(gpt, ids[:2]))


@pytest.mark.skipif(not COMPILED, reason="NumPy's products make arrays")
@pytest.mark.parametrize("members", [1, 2])
def test_no_call_allocates(members):
    gpt = GPT(GPTConfig(**SIZES | {"vocab_size": 9001}))
    decoder = gpt.decoder(2, 8, threads=members)
    slots, ids, wanted = np.array([0, 1, 1]), np.array([3, 4, 5]), np.array([0, 2])
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(5):
            decoder.read(slots, ids, wanted)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(25):
            decoder.read(slots, ids, wanted)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(now, peak) - before < 50_000  # objects of Python; two rows of logits have 72,000 bytes


def test_numbers_in_another_order_with_gaps_and_read_only_are_read_in_place():
    gpt = model("untied")

    class Moved:
        def __init__(self, params):
            self.places, size = {}, 3
            for name in sorted(params, reverse=True):
                self.places[name] = size
                size += params[name].size + 5
            self.flat = np.full(size, np.nan, params.flat.dtype)
            for name, start in self.places.items():
                self.flat[start : start + params[name].size] = params[name].reshape(-1)
            self.flat.flags.writeable = False

        def starts(self, names):
            return np.array([self.places.get(name, -1) for name in names], np.int64)

    moved = Moved(gpt.params)
    decoder = GPTDecoder(gpt.config, moved, moved, None, gpt.ops.step.decode, 1, 64, 1)
    compiled = len(gpt.ops.step.decode.decode.signatures) if COMPILED else 0
    same(read(decoder, rows_of(0, TEXTS[3])), alone(gpt, TEXTS[3]))
    assert not COMPILED or len(gpt.ops.step.decode.decode.signatures) <= max(1, compiled)
    assert not moved.flat.flags.writeable


@pytest.mark.skipif(not COMPILED, reason="plain Python takes long")
@pytest.mark.parametrize("form", ["plain", "untied", "wide"])
def test_int8_weights_are_multiplied_as_the_floats_that_they_stand_for(form):
    gpt = model(form)
    c, kernel, rng = gpt.config, gpt.ops.step.decode, np.random.default_rng(0)
    names = [name for name, array in gpt.params.items() if array.ndim == 2 and name != "wpe.weight"]
    outputs = {name: 0 if name in ("wte.weight", "lm_head.weight") else 1 for name in names}
    small = zeros({name: gpt.params[name].shape for name in names}, "int8")
    scales = zeros({name: (gpt.params[name].shape[outputs[name]],) for name in names}, "float32")
    small.flat[:] = rng.integers(-127, 128, small.flat.size)
    scales.flat[:] = rng.random(scales.flat.size) / 100
    for name in names:
        gpt.params[name] = small[name] * np.expand_dims(scales[name], 1 - outputs[name])
    laid = {name: kernel.panels(q) if outputs[name] else q for name, q in small.items()}
    packed = zeros({name: q.shape for name, q in laid.items()}, "int8")
    packed |= laid
    numbers = gpt.params, packed, scales, kernel
    found, want = read(GPTDecoder(c, *numbers, 2, 64, 2), rows_of(1, TEXTS[1])), alone(gpt, TEXTS[1])
    assert abs(found - want).max() <= 1e-5 * abs(want).max()
    one = GPTDecoder(c, *numbers, 1, 1, 1)
    bits_equal(np.concatenate([read(one, [(0, i)]) for i in TEXTS[1]]), found)


def test_an_interrupt_leaves_the_decoder_as_it_was(monkeypatch):
    gpt = model()
    decoder = gpt.decoder(1, 64, threads=3)
    read(decoder, rows_of(0, TEXTS[3]))
    run = Crew.run

    def interrupted(self, function, items, abort):
        def failing(job):
            if job.member == 1:
                raise KeyboardInterrupt
            return function(job)

        return run(self, failing, items, abort)

    with monkeypatch.context() as patch:
        patch.setattr(Crew, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read(decoder, [(0, 1)])
    assert decoder.lengths[0] == 33
    same(read(decoder, [(0, 2)])[0], alone(gpt, [*TEXTS[3], 2])[-1])


def test_a_decoder_that_is_gone_leaves_no_thread_behind():
    gpt = model()
    before = set(threading.enumerate())
    decoder = gpt.decoder(1, 4, threads=3)
    read(decoder, [(0, 1)])
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    del decoder
    gc.collect()
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()


def test_a_small_model_has_one_thread_and_a_large_one_all_that_speed_it_up():
    assert members_of(4 * 800_000, 4, 16) == 1  # tiny
    assert members_of(4 * 10_800_000, 6, 2) == 2  # small
    assert members_of(4 * 10_800_000, 6, 64) < 12
    assert [members_of(4 * 124_000_000, 12, n) for n in (1, 2, 8)] == [1, 2, 8]


def test_a_greedy_text_of_300_tokens_is_that_of_the_whole_forward():
    """Each token is the likeliest after all that came before, read anew without a cache, in any company."""
    gpt = GPT(GPTConfig(**SIZES | {"n_positions": 310, "tie_word_embeddings": False}), 1)
    gpt.params.flat[:] = np.random.default_rng(5).standard_normal(gpt.size) * 0.4
    gpt.params["wpe.weight"] *= 6  # or the same token would be the likeliest again and again
    gpt.params["ln_f.bias"] = np.zeros(36)
    prompts = [[1], [5, 80, 3], [7] * 9]
    texts = [list(prompt) for prompt in prompts]
    for _ in range(300):
        for ids in texts:
            ids.append(int(gpt.forward([ids], last=True)[0, -1].argmax()))
    assert min(len(set(ids)) for ids in texts) > 10
    found = Generator(gpt).complete(prompts, max_new_tokens=300, temperature=0, stop_ids=())
    assert [list(one.prompt_ids + one.ids) for one in found] == texts
