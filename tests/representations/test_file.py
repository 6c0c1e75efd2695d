"""Vectors from a file: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_tasks.errors import UserError
from moe_tasks.representations.computed import fitted_source
from moe_tasks.representations.file import FileVectors
from moe_tasks.representations.transformation import Transformation
from moe_tasks.representations.vector_file import read_vectors, write_vectors
from tests.models import bart
from tests.representations.contexts import context

SAME = Transformation(torch.zeros(3), torch.ones(3), torch.eye(3))


def write(file: Path, **facts: object) -> Path:
    vectors = {("a", None): torch.ones(3), ("b", None): torch.zeros(3), ("c", "13"): torch.ones(3)}
    write_vectors(file, vectors, SAME, facts)
    return file


def test_any_safetensors_file_with_a_vector_per_task(tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(3).half(), "c@13": torch.full((3,), 2.0)}, file)
    source = FileVectors(str(file)).build(context())
    assert source.fit(["b", "a"]).tolist() == [[0, 0, 0], [1, 1, 1]]
    placed = [source.place(*cell) for cell in (("c", "13"), ("a", "13"))]
    assert [vector.tolist() for vector in placed if vector is not None] == [[2] * 3, [1] * 3]


@pytest.mark.parametrize(
    ("tasks", "unseen", "message"),
    [
        (["a", "bb"], [], r"vectors\.safetensors: no task vector for 'bb'.*did you mean 'b'"),
        (["a"], [("d", "13")], r"no task vector for 'd' \(d@13\).*did you mean 'c@13'"),
    ],
)
def test_a_task_that_the_file_lacks(
    tasks: list, unseen: list, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "vectors.safetensors")
    with pytest.raises(UserError, match=message):
        fitted_source({"name": "file", "path": str(file)}, context(), tasks, unseen)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' is not one row of finite"),
        ({"b": torch.ones(2), "a": torch.tensor([1.0, float("inf")])}, "'a' is not one row of"),
        ({"a": torch.zeros(2, 2)}, "'a' is not one row of numbers"),
        ({"a": torch.tensor(1.0)}, "'a' is not one row of numbers"),
        ({f: torch.zeros(2 + (f == "b")) for f in "abcd"}, "'b' has 3 numbers, others have 2"),
        ({}, "holds no task vectors"),
    ],
)
def test_bad_vectors(tmp_path: Path, tensors: dict, message: str) -> None:
    file = tmp_path / "vectors.safetensors"
    save_file(tensors, file)
    with pytest.raises(UserError, match=message):
        FileVectors(str(file)).build(context())


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        FileVectors(str(tmp_path / "none")).build(context())
    (tmp_path / "broken").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="broken: not a safetensors file"):
        FileVectors(str(tmp_path / "broken")).build(context())
    (tmp_path / "cut").write_bytes(write(tmp_path / "whole").read_bytes()[:-4])
    with pytest.raises(UserError, match="cut: not a safetensors file"):
        FileVectors(str(tmp_path / "cut")).build(context())


def test_a_file_made_with_another_backbone(tmp_path: Path) -> None:
    used = context()
    file = write(tmp_path / "vectors.safetensors", backbone=used.fingerprint)
    assert FileVectors(str(file)).build(used).fit(["a"]).shape == (1, 3)
    other = bart()
    with torch.no_grad():
        other.model.shared.weight[5, 5] += 1e-3
    with pytest.raises(UserError, match=r"vectors\.safetensors: made with another backbone"):
        FileVectors(str(file)).build(context(model=other))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    names = ["a", "../../x", "/abs", "x" * 300, "a@13", "é\n"]
    vectors = {(name, None): torch.randn(3) for name in names} | {("u", "13"): torch.randn(3)}
    file = tmp_path / "vectors.safetensors"
    write_vectors(file, vectors, SAME, {"kind": "text", "settings": {"examples": 3}})
    read = read_vectors(file)
    assert read.facts == {"kind": "text", "settings": {"examples": 3}}
    assert set(read.vectors) == {*names, "u@13"}
    assert all(torch.equal(read.vectors[name], vectors[name, None]) for name in names)
    assert read.transformation is not None
    assert torch.equal(read.transformation.matrix, SAME.matrix)
    assert set(load_file(file)) >= set(names)  # for anybody's reader


def test_names_that_collide_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    for names in ([("a", "13"), ("a@13", None)], [("transformation/mean", None)]):
        with pytest.raises(UserError, match="two vectors would be named"):
            write_vectors(file, {name: torch.zeros(3) for name in names}, SAME, {})
    assert list(tmp_path.iterdir()) == []


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    save_file({"a": torch.ones(3)}, file, {"format": "moe_tasks.task_vectors/2"})
    with pytest.raises(UserError, match="of format 2; this version reads 1"):
        read_vectors(file)
