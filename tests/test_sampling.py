"""The settings of generation: what they accept, and what they say to the rest."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from npgpt.generation.settings import COUNTS, OPTIONAL, RANGES, Sampling, settings_of


def test_settings_are_frozen_and_plain():
    sampling = Sampling(top_k=np.int64(3), temperature=np.float32(0.5), stop="\n", logit_bias={np.int32(2): -1})
    assert type(sampling.top_k) is int
    assert type(sampling.temperature) is float
    assert sampling.stop == ("\n",)
    assert sampling.logit_bias == {2: -1.0}
    with pytest.raises(FrozenInstanceError):
        sampling.top_k = 4
    with pytest.raises(TypeError):
        sampling.logit_bias[3] = 1.0


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_a_whole_number(name):
    with pytest.raises(ValueError, match=f"{name}=-1 must be at least"):
        Sampling(**{name: -1})
    with pytest.raises(TypeError, match=f"{name}=1.5 must be a whole number"):
        Sampling(**{name: 1.5})


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_is_finite(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must be a number"):
        Sampling(**{name: value})


@pytest.mark.parametrize("name", [name for name, (least, *_) in RANGES.items() if least >= 0])
def test_a_number_is_in_its_range(name):
    least, most, closed = RANGES[name]
    with pytest.raises(ValueError, match=f"{name}={least - 1} must be a number"):
        Sampling(**{name: least - 1})
    if not closed:
        with pytest.raises(ValueError, match=f"{name}={least} must be a number"):
            Sampling(**{name: least})
    if most == 1:
        with pytest.raises(ValueError, match=f"{name}=1.1 must be a number"):
            Sampling(**{name: 1.1})


@pytest.mark.parametrize("name", [field.name for field in fields(Sampling) if field.default is not None])
def test_none_is_a_value_only_where_it_means_something(name):
    if name == "max_new_tokens":
        assert Sampling(max_new_tokens=None).max_new_tokens is None
        return
    with pytest.raises((TypeError, ValueError)):
        Sampling(**{name: None})


def test_what_is_optional_may_be_none():
    assert Sampling(**dict.fromkeys(OPTIONAL)) == Sampling()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": [""]}, "stop has an empty text"),
        ({"stop": [3]}, "stop has 3, which is no text"),
        ({"banned": [""]}, "banned has an empty word"),
        ({"banned": [["a"]]}, "banned=.* must be ids"),
        ({"banned": 5}, "banned=5 must be a list"),
        ({"stop_ids": ["a"]}, "stop_ids=.* must be ids"),
        ({"prefix": [1.5]}, "prefix=.* must be ids"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias has nan for the id 1"),
        ({"logit_bias": [1]}, "must be {id: bias}"),
        ({"logit_bias": {(5, 6): 1.0}}, r"logit_bias=.*\(5, 6\).* must be ids"),
        ({"context": "blok"}, "did you mean 'block'"),
        ({"order": ["top_q"]}, "did you mean 'top_p'"),
        ({"order": ["top_p", "top_p"]}, "order has 'top_p' twice"),
        ({"regex": "a", "choices": ["a"]}, "regex and choices cannot be combined"),
        ({"regex": "", "json_schema": "{}"}, "regex and json_schema cannot be combined"),
        ({"json_schema": {}}, "must be a text"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens=5 is above max_new_tokens=4"),
        ({"mirostat_tau": 3.0, "temperature": 0}, "mirostat_tau has no effect at temperature 0"),
        ({"negative_prompt": "a"}, "no effect with guidance_scale=1"),
        ({"guidance_scale": 1.5}, "needs a negative_prompt"),
    ],
)
def test_what_is_not_possible_is_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Sampling(**settings)


def test_what_is_banned_is_a_text_or_a_sequence_of_ids():
    assert Sampling(banned=["a", 5, np.array([1, 2])]).banned == ("a", (5,), (1, 2))


def test_an_unknown_setting_gets_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'top_k'"):
        settings_of({"topk": 3})
    assert settings_of({"top_k": 3}) == Sampling(top_k=3)
