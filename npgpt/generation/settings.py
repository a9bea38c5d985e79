"""Sampling: how a text is generated, in one frozen object that has been checked."""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from npgpt.support.hints import nearest

# What to do when the context is full: "block" drops a quarter of it and reads the rest again, "slide" drops a token and
# reads the rest again for each new one, "stop" ends the text
CONTEXTS = ("block", "slide", "stop")

# The rules that change logits, in the order in which they work unless `order` says another: transformers' order, and
# its other rules beside those of their kind. top_n_sigma measures the spread of all logits, so it precedes top_k
ORDER = (
    "guidance", "bias", "repetition", "presence", "dry", "no_repeat_ngram", "banned", "min_length", "prefix",
    "temperature", "top_n_sigma", "top_k", "top_p", "min_p", "typical_p", "epsilon", "eta", "mirostat",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is generated. Names are those of transformers' GenerationConfig where it has the setting.

    >>> Sampling(temperature=0.8, top_p=0.95, stop=("\\n\\n",))

    Raises ValueError or TypeError, with the value, for one that is not possible.
    """

    # how long
    max_new_tokens: int | None = 100  # None: as many as fit into the context
    min_new_tokens: int = 0  # no end token before so many tokens
    context: str = "block"  # of CONTEXTS
    # which tokens can be drawn (rules/truncation.py)
    temperature: float = 1.0  # 0 always takes the likeliest token
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    top_n_sigma: float | None = None
    mirostat_tau: float | None = None  # nats of surprise that a text is kept at
    mirostat_eta: float = 0.1
    # against repetition (rules/penalties.py)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int | None = None  # the last so many tokens count; None: all
    penalize_prompt: bool = True  # whether tokens of the prompt count
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    no_repeat_ngram_size: int = 0
    # what must and must not be written (rules/steering.py, by the bytes of tokens: rules/spelling.py)
    logit_bias: Mapping[int, float] | None = None  # {id: what is added to its logit}
    banned: tuple[str | tuple[int, ...], ...] = ()  # words, or sequences of ids, that are not written
    prefix: str | tuple[int, ...] = ""  # what the text begins with
    guidance_scale: float = 1.0
    negative_prompt: str | None = None
    order: tuple[str, ...] = ORDER
    # where a text ends (stops.py)
    stop: tuple[str, ...] = ()  # strings; they are cut from the text
    stop_regex: str | None = None  # the text ends before its first match
    stop_ids: tuple[int, ...] | None = None  # None: the end tokens of model and tokenizer
    # what the text must match (constraints.py, with the `constrain` extra)
    regex: str | None = None
    json_schema: str | None = None  # the schema as JSON
    choices: tuple[str, ...] = ()
    # what is drawn and told
    seed: int = 0
    logprobs: int = 0  # the likeliest tokens that each step tells of

    def __post_init__(self) -> None:
        for name, least in COUNTS.items():
            object.__setattr__(self, name, checked_count(name, getattr(self, name), least))
        for name, bounds in RANGES.items():
            object.__setattr__(self, name, checked_number(name, getattr(self, name), *bounds))
        for name in ("dry_breakers", "banned", "order", "stop", "choices"):
            object.__setattr__(self, name, checked_tuple(name, getattr(self, name)))
        words = (word if isinstance(word, str) else checked_ids("banned", word) for word in self.banned)
        object.__setattr__(self, "banned", tuple(words))
        if self.stop_ids is not None:
            object.__setattr__(self, "stop_ids", checked_ids("stop_ids", self.stop_ids))
        if not isinstance(self.prefix, str):
            object.__setattr__(self, "prefix", checked_ids("prefix", self.prefix))
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", checked_bias(self.logit_bias))
        check_words(self)
        check_combinations(self)


# {name: least}: whole numbers
COUNTS = {
    "max_new_tokens": 0, "min_new_tokens": 0, "top_k": 1, "penalty_window": 1, "dry_allowed_length": 1,
    "no_repeat_ngram_size": 0, "seed": 0, "logprobs": 0,
}  # fmt: skip
# {name: (least, most, whether the least itself is possible)}
RANGES = {
    "temperature": (0, math.inf, True),
    "top_p": (0, 1, False),
    "min_p": (0, 1, True),
    "typical_p": (0, 1, False),
    "epsilon_cutoff": (0, 1, True),
    "eta_cutoff": (0, 1, True),
    "top_n_sigma": (0, math.inf, False),
    "mirostat_tau": (0, math.inf, False),
    "mirostat_eta": (0, 1, False),
    "repetition_penalty": (0, math.inf, False),
    "presence_penalty": (-math.inf, math.inf, True),
    "frequency_penalty": (-math.inf, math.inf, True),
    "dry_multiplier": (0, math.inf, True),
    "dry_base": (1, math.inf, True),
    "guidance_scale": (0, math.inf, True),
}
OPTIONAL = {field.name for field in fields(Sampling) if field.default is None}


def settings_of(values: Mapping[str, Any]) -> Sampling:
    """Return the settings of these names. Raises ValueError for an unknown name, with the nearest one."""
    known = [field.name for field in fields(Sampling)]
    for name in values:
        if name not in known:
            raise ValueError(f"unknown setting {name!r}{nearest(name, known)}")
    return Sampling(**values)


def checked_count(name: str, value: Any, least: int) -> int | None:
    """Return a whole number as one of Python's, which `json` can write."""
    if value is None and (name in OPTIONAL or name == "max_new_tokens"):
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be a whole number") from None
    if number < least:
        raise ValueError(f"{name}={value} must be at least {least}")
    return number


def checked_number(name: str, value: Any, least: float, most: float, closed: bool) -> float | None:
    """Return a finite number of a range as a float."""
    if value is None and name in OPTIONAL:
        return None
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name}={value!r} must be a number")
    number = float(value)
    if not (math.isfinite(number) and (least <= number <= most if closed else least < number <= most)):
        low = "" if least == -math.inf else f"of at least {least}" if closed else f"above {least}"
        high = "" if most == math.inf else f"at most {most}"
        raise ValueError(f"{name}={value} must be a number {' and '.join(filter(None, (low, high)))}".rstrip())
    return number


