"""The data of one run: collection, tokenizer and token table, and the rows that each step uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from moe_tasks.conditional.placed import PlacedRows
from moe_tasks.errors import UserError
from moe_tasks.tasks.base import Prompt, Split, TaskCollection
from moe_tasks.tasks.tokens import TokenTable, collate, format_source, tokenize
from moe_tasks.training.data import Tokens

POOL = "pool"  # a sample with more rows than the few shots, which some collections offer


@dataclass(frozen=True)
class DataConfig:
    """Attributes:
    prompt: what an input says besides its content: nothing, an ``instruction``, or the task's
        ``name`` (published).
    max_source, max_target: longest input and output, in tokens; longer ones are cut.
    cache_dir: folder of the token caches.
    """

    prompt: Prompt = "content"
    max_source: int = 512
    max_target: int = 64
    cache_dir: str = ".cache/moe_tasks"

    def __post_init__(self) -> None:
        for key in ("max_source", "max_target"):
            if getattr(self, key) < 2:
                raise ValueError(f"'{key}' is {getattr(self, key)}; it must be at least 2")


def training_samples(collection: TaskCollection, task: str) -> tuple[str, ...]:
    """Samples whose train rows a training task is learned from: the pool, or all few-shot ones."""
    try:
        collection.slice(task, "train", POOL)
        return (POOL,)
    except UserError:
        return collection.samples


def training_rows(collection: TaskCollection, task: str, split: Split = "train") -> list[int]:
    """Row numbers of a training task, each pair of input and outputs once.

    Few-shot samples overlap; a row that another sample holds too counts once. Rows of split
    ``train`` that some sample's dev split holds stay in.
    """
    samples = training_samples(collection, task) if split == "train" else collection.samples
    rows = [row for sample in samples for row in collection.slice(task, split, sample)]
    if len(samples) == 1:
        return rows
    table = collection.rows[rows]
    seen = {}
    for row, text, outputs in zip(rows, table["input"], table["outputs"], strict=True):
        seen.setdefault((text, tuple(outputs)), row)
    return list(seen.values())


def training_texts(collection: TaskCollection) -> list[str]:
    """Inputs and outputs of the training tasks, each once: what a backbone may learn from."""
    texts: dict[str, None] = {}
    for task in collection.roles["train"]:
        table = collection.rows[training_rows(collection, task)]
        for text, outputs in zip(table["input"], table["outputs"], strict=True):
            texts.update(dict.fromkeys([text, *outputs]))
    return list(texts)


class RunData:
    """Everything about the tasks that training, adaptation and evaluation ask for.

    Args:
        heads: whether the model is an encoder with heads, which learns the numbers of labels
            instead of texts.

    Attributes:
        rows: what training reads of each row.
        sep_token_id: of encoders, between the two texts of an input.
    """

    def __init__(
        self, collection: TaskCollection, tokenizer: Any, config: DataConfig, heads: bool = False
    ) -> None:
        self.collection = collection
        self.tokenizer = tokenizer
        self.config = config
        self.pad_token_id: int = tokenizer.pad_token_id
        self.tokens: TokenTable = tokenize(
            collection,
            tokenizer,
            max_source=config.max_source,
            max_target=config.max_target,
            prompt=config.prompt,
            cache_dir=config.cache_dir,
        )
        self.rows: Tokens = self.tokens
        if heads:
            self.rows = PlacedRows(collection, self.tokens, tokenizer, config.max_source)
        self.sep_token_id: int | None = tokenizer.sep_token_id if heads else None

    @property
    def train_tasks(self) -> tuple[str, ...]:
        return self.collection.roles["train"]

    def categories(self, tasks: tuple[str, ...]) -> list[str]:
        """The human category of each task."""
        return [self.collection.task(task).category for task in tasks]

    def texts(
        self, task: str, sample: str | None
    ) -> tuple[list[numpy.ndarray], list[numpy.ndarray]]:
        """Token ids of a task's training inputs and outputs (see ``representations.base``)."""
        rows = self._example_rows(task, sample)
        return self.tokens.sources(rows), self.tokens.targets(rows)

    def raw_texts(self, task: str, sample: str | None) -> tuple[list[str], list[str]]:
        """As ``texts``, as strings: inputs with their prompt, first accepted outputs."""
        table = self.collection.rows[self._example_rows(task, sample)]
        known = self.collection.task(task)
        inputs = [format_source(known, text, self.config.prompt) for text in table["input"]]
        return inputs, [outputs[0] for outputs in table["outputs"]]

    def _example_rows(self, task: str, sample: str | None) -> list[int]:
        if sample is None:
            return training_rows(self.collection, task)
        return list(self.collection.slice(task, "train", sample))

    def collate(self, rows: Sequence[int], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels`` of the given rows."""
        special = (self.pad_token_id, self.sep_token_id)
        batch = collate(self.rows.sources(rows), self.rows.targets(rows), *special)
        return {key: value.to(device) for key, value in batch.items()}

    def references(self, rows: range) -> list[list[str]]:
        """Accepted outputs of each row."""
        return self.collection.rows[rows.start : rows.stop]["outputs"]

    def unseen_cells(self, role: Split, num_samples: int | None) -> Iterator[tuple[str, str]]:
        """(task, sample) of the tasks with this role, the first ``num_samples`` samples each."""
        for task in self.collection.roles[role]:
            for sample in self.collection.samples[:num_samples]:
                yield task, sample
