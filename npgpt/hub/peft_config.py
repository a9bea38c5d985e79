"""PEFT's adapter_config.json: what it asks for, and which layers of a GPT-2 its names and patterns mean."""

import math
import time
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import regex

from npgpt.support.files import read_json

CONFIG = "adapter_config.json"

# other adapters that PEFT trains, of which some are no changes of weights at all
OTHER_TYPES = {
    "IA3": "scales activations with learned vectors (IA3)",
    "PREFIX_TUNING": "puts learned keys and values before every text (prefix tuning)",
    "PROMPT_TUNING": "puts learned embeddings before every text (prompt tuning)",
    "P_TUNING": "puts learned embeddings before every text (p-tuning)",
    "MULTITASK_PROMPT_TUNING": "puts learned embeddings before every text (prompt tuning)",
    "ADALORA": "has singular values beside its matrices (AdaLoRA)",
    "LOHA": "multiplies low-rank matrices element by element (LoHa)",
    "LOKR": "is a Kronecker product (LoKr)",
    "OFT": "rotates weights (OFT)",
    "BOFT": "rotates weights (BOFT)",
    "VERA": "scales random matrices (VeRA)",
}
# ways to begin that leave the base as it is; the others subtract something from it first
INITS = (True, False, None, "gaussian", "eva", "orthogonal")
# kinds of LoRA that compute something else, by their key
OTHER_KINDS = {
    "use_dora": "DoRA, which scales every output of a merged weight to a learned length",
    "use_qalora": "QALoRA, for weights of few bits",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA, which is in effect after certain tokens only",
    "layer_replication": "layer replication, which makes another model of the base",
    "ensure_weight_tying": "embedding and head that are changed as one",
    "target_parameters": "LoRA of single parameters",
    "arrow_config": "Arrow, which chooses among several adapters",
}
MERGE = "merge it in PEFT, with merge_and_unload(), and give that folder"
READ = {
    "alpha_pattern", "base_model_name_or_path", "bias", "exclude_modules", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_bias", "modules_to_save", "peft_type", "r",
    "rank_pattern", "revision", "target_modules", "task_type", "trainable_token_indices", "use_rslora",
}  # fmt: skip
# keys that change nothing: what wrote the file, dropout in training, how an accepted initialisation began, settings of
# features that are off. PEFT transposes a Conv1D's weight whatever fan_in_fan_out says
WITHOUT_EFFECT = {
    "auto_mapping", "eva_config", "fan_in_fan_out", "inference_mode", "loftq_config", "lora_dropout", "megatron_core",
    "peft_version", "qalora_group_size", "runtime_config",
}  # fmt: skip

LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # of a block
SECONDS = 5.0  # that all patterns of a file may take
LONGEST = 1000  # characters of a pattern


class AdapterConfig(NamedTuple):
    """What an adapter_config.json asks for. The names are PEFT's; an empty list stands for null."""

    rank: int
    alpha: float  # may be an integer in a file
    targets: str | tuple[str, ...]  # a pattern, or names
    excluded: str | tuple[str, ...] = ()
    ranks: dict[str, int] = {}  # noqa: RUF012, never changed
    alphas: dict[str, float] = {}  # noqa: RUF012
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    bias: str = "none"
    rslora: bool = False
    lora_bias: bool = False

    def recorded(self) -> dict[str, Any]:
        """Return what npgpt writes of it into the metadata of the tensors."""
        return {"rank": self.rank, "alpha": self.alpha, "targets": self.targets}


class Layer(NamedTuple):
    """A layer with low-rank matrices: its name, their rank, and alpha, so that alpha / rank is their factor."""

    name: str
    rank: int
    alpha: float


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read PEFT's adapter_config.json.

    Raises FileNotFoundError, or ValueError, with the key and its value, for what npgpt does not compute. A key that
    npgpt does not know, which a newer version may have added, must be empty or false: its effect is unknown.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not an adapter: it has no {path.name}")
    content = read_json(path)
    try:
        _require_supported(content)
        return _parsed(content)
    except (ValueError, OverflowError) as error:  # OverflowError: an integer that is too large for a float
        raise ValueError(f"{path}: {error}") from None


def read_base_name(path: Path) -> str | None:
    """Return what an adapter_config.json says is its base: a folder, or a name on the hub, with @revision."""
    content = read_json(path)
    name, revision = content.get("base_model_name_or_path"), content.get("revision")
    for key, value in ("base_model_name_or_path", name), ("revision", revision):
        if value is not None and not (isinstance(value, str) and value.isprintable()):
            raise ValueError(f"{path}: {key}={value!r} must be a name")
    if name and revision and not Path(name).exists():
        return f"{name}@{revision}"
    return name or None


