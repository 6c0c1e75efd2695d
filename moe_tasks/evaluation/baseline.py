"""What a system scores that looks at no input."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from moe_tasks.evaluation.metrics import score
from moe_tasks.tasks.detailed import DetailedCollection

if TYPE_CHECKING:
    from moe_tasks.tasks.base import Split, TaskCollection


def majority_score(
    collection: TaskCollection,
    task: str,
    sample: str,
    split: Split = "test",
    learned_from: str | None = None,
) -> float:
    """The score of always giving the most frequent (first accepted) output of train.

    Few-shot samples are balanced, so several outputs are often equally frequent: the mean of
    their scores then, which is what choosing among them at random gives. Constant predictions
    score 0 in Pearson-Correlation and Matthew-Correlation.

    Args:
        learned_from: the task whose train rows count, if not ``task``'s own.

    Raises:
        UserError: unknown task or sample, or no such rows.
    """
    metric = collection.task(task).metric
    train = collection.examples(learned_from or task, "train", sample)
    references = [example.outputs for example in collection.examples(task, split, sample)]
    counts = Counter(example.outputs[0] for example in train)
    most = max(counts.values())
    answers = sorted(output for output, count in counts.items() if count == most)
    scores = [score(metric, [answer] * len(references), references) for answer in answers]
    return sum(scores) / len(scores)


def chance_score(collection: TaskCollection, task: str, split: Split) -> float:
    """The expected score of taking any of a question's options, for metrics that are means.

    The rows of ``task`` are pairs of a question and an option, see ``tasks.superglue``.
    """
    assert isinstance(collection, DetailedCollection)
    metric = collection.task(task).metric
    scores: dict[str, list[float]] = {}
    facts = (collection.of_rows(n, task, split) for n in ("group", "option", "answers"))
    for group, option, answers in zip(*facts, strict=True):
        scores.setdefault(group, []).append(score(metric, [option], [list(answers)]))
    return sum(sum(own) / len(own) for own in scores.values()) / len(scores)
