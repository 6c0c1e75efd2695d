"""Facts about tasks become features, or a reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from analysis.facts import features, read_facts, read_ontology, task_facts
from moe_tasks.tasks.base import Example, Task


def test_kinds_of_features(tmp_path: Path) -> None:
    facts = {
        f"t{i}": {
            "yes": i < 3, "count": i, "labels": ["a"] * (i % 3), "kind": "xy"[i % 2],
            "once": i == 0,
            "mixed": [1, "a", None, {}][i % 4], "metric": "EM", "rare": 1.0 if i < 2 else None,
        }
        for i in range(8)
    }  # fmt: skip
    del facts["t7"]["count"]
    (tmp_path / "tasks.json").write_text(json.dumps(facts))
    used, left_out = features(read_facts(tmp_path / "tasks.json"), [*facts, "unknown"])
    found = {feature.name: feature for feature in used}
    assert list(found) == ["yes", "count", "num_labels", "kind=x", "kind=y"]
    assert found["yes"].kind == "binary"
    assert found["num_labels"].values[:3].tolist() == [0, 1, 2]
    assert np.isnan(found["count"].values[7:]).all()
    assert left_out == {
        "once": "differs in one task only",
        "mixed": "neither numbers nor texts",
        "rare": "known for 2 tasks",
    }


def test_facts_of_a_task() -> None:
    task = Task("t", "EM", "c", "s", "say it .", {"extractive": True, "num_options": 3})
    examples = [Example("a b c", ("b",)), Example("a b c d e", ("x y", "e"))]
    assert task_facts(task, examples) == {
        "input_words": 4.0, "output_words": 1.5, "output_in_input": 0.5, "num_options": 3,
        "extractive": True, "metric": "EM", "category": "c", "subcategory": "s",
        "instruction": "say it .",
    }  # fmt: skip


def test_real_ontology_and_facts(shared: Path) -> None:
    ontology = read_ontology(shared / "data" / "gym" / "ontology.json")
    assert len(ontology) == 109
    used, left_out = features(read_facts(shared / "data" / "gym" / "tasks.json"), ontology)
    names = {feature.name for feature in used}
    assert {"classification", "extractive", "world_knowledge", "num_labels"} <= names
    assert "source" in left_out