def _require_supported(content: dict[str, Any]) -> None:
    for key in ("peft_type", "r", "lora_alpha"):
        if key not in content:
            raise ValueError(f"{key} is missing")
    kind = content["peft_type"]
    if kind != "LORA":
        what = OTHER_TYPES.get(str(kind), "is another kind of adapter")
        raise ValueError(f"peft_type={kind!r} {what}, and npgpt opens LORA: {MERGE}")
    for key, what in OTHER_KINDS.items():
        if content.get(key):
            raise ValueError(f"{key}={content[key]!r} is not supported: {what}; {MERGE}")
    if content.get("task_type") not in ("CAUSAL_LM", None):
        raise ValueError(f"task_type={content['task_type']!r} is not supported, only 'CAUSAL_LM' or None")
    init = content.get("init_lora_weights", True)
    if not any(init is known or (isinstance(known, str) and init == known) for known in INITS):
        raise ValueError(
            f"init_lora_weights={init!r} is not supported: such an adapter begins by changing the weights of its base; "
            "save it in PEFT with path_initial_model_for_weight_conversion"
        )
    for key, value in content.items():
        if value and key not in WITHOUT_EFFECT | READ:
            raise ValueError(f"{key}={value!r} is not supported")


def _parsed(content: dict[str, Any]) -> AdapterConfig:
    """Return the configuration. Raises ValueError, with the key and its value, for one of another type."""
    layers = content.get("layers_to_transform")
    bias = content.get("bias", "none")
    if bias not in ("none", "all", "lora_only"):
        raise ValueError(f"bias={bias!r} must be 'none', 'all' or 'lora_only'")
    flags = {key: content.get(key) for key in ("use_rslora", "lora_bias")}
    for key, value in flags.items():
        if value is not None and type(value) is not bool:
            raise ValueError(f"{key}={value!r} must be true or false")
    config = AdapterConfig(
        rank=_rank("r", content["r"]),
        alpha=_alpha("lora_alpha", content["lora_alpha"]),
        targets=_names(content, "target_modules", pattern=True),
        excluded=_names(content, "exclude_modules", pattern=True),
        ranks={k: _rank(f"rank_pattern[{k!r}]", v) for k, v in _dict(content, "rank_pattern").items()},
        alphas={k: _alpha(f"alpha_pattern[{k!r}]", v) for k, v in _dict(content, "alpha_pattern").items()},
        layers=None if layers in (None, []) else _integers("layers_to_transform", layers),
        layers_pattern=tuple(_listed(_names(content, "layers_pattern", pattern=True))),
        saved=tuple(_listed(_names(content, "modules_to_save"))),
        tokens=_tokens(content.get("trainable_token_indices")),
        bias=bias,
        rslora=bool(flags["use_rslora"]),
        lora_bias=bool(flags["lora_bias"]),
    )
    if isinstance(config.targets, str) and config.layers is not None:
        raise ValueError("layers_to_transform cannot be used when target_modules is a pattern")
    return config


