"""The configuration folder: what can be set is there to be seen."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from moe_tasks import registry
from moe_tasks.cli import conf_dir
from moe_tasks.run_config import RunConfig

PARTS = ("router", "experts", "training", "adaptation", "data", "generation", "logging")
INTERNAL = {"narrow_ffn"}  # set by the code that widens a backbone
OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(conf_dir().glob("*/*.yaml"))
    if path.parent.name in registry.PACKAGES
]


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=["run_dir=run", *overrides])


def missing(part: Any, found: Any) -> set[str]:
    """Keys of a dataclass that a configuration does not show."""
    return {field.name for field in dataclasses.fields(part) if field.init} - set(found) - INTERNAL


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_lists_every_key_of_its_part(group: str, option: str) -> None:
    found = composed(f"{group}={option}")[group]
    part = registry.lookup(group, found.name)
    assert not dataclasses.is_dataclass(part) or missing(part, found) == set()


@pytest.mark.parametrize("sizes", ["small", "published"])
def test_the_other_parts_list_every_key(sizes: str) -> None:
    found = composed(f"training={sizes}", f"adaptation={sizes}")
    types = typing.get_type_hints(RunConfig)
    assert {name: missing(types[name], found[name]) for name in PARTS} == {n: set() for n in PARTS}
