"""Plain mappings to typed dataclasses, with errors that name the key.

A ``DictConfig`` never travels past an entry point: it becomes a plain mapping there, and this
module turns the mapping into the dataclass that owns the keys.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from moe_tasks import registry
from moe_tasks.errors import UserError, nearest

_Config = TypeVar("_Config")


def from_mapping(cls: type[_Config], values: Mapping[str, Any], where: str = "") -> _Config:
    """An instance of dataclass ``cls`` with ``values``; nested dataclasses are built too.

    Args:
        where: dotted key of ``values`` inside the whole configuration, for messages.

    Raises:
        UserError: unknown or missing key, wrong type, or a value that the class refuses with
            ``ValueError``.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where or 'configuration'}: expected keys and values, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise UserError(f"unknown key '{_join(where, str(key))}'; {nearest(str(key), fields)}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _convert(hints[name], values[name], _join(where, name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"missing key '{_join(where, name)}'")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error


def part(group: str, values: Mapping[str, Any]) -> Any:
    """The registered config dataclass of ``group`` that ``values['name']`` names, filled."""
    if not isinstance(values, Mapping) or "name" not in values:
        raise UserError(f"missing key '{group}.name'; valid: {', '.join(registry.names(group))}")
    cls = registry.lookup(group, str(values["name"]))
    return from_mapping(cls, {k: v for k, v in values.items() if k != "name"}, group)


def override(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` keys over those of ``values``, level by level.

    Where ``own`` names another part, its keys stand alone: those of one part mean nothing to
    another.
    """
    if own.get("name", values.get("name")) != values.get("name"):
        return dict(own)
    merged = dict(values)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = override(merged[key], value) if both else value
    return merged


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"'{where}' is {value!r}; {nearest(str(value), map(str, arguments))}")
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise UserError(f"'{where}' is {value!r}; expected a list")
        return origin(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"'{where}' is {value!r}; expected keys and values")
        return {str(k): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    errors = []
    for candidate in (a for a in arguments if a is not type(None)):
        try:
            return _convert(candidate, value, where)
        except UserError as error:
            errors.append(error)
    raise errors[-1]


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool)):
        return value
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"'{where}' is {value!r}; expected {hint.__name__}")
