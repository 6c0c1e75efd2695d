"""Answers of heads of tokens and of spans, as the texts that metrics compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from moe_tasks.conditional.labels import head_of
from moe_tasks.conditional.model import CAMTL
from moe_tasks.conditional.placed import PlacedRows
from moe_tasks.conditional.spans import best_spans
from moe_tasks.data import RunData
from moe_tasks.tasks.tokens import collate


def tag_answers(
    model: CAMTL, data: RunData, task: str, rows: Sequence[int], batch_size: int = 64
) -> list[str]:
    """The tags that the task's head gives each row's words, with blanks between them."""
    placed = _placed(data)
    names = data.collection.task(task).features["labels"]
    texts = data.collection.rows[list(rows)]["input"]
    found = [placed.words(row) for row in rows]
    answers = [""] * len(found)
    for places, logits in head_logits(
        model, data, task, [words.ids for words in found], batch_size
    ):
        for place, numbers in zip(places, logits.argmax(-1).tolist(), strict=True):
            count = len(texts[place].split(" "))
            answers[place] = " ".join(found[place].tags(numbers, names, count))
    return answers


def span_answers(
    model: CAMTL,
    data: RunData,
    task: str,
    rows: Sequence[int],
    batch_size: int = 64,
    longest: int = 30,
) -> list[str]:
    """Each row's best answer among all windows of its context, in the context's own words.

    Args:
        longest: tokens of an answer.
    """
    placed = _placed(data)
    texts = data.collection.rows[list(rows)]["input"]
    asked = [(n, window) for n, row in enumerate(rows) for window in placed.windows(row)]
    best: dict[int, tuple[float, str]] = {}
    for places, logits in head_logits(model, data, task, [w.ids for _, w in asked], batch_size):
        answerable = [torch.tensor(asked[place][1].answerable()) for place in places]
        mask = pad_sequence(answerable, batch_first=True)
        for place, span in zip(places, best_spans(logits, mask, longest), strict=True):
            number, window = asked[place]
            if span is not None and span.score > best.get(number, (-numpy.inf, ""))[0]:
                text = window.text(texts[number], span.first, span.last)
                best[number] = (span.score, text)
    return [best.get(number, (0.0, ""))[1] for number in range(len(rows))]


def _placed(data: RunData) -> PlacedRows:
    return PlacedRows(data.collection, data.tokens, data.tokenizer, data.config.max_source)


@torch.inference_mode()
def head_logits(
    model: CAMTL, data: RunData, task: str, sources: Sequence[Any], batch_size: int = 64
) -> Iterator[tuple[list[int], Tensor]]:
    """Places of sources of like length, and their logits on the CPU, float32.

    ``[b, C]``, or ``[b, S, C]`` of tokens.
    """
    head, device = head_of(data.collection, task), next(model.eval().parameters()).device
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        ids = [numpy.array(sources[place], numpy.int32) for place in places]
        batch = collate(ids, [ids[0][:0]] * len(ids), data.pad_token_id, data.sep_token_id)
        del batch["labels"]
        inputs = {name: value.to(device) for name, value in batch.items()}
        task_ids = torch.full((len(places),), model.task_id(head))
        yield places, model(**inputs, task_ids=task_ids).logits[head].float().cpu()
