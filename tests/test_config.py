"""Mappings to dataclasses: every mistake names its key and the nearest right value."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_tasks import config, registry
from moe_tasks.errors import UserError, nearest


@dataclass
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass
class Outer:
    steps: int
    name: str = "x"
    sizes: tuple[int, ...] = (1,)
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    many: dict[str, Inner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"'steps' is {self.steps}; it must be at least 1")


def test_nested_values_are_converted() -> None:
    values = {"steps": 3, "sizes": [2, 3], "inner": {"rate": 1}, "many": {"one": {"kind": "b"}}}
    built = config.from_mapping(Outer, values)
    assert built == Outer(3, sizes=(2, 3), inner=Inner(1.0), many={"one": Inner(kind="b")})
    assert isinstance(built.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "missing key 'steps'"),
        ({"steps": 1, "stpes": 2}, "unknown key 'stpes'; did you mean 'steps'"),
        ({"steps": "three"}, "'steps' is 'three'; expected int"),
        ({"steps": True}, "'steps' is True; expected int"),
        ({"steps": 1.5}, "'steps' is 1.5; expected int"),
        ({"steps": 0}, "'steps' is 0; it must be at least 1"),
        ({"steps": 1, "sizes": 3}, "'sizes' is 3; expected a list"),
        ({"steps": 1, "sizes": [1, "b"]}, r"'sizes\[1\]' is 'b'; expected int"),
        ({"steps": 1, "inner": {"kind": "c"}}, "'inner.kind' is 'c'; valid: a, b"),
        ({"steps": 1, "inner": {"rat": 1}}, "unknown key 'inner.rat'; did you mean 'rate'"),
        ({"steps": 1, "inner": 5}, "inner: expected keys and values"),
        ({"steps": 1, "many": {"one": {"knd": "a"}}}, "unknown key 'many.one.knd'"),
        ({"steps": 1, "limit": "x"}, "'limit' is 'x'; expected int"),
    ],
)
def test_mistakes_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.from_mapping(Outer, values)


values_of_any_kind = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["steps", "name", "sizes", "limit", "inner", "many", "other"]),
        values_of_any_kind,
    )
)
def test_any_mapping_is_built_or_refused_in_words(values: dict[str, Any]) -> None:
    with contextlib.suppress(UserError):  # anything else is a bare traceback for a user
        assert isinstance(config.from_mapping(Outer, values), Outer)


def test_parts_come_from_the_registry_only() -> None:
    with pytest.raises(UserError, match="unknown router 'liner'; did you mean 'linear'"):
        registry.lookup("router", "liner")
    with pytest.raises(UserError, match=r"unknown tasks 'os\.system'"):
        config.part("tasks", {"name": "os.system"})
    with pytest.raises(UserError, match=r"unknown key 'tasks\._target_'"):
        config.part("tasks", {"name": "synthetic", "_target_": "os.system"})
    with pytest.raises(UserError, match=r"missing key 'tasks\.name'"):
        config.part("tasks", {})
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("router", "linear")(object())
    with pytest.raises(ValueError, match="unknown group"):
        registry.register("rooter", "x")


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("tasks", {"folder", "gym", "synthetic"}),
        ("router", {"identity", "linear", "linear_layer_specific"}),
        ("selection", {"average", "gumbel_st", "softmax"}),
        ("experts", {"attention", "ffn", "layer"}),
        ("task_vectors", {"file", "learned", "text"}),
        ("sampling", {"proportional", "temperature", "uniform"}),
        ("backbone", {"pretrained", "tiny"}),
    ],
)
def test_every_part_is_found_by_its_file_alone(group: str, expected: set[str]) -> None:
    assert expected <= set(registry.names(group))


def test_hints() -> None:
    assert nearest("moe", ["dense"]) == "valid: dense"
    assert nearest("x", []) == "valid: (none)"
    assert "in all" in nearest("zzz", [f"name{i}" for i in range(20)])