def checked_tuple(name: str, value: Any) -> tuple:
    """Return a list as a tuple; one string is a list of itself."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable):
        raise TypeError(f"{name}={value!r} must be a list")
    return tuple(tuple(v) if isinstance(v, list) else v for v in value)


def checked_ids(name: str, value: Any) -> tuple[int, ...]:
    """Return ids as a tuple; one id is a list of itself. Whether a vocabulary has them, the generator checks."""
    try:
        return tuple(map(operator.index, value)) if isinstance(value, Iterable) else (operator.index(value),)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be ids of tokens") from None


def checked_bias(value: Any) -> Mapping[int, float]:
    """Return {id: bias}, which cannot be changed. A bias may be -inf, which bans its token."""
    if not isinstance(value, Mapping):
        raise TypeError(f"logit_bias={value!r} must be {{id: bias}}")
    for i, bias in value.items():
        if isinstance(bias, bool) or not hasattr(bias, "__float__") or not float(bias) < math.inf:
            raise ValueError(f"logit_bias has {bias!r} for the id {i!r}: it must be a number, or -inf")
    ids = [checked_ids("logit_bias", (i,))[0] for i in value]
    return MappingProxyType(dict(zip(ids, map(float, value.values()), strict=True)))


def check_words(sampling: Sampling) -> None:
    """Raise ValueError or TypeError for a word that is none of those known, or for an empty text."""
    if sampling.context not in CONTEXTS:
        raise ValueError(f"context={sampling.context!r} is unknown{nearest(str(sampling.context), CONTEXTS)}")
    if not isinstance(sampling.penalize_prompt, bool):
        raise TypeError(f"penalize_prompt={sampling.penalize_prompt!r} must be True or False")
    for name in sampling.order:
        if name not in ORDER:
            raise ValueError(f"order has an unknown rule {name!r}{nearest(str(name), ORDER)}")
        if sampling.order.count(name) > 1:
            raise ValueError(f"order has {name!r} twice")
    for name in ("stop", "choices", "dry_breakers"):
        for text in getattr(sampling, name):
            if not isinstance(text, str):
                raise TypeError(f"{name} has {text!r}, which is no text")
            if not text and name != "choices":
                raise ValueError(f"{name} has an empty text, which is everywhere: leave it out")
    for name in ("stop_regex", "regex", "json_schema", "negative_prompt"):
        if not isinstance(getattr(sampling, name), str | None):
            raise TypeError(f"{name}={getattr(sampling, name)!r} must be a text")
    for word in sampling.banned:
        if not word:
            raise ValueError("banned has an empty word, which is everywhere: leave it out")


def check_combinations(sampling: Sampling) -> None:
    """Raise ValueError for settings that contradict one another."""
    given = [name for name in ("regex", "json_schema", "choices") if getattr(sampling, name) not in (None, ())]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} cannot be combined: a text must match one of them")
    if sampling.max_new_tokens is not None and sampling.min_new_tokens > sampling.max_new_tokens:
        raise ValueError(f"min_new_tokens={sampling.min_new_tokens} is above max_new_tokens={sampling.max_new_tokens}")
    if sampling.mirostat_tau is not None and sampling.temperature == 0:
        raise ValueError("mirostat_tau has no effect at temperature 0, which takes the likeliest token: leave one out")
    if sampling.negative_prompt is not None and sampling.guidance_scale == 1:
        raise ValueError("negative_prompt has no effect with guidance_scale=1: give another, such as 1.5")
    if sampling.guidance_scale != 1 and sampling.negative_prompt is None:
        raise ValueError("guidance_scale needs a negative_prompt, which may be empty, to be guided away from")
