"""Answers of encoders with heads, as the texts that metrics compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from moe_tasks.conditional.labels import head_of, kind_of, label_names
from moe_tasks.conditional.model import CAMTL
from moe_tasks.data import RunData
from moe_tasks.evaluation.places import span_answers, tag_answers


@torch.inference_mode()
def answers(
    model: CAMTL, data: RunData, task: str, rows: Sequence[int], batch_size: int = 64
) -> list[str]:
    """The label, number, tags or span that the task's head gives each row, in their order.

    Rows are read in batches of similar length. The model is left in evaluation mode.
    """
    kind = kind_of(data.collection, task)
    if kind in ("tokens", "span"):
        return (tag_answers if kind == "tokens" else span_answers)(model, data, task, rows)
    head, labels = head_of(data.collection, task), label_names(data.collection, task)
    task_id, device = model.eval().task_id(head), next(model.parameters()).device
    lengths = [len(ids) for ids in data.tokens.sources(rows)]
    order = sorted(range(len(rows)), key=lambda place: lengths[place])
    found = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = data.collate([rows[place] for place in places], device)
        del batch["labels"]
        output = model(**batch, task_ids=torch.full((len(places),), task_id))
        logits = output.logits[head].float()
        texts = (
            [labels[number] for number in logits.argmax(-1).tolist()]
            if labels
            else [repr(number) for number in logits[:, 0].tolist()]
        )
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    return found
