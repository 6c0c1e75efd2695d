"""Batches of tensors: which rows, their tokens, and padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy
import torch

from moe_tasks.tasks.sampling import BatchSampler
from moe_tasks.tasks.tokens import collate
from moe_tasks.training.loss import IGNORED, target_lengths, target_tokens


@dataclass(frozen=True)
class Batch:
    """Rows of several tasks, sorted by task.

    Attributes:
        inputs: ``input_ids`` and ``attention_mask`` int64 [B, S], ``labels`` [B, T] with -100 for
            padding, ``task_ids`` int64 [B]; perhaps ``token_type_ids`` int64 [B, S], ``weights``
            [B].
        tasks: names of the tasks in the batch.
        targets: tokens that have a label.
        tokens: input and target tokens without padding.
        cells: input and target tokens with padding.
    """

    inputs: dict[str, torch.Tensor]
    tasks: tuple[str, ...]
    targets: int
    tokens: int
    cells: int

    @classmethod
    def of(cls, inputs: dict[str, torch.Tensor], tasks: Sequence[str]) -> Batch:
        """A batch with its counts taken from CPU tensors."""
        targets = target_tokens(inputs["labels"])
        tokens = int(inputs["attention_mask"].sum()) + targets
        cells = inputs["input_ids"].numel() + inputs["labels"].numel()
        return cls(inputs, tuple(tasks), targets, tokens, cells)

    @property
    def rows(self) -> int:
        """B."""
        return len(self.inputs["task_ids"])

    def weighted_by_task(self) -> Batch:
        """The same rows, with ``weights`` that give every task the same share of the loss."""
        ids = self.inputs["task_ids"]
        own = (self.inputs["labels"] != IGNORED).sum(1)
        of_task = torch.zeros(int(ids.max()) + 1, dtype=own.dtype).index_add_(0, ids, own)
        share = self.targets / int((of_task > 0).sum().clamp(min=1))
        weights = share / of_task.clamp(min=1)[ids]
        return dataclasses.replace(self, inputs={**self.inputs, "weights": weights})

    def by_length(self, max_groups: int) -> list[Batch]:
        """The same rows as batches of tasks of like length, each padded to its own longest row.

        Their losses and gradients add up to this batch's. A task stays whole, so that its rows
        share a draw of noise. Groups are the ones with the fewest cells; one more group must save
        a tenth of them.

        Args:
            max_groups: at most so many; 1 leaves the batch as it is.
        """
        if max_groups < 2:
            return [self]
        ids = self.inputs["task_ids"]
        source = self.inputs["attention_mask"].sum(1)
        target = target_lengths(self.inputs["labels"])
        sizes = {
            int(task): _Size(int(own.sum()), int(source[own].max()), int(target[own].max()))
            for task in ids.unique()
            for own in [ids == task]
        }
        groups = _fewest_cells(sizes, max_groups)
        return [self] if len(groups) == 1 else [self._of_tasks(group, sizes) for group in groups]

    def _of_tasks(self, group: Sequence[int], sizes: Mapping[int, _Size]) -> Batch:
        own = torch.isin(self.inputs["task_ids"], torch.tensor(group))
        widths = {
            "labels": max(sizes[task].target for task in group),
            "input_ids": max(sizes[task].source for task in group),
        }
        widths["attention_mask"] = widths["token_type_ids"] = widths["input_ids"]
        inputs = {
            key: value[own, : widths[key]] if key in widths else value[own]
            for key, value in self.inputs.items()
        }
        places = {task: place for place, task in enumerate(sorted(sizes))}
        return Batch.of(inputs, [self.tasks[places[task]] for task in sorted(group)])

    def parts(self, count: int) -> list[dict[str, torch.Tensor]]:
        """``inputs`` cut into at most ``count`` runs of rows of nearly equal size."""
        count = min(count, self.rows)
        cuts = {key: torch.tensor_split(value, count) for key, value in self.inputs.items()}
        return [{key: cuts[key][i] for key in cuts} for i in range(count)]


@dataclass(frozen=True)
class _Size:
    """Rows of a task in a batch, and its longest source and target."""

    rows: int
    source: int
    target: int


def _fewest_cells(sizes: Mapping[int, _Size], max_groups: int) -> list[list[int]]:
    """Tasks in order of length, cut into up to ``max_groups`` runs with the fewest cells."""
    tasks = sorted(sizes, key=lambda task: sizes[task].source + sizes[task].target)

    def cells(run: Sequence[int]) -> int:
        own = [sizes[task] for task in run]
        return sum(s.rows for s in own) * (max(s.source for s in own) + max(s.target for s in own))

    # best[stop]: cells and cuts of the first `stop` tasks in the groups so far
    best = {stop: (cells(tasks[:stop]), [0]) for stop in range(1, len(tasks) + 1)}
    chosen = best[len(tasks)]
    for _ in range(1, max_groups):
        best = {
            stop: min(
                (best[cut][0] + cells(tasks[cut:stop]), [*best[cut][1], cut])
                for cut in range(1, stop)
                if cut in best
            )
            for stop in range(2, len(tasks) + 1)
            if any(cut in best for cut in range(1, stop))
        }
        if len(tasks) not in best or best[len(tasks)][0] > 0.9 * chosen[0]:
            break
        chosen = best[len(tasks)]
    cuts = [*chosen[1], len(tasks)]
    return [tasks[start:stop] for start, stop in pairwise(cuts)]


class Batches(Protocol):
    """An endless, resumable supply of batches."""

    def next(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def fingerprint(self) -> dict[str, Any]: ...


class Tokens(Protocol):
    """Token ids of a collection's rows (``moe_tasks.tasks.tokens.TokenTable``)."""

    def sources(self, rows: Sequence[int]) -> list[numpy.ndarray]: ...

    def targets(self, rows: Sequence[int]) -> list[numpy.ndarray]: ...


class TrainBatches:
    """Batches of a sampler's rows.

    Args:
        sampler: decides tasks and rows.
        tokens: ids of every row.
        task_names: in the order of the model's task ids.
        pad_token_id: fills short inputs.
        sep_token_id: given for encoders that tell the two texts of an input apart.

    Raises:
        ValueError: the sampler draws a task that the model does not know.
    """

    def __init__(
        self,
        sampler: BatchSampler,
        tokens: Tokens,
        task_names: Sequence[str],
        pad_token_id: int,
        sep_token_id: int | None = None,
    ) -> None:
        self.sampler = sampler
        self._tokens = tokens
        self._ids = {task: number for number, task in enumerate(task_names)}
        self._special = (pad_token_id, sep_token_id)
        unknown = [task for task in sampler.tasks if task not in self._ids]
        if unknown:
            raise ValueError(f"the model does not know the tasks {', '.join(unknown[:5])}")

    def next(self) -> Batch:
        """The next batch, rows sorted by task id."""
        drawn = sorted(self.sampler.next(), key=lambda pair: self._ids[pair[0]])
        rows = [row for _, chosen in drawn for row in chosen]
        ids = [self._ids[task] for task, chosen in drawn for _ in chosen]
        sources, targets = self._tokens.sources(rows), self._tokens.targets(rows)
        inputs = dict(collate(sources, targets, *self._special))
        inputs["task_ids"] = torch.tensor(ids, dtype=torch.int64)
        return Batch.of(inputs, [task for task, _ in drawn])

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; ``ValueError`` for another sampler's state."""
        self.sampler.load_state_dict(state)

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a continued run to see the same batches."""
        return {**self.sampler.fingerprint(), "tasks": list(self._ids)}