def _rank(key: str, value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{key}={value!r} must be an integer")
    if value < 1:
        raise ValueError(f"{key}={value!r} must be at least 1")
    return value


def _alpha(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{key}={value!r} must be a number")
    return value


def _names(content: dict[str, Any], key: str, pattern: bool = False) -> str | tuple[str, ...]:
    value = content.get(key)
    if value is None:
        return ()
    if pattern and isinstance(value, str):
        return value
    if not (isinstance(value, list) and all(isinstance(name, str) and name for name in value)):
        raise ValueError(f"{key}={value!r} must be a list of names{' or a pattern' if pattern else ''}")
    return tuple(value)


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return ((value,) if value else ()) if isinstance(value, str) else value


def _dict(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}={value!r} must be an object of names and numbers")
    return value


def _integers(key: str, value: Any) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{key}={value!r} must be a list of numbers from 0 on")
    return tuple(numbers)


def _tokens(value: Any) -> tuple[int, ...]:
    """Return the ids of trainable_token_indices, which may be given by the name of the embedding."""
    if not value:
        return ()
    ids = value
    if isinstance(value, dict):
        if [name.removeprefix("transformer.") for name in value] != ["wte"]:
            raise ValueError(f"trainable_token_indices={value!r} is supported for wte alone")
        (ids,) = value.values()
    found = _integers("trainable_token_indices", ids)
    if len({*found}) < len(found):
        raise ValueError(f"trainable_token_indices={value!r} has an id twice")
    return found


class Patterns:
    """Regular expressions of a file, which may be meant to hang what reads it: all of them have a few seconds.

    Raises ValueError for one that is none, that is too long, or for which the time is not enough; and for one with
    braces, because a{999} is compiled into 999 states, and names of layers need none.
    """

    def __init__(self) -> None:
        self.left = SECONDS

    def find(self, before: str, pattern: str, after: str, text: str) -> "regex.Match | None":
        """Match before + pattern + after from the beginning of a text on."""
        shown = repr(pattern if len(pattern) <= 60 else pattern[:60] + " ...")
        if len(pattern) > LONGEST or "{" in pattern:
            raise ValueError(f"the pattern {shown} is not supported: it has {{ in it, or over {LONGEST} characters")
        begin = time.monotonic()
        try:
            if self.left <= 0:
                raise TimeoutError
            found: regex.Match | None = regex.match(f"{before}{pattern}{after}", text, timeout=self.left)
        except TimeoutError:
            raise ValueError(f"the pattern {shown} takes too long to match") from None
        except (regex.error, RecursionError) as error:
            raise ValueError(f"the pattern {shown} is not possible: {error}") from None
        self.left -= time.monotonic() - begin
        return found


def adapted_layers(config: AdapterConfig, n_layer: int, prefix: str) -> list[Layer]:
    """Return the layers that have low-rank matrices, by PEFT's rules (its check_target_module_exists).

    prefix  "transformer.", or "" for an adapter of GPT2Model, which has no head
    """
    patterns, found = Patterns(), []
    names = [f"{prefix}h.{i}.{layer}" for i in range(n_layer) for layer in LINEAR]
    names += [f"{prefix}wte", f"{prefix}wpe", *(["lm_head"] if prefix else [])]
    lists = {key: frozenset(value) for key, value in config._asdict().items() if isinstance(value, tuple)}
    for key in names:
        suffixes = suffixes_of(key)
        if config.saved and any(f".{key}.".find(f".{name}.") >= 0 for name in config.saved):
            continue
        if isinstance(config.excluded, str):
            if patterns.find("(?:", config.excluded, r")\Z", key):
                continue
        elif not lists["excluded"].isdisjoint(suffixes):
            continue
        if not _is_target(config, key, suffixes, lists, patterns):
            continue
        rank = _by_pattern(config.ranks, key, patterns, config.rank)
        alpha = _by_pattern(config.alphas, key, patterns, config.alpha)
        alpha = alpha * math.sqrt(rank) if config.rslora else alpha
        found.append(Layer(key.removeprefix("transformer."), rank, alpha))
    return found


def _is_target(
    config: AdapterConfig, key: str, suffixes: list[str], lists: dict[str, frozenset], patterns: Patterns
) -> bool:
    if isinstance(config.targets, str):
        if config.targets.lower() == "all-linear":
            return key.endswith(LINEAR)
        return patterns.find("(?:", config.targets, r")\Z", key) is not None
    if key in lists["targets"]:
        return True  # whatever layers_to_transform says
    if lists["targets"].isdisjoint(suffixes):
        return False
    if config.layers is None:
        return True
    match = None
    for pattern in config.layers_pattern:
        if match := patterns.find(r"(?:^|.*?\.)", pattern, r"\.(?P<idx>\d+)\.", key):
            break
    if not config.layers_pattern:
        match = regex.match(r".*?\.[^.]*\.(?P<idx>\d+)\.", key)
    return match is not None and int(match["idx"]) in lists["layers"]


def _by_pattern(values: dict[str, Any], key: str, patterns: Patterns, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a layer's name (PEFT's get_pattern_key)."""
    for pattern, value in values.items():
        if patterns.find(r"(?:.*\.)?(?:", pattern, ")$", key):
            return value
    return default


def suffixes_of(key: str) -> list[str]:
    """Return a dotted name and its ends: of "h.0.mlp" also "0.mlp" and "mlp"."""
    parts = key.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def saved_parameters(names: Iterable[str], config: AdapterConfig, layers: Iterable[Layer]) -> set[str]:
    """Return the parameters of a model that an adapter replaces: of modules_to_save, and the biases of `bias`.

    As in PEFT, a module is meant if its name ends in one of the list, and then with everything in it.
    """
    adapted = {layer.name for layer in layers}
    found = set()
    for name in names:
        module, _, kind = name.rpartition(".")
        within = accumulate(module.split("."), lambda a, b: f"{a}.{b}")
        if config.saved and any(one.endswith(config.saved) for one in within):
            found.add(name)
        if kind == "bias" and (config.bias == "all" or (config.bias == "lora_only" and module in adapted)):
            found.add(name)
    return found
