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


TASKS = ["low a", "low b", "low c", "high a", "high b", "high c"]


@pytest.mark.parametrize("whiten", [0.0, 0.5, 1.0])
def test_text_vectors_place_unseen_tasks_beside_those_they_resemble(whiten: float) -> None:
    source = TextVectors(examples=6, whiten=whiten).build(context())
    vectors = source.fit(TASKS)
    torch.testing.assert_close(vectors.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors.std(correction=0), torch.tensor(1.0))
    placed = source.place("low d", "13")
    assert placed is not None
    distances = (vectors - placed).norm(dim=-1)
    assert distances[:3].mean() < distances[3:].mean()


def test_whitening_makes_training_tasks_equally_far_apart() -> None:
    plain, white = (
        TextVectors(examples=6, whiten=w).build(context()).fit(TASKS) for w in (0.0, 1.0)
    )
    spread = [torch.pdist(v).max() / torch.pdist(v).min() for v in (plain, white)]
    assert spread[0] > 1.1
    torch.testing.assert_close(spread[1], torch.tensor(1.0), rtol=1e-3, atol=0)


def test_without_whitening_distances_are_those_of_standardised_vectors() -> None:
    source = TextVectors(examples=6, whiten=0.0).build(context())
    vectors = source.fit(TASKS)
    raw = torch.stack([source._raw(task, None) for task in TASKS])  # type: ignore[attr-defined]
    standard = (raw - raw.mean(0)) / raw.std(0, correction=0)
    ratio = torch.pdist(standard) / torch.pdist(vectors)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)


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
