"""generation_config.json as defaults of generation: what it sets, what it cannot, and what is broken in it."""

import json
import math

import pytest

from npgpt import GPT, GPTConfig
from npgpt.generation.defaults import NOT_DONE, defaults_of
from npgpt.generation.settings import Sampling


@pytest.fixture
def found(tmp_path, caplog):
    """Return a function from the content of a file to its settings and the notices."""

    def read(**content):
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
        settings = defaults_of(tmp_path)
        Sampling(**settings)
        return settings, " ".join(caplog.messages)

    return read


def test_files_of_npgpt_set_nothing(tmp_path):
    assert defaults_of(tmp_path) == {}
    GPT(GPTConfig(5, 4, 4, 1, 1, eos_token_id=2)).save_pretrained(tmp_path)
    assert defaults_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ({"_from_model_config": True, "eos_token_id": [1, 2], "transformers_version": "5", "use_cache": False}, {}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_k": 50, "top_p": 0.9}),
        ({"do_sample": True, "top_k": None, "min_p": 0.1}, {"temperature": 1.0, "top_k": 50, "min_p": 0.1}),
        ({"do_sample": True, "top_k": 0}, {"temperature": 1.0, "top_k": None}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 0.6, "top_k": 9}, {"temperature": 0.0}),
        ({"do_sample": None, "max_new_tokens": 7}, {"max_new_tokens": 7}),
        (
            {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 2},
            {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 2},
        ),
        ({"bad_words_ids": [[3], [4, 5], [2]], "eos_token_id": 2}, {"banned": ((3,), (4, 5))}),
        ({"stop_strings": ["\n\n", "。"]}, {"stop": ("\n\n", "。")}),
        ({"suppress_tokens": [3], "sequence_bias": [[[3], 2.0], [[4], 1]]}, {"logit_bias": {3: -math.inf, 4: 1.0}}),
        ({"num_beams": 1, "guidance_scale": None, "encoder_repetition_penalty": 1, "typical_p": None}, {}),
    ],
    ids=str,
)
def test_what_a_file_says_is_done(found, content, settings):
    assert found(**content) == (settings, "")


def test_a_draw_without_do_sample_is_none_and_a_notice_says_so(found):
    settings, said = found(temperature=0.7, top_p=0.9)
    assert settings == {"temperature": 0.0}
    assert "temperature=0.7, top_p=0.9 has no effect, as in transformers" in said


@pytest.mark.parametrize("name", NOT_DONE)
def test_what_is_not_done_is_named(found, name):
    settings, said = found(**{name: 2})
    assert settings == {}
    assert f"npgpt does not do {name}=2:" in said


def test_a_bias_of_a_sequence_is_named(found):
    settings, said = found(sequence_bias=[[[3, 4], 2.0], [[5], 1.0]])
    assert settings == {"logit_bias": {5: 1.0}}
    assert "[3, 4], which is left out" in said


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"do_sample": "yes"}, "do_sample='yes' must be true or false"),
        ({"do_sample": True, "temperature": "warm"}, "temperature='warm' must be a number"),
        ({"do_sample": True, "top_p": 1.5}, "top_p=1.5 must be"),
        ({"do_sample": True, "top_k": 2.5}, "top_k=2.5 must be a whole number"),
        ({"repetition_penalty": 0}, "repetition_penalty=0 must be"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"bad_words_ids": [3]}, "must be lists of ids"),
        ({"bad_words_ids": [["the"]]}, "must be ids"),
        ({"bad_words_ids": [[]]}, "empty word"),
        ({"suppress_tokens": 3}, "suppress_tokens=3 must be a list"),
        ({"suppress_tokens": ["the"]}, r"logit_bias=\('the',\) must be ids"),
        ({"sequence_bias": {"3": 1}}, "must be a list of pairs"),
        ({"sequence_bias": [[[], 1.0]]}, "must be a list of pairs"),
        ({"sequence_bias": [[[3], "much"]]}, "logit_bias has 'much'"),
        ({"stop_strings": [""]}, "stop has an empty text"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens=5 is above"),
    ],
    ids=str,
)
def test_what_is_broken_is_an_error_that_names_the_file(found, content, match):
    with pytest.raises(ValueError, match=rf"generation_config\.json: .*{match}"):
        found(**content)


def test_what_is_no_json_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json: not valid JSON"):
        defaults_of(tmp_path)
