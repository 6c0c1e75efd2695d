"""The seven metrics of the few-shot gym (CrossFit, Ye et al., EMNLP 2021), equal to its values.

Predictions are compared as they are given: strip what a model generated before scoring it, since
``ACC`` and ``Classification-F1`` count white space at the ends as a difference.

Imports neither torch nor datasets.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np

from moe_tasks.errors import UserError
from moe_tasks.registry import lookup, register

References = Sequence[Sequence[str]]
UNPARSABLE = 3.0

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = re.compile(r"[^\W_]+")


def _fits_all(references: References) -> Iterable[tuple[int, str]]:
    return ()


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        compute: predictions and, per prediction, its accepted outputs -> score.
        lowest, highest: the range of the score.
        misfits: references -> (row, reason) of each row that this metric cannot score.
        parts: names of the metrics that it is the mean of, if it is one.
    """

    compute: Callable[[Sequence[str], References], float]
    lowest: float = 0.0
    highest: float = 1.0
    misfits: Callable[[References], Iterable[tuple[int, str]]] = _fits_all
    parts: tuple[str, ...] = ()


def score(metric: str, predictions: Sequence[str], references: References) -> float:
    """The score of ``predictions``, one per row, against each row's accepted outputs.

    Raises:
        UserError: unknown metric, or one that does not fit the references.
        ValueError: no rows, or as many predictions as references are not given.
    """
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    check(metric, references)
    return float(lookup("metric", metric).compute(predictions, references))


def check(metric: str, references: References) -> None:
    """Make sure that the metric can score these references.

    Raises:
        UserError: unknown metric, or the first row that does not fit, counted from 1.
    """
    for row, reason in misfits(metric, references):
        raise UserError(f"metric {metric} does not fit row {row + 1}: {reason}")


def misfits(metric: str, references: References) -> Iterable[tuple[int, str]]:
    """(row, reason) of each row that the metric cannot score, rows counted from 0.

    Raises:
        UserError: unknown metric.
    """
    for row, accepted in enumerate(references):
        if not accepted:
            yield row, "no accepted output"
            return
    yield from lookup("metric", metric).misfits(references)


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and repeated white space (SQuAD's rule)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are the same after ``normalize``."""
    return float(normalize(prediction) == normalize(reference))


def accuracy(prediction: str, reference: str) -> float:
    """1 if both are the same but for upper and lower case."""
    return float(prediction.lower() == reference.lower())


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words of the ``normalize``d texts."""
    predicted, wanted = normalize(prediction).split(), normalize(reference).split()
    common = (Counter(predicted) & Counter(wanted)).total()
    return 2 * common / (len(predicted) + len(wanted)) if common else 0.0


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words.

    Google's rouge-score without stemming; the published code uses the package ``rouge``, which
    splits words and sentences differently, so values differ somewhat. Words are taken from any
    script; on ASCII text they are those of rouge-score.
    """
    return _rouge_scorer().score(reference, prediction)["rougeL"].fmeasure


class _UnicodeWords:
    def tokenize(self, text: str) -> list[str]:
        return _WORDS.findall(text.lower())


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # pulls in nltk: not for every import

    return RougeScorer(["rougeL"], tokenizer=_UnicodeWords())


def _mean_of_best(pair: Callable[[str, str], float]) -> Metric:
    def compute(predictions: Sequence[str], references: References) -> float:
        best = (
            max(pair(prediction, reference) for reference in dict.fromkeys(accepted))
            for prediction, accepted in zip(predictions, references, strict=True)
        )
        return math.fsum(best) / len(predictions)

    return Metric(compute)


def _macro_f1(predictions: Sequence[str], references: References) -> float:
    """Mean F1 over every label among references and predictions; first accepted output only."""
    from sklearn.metrics import f1_score  # takes a second to import

    wanted = [accepted[0] for accepted in references]
    return float(f1_score(wanted, list(predictions), average="macro", zero_division=cast(Any, 0.0)))


def _matthews(predictions: Sequence[str], references: References) -> float:
    """Matthews correlation of two labels; first accepted output only.

    The label that comes first in the alphabet is the positive one ("acceptable" in CoLA), any
    other prediction counts as the negative one. 0 where all predictions or references are equal.
    """
    from sklearn.metrics import matthews_corrcoef

    positive = min(accepted[0] for accepted in references)
    wanted = [accepted[0] == positive for accepted in references]
    predicted = [prediction.strip() == positive for prediction in predictions]
    if len(set(wanted)) < 2 or len(set(predicted)) < 2:
        return 0.0
    return float(matthews_corrcoef(wanted, predicted))


def _third_labels(references: References) -> Iterable[tuple[int, str]]:
    labels: list[str] = []
    for row, accepted in enumerate(references):
        if accepted[0] not in labels and len(labels) == 2:
            yield row, f"{accepted[0]!r} is a third label beside {labels[0]!r} and {labels[1]!r}"
        elif accepted[0] not in labels:
            labels.append(accepted[0])


def _pearson(predictions: Sequence[str], references: References) -> float:
    """Pearson correlation; first accepted output only.

    A prediction that is no finite number counts as 3.0. Where all predictions or all references
    are equal, or there is one row only, the correlation is undefined: 0.0 here.
    """
    predicted = [finite_number(text) for text in predictions]
    left = _centred([UNPARSABLE if number is None else number for number in predicted])
    right = _centred([float(accepted[0]) for accepted in references])
    if left is None or right is None:
        return 0.0
    return float(np.clip(left @ right, -1.0, 1.0))


def _centred(numbers: Sequence[float]) -> np.ndarray | None:
    """Deviations from the mean, of length 1; None where there are none."""
    values = np.asarray(numbers, np.float64)
    if values.min() == values.max():
        return None
    values = values / np.abs(values).max()  # keeps 1e308 from overflowing
    values = values - values.mean()
    norm = np.linalg.norm(values)
    return values / norm if norm else None


def finite_number(text: str) -> float | None:
    """The number that a text is; ``None`` of anything else, of NaN and of infinity."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _no_numbers(references: References) -> Iterable[tuple[int, str]]:
    for row, accepted in enumerate(references):
        if finite_number(accepted[0]) is None:
            yield row, f"output {accepted[0]!r} is not a number"


register("metric", "ACC")(_mean_of_best(accuracy))
register("metric", "EM")(_mean_of_best(exact_match))
register("metric", "QA-F1")(_mean_of_best(token_f1))
register("metric", "Rouge-L")(_mean_of_best(rouge_l))
register("metric", "Classification-F1")(Metric(_macro_f1))
register("metric", "Matthew-Correlation")(Metric(_matthews, -1.0, 1.0, _third_labels))
register("metric", "Pearson-Correlation")(Metric(_pearson, -1.0, 1.0, _no_numbers))
