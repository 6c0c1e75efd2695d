"""Task vectors from text, from a file, and learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moe_tasks.errors import UserError
from moe_tasks.routing.vectors import (
    FileVectors,
    LearnedVectors,
    TextVectors,
    VectorContext,
    mean_encoder_states,
)
from tests.models import SEQ2SEQ, bart

PAD = 1


def texts(task: str, sample: str | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(sum(map(ord, task)) + (0 if sample is None else int(sample)))
    low, high = (4, 20) if task.startswith("low") else (40, 60)
    return (
        [rng.integers(low, high, rng.integers(3, 9)) for _ in range(6)],
        [rng.integers(low, high, 2) for _ in range(6)],
    )


def context() -> VectorContext:
    return VectorContext(bart(), texts, PAD, seed=0)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_padding_changes_nothing(family: str) -> None:
    """The published code averages over padding; a slow loop without any is the oracle."""
    model = SEQ2SEQ[family]()
    rows, _ = texts("low", None)
    alone = [mean_encoder_states(model, [row], PAD) for row in rows]
    together = mean_encoder_states(model, rows, PAD)
    torch.testing.assert_close(together, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)


def test_text_vectors_are_standardised_and_place_unseen_tasks_alike() -> None:
    source = TextVectors(examples=6).build(context())
    tasks = ["low a", "low b", "high a", "high b"]
    vectors = source.fit(tasks)
    assert vectors.shape == (4, 64)  # inputs beside outputs
    torch.testing.assert_close(vectors.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.std(0, correction=0), torch.ones(64), atol=1e-3, rtol=0)
    placed = source.place("low c", "13")
    assert placed is not None
    distances = (vectors - placed).norm(dim=-1)
    assert distances[:2].mean() < distances[2:].mean()  # beside the tasks that it resembles


def test_learned_vectors_cannot_place_an_unseen_task() -> None:
    source = LearnedVectors(dim=7).build(context())
    assert source.fit(["a", "b"]).shape == (2, 7)
    assert torch.equal(source.fit(["a", "b"]), source.fit(["a", "b"]))
    assert source.place("c", "13") is None
    assert source.learn


def test_file_vectors(tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(3)}, file)
    source = FileVectors(str(file)).build(context())
    assert source.fit(["b", "a"]).tolist() == [[0, 0, 0], [1, 1, 1]]
    with pytest.raises(UserError, match="no task vector for 'c'"):
        source.fit(["a", "c"])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' is not one row of finite"),
        ({"a": torch.zeros(2, 2)}, "'a' is not one row of finite"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, "differ in width"),
    ],
)
def test_bad_vector_files(tmp_path: Path, tensors: dict, message: str) -> None:
    file = tmp_path / "vectors.safetensors"
    save_file(tensors, file)
    with pytest.raises(UserError, match=message):
        FileVectors(str(file)).build(context())


def test_missing_and_broken_vector_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        FileVectors(str(tmp_path / "none")).build(context())
    (tmp_path / "broken").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="not a safetensors file"):
        FileVectors(str(tmp_path / "broken")).build(context())
