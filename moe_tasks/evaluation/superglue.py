"""SuperGLUE's official scores (Wang et al. 2019, section 3), named as its leaderboard names them.

``glue.average`` of what ``scores`` gives for each task is SuperGLUE's average.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.glue import mean_of
from moe_tasks.evaluation.metrics import References, score
from moe_tasks.registry import register

_ACCURACY = {"accuracy": "ACC"}
METRICS: dict[str, dict[str, str]] = {
    "boolq": _ACCURACY,
    "cb": {"f1": "Classification-F1", "accuracy": "ACC"},
    "copa": _ACCURACY,
    "multirc": {"f1a": "F1-of-1"},  # and em, which is of whole questions
    "record": {"f1": "QA-F1", "em": "EM"},
    "rte": _ACCURACY,
    "wic": _ACCURACY,
    "wsc": _ACCURACY,
}


def scores(
    task: str,
    predictions: Sequence[str],
    references: References,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """The official scores of a task, in [0, 1].

    Args:
        predictions: per row a label, or the text of an option (COPA, ReCoRD).
        references: per row its accepted outputs.
        groups: of MultiRC, the question of each row (``DetailedCollection.details["group"]``).

    Raises:
        UserError: an unknown task, or MultiRC without groups.
    """
    if task not in METRICS:
        raise UserError(f"no task {task!r} in SuperGLUE; {nearest(task, METRICS)}")
    found = {name: score(m, predictions, references) for name, m in METRICS[task].items()}
    if task == "multirc":
        if groups is None:
            raise UserError("multirc: exact match needs the question of each row ('groups')")
        found["em"] = question_match(predictions, references, groups)
    return found


def question_match(
    predictions: Sequence[str], references: References, groups: Sequence[Hashable]
) -> float:
    """Share of groups (questions) whose rows (answers) are all predicted right."""
    right: dict[Hashable, bool] = {}
    for prediction, accepted, group in zip(predictions, references, groups, strict=True):
        right[group] = right.get(group, True) and prediction in accepted
    return sum(right.values()) / len(right)


register("metric", "Macro-F1-and-ACC")(mean_of("Classification-F1", "ACC"))
register("metric", "QA-F1-and-EM")(mean_of("QA-F1", "EM"))
