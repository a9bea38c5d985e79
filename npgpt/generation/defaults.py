"""The defaults of generation that a folder has: generation_config.json, as transformers' `generate` honours it.

npgpt's own files name tokens alone, so they set nothing. The tokens that end a text are the model's business, which
reads them from the same file (npgpt.hub.gpt2.with_ends).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npgpt.generation.settings import settings_of
from npgpt.hub.peft import first_with, folders_of
from npgpt.support.files import read_json
from npgpt.support.notices import notice

# settings of the same name: those of a draw, which transformers honours if do_sample is true, and the others
DRAWN = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
ALWAYS = ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "max_new_tokens")
TOP_K = 50  # what transformers draws from where the file does not say
# what changes a text, is not done, and is named in a notice unless it has this value or null
NOT_DONE: dict[str, Any] = {
    "max_length": None, "min_length": 0, "max_time": None, "top_h": None, "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None, "begin_suppress_tokens": None, "token_healing": False,
    "guidance_scale": 1.0, "watermarking_config": None, "num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0,
    "dola_layers": None, "constraints": None, "force_words_ids": None,
}  # fmt: skip


def defaults_of(folder: str | Path, base: str | Path | None = None) -> dict[str, Any]:
    """Return the settings of Sampling, by name, that a folder's generation_config.json asks for.

    An adapter without one has that of its run, or of its base, which is `base` if that is given.

    If do_sample is true, a token is drawn, from the 50 likeliest ones if top_k is not given. If it is false, or missing
    beside a setting of a draw, the likeliest token is taken. A file that says nothing of draws decides nothing about
    them. bad_words_ids are `banned`, suppress_tokens and biases of single tokens are `logit_bias`, stop_strings are
    `stop`. What changes the text and npgpt does not do is named in a notice.

    Raises ValueError, naming the file, for a value that is not possible.

    >>> defaults_of(folder)  # of {"do_sample": true, "temperature": 0.6, "eos_token_id": [1, 2]}
    {'temperature': 0.6, 'top_k': 50}
    """
    path = first_with(folders_of(Path(folder), base), "generation_config.json") / "generation_config.json"
    if not path.is_file():
        return {}
    content = {name: value for name, value in read_json(path).items() if value is not None}
    try:
        found = drawn(content, path) | {name: content[name] for name in ALWAYS if name in content}
        if content.get("bad_words_ids"):
            found["banned"] = banned(content)
        if content.get("stop_strings"):
            found["stop"] = content["stop_strings"]
        if bias := biases(content, path):
            found["logit_bias"] = bias
        checked = settings_of(found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    unlike = [f"{name}={content[name]!r}" for name, usual in NOT_DONE.items() if content.get(name, usual) != usual]
    if unlike:
        notice(f"{path}: npgpt does not do {', '.join(unlike)}: the text may be another than that of transformers")
    return {name: getattr(checked, name) for name in found}


def drawn(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the settings of how a token is drawn."""
    sample = content.get("do_sample")
    given = [name for name in DRAWN if name in content]
    if not isinstance(sample, bool | None):
        raise TypeError(f"do_sample={sample!r} must be true or false")
    if sample:
        found = {"temperature": 1.0, "top_k": TOP_K} | {name: content[name] for name in given}
        return found if found["top_k"] != 0 else found | {"top_k": None}  # 0 switches it off there
    if sample is None and given:
        settings = ", ".join(f"{name}={content[name]!r}" for name in given)
        notice(f"{path}: {settings} has no effect, as in transformers: without do_sample, the likeliest token is taken")
    return {"temperature": 0.0} if given or sample is False else {}


def banned(content: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Return the sequences of tokens that are not to be written. An end token among them is passed over, as there."""
    words, ends = content["bad_words_ids"], content.get("eos_token_id")
    if not isinstance(words, list) or not all(isinstance(word, list) for word in words):
        raise TypeError(f"bad_words_ids={words!r} must be lists of ids")
    ends = [[i] for i in ends] if isinstance(ends, list) else [[ends]]
    return tuple(tuple(word) for word in words if word not in ends)


def biases(content: Mapping[str, Any], path: Path) -> dict[int, float]:
    """Return what is added to the logits of tokens: -inf to those that are suppressed."""
    found: dict[int, float] = {}
    pairs = content.get("sequence_bias", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and pair[0] for pair in pairs
    ):
        raise TypeError(f"sequence_bias={pairs!r} must be a list of pairs, of ids and a number")
    long = [ids for ids, _ in pairs if len(ids) > 1]
    if long:
        notice(f"{path}: npgpt has no bias for sequences of tokens, such as {long[0]}, which is left out")
    found |= {ids[0]: bias for ids, bias in pairs if len(ids) == 1}
    suppressed = content.get("suppress_tokens", [])
    if not isinstance(suppressed, list):
        raise TypeError(f"suppress_tokens={suppressed!r} must be a list of ids")
    return found | {i: float("-inf") for i in suppressed}
