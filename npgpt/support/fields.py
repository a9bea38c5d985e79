"""The fields of a configuration class: their help, types and checks."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from npgpt.support.hints import former, nearest


def option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """Return a dataclass field with the help and the choices that the command line shows."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def field_types(config: type) -> dict[str, tuple[type, bool]]:
    """Return {field: (type, whether None is allowed)} of a config class."""
    types = {}
    for name, hint in typing.get_type_hints(config).items():
        parts = typing.get_args(hint) or (hint,)
        types[name] = (parts[0], type(None) in parts)
    return types


def flat_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields, with those of a configuration inside of another beside the others.

    Example: {"n_layer": 2, "encoder": {"n_layer": 3}} gives {"n_layer": 2, "encoder.n_layer": 3}.
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        inner = value if isinstance(value, Mapping) else {}
        found |= {f"{name}.{key}": one for key, one in inner.items()} or {name: value}
    return found


def split_fields(values: Mapping[str, Any], *configs: type, also: Iterable[str] = ()) -> list[dict]:
    """Sort values by name into one dict per config class, and a last one for the names in `also`.

    Raises ValueError, with the nearest known name, for a name that is in none of them.
    """
    groups = [{f.name for f in dataclasses.fields(config)} for config in configs] + [set(also)]
    known = sorted(set().union(*groups))
    for name in values:
        if name not in known:
            raise ValueError(f"unknown key {name!r}{nearest(name, known)}")
    return [{k: v for k, v in values.items() if k in group} for group in groups]


def check_types(config: Any) -> None:
    """Raise ValueError unless all fields of a configuration have their types, and are among their choices."""
    types = field_types(type(config))
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        type_, optional = types[name]
        if value is None and optional:
            continue
        if isinstance(value, list | tuple) and name == "eos_token_id":
            object.__setattr__(config, name, _ids(name, value))
            continue
        abstract = {int: numbers.Integral, float: numbers.Real}.get(type_, type_)
        if not isinstance(value, abstract) or (isinstance(value, bool) and type_ is not bool):
            raise ValueError(f"{name}={value!r} must be of type {type_.__name__}")
        if isinstance(value, numbers.Integral) and abs(int(value)) >= 2**63:
            raise ValueError(f"{name} is too large: give less than 2**63")
        value = type_(value)  # 1 for 1.0, and NumPy's numbers, become Python's own
        object.__setattr__(config, name, value)
        if type_ is float and not math.isfinite(value):
            raise ValueError(f"{name}={value} must be finite")
        choices = field.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"{name}={value!r} is unknown{former(name, value) or nearest(value, choices)}")


def _ids(name: str, values: Sequence[Any]) -> int | tuple[int, ...]:
    """Return the only one of some ids, or all of them."""
    if not values or not all(isinstance(i, numbers.Integral) and not isinstance(i, bool) for i in values):
        raise ValueError(f"{name}={values!r} must be an id, or a list of ids")
    return int(values[0]) if len(values) == 1 else tuple(map(int, values))


def at_least(config: Any, least: int, *names: str) -> None:
    """Raise ValueError, naming the field, for one that is smaller."""
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"{name}={getattr(config, name)} must be at least {least}")


def positive(config: Any, *names: str) -> None:
    """Raise ValueError, naming the field, for one that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)} must be above 0")
