"""Token ids of a collection, made once and memory-mapped from then on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import tokenizers
import torch

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import Prompt, Task, TaskCollection
from moe_tasks.tasks.cache import Sink, cache_path, made_once, mapped

IGNORED = -100
TOKENS_VERSION = 1  # goes into every cache name: raise it when tokenisation changes

_BATCH = 4_096
# One row: the ids of all different texts one after the other, where each text starts and ends
# (n + 1 offsets), and which text each row of the collection has.
_SCHEMA = pa.schema(
    {
        f"{side}_{part}": pa.large_list(kind)
        for side in ("source", "target")
        for part, kind in (("ids", pa.int32()), ("offsets", pa.int64()), ("of_row", pa.int32()))
    }
)


class TokenTable:
    """Token ids of every row of a collection; row numbers are the collection's.

    Made by ``tokenize``. Pickles as the path of its file, for data workers.

    Attributes:
        truncated: how many rows have a source or target that was cut to length.
    """

    def __init__(self, collection: TaskCollection, path: Path, truncated: int) -> None:
        self.collection = collection
        self.truncated = truncated
        self._path = path
        table = mapped(path)
        self._sources = _Texts.of(table, "source")
        self._targets = _Texts.of(table, "target")

    def __len__(self) -> int:
        return len(self._sources.of_row)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenTable, (self.collection, self._path, self.truncated)

    def sources(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Ids of the inputs, end of sequence included: one read-only int32 array per row."""
        return self._sources.rows(rows)

    def targets(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Ids of the first accepted outputs, as ``sources``."""
        return self._targets.rows(rows)


@dataclass(frozen=True)
class _Texts:
    """Views into the file: ``ids`` [tokens], ``offsets`` [texts + 1], ``of_row`` [rows]."""

    ids: np.ndarray
    offsets: np.ndarray
    of_row: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, side: str) -> _Texts:
        parts = (table[f"{side}_{part}"].chunk(0) for part in ("ids", "offsets", "of_row"))
        return cls(*(part.values.to_numpy(zero_copy_only=True) for part in parts))

    def rows(self, rows: Sequence[int]) -> list[np.ndarray]:
        texts = self.of_row[np.asarray(rows, np.int64)]
        starts, ends = self.offsets[texts].tolist(), self.offsets[texts + 1].tolist()
        return [self.ids[start:end] for start, end in zip(starts, ends, strict=True)]


def tokenize(
    collection: TaskCollection,
    tokenizer: Any,
    *,
    max_source: int,
    max_target: int,
    prompt: Prompt = "content",
    cache_dir: str,
) -> TokenTable:
    """The token table of a collection, from the cache where it was made before.

    Args:
        tokenizer: a ``transformers`` fast tokenizer with an end-of-sequence token.
        max_source, max_target: most tokens, special tokens included; longer texts are cut at the
            end, the end-of-sequence token stays.
        prompt: what a source consists of, see ``format_source``. A target is the first accepted
            output after a space, so that byte-level BPE sees the words it sees within a text.

    Raises:
        UserError: a length leaves no room for text, the tokenizer is not of the fast kind or has
            no end-of-sequence token, a task lacks the instruction that ``prompt`` asks for, or the
            cache cannot be written.
    """
    encoder = _Encoder(tokenizer)
    for name, length in (("max_source", max_source), ("max_target", max_target)):
        if length <= encoder.num_special:
            raise UserError(f"'{name}' is {length}; expected more than {encoder.num_special}")
    key = {
        "rows": _rows_hash(collection),
        "instructions": _instructions(collection, prompt),
        "tokenizer": encoder.content_hash,
        "lengths": [max_source, max_target],
        "prompt": prompt,
        "version": TOKENS_VERSION,
    }
    path = cache_path(cache_dir, "tokens", key)

    def make(sink: Sink) -> int:
        columns, cut = {}, np.zeros(len(collection.rows), bool)
        sides = (("source", _sources(collection, prompt), max_source),)
        sides += (("target", _targets(collection), max_target),)
        for side, texts, length in sides:
            encoded, was_cut = _encode(texts, lambda t, n=length: encoder(t, n))
            columns |= {f"{side}_{part}": [values] for part, values in encoded.items()}
            cut |= was_cut[encoded["of_row"]]
        sink(pa.RecordBatch.from_pydict(columns, schema=_SCHEMA))
        return int(cut.sum())

    return TokenTable(collection, path, made_once(path, _SCHEMA, make))


def encode_texts(tokenizer: Any, texts: Sequence[str], length: int) -> list[np.ndarray]:
    """Ids of any texts, as the table has them: end of sequence included, cut to ``length``."""
    encoder = _Encoder(tokenizer)
    return [np.array(ids, np.int32) for ids, _ in encoder(list(texts), length)]


def format_source(task: Task, text: str, prompt: Prompt) -> str:
    """The input as the model gets it.

    ``content``: the text alone. ``name``: the published form " [task] text" (arXiv 2205.12701).
    ``instruction``: the task's instruction, a space, the text.

    Raises:
        UserError: the task has no instruction.
    """
    if prompt == "content":
        return text
    if prompt == "name":
        return f" [{task.name}] {text}"
    if not task.instruction:
        raise UserError(f"task {task.name!r} has no instruction; use prompt 'content' or 'name'")
    return f"{task.instruction} {text}"


def collate(
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    pad_token_id: int,
    sep_token_id: int | None = None,
) -> dict[str, torch.Tensor]:
    """One batch, padded on the right.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, longest source], ``labels`` [B, longest target]
        with -100 for padding, float32 where targets are numbers; with ``sep_token_id`` also
        ``token_type_ids`` [B, longest source], 1 after the first separator; else int64.
    """
    input_ids = _padded(sources, pad_token_id)
    lengths = np.array([len(source) for source in sources])
    mask = np.arange(input_ids.shape[1]) < lengths[:, None]
    arrays = {
        "input_ids": input_ids,
        "attention_mask": mask.astype(np.int64),
        "labels": _padded(targets, IGNORED),
    }
    if sep_token_id is not None:
        ends = input_ids == sep_token_id
        arrays["token_type_ids"] = ((ends.cumsum(1) - ends > 0) & mask).astype(np.int64)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _padded(rows: Sequence[np.ndarray], value: int) -> np.ndarray:
    if not rows:
        raise ValueError("a batch without rows")
    kind = np.float32 if any(row.dtype.kind == "f" for row in rows) else np.int64
    filled = np.full((len(rows), max(map(len, rows))), value, kind)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return filled


class _Encoder:
    """Texts to ids that end in the end-of-sequence token, independent of the tokenizer's state.

    A fast tokenizer keeps the truncation and padding of its last call; the copy here has neither.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, tokenizers.Tokenizer):
            raise UserError(f"tokenizer {type(tokenizer).__name__} is not of the fast kind")
        end = tokenizer.eos_token_id
        end = getattr(tokenizer, "sep_token_id", None) if end is None else end
        if end is None:
            raise UserError("the tokenizer has no end-of-sequence token")
        self._backend = tokenizers.Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        eos = int(end)
        content = f"{eos} {self._backend.to_str()}"
        self.content_hash = hashlib.sha256(content.encode()).hexdigest()
        mask = self._backend.encode(" x").special_tokens_mask
        num_suffix = next((i for i, special in enumerate(reversed(mask)) if not special), 0)
        ends = self._backend.encode(" x").ids[-1] == eos
        self._added = [] if ends else [eos]
        self._num_suffix = num_suffix + len(self._added)
        self.num_special = sum(mask) + len(self._added)

    def __call__(self, texts: Sequence[str], length: int) -> list[tuple[list[int], bool]]:
        """Ids of each text, and whether they were cut to ``length``."""
        encoded = self._backend.encode_batch_fast(list(texts))
        return [self._cut(encoding.ids + self._added, length) for encoding in encoded]

    def _cut(self, ids: list[int], length: int) -> tuple[list[int], bool]:
        if len(ids) <= length:
            return ids, False
        return ids[: length - self._num_suffix] + ids[len(ids) - self._num_suffix :], True


