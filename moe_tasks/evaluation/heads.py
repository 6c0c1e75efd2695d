"""Answers of encoders with heads, as the texts that metrics compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from moe_tasks.conditional.labels import head_of, kind_of, label_names
from moe_tasks.conditional.model import CAMTL
from moe_tasks.data import RunData
from moe_tasks.evaluation.places import span_answers, tag_answers
from moe_tasks.tasks.tokens import collate


def answers(model: CAMTL, data: RunData, task: str, rows: Sequence[int]) -> list[str]:
    """The label, number, tags or span that the task's head gives each row, in their order.

    The model is left in evaluation mode.
    """
    kind = kind_of(data.collection, task)
    if kind in ("tokens", "span"):
        return (tag_answers if kind == "tokens" else span_answers)(model, data, task, rows)
    head = head_of(data.collection, task)
    return label_answers(model, data, head, data.rows.sources(rows))


@torch.inference_mode()
def label_answers(
    model: CAMTL, data: RunData, task: str, sources: Sequence[numpy.ndarray], batch_size: int = 64
) -> list[str]:
    """The label, or the number, that the head of ``task`` gives each input, in their order.

    Args:
        sources: token ids of each input; read in batches of similar length.
    """
    labels = label_names(data.collection, task)
    task_id, device = model.eval().task_id(task), next(model.parameters()).device
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    found = [""] * len(sources)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        ids = [sources[place] for place in places]
        batch = collate(ids, [ids[0][:0]] * len(ids), data.pad_token_id, data.sep_token_id)
        del batch["labels"]
        inputs = {name: value.to(device) for name, value in batch.items()}
        output = model(**inputs, task_ids=torch.full((len(places),), task_id))
        logits = output.logits[task].float()
        texts = (
            [labels[number] for number in logits.argmax(-1).tolist()]
            if labels
            else [repr(number) for number in logits[:, 0].tolist()]
        )
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    return found
