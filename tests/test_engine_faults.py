"""The engine when something goes wrong: errors, interrupts, and files that are damaged."""

import numpy as np
import pytest

from npgpt import Generator, Sampling
from npgpt.generation.search import beam_search, contrastive_search, speculative
from npgpt.tokenizer import ByteTokenizer
from tests.test_engine import Counted, alone, model

SEARCHES = {
    "beams": lambda generator: beam_search(generator, "a", sampling=Sampling(max_new_tokens=2)),
    "contrastive": lambda generator: contrastive_search(generator, "a", 0.5, Sampling(max_new_tokens=2, top_k=2)),
    "draft": lambda generator: speculative(generator, model(vocab_size=256), "a", Sampling(max_new_tokens=2)),
    "damaged draft": lambda generator: speculative(
        Generator(model(vocab_size=256), ByteTokenizer()), generator, "a", Sampling(max_new_tokens=2)
    ),
}


def test_an_error_in_one_text_does_not_end_the_others(monkeypatch):
    gpt = model()
    generator = Generator(gpt, slots=3)
    good, bad, other = (generator.submit([i], Sampling(max_new_tokens=9, seed=i)) for i in range(3))
    generator.step()
    monkeypatch.setattr(bad.rules, "apply", lambda ids, logits, negative=None: 1 / 0)
    assert generator.step() == [good, bad, other]
    assert isinstance(bad.error, ZeroDivisionError)
    assert bad.done
    while generator.busy:
        generator.step()
    with pytest.raises(ZeroDivisionError):
        bad.completion  # noqa: B018, it raises
    for request in (good, other):
        assert request.completion == alone(gpt, request.prompt_ids, request.sampling)


def test_rules_that_leave_nothing_are_an_error(monkeypatch):
    generator = Generator(model())
    request = generator.submit([1])
    monkeypatch.setattr(request.rules, "apply", lambda ids, logits, negative=None: logits - np.inf)
    generator.step()
    with pytest.raises(ValueError, match="no token is left"):
        request.completion  # noqa: B018, it raises


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(("value", "what"), [(np.inf, "infinite"), (-np.inf, "infinite"), (np.nan, "NaN")])
def test_logits_that_are_not_finite_are_an_error(value, what, temperature):
    gpt = Counted()
    gpt.after = lambda ids: np.full(11, value)
    with pytest.raises(ValueError, match=f"the model's logits are {what}"):
        Generator(gpt).complete([[1]], temperature=temperature)


@pytest.mark.parametrize("when", range(14))
def test_an_interrupt_inside_a_call_leaves_texts_that_can_go_on(when):
    gpt = Counted(n_positions=9)
    generator = Generator(gpt, slots=2)
    requests = [generator.submit([i, 2, 3], Sampling(max_new_tokens=20, seed=i)) for i in range(3)]
    gpt.fails = iter([None] * when + [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        [generator.step() for _ in range(99)]
    while generator.busy:
        generator.step()
    for request in requests:
        assert request.completion == alone(Counted(n_positions=9), request.prompt_ids, request.sampling)


def test_an_interrupt_between_the_texts_of_a_step_ends_one_of_them(monkeypatch):
    generator = Generator(Counted(), slots=3)
    first, hit, last = (generator.submit([i], Sampling(max_new_tokens=9, seed=i)) for i in range(3))

    def interrupted(token):
        raise KeyboardInterrupt

    monkeypatch.setattr(hit.stops, "feed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generator.step()
    while generator.busy:
        generator.step()
    assert isinstance(hit.error, KeyboardInterrupt)
    for request in (first, last):
        assert request.completion == alone(Counted(), request.prompt_ids, request.sampling)


def test_an_interrupted_completion_leaves_nothing():
    gpt = Counted()
    generator = Generator(gpt, slots=1)
    gpt.fails = iter([None] * 5 + [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        generator.complete([[1, 2], [3]], max_new_tokens=30)
    assert not generator.busy
    assert generator.complete([[3]]) == [alone(Counted(), [3], Sampling())]


def test_settings_that_are_not_given_are_the_generators(tmp_path):
    gpt = model()
    generator = Generator(gpt, sampling=Sampling(temperature=0, max_new_tokens=3))
    plain = generator.complete([[1]])
    assert plain == generator.complete([[1]], Sampling(temperature=0, max_new_tokens=3))
    assert generator.complete([[1]], max_new_tokens=2)[0].ids == plain[0].ids[:2]  # at temperature 0, too
    request = generator.submit([1])
    while generator.busy:
        generator.step()
    assert request.completion == plain[0]
    with pytest.raises(ValueError, match="give top_k in `sampling`"):
        generator.complete([[1]], Sampling(), top_k=2)


def test_a_folder_is_opened_and_damage_is_found_at_the_first_end(tmp_path):
    gpt, tokenizer = model(vocab_size=256, n_positions=64), ByteTokenizer()
    gpt.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    want = Generator(gpt, tokenizer).complete(["a"], max_new_tokens=9, seed=4)
    assert Generator.from_pretrained(tmp_path, slots=2).complete(["a"], max_new_tokens=9, seed=4) == want
    (tmp_path / "generation_config.json").write_text('{"do_sample": false, "max_new_tokens": 7}')
    assert Generator.from_pretrained(tmp_path).sampling == Sampling(temperature=0, max_new_tokens=7)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        Generator.from_pretrained(tmp_path, verified=True)
    generator = Generator.from_pretrained(tmp_path)
    request = generator.submit("a", Sampling(max_new_tokens=2))
    assert generator.step() == [request]
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        generator.step()
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        generator.complete(["a"], max_new_tokens=1)


def damaged(folder):
    """Return a generator of a folder whose weights were changed after they were written."""
    model(vocab_size=256, n_positions=64).save_pretrained(folder)
    ByteTokenizer().save_pretrained(folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    return Generator.from_pretrained(folder)


def test_damage_is_found_at_a_deadline(tmp_path):
    generator = damaged(tmp_path)
    request = generator.submit("a", deadline=60)
    generator.step()
    request._until = 0
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        generator.step()


@pytest.mark.parametrize("search", SEARCHES)
def test_damage_is_found_at_the_end_of_a_search(search, tmp_path):
    generator = damaged(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        SEARCHES[search](generator)
    with generator.lent(8):  # what was lent has come back
        generator._verified = True
