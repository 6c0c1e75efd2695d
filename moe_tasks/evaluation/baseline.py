"""What a system scores that looks at no input."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from moe_tasks.evaluation.metrics import score

if TYPE_CHECKING:
    from moe_tasks.tasks.base import TaskCollection


def majority_score(collection: TaskCollection, task: str, sample: str) -> float:
    """The test score of always giving the most frequent (first accepted) output of train.

    Few-shot samples are balanced, so several outputs are often equally frequent: the mean of
    their scores then, which is what choosing among them at random gives. Constant predictions
    score 0 in Pearson-Correlation and Matthew-Correlation.

    Raises:
        UserError: unknown task or sample, or no train or test rows for it.
    """
    metric = collection.task(task).metric
    train = collection.examples(task, "train", sample)
    references = [example.outputs for example in collection.examples(task, "test", sample)]
    counts = Counter(example.outputs[0] for example in train)
    most = max(counts.values())
    answers = sorted(output for output, count in counts.items() if count == most)
    scores = [score(metric, [answer] * len(references), references) for answer in answers]
    return sum(scores) / len(scores)
