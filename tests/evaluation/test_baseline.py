"""The majority baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_tasks.errors import UserError
from moe_tasks.evaluation.baseline import majority_score
from moe_tasks.tasks.gym import GymTasks
from tests.tasks.gym_files import entry, gym, write_gym


def _write(root: Path, split: str, outputs: str) -> None:
    rows = "".join(f"input {i}\t{output}\n" for i, output in enumerate(outputs.split()))
    (root / "a" / f"a_16_13_{split}.tsv").write_text(rows)


@pytest.mark.parametrize(
    ("metric", "train", "test", "expected"),
    [
        ("ACC", "yes no yes", "yes yes no no no", 2 / 5),
        ("ACC", "yes no yes no", "yes yes no no no", 1 / 2),  # a tie: mean of 2/5 and 3/5
        ("EM", "x y z", "x x x w", 1 / 4),
        ("Classification-F1", "yes yes no", "yes no", 1 / 3),
        ("Matthew-Correlation", "yes yes no", "yes no", 0.0),
        ("Pearson-Correlation", "1 1 2", "1 2 3", 0.0),
    ],
)
def test_majority_score(
    metric: str, train: str, test: str, expected: float, tmp_path: Path
) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry("EM")})
    (root / "tasks.json").write_text(json.dumps({"a": entry(metric)}))
    for sample in ("13", "21"):
        for split in ("train", "dev", "test"):
            (root / "a" / f"a_16_{sample}_{split}.tsv").write_text("i\t1\n")
    _write(root, "train", train)
    _write(root, "test", test)
    collection = gym(root).build()
    assert majority_score(collection, "a", "13") == pytest.approx(expected)
    with pytest.raises(UserError, match="unknown task 'b'"):
        majority_score(collection, "b", "13")
    with pytest.raises(UserError, match="sample '14'"):
        majority_score(collection, "a", "14")


def test_a_balanced_real_task_has_its_chance_level(shared: Path, tmp_path: Path) -> None:
    source = GymTasks(str(shared / "data/gym"), tasks=["glue-rte", "stsb"], cache_dir=str(tmp_path))
    collection = source.build()
    assert majority_score(collection, "glue-rte", "13") == pytest.approx(0.5)
    assert majority_score(collection, "stsb", "13") == 0.0
