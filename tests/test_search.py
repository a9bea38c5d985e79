"""Beam search, diverse beams, contrastive search and best-of-n, each against its definition written another way."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from npgpt import GPT, Generator, GPTConfig, Sampling
from npgpt.generation.requests import Completion
from npgpt.generation.rules import log_softmax
from npgpt.generation.search import Beams, beam_search, best_of, contrastive_search
from npgpt.generation.search.reading import best
from npgpt.tokenizer import ByteTokenizer


def gpt(seed=1, **changes):
    sizes = {"vocab_size": 7, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2, "eos_token_id": 4}
    model = GPT(GPTConfig(**sizes | changes), dtype="float64", ops="reference")
    rng = np.random.default_rng(seed)
    for name, array in model.params.items():
        model.params[name] = rng.standard_normal(array.shape) * (2.0 if name[:3] in ("wte", "wpe") else 0.8)
    return model


def logprobs_after(model, ids):
    return log_softmax(model.logits([ids])[0, -1])


def every_text(model, prompt, n, end):
    """Yield all texts of n tokens, or fewer that end with the end token, with their log-probabilities."""
    for ids in itertools.product(range(model.config.vocab_size), repeat=n):
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        yield ids, sum(logprobs_after(model, [*prompt, *ids[:i]])[token] for i, token in enumerate(ids))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -2.0])
def test_with_beams_for_all_texts_the_best_of_all_are_found(length_penalty):
    model = gpt(vocab_size=5)
    texts = dict(every_text(model, [1, 2], 3, end=4))
    scores = {ids: total / len(ids) ** length_penalty for ids, total in texts.items()}
    want = sorted(scores, key=lambda ids: -scores[ids])
    beams = Beams(num_beams=len(texts), n=4, length_penalty=length_penalty, early_stopping="never")
    found = beam_search(Generator(model, slots=beams.num_beams), [1, 2], beams, Sampling(max_new_tokens=3))
    assert [beam.ids for beam in found] == want[:4]
    for beam in found:
        assert beam.score == pytest.approx(scores[beam.ids], rel=1e-12)
        assert sum(beam.logprobs) == pytest.approx(texts[beam.ids], rel=1e-12)
        assert beam.finish_reason == ("stop" if beam.ids[-1] == 4 else "length")


def diverse(model, prompt, groups, size, penalty, n):
    """Return [(ids, score)] by the definition, from whole sequences and sums: texts without ends, of n tokens."""
    texts = [[((), 0.0)] for _ in range(groups)]
    for step in range(n):
        said = []  # the tokens that texts of the groups before have at this place
        for group in range(groups):
            longer = [
                (
                    (*ids, token),
                    total + float(logprobs_after(model, [*prompt, *ids])[token]) - penalty * said.count(token),
                )
                for ids, total in texts[group]
                for token in range(model.config.vocab_size)
            ]
            texts[group] = sorted(longer, key=lambda text: text[1], reverse=True)[:size]
            said += [ids[step] for ids, _ in texts[group]]
    return sorted(((ids, total / n) for group in texts for ids, total in group), key=lambda text: -text[1])


@pytest.mark.parametrize(("groups", "size", "penalty"), [(1, 3, 0.0), (2, 2, 0.7), (3, 1, 2.0), (3, 2, 0.2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_diverse_beams_are_those_of_the_definition(groups, size, penalty, seed):
    model = gpt(seed, eos_token_id=None)
    beams = Beams(num_beams=groups * size, num_beam_groups=groups, diversity_penalty=penalty, n=groups * size)
    found = beam_search(Generator(model, slots=6), [1, 2, 3], beams, Sampling(max_new_tokens=5))
    want = diverse(model, [1, 2, 3], groups, size, penalty, 5)
    assert [beam.ids for beam in found] == [ids for ids, _ in want]
    np.testing.assert_allclose([beam.score for beam in found], [score for _, score in want], rtol=1e-10)


def test_groups_differ_in_what_one_group_repeats():
    model = gpt(eos_token_id=None)
    sampling = Sampling(max_new_tokens=6)
    beams = Beams(num_beams=3, num_beam_groups=3, diversity_penalty=50.0, n=3)
    found = beam_search(Generator(model), [1], beams, sampling)
    for column in zip(*(beam.ids for beam in found), strict=True):
        assert len(set(column)) == 3  # at no place do two groups say the same
    (greedy,) = Generator(model).complete([[1]], replace(sampling, temperature=0))
    assert found[0].ids == greedy.ids  # the first group searches as if it were alone


def test_one_beam_is_greedy_decoding_past_the_context_too():
    model = gpt(eos_token_id=None)
    for context in ("block", "slide", "stop"):
        sampling = Sampling(max_new_tokens=40, context=context, logprobs=2)
        (beam,) = beam_search(Generator(model), [1, 2], Beams(num_beams=1), sampling)
        (greedy,) = Generator(model).complete([[1, 2]], replace(sampling, temperature=0))
        assert (beam.ids, beam.finish_reason) == (greedy.ids, greedy.finish_reason)
        np.testing.assert_allclose(beam.logprobs, greedy.logprobs, rtol=1e-10)
        np.testing.assert_allclose(beam.top, greedy.top, rtol=1e-10)


def test_rules_hold_for_each_beam():
    model = gpt()
    sampling = Sampling(max_new_tokens=8, no_repeat_ngram_size=2, banned=((5,),), min_new_tokens=3)
    found = beam_search(Generator(model), [1, 2], Beams(num_beams=4, n=4), sampling)
    assert len(found) == 4
    for beam in found:
        pairs = list(itertools.pairwise([1, 2, *beam.ids]))
        assert len(set(pairs)) == len(pairs)
        assert 5 not in beam.ids
        assert 4 not in beam.ids[:3]


def test_a_beam_that_the_rules_leave_no_token_leaves_the_others_alone():
    model = gpt(vocab_size=3, eos_token_id=None)
    sampling = Sampling(max_new_tokens=8, no_repeat_ngram_size=1)  # three tokens, each at most once
    with pytest.raises(ValueError, match="the rules exclude every text before it has ended"):
        beam_search(Generator(model), [1], Beams(num_beams=2), sampling)
    found = beam_search(Generator(model), [1], Beams(num_beams=2, n=2), replace(sampling, max_new_tokens=2))
    assert sorted(beam.ids for beam in found) == [(0, 2), (2, 0)]


def test_a_stop_string_ends_a_beam_and_is_not_in_its_text():
    model, tokenizer = gpt(vocab_size=256, eos_token_id=None), ByteTokenizer()
    generator, plain = Generator(model, tokenizer), Sampling(max_new_tokens=6)
    (free,) = beam_search(generator, "é", Beams(num_beams=3), plain)
    stop = tokenizer.decode(free.ids)[1:3]
    found = beam_search(generator, "é", Beams(num_beams=3, n=3), replace(plain, stop=(stop,)))
    ended = [beam for beam in found if beam.finish_reason == "stop"]
    assert ended
    assert all(stop not in beam.text for beam in found)
    assert all(stop in tokenizer.decode(beam.ids) for beam in ended)


def test_a_deadline_ends_all_beams():
    found = beam_search(
        Generator(gpt(eos_token_id=None)), [1], Beams(num_beams=2, n=2), Sampling(max_new_tokens=10**5), deadline=0.02
    )
    assert [beam.finish_reason for beam in found] == ["deadline"] * 2
    assert len(found[0].ids) == len(found[1].ids) > 0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_beams": 0}, "num_beams=0 must be at least 1"),
        ({"num_beams": 2.5}, "num_beams=2.5 must be a whole number"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "num_beams=4 cannot be divided into"),
        ({"num_beams": 4, "num_beam_groups": 2}, "several groups need a penalty above 0"),
        ({"diversity_penalty": 1.0}, "num_beam_groups=1 with diversity_penalty=1.0"),
        ({"n": 5}, "n=5 is more than num_beams=4"),
        ({"early_stopping": "always"}, "early_stopping='always' must be False, True"),
        ({"length_penalty": float("nan")}, "length_penalty=nan must be a number"),
        ({"length_penalty": 21}, "length_penalty=21 must be a number"),
    ],
)
def test_beams_that_cannot_be_are_refused(settings, match):
    with pytest.raises((ValueError, TypeError), match=match):
        Beams(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"temperature": 0}, "temperature=0.0 cannot be used: beam search draws nothing"),
        ({"seed": 3}, "seed=3 cannot be used"),
        ({"top_k": 3}, "top_k=3 cannot be used"),
        ({"regex": "a"}, "regex='a' cannot be used: beam search does not follow constraints"),
        ({"guidance_scale": 1.5, "negative_prompt": ""}, "guidance_scale=1.5 cannot be used"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 leaves nothing"),
    ],
)
def test_settings_without_effect_on_beams_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        beam_search(Generator(gpt()), [1], sampling=Sampling(**settings))


def test_beams_need_slots():
    generator = Generator(gpt(), slots=3)
    with pytest.raises(ValueError, match="4 slots are needed, but 3 are free"):
        beam_search(generator, [1])
    with generator.lent(3):
        pass


def contrastive(model, prompt, alpha, k, n):
    """Return the ids by the formula, from whole sequences."""
    ids = list(prompt)
    for _ in range(n):
        p = np.exp(logprobs_after(model, ids))
        scores = {}
        for token in np.argsort(-p)[:k].tolist():
            *before, last = model.features([[*ids, token]])[0]
            cosines = [last @ state / np.sqrt((last @ last) * (state @ state)) for state in before]
            scores[token] = (1 - alpha) * p[token] - alpha * max(cosines)
        ids.append(max(scores, key=scores.__getitem__))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.3, 2), (1.0, 7), (0.5, 1)])
def test_contrastive_search_is_its_formula(alpha, k):
    model = gpt(eos_token_id=None)
    found = contrastive_search(Generator(model), [1, 2, 3], alpha, Sampling(max_new_tokens=10, top_k=k))
    assert found.ids == contrastive(model, [1, 2, 3], alpha, k, 10)
    want = [logprobs_after(model, [1, 2, 3, *found.ids[:i]])[token] for i, token in enumerate(found.ids)]
    np.testing.assert_allclose(found.logprobs, want, rtol=1e-10)


def test_contrastive_search_without_a_penalty_is_greedy_decoding_past_the_context_too():
    model = gpt(eos_token_id=None)
    for context in ("block", "stop"):
        sampling = Sampling(max_new_tokens=40, context=context)
        found = contrastive_search(Generator(model), [1, 2], 0.0, replace(sampling, top_k=3))
        (greedy,) = Generator(model).complete([[1, 2]], replace(sampling, temperature=0))
        assert (found.ids, found.finish_reason) == (greedy.ids, greedy.finish_reason)


def test_past_the_context_contrastive_search_goes_on_from_what_is_left():
    model = gpt(eos_token_id=None)
    found = contrastive_search(Generator(model), [1, 2], 0.6, Sampling(max_new_tokens=18, top_k=3))
    assert found.ids[:14] == contrastive(model, [1, 2], 0.6, 3, 14)  # 16 tokens, which fill the context
    # room is made before the next one is chosen, by the logits of the full context; from then on a text of 12 tokens
    assert found.ids[15:] == contrastive(model, [1, 2, *found.ids[:15]][4:], 0.6, 3, 3)


def test_contrastive_search_reads_more_candidates_than_fit_into_a_call():
    model = gpt(vocab_size=300)
    found = contrastive_search(Generator(model, slots=300), [1], 0.6, Sampling(top_k=300, max_new_tokens=2))
    assert found.ids == contrastive(model, [1], 0.6, 300, 2)


def test_what_contrastive_search_cannot_do_is_refused():
    generator = Generator(gpt())
    with pytest.raises(ValueError, match=r"penalty_alpha=0.6 needs top_k"):
        contrastive_search(generator, [1], 0.6)
    with pytest.raises(ValueError, match=r"penalty_alpha=1.5 must be a number"):
        contrastive_search(generator, [1], 1.5, Sampling(top_k=3))
    with pytest.raises(ValueError, match=r"temperature=0.5 cannot be used: contrastive search draws nothing"):
        contrastive_search(generator, [1], 0.6, Sampling(top_k=3, temperature=0.5))
    model = gpt()
    model.tap_names, model.decoder = list, None
    with pytest.raises(ValueError, match="has no value 'ln_f'"):
        contrastive_search(Generator(model), [1], 0.6, Sampling(top_k=3))


def completion(*logprobs):
    return Completion((1,), tuple(range(len(logprobs))), "", logprobs, (), "length")


def test_the_best_of_several_is_the_likeliest_for_its_length():
    short, long, same, empty = completion(-1.0), completion(-0.9, -0.7), completion(-1.0), completion()
    assert best_of([short, long]) is long
    assert best_of([short, long], length_penalty=0) is short
    assert best_of([short, same]) is short
    assert best_of([empty, short]) is short
    assert best_of([empty, completion(-np.inf)]) is empty  # of equals the first
    assert best_of(iter([empty])) is empty
    unfinished = replace(completion(-0.1), finish_reason="unfinished")
    assert best_of([unfinished, short]) is short
    assert best_of([unfinished]) is unfinished
    with pytest.raises(ValueError, match="no completions"):
        best_of([])


def test_the_best_numbers_are_in_order_and_of_equals_the_first_come_first():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = np.where(rng.random(12) < 0.3, -np.inf, rng.integers(0, 4, 12).astype(float))
        k = int(rng.integers(1, 15))
        want = sorted((i for i in range(12) if values[i] > -np.inf), key=lambda i: (-values[i], i))[:k]
        assert best(values, k).tolist() == want
