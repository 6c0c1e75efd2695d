"""Whatever the files hold, a reader gives a sound collection or one message."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from moe_tasks.tasks.base import SPLITS
from tests.tasks import folder_files
from tests.tasks.folder_files import free, jsonl, labelled, parquet, put
from tests.tasks.gym_files import attempt, entry, gym, write_gym

YES_NO = entry("ACC", labels=["yes", "no"], classification=True)

_PIECES = st.sampled_from([b"\t", b"\n", b"\r\n", b"\0", b"\xff", b"yes", b"no", b" ", b"in"])
_CONTENT = st.lists(_PIECES | st.binary(max_size=6), max_size=30).map(b"".join)


def _check_content(content: bytes) -> None:
    """Whatever a file holds: every line is a row or is listed, or there is one message."""
    with tempfile.TemporaryDirectory() as name:
        root = write_gym(Path(name) / "gym", {"a": YES_NO})
        path = root / "a" / "a_16_13_train.tsv"
        path.write_bytes(content)
        num_lines = len(content.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n"))
        collection, message = attempt(
            lambda: gym(root, on_bad_row="skip", max_bad_share=0.99).build()
        )
        num_bad = num_lines if collection is None else len(collection.skipped)
        if collection is None:
            assert message == f"{path}: no usable rows"
        else:
            rows = collection.examples("a", "train", "13")
            assert len(rows) + num_bad == num_lines
            assert all(row.input.strip() == row.input != "" for row in rows)
            assert {output for row in rows for output in row.outputs} <= {"yes", "no"}
        strict, message = attempt(lambda: gym(root).build())
        assert (strict is None) == (num_bad > 0)
        assert strict is not None or message.startswith(str(path))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(_CONTENT)
def test_any_file_content_is_read_or_refused(content: bytes) -> None:
    _check_content(content)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(_CONTENT)
def test_any_file_content_is_read_or_refused_10000_times(content: bytes) -> None:
    _check_content(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["a", "EM", "yes"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["a", "metric", "labels", "category", "train"]) | st.text(max_size=3),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["tasks.json", "ontology.json", "splits/random.json"]), _JSON)
def test_any_json_is_read_or_refused(file: str, content: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = write_gym(Path(name) / "gym", {"a": entry()})
        (root / file).write_text(json.dumps(content))
        collection, _ = attempt(lambda: gym(root).build())
        if collection is not None:
            assert Counter(t for tasks in collection.roles.values() for t in tasks) == {"a": 1}


_WORD = st.sampled_from(
    ["input", "output", "outputs", "options", "yes", "no", "", "|", "\ud800", "1"]
)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORD | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORD, inner, max_size=2),
    max_leaves=5,
)
_LINE = st.dictionaries(_WORD, _VALUE, max_size=4).map(lambda row: json.dumps(row).encode())
_JSONL = st.lists(_LINE | st.binary(max_size=20), max_size=12).map(b"\n".join)
_TOKENS = st.sampled_from(
    [b",", b"\t", b'"', b"\n", b"\r\n", b"\0", b"|", b"yes", b"no", b"\xff", b" "]
)
_TABLE = st.tuples(
    st.sampled_from([b"", b"input,output\n", b"input\toutput\n", b"input,outputs,options\n"]),
    st.lists(_TOKENS | st.binary(max_size=4), max_size=40).map(b"".join),
).map(b"".join)
_FILES = st.one_of(
    st.tuples(st.just("jsonl"), _JSONL),
    st.tuples(st.sampled_from(["csv", "tsv"]), _TABLE),
    st.tuples(
        st.just("parquet"),
        st.tuples(st.integers(0, 2000), st.integers(0, 255)).map(
            lambda flip: _flipped(parquet(labelled(5)), *flip)
        ),
    ),
)


def _flipped(content: bytes, place: int, value: int) -> bytes:
    place %= len(content)
    return content[:place] + bytes([value]) + content[place + 1 :]


def _check_file(kind: str, content: bytes, settings: bytes | None = None) -> None:
    """Whatever a file holds, there is a sound collection or one message."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        put(root, f"qa.train.{kind}", jsonl(free(8)) if settings is not None else content)
        if settings is not None:
            put(root, "tasks.yaml", settings)
        keys: dict[str, Any] = {"on_bad_row": "skip", "max_bad_share": 0.9, "num_samples": 1}
        collection, _ = attempt(lambda: folder_files.build(root, **keys))
        if collection is None:
            assert folder_files.cache_files(root) == []
            return
        rows = [e for split in SPLITS for e in collection.examples("qa", split, "100")]
        assert len({(e.input, tuple(sorted(e.options))) for e in rows}) <= len(rows)
        for e in rows:
            assert e.input
            assert e.outputs
            assert all(e.outputs)
            assert set(e.outputs) <= set(e.options or e.outputs)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(_FILES)
def test_any_file_is_read_or_refused(file: tuple[str, bytes]) -> None:
    _check_file(*file)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(_FILES)
def test_any_file_is_read_or_refused_10000_times(file: tuple[str, bytes]) -> None:
    _check_file(*file)


_YAML = st.recursive(
    st.sampled_from(
        ["qa", "metric", "EM", "role", "test", "options", "features", "yes", "3", "&a x", "*a",
         "2020-01-01", "!!binary x", "!!set {a}", "? a", '"\\ud800"', "<<", "~", "\x00", "- a"]
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda xs: "[" + ", ".join(xs) + "]")
    | st.lists(st.tuples(inner, inner), max_size=3).map(
        lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.tuples(st.sampled_from(["", "qa: ", "qa: {features: {a: "]), _YAML).map("".join))
@example("qa: {features: {a: {qa: qa, yes: qa}")
def test_any_tasks_yaml_is_read_or_refused(text: str) -> None:
    closing = "}" * (text.count("{") - text.count("}"))
    _check_file("jsonl", b"", settings=(text + closing).encode())
