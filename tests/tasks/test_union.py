"""Collections as one, and a run over all kinds of heads."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from moe_tasks import config
from moe_tasks.conditional.labels import kind_of
from moe_tasks.errors import UserError
from moe_tasks.experiment import run
from moe_tasks.tasks.base import TaskCollection
from moe_tasks.tasks.detailed import DetailedCollection
from tests.encoder_runs import NOUNS, values, write_encoder, write_glue

PARTS: dict[str, dict[str, Any]] = {
    "a": {"name": "glue", "path": "GLUE"},
    "b": {"name": "ner", "path": "NER"},
    "c": {"name": "mrqa", "path": "MRQA"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("union")
    write_glue(folder / "GLUE")
    for split in ("train", "dev"):
        names = folder / "NER" / "names" / f"{split}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("".join(f"the O\n{noun} B-THING\nis O\n\n" for noun in NOUNS))
        lines: list[dict[str, Any]] = [{"header": {"dataset": "SQuAD", "split": split}}]
        for number, noun in enumerate(NOUNS):
            context = f"the {noun} is red"
            detected = {"text": noun, "char_spans": [[4, 3 + len(noun)]]}
            asked = {"qid": str(number), "question": "the red", "answers": [noun],
                     "detected_answers": [detected]}  # fmt: skip
            lines.append({"context": context, "qas": [asked]})
        spans = folder / "MRQA" / split / "SQuAD.jsonl"
        spans.parent.mkdir(parents=True, exist_ok=True)
        spans.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def build(root: Path, parts: dict[str, dict[str, Any]]) -> TaskCollection:
    own = {"name": "union", "path": str(root), "parts": parts, "cache_dir": str(root / "cache")}
    return config.part("tasks", own).build()


def test_tasks_rows_and_details_are_those_of_the_parts(root: Path) -> None:
    found = build(root, PARTS)
    assert isinstance(found, DetailedCollection)
    assert found.roles["train"] == ("cola", "sts-b", "mnli", "names", "SQuAD")
    kinds = [kind_of(found, task) for task in found.roles["train"]]
    assert kinds == ["classification", "regression", "classification", "tokens", "span"]
    for part in PARTS.values():
        alone = build(root, {"x": part})
        for task in alone.tasks:
            assert found.examples(task, "dev", "full") == alone.examples(task, "dev", "full")
        for name in alone.details if isinstance(alone, DetailedCollection) else ():
            task = alone.roles["train"][0]
            assert found.of_rows(name, task, "dev") == alone.of_rows(name, task, "dev")  # type: ignore[union-attr]


def test_mistakes_name_the_part(root: Path) -> None:
    with pytest.raises(UserError, match=r"'cola' is in .* 'a' and 'z'"):
        build(root, {"a": PARTS["a"], "z": PARTS["a"]})
    with pytest.raises(UserError, match=r"'tasks\.parts\.z': unknown tasks 'glu'; .*glue"):
        build(root, {"z": {"name": "glu"}})
    with pytest.raises(UserError, match="'parts' is empty"):
        build(root, {})


@pytest.mark.parametrize("sampling", ["mixed", "mt_uncertainty"])
def test_one_encoder_learns_tasks_of_every_kind(root: Path, sampling: str, tmp_path: Path) -> None:
    """Batches hold labels of rows, of tokens and of spans, in groups of like length."""
    tasks = {"name": "union", "path": str(root), "parts": PARTS, "cache_dir": str(tmp_path / "c")}
    own = {"name": sampling, "rows_per_batch": 10}
    if sampling == "mt_uncertainty":
        own["rows_per_task"] = 4
    chosen = values(
        root / "GLUE",
        write_encoder(tmp_path / "encoder"),
        tasks=tasks,
        sampling=own,
        systems={
            "dense": {"model": "dense", "conditional": {"name": "base", "max_length": 8}},
            "moe": {},
        },
    )
    chosen["training"] |= {"length_groups": 3, "learning_rate": 3e-3}
    run(tmp_path / "run", chosen, resume=False)
    rows = list(csv.DictReader((tmp_path / "run" / "train_scores.csv").open()))
    scores = {(row["system"], row["task"]): float(row["score"]) for row in rows}
    tasks_scored = ("cola", "sts-b", "mnli", "mnli-mm", "names", "SQuAD")
    assert set(scores) == {(system, task) for system in ("dense", "moe") for task in tasks_scored}
    lines = map(json.loads, (tmp_path / "run" / "train.jsonl").read_text().splitlines())
    assert all(math.isfinite(line["loss"]) for line in lines)
