"""GLUE's official scores that are not among the gym's metrics (Wang et al. 2019, table 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from moe_tasks.evaluation.metrics import UNPARSABLE, Metric, References, finite_number
from moe_tasks.registry import lookup, register

_POSITIVE = "1"


def f1_of_positive(predictions: Sequence[str], references: References) -> float:
    """F1 of label ``1`` (paraphrase, duplicate); 0 where it is neither predicted nor right."""
    pairs = [
        (prediction.strip() == _POSITIVE, accepted[0] == _POSITIVE)
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    hits = sum(predicted and right for predicted, right in pairs)
    sizes = sum(predicted for predicted, _ in pairs) + sum(right for _, right in pairs)
    return 2 * hits / sizes if sizes else 0.0


def spearman(predictions: Sequence[str], references: References) -> float:
    """Pearson correlation of ranks, equal numbers sharing their mean rank."""
    left = _ranks([_number(text) for text in predictions])
    right = _ranks([float(accepted[0]) for accepted in references])
    texts = [str(rank) for rank in left.tolist()]
    return lookup("metric", "Pearson-Correlation").compute(texts, [[str(r)] for r in right])


def _number(text: str) -> float:
    number = finite_number(text)
    return UNPARSABLE if number is None else number


def _ranks(numbers: Sequence[float]) -> np.ndarray:
    values, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[places.reshape(-1)] if len(values) else np.array([])


def average(scores: Mapping[str, Mapping[str, float]]) -> float:
    """GLUE's average: the mean over tasks of the mean of a task's metrics.

    MNLI matched and mismatched count as one task.

    Args:
        scores: task -> metric -> score; tasks named ``mnli`` and ``mnli-mm`` are joined.
    """
    joined: dict[str, list[float]] = {}
    for task, metrics in scores.items():
        joined.setdefault(task.removesuffix("-mm"), []).extend(metrics.values())
    return sum(sum(values) / len(values) for values in joined.values()) / len(joined)


def mean_of(*names: str) -> Metric:
    """The mean of registered metrics, as one metric."""

    def compute(predictions: Sequence[str], references: References) -> float:
        scores = [lookup("metric", name).compute(predictions, references) for name in names]
        return sum(scores) / len(scores)

    def misfits(references: References) -> Iterable[tuple[int, str]]:
        return (bad for name in names for bad in lookup("metric", name).misfits(references))

    return Metric(compute, -1.0 if "Spearman-Correlation" in names else 0.0, 1.0, misfits, names)


def _no_numbers(references: References) -> Iterable[tuple[int, str]]:
    return lookup("metric", "Pearson-Correlation").misfits(references)


register("metric", "F1-of-1")(Metric(f1_of_positive))
register("metric", "Spearman-Correlation")(Metric(spearman, -1.0, 1.0, _no_numbers))
register("metric", "F1-and-ACC")(mean_of("F1-of-1", "ACC"))
register("metric", "Pearson-and-Spearman")(mean_of("Pearson-Correlation", "Spearman-Correlation"))
