"""Answers of encoders with heads, as the texts that metrics compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from moe_tasks.conditional.labels import head_of, is_choice, kind_of, label_names
from moe_tasks.conditional.model import CAMTL
from moe_tasks.data import RunData
from moe_tasks.errors import UserError
from moe_tasks.evaluation.places import head_logits, span_answers, tag_answers
from moe_tasks.tasks.detailed import DetailedCollection


def scored_answers(
    model: CAMTL, data: RunData, task: str, rows: range
) -> tuple[list[str], list[list[str]]]:
    """What a task's metric compares: answers, and the accepted ones of each.

    One per row; of a choice among options one per question.
    """
    if is_choice(data.collection, task):
        return choice_answers(model, data, task, rows)
    return answers(model, data, task, rows), data.references(rows)


def answers(model: CAMTL, data: RunData, task: str, rows: Sequence[int]) -> list[str]:
    """The label, number, tags or span that the task's head gives each row, in their order.

    The model is left in evaluation mode.
    """
    kind = kind_of(data.collection, task)
    if kind in ("tokens", "span"):
        return (tag_answers if kind == "tokens" else span_answers)(model, data, task, rows)
    head = head_of(data.collection, task)
    return label_answers(model, data, head, data.rows.sources(rows))


def choice_answers(
    model: CAMTL, data: RunData, task: str, rows: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    """Of each question, the option whose row is likeliest right, and the accepted answers.

    Args:
        rows: each a question with one of its options; the first of equals is taken.
    """
    if not isinstance(data.collection, DetailedCollection):
        raise UserError(f"task {task!r}: its collection does not say which rows are a question")
    group, option, accepted = (
        data.collection.details[name] for name in ("group", "option", "answers")
    )
    scores = torch.empty(len(rows))
    for places, logits in head_logits(model, data, task, data.rows.sources(rows)):
        scores[places] = logits[:, 1] - logits[:, 0]
    best: dict[str, tuple[float, int]] = {}
    for row, score in zip(rows, scores.tolist(), strict=True):
        known = best.get(group[row])
        if known is None or score > known[0]:
            best[group[row]] = (score, row)
    chosen = [row for _, row in best.values()]
    return [option[row] for row in chosen], [list(accepted[row]) for row in chosen]


def label_answers(
    model: CAMTL, data: RunData, task: str, sources: Sequence[numpy.ndarray]
) -> list[str]:
    """The label, or the number, that the head of ``task`` gives each input, in their order.

    Args:
        sources: token ids of each input; read in batches of similar length.
    """
    labels = label_names(data.collection, task)
    found = [""] * len(sources)
    for places, logits in head_logits(model, data, task, sources):
        texts = (
            [labels[number] for number in logits.argmax(-1).tolist()]
            if labels
            else [repr(number) for number in logits[:, 0].tolist()]
        )
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    return found
