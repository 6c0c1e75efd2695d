"""Batches of the rows that a model is unsure of (MT-Uncertainty, arXiv 2009.09139, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from moe_tasks.conditional import uncertainty
from moe_tasks.conditional.model import CAMTL
from moe_tasks.conditional.spans import span_entropy
from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.uncertainty_sampling import UncertaintySampling
from moe_tasks.training.data import Batch, Batches


class UncertainBatches:
    """Of each batch of candidates, the ``rows_per_batch`` rows that the model is least sure of.

    Args:
        candidates: rows of every task, sorted by task.
        model: scores them, in evaluation mode unless ``settings.dropout``.
        rows_at_once: candidates in one forward; they are scored in order of length.
        cast: whether scoring runs in bf16 autocast, as training does then.

    Attributes:
        drawn, used: rows drawn as candidates and rows trained on, per task.

    Raises:
        UserError: ``settings.borrow`` names no task of the model.
    """

    def __init__(
        self,
        candidates: Batches,
        model: CAMTL,
        settings: UncertaintySampling,
        rows_at_once: int = 32,
        cast: bool = False,
    ) -> None:
        for task in (*settings.borrow, *settings.borrow.values()):
            if task not in model.task_names:
                hint = nearest(task, model.task_names)
                raise UserError(f"'sampling.borrow': no task {task!r}; {hint}")
        self._candidates, self._model, self._settings = candidates, model, settings
        self._rows_at_once, self._cast = rows_at_once, cast
        self.drawn = dict.fromkeys(model.task_names, 0)
        self.used = dict.fromkeys(model.task_names, 0)

    def next(self) -> Batch:
        """The next batch, rows sorted by task id, padded to its own longest row."""
        batch = self._candidates.next()
        chosen = uncertainty.pick(self.scores(batch), self._settings.rows_per_batch)
        chosen = chosen.cpu().sort().values  # candidates are sorted by task
        inputs = {key: value[chosen] for key, value in batch.inputs.items()}
        inputs = self._cut(inputs)
        self._count(self.drawn, batch.inputs["task_ids"])
        tasks = self._count(self.used, inputs["task_ids"])
        return Batch.of(inputs, tasks)

    def _count(self, counter: dict[str, int], task_ids: Tensor) -> list[str]:
        ids, counts = task_ids.unique(return_counts=True)
        tasks = [self._model.task_names[i] for i in ids.tolist()]
        for task, count in zip(tasks, counts.tolist(), strict=True):
            counter[task] += count
        return tasks

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """The acquisition score of each row ``[B]``, float32, on the CPU."""
        task_ids, settings = batch.inputs["task_ids"], self._settings
        nats = torch.zeros(batch.rows)
        normalized = torch.zeros(batch.rows)
        numbers: dict[str, list[tuple[Tensor, Tensor]]] = {}
        with _mode(self._model, settings.dropout):
            for rows, inputs in self._chunks(batch):
                device = inputs["input_ids"].device.type
                with torch.autocast(device, torch.bfloat16, enabled=self._cast):
                    output = self._model(**inputs)
                for task, answers in output.logits.items():
                    logits = answers.float()
                    own = rows[output.rows[task].cpu()]
                    kind = self._model.head(task).config.kind
                    if kind == "regression":
                        numbers.setdefault(task, []).append((own, logits[:, 0].cpu()))
                        continue
                    mask = inputs["attention_mask"][output.rows[task]]
                    if kind == "span":
                        nats[own] = normalized[own] = span_entropy(logits, mask).cpu()
                        continue
                    nats[own] = _per_row(uncertainty.entropy(logits), mask)
                    normalized[own] = _per_row(uncertainty.normalized_entropy(logits), mask)
        if settings.regression == "own":
            for found in numbers.values():
                self._score_numbers(batch, found, nats, normalized)
        return self._borrowed(self._formula(nats, normalized, task_ids), task_ids)

    def _chunks(self, batch: Batch) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        device = next(self._model.parameters()).device
        lengths = batch.inputs["attention_mask"].sum(1)
        for rows in lengths.argsort(stable=True).split(self._rows_at_once):
            inputs = {k: v[rows] for k, v in batch.inputs.items() if k != "labels"}
            yield rows, {k: v.to(device) for k, v in self._cut(inputs).items()}

    def _cut(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return inputs if self._model.config.attention == "published" else _cut(inputs)

    def _score_numbers(
        self,
        batch: Batch,
        found: list[tuple[Tensor, Tensor]],
        nats: Tensor,
        normalized: Tensor,
    ) -> None:
        rows = torch.cat([rows for rows, _ in found])
        labels = batch.inputs["labels"]
        targets = (labels if labels.dim() == 1 else labels[:, 0])[rows]
        low, high = self._settings.regression_range
        own = uncertainty.numeric_entropy(torch.cat([p for _, p in found]), targets, low, high)
        nats[rows], normalized[rows] = own, own

    def _formula(self, nats: Tensor, normalized: Tensor, task_ids: Tensor) -> Tensor:
        if self._settings.formula == "published":
            return uncertainty.published_scores(normalized, task_ids)
        heads = list(self._model.head_configs().values())
        # A number's and a span's entropy is normalized already: as of e labels.
        plain = ("regression", "span")
        labels = torch.tensor([torch.e if h.kind in plain else h.num_labels for h in heads])
        return uncertainty.paper_scores(nats, labels[task_ids], task_ids)

    def _borrowed(self, scores: Tensor, task_ids: Tensor) -> Tensor:
        for borrower, lender in self._settings.borrow.items():
            ids = self._model.task_id(borrower), self._model.task_id(lender)
            scores = uncertainty.borrow(scores, task_ids, *ids)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        own = {"drawn": dict(self.drawn), "used": dict(self.used)}
        return {"candidates": self._candidates.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; ``ValueError`` for another sampler's state."""
        self._candidates.load_state_dict(state["candidates"])
        self.drawn, self.used = dict(state["drawn"]), dict(state["used"])

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a continued run to see the same batches."""
        settings = {f"sampling.{key}": value for key, value in vars(self._settings).items()}
        return {**self._candidates.fingerprint(), **settings}

    def table(self) -> str:
        """Rows drawn and used per task, and the share of the drawn ones that trained."""
        return rows_table(self.drawn, self.used)


def rows_table(drawn: Mapping[str, int], used: Mapping[str, int]) -> str:
    """A printable table of rows drawn and used for updates, per task and in all."""
    width = max(len("task"), *map(len, drawn), len("all"))
    lines = [f"{'task':{width}}  {'drawn':>9}  {'used':>9}  share of updates"]
    total = sum(used.values())
    for task, count in drawn.items():
        share = used[task] / total if total else 0.0
        lines.append(f"{task:{width}}  {count:>9,}  {used[task]:>9,}  {share:.3f}")
    of_drawn = total / sum(drawn.values()) if any(drawn.values()) else 0.0
    lines.append(
        f"{'all':{width}}  {sum(drawn.values()):>9,}  {total:>9,}  {of_drawn:.3f} of drawn"
    )
    return "\n".join(lines)


def _per_row(values: Tensor, mask: Tensor) -> Tensor:
    return (uncertainty.token_mean(values, mask) if values.dim() == 2 else values).cpu()


def _cut(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    width = inputs["input_ids"].shape[1]
    longest = int(inputs["attention_mask"].sum(1).max())
    # Labels of tokens are as wide as the inputs; of rows, only the first column counts.
    padded = {k for k, v in inputs.items() if v.dim() == 2 and v.shape[1] == width}
    return {k: v[:, :longest] if k in padded else v for k, v in inputs.items()}


@contextmanager
def _mode(model: CAMTL, training: bool) -> Iterator[None]:
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)
