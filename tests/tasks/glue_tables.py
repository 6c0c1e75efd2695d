"""Rows with the columns and types of GLUE's tables on the hub."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

NLI = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
TWO = datasets.ClassLabel(names=["entailment", "not_entailment"])
Rows = list[dict[str, Any]]


def _mnli(premise: str, hypothesis: str, label: int) -> Rows:
    return [{"premise": premise, "hypothesis": hypothesis, "label": label, "idx": 0}]


TABLES: dict[tuple[str, str], Rows] = {
    ("cola", "train"): [{"sentence": "Bill broke it.", "label": 1, "idx": 0},
                        {"sentence": 'Bill it broke "the. ', "label": 0, "idx": 1}],
    ("cola", "validation"): [{"sentence": "Mary sing.", "label": 0, "idx": 0}],
    ("cola", "test"): [{"sentence": "Bill whistled.", "label": -1, "idx": 0}],
    ("stsb", "train"): [{"sentence1": "a", "sentence2": "b", "label": 4.75, "idx": 0}],
    ("stsb", "validation"): [{"sentence1": "c", "sentence2": "d", "label": 0.0, "idx": 0}],
    ("stsb", "test"): [{"sentence1": "e", "sentence2": "f", "label": -1.0, "idx": 0}],
    ("qqp", "train"): [{"question1": "Who?", "question2": "Why?", "label": 0, "idx": 0}],
    ("qqp", "validation"): [{"question1": "Who?", "question2": "Who then?", "label": 1, "idx": 0}],
    ("qqp", "test"): [{"question1": "Who?", "question2": "", "label": -1, "idx": 0}],
    ("qnli", "train"): [{"question": "Who?", "sentence": "He.", "label": 0, "idx": 0}],
    ("qnli", "validation"): [{"question": "Who?", "sentence": "No.", "label": 1, "idx": 0}],
    ("mnli", "train"): _mnli("all", "some", 0),
    ("mnli", "validation_matched"): _mnli("all", "none", 2),
    ("mnli", "validation_mismatched"): _mnli("one", "two", 1),
    ("mnli", "test_matched"): _mnli("all", "few", -1),
    ("mnli", "test_mismatched"): _mnli("one", "three", -1),
    ("ax", "test"): _mnli("The cat.", "A cat.", -1),
}  # fmt: skip


def stand_in(monkeypatch: pytest.MonkeyPatch, **changed: Rows) -> list[tuple[str, str]]:
    """``datasets.load_dataset`` gives these rows; returns what was asked for as it is.

    Args:
        changed: rows of ``<table>__<split>`` instead.
    """
    asked: list[tuple[str, str]] = []

    def load(path: str, name: str, split: str, **others: Any) -> datasets.Dataset:
        assert path == "some/glue"
        asked.append((name, split))
        rows = changed.get(f"{name}__{split}", TABLES[name, split])
        found = datasets.Dataset.from_list(rows)
        kind = {"mnli": NLI, "ax": NLI, "qnli": TWO}.get(name)
        return found.cast_column("label", kind) if kind and "label" in rows[0] else found

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked
