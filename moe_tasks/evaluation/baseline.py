"""What a system scores that looks at no input."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from moe_tasks.evaluation.metrics import score

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