def _encode(
    texts: Iterable[str], encode: Callable[[Sequence[str]], list[tuple[list[int], bool]]]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of one side, and for each different text whether it was cut."""
    numbers: dict[str, int] = {}
    of_row = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32)
    unique = list(numbers)
    ids, lengths, cut = [np.empty(0, np.int32)], [0], []
    for start in range(0, len(unique), _BATCH):
        encoded = encode(unique[start : start + _BATCH])
        ids.append(np.concatenate([np.array(row, np.int32) for row, _ in encoded]))
        lengths += [len(row) for row, _ in encoded]
        cut += [was_cut for _, was_cut in encoded]
    offsets = np.cumsum(np.array(lengths, np.int64))
    return {"ids": np.concatenate(ids), "offsets": offsets, "of_row": of_row}, np.array(cut, bool)


def _table(collection: TaskCollection) -> pa.Table:
    return cast(pa.Table, collection.rows.with_format("arrow")[:])


def _sources(collection: TaskCollection, prompt: Prompt) -> Iterable[str]:
    for batch in _table(collection).select(["task", "input"]).to_batches():
        for name, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield format_source(collection.task(name), text, prompt)


def _targets(collection: TaskCollection) -> Iterable[str]:
    for chunk in _table(collection)["outputs"].chunks:
        yield from (f" {outputs[0]}" for outputs in chunk.to_pylist())


def _instructions(collection: TaskCollection, prompt: Prompt) -> Mapping[str, str]:
    if prompt != "instruction":
        return {}
    return {name: task.instruction for name, task in collection.tasks.items()}


def _rows_hash(collection: TaskCollection) -> str:
    """Hash of tasks, inputs and outputs in row order, read where they lie in memory."""
    total = hashlib.sha256()
    table = _table(collection)
    for name in ("task", "input", "outputs"):
        for chunk in table[name].chunks:
            total.update(f"{name} {chunk.type} {chunk.offset} {len(chunk)}".encode())
            for buffer in chunk.buffers():
                total.update(b"" if buffer is None else memoryview(buffer))
    return total.hexdigest()
