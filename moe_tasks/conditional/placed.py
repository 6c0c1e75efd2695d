"""What heads of tokens and of spans learn from: labels of places in an input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy

from moe_tasks.conditional.labels import LabelRows, kind_of
from moe_tasks.errors import UserError
from moe_tasks.tasks.base import TaskCollection
from moe_tasks.tasks.detailed import DetailedCollection
from moe_tasks.tasks.token_places import Window, WordTokens, windows, word_tokens
from moe_tasks.training.data import Tokens

_REMEMBERED = 100_000  # rows, some 3 kB each


class PlacedRows:
    """A collection's rows as token ids and labels, whatever head they need (see ``Tokens``).

    Targets are float32: of ``tokens`` a label per token of the source, of ``span`` the first and
    the last token of the answer, -100 where there is none; else those of ``LabelRows``. A long
    context is represented by the first window that holds its answer, or else its first window.

    Args:
        tokens: of the collection, for rows without places.
        tokenizer: that made ``tokens``.
        max_source: longest source, in tokens.
    """

    def __init__(
        self, collection: TaskCollection, tokens: Tokens, tokenizer: Any, max_source: int
    ) -> None:
        self._collection, self._tokens = collection, tokens
        self._labels = LabelRows(collection, tokens)
        self._tokenizer, self._max_source = tokenizer, max_source
        self._row = lru_cache(_REMEMBERED)(self._make)

    def sources(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        """Ids of the inputs."""
        return [self._row(row)[0] for row in rows]

    def targets(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        """Labels, float32."""
        return [self._row(row)[1] for row in rows]

    def words(self, row: int) -> WordTokens:
        """The tokens of a row of words."""
        text = self._collection.rows[row]["input"]
        return word_tokens(self._tokenizer, text, self._max_source)

    def windows(self, row: int) -> list[Window]:
        """The windows of a question."""
        text = self._collection.rows[row]["input"]
        return windows(self._tokenizer, text, self._detail("context", row), self._max_source)

    def _make(self, row: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        cells = self._collection.rows[row]
        task = cells["task"]
        kind = kind_of(self._collection, task)
        if kind == "tokens":
            found = self.words(row)
            names = self._collection.task(task).features["labels"]
            return _arrays(found.ids, found.labels(cells["outputs"][0].split(), names))
        if kind == "span":
            span = self._detail("start", row), self._detail("end", row)
            own = [(window.ids, window.labels(*span)) for window in self.windows(row)]
            return _arrays(*next((pair for pair in own if pair[1][0] >= 0), own[0]))
        return self._tokens.sources([row])[0], self._labels.targets([row])[0]

    def _detail(self, name: str, row: int) -> Any:
        if not isinstance(self._collection, DetailedCollection):
            raise UserError("answers as spans need a collection with places (tasks=mrqa)")
        return self._collection.details[name][row]


def _arrays(ids: Sequence[int], labels: Sequence[int]) -> tuple[numpy.ndarray, numpy.ndarray]:
    return numpy.array(ids, numpy.int32), numpy.array(labels, numpy.float32)
