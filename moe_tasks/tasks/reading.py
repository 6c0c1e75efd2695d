"""What the readers of task files share: strict text, bad rows, task names, the table of rows."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa

from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.metrics import misfits
from moe_tasks.tasks.base import ROW_FEATURES, Example, Split
from moe_tasks.tasks.cache import cache_path, made_once, reading

OnBadRow = Literal["error", "skip"]
Row = tuple[str, str, Split, Example]

GYM_SAMPLES = ("100", "13", "21", "42", "87")
MAX_TEXT = 1_000_000  # bytes of a line, characters of a field
MAX_NAME = 200
READER_VERSION = 1  # goes into every cache name: raise it when reading changes

_BATCH = 20_000


class BadRows:
    """What happens to rows that cannot be used.

    Args:
        policy: ``error`` raises at the first one. ``skip`` leaves it out and notes it.
        max_share: with ``skip``, the largest tolerated share of bad rows among all rows of a task
            (all its files together: one bad line in a 32-row file need not stop a run).

    Attributes:
        skipped: one line per row left out (``file:line: reason``), and remarks
            on reading, which begin with ``note: ``.
    """

    def __init__(self, policy: OnBadRow = "error", max_share: float = 0.01) -> None:
        self.policy = policy
        self.max_share = max_share
        self.skipped: list[str] = []
        self._of_task: list[str] = []

    def reject(self, path: Path, line: int, reason: str) -> None:
        """Report a bad row; ``UserError`` under ``error``."""
        self.reject_at(f"{path}:{line}", reason)

    def reject_at(self, where: str, reason: str) -> None:
        """As ``reject``, for a row that is named otherwise."""
        message = f"{where}: {reason}"
        if self.policy == "error":
            raise UserError(message)
        self._of_task.append(message)

    def note(self, remark: str) -> None:
        """Add a remark that is no bad row."""
        self.skipped.append(f"note: {remark}")

    @property
    def count(self) -> int:
        """Bad rows of the current task so far."""
        return len(self._of_task)

    def finish(self, task: str, num_good: int) -> None:
        """End of a task with ``num_good`` usable rows; ``UserError`` if too many were bad."""
        bad, total = self.count, self.count + num_good
        if bad > self.max_share * total:
            raise UserError(
                f"task {task!r}: {bad} of {total} rows are bad, more than max_bad_share="
                f"{self.max_share:g}; the first: {self._of_task[0]}"
            )
        self.skipped += self._of_task
        self._of_task = []


@dataclass(kw_only=True)
class ReaderConfig:
    """Keys that all collections have whose rows are read, besides their own.

    Attributes:
        on_bad_row: ``error``, or ``skip``, which lists what it leaves out.
        max_bad_share: largest share of a task's rows that ``skip`` leaves out.
        cache_dir: where the table of rows is kept.
    """

    on_bad_row: OnBadRow = "error"
    max_bad_share: float = 0.01
    cache_dir: str = ".cache/moe_tasks"

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share < 1:
            share = self.max_bad_share
            raise ValueError(f"'max_bad_share' is {share}; expected 0 or more, below 1")

    def bad_rows(self) -> BadRows:
        """What happens to bad rows while a collection is built."""
        return BadRows(self.on_bad_row, self.max_bad_share)


def check_task_name(name: str, where: str | Path) -> None:
    """Task names become file names: ``UserError`` for one that could leave its folder."""
    if not name or name != name.strip():
        reason = "is empty or has white space at an end"
    elif "/" in name or "\\" in name or ".." in name or name.startswith("."):
        reason = "holds a path separator, '..' or a leading dot"
    elif not name.isprintable():
        reason = "holds control characters"
    elif len(name.encode("utf-8", "replace")) > MAX_NAME:
        reason = f"is longer than {MAX_NAME} bytes"
    else:
        return
    raise UserError(f"{where}: task name {name[:80]!r} {reason}")


def text_lines(path: Path, bad: BadRows) -> Iterator[tuple[int, str]]:
    """(line number, text) of each line that is text; the others are reported to ``bad``.

    UTF-8 with or without byte-order mark, lines end in LF or CRLF; ``.gz`` files are unpacked.

    Raises:
        UserError: the file cannot be read.
    """
    with reading(path):
        data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not gzip: {error}") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            yield number, _text(line)
        except ValueError as error:
            bad.reject(path, number, str(error))


def _text(line: bytes) -> str:
    line = line.removesuffix(b"\r")
    if len(line) > MAX_TEXT:
        raise ValueError(f"a line of {len(line)} bytes; at most {MAX_TEXT} are read")
    if b"\0" in line:
        raise ValueError("holds a NUL character")
    if b"\r" in line:
        raise ValueError("holds a carriage return")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line)") from None


def is_storable(text: str) -> bool:
    """Whether UTF-8 can hold the text (a JSON escape can make half a character) without NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def make_example(text: str, outputs: Sequence[str], options: Sequence[str] = ()) -> Example:
    """An example, white space at the ends removed and repeated outputs merged.

    Raises:
        ValueError: empty input or output, repeated option, or an output outside the options.
    """
    text, outputs = text.strip(), tuple(dict.fromkeys(output.strip() for output in outputs))
    if not text:
        raise ValueError("empty input")
    if not outputs or not all(outputs):
        raise ValueError("empty output")
    options = tuple(options)
    for output in outputs if options else ():
        if output not in options:
            near = nearest(output[:200], (option[:200] for option in options))
            raise ValueError(f"output {output[:200]!r} is not among the options; {near}")
    return Example(text, outputs, options)


def keep_fitting(
    metric: str, path: Path, rows: Sequence[tuple[int, Example]], bad: BadRows
) -> list[tuple[int, Example]]:
    """The numbered rows of a file that ``metric`` can score; the others are reported to ``bad``.

    Raises:
        UserError: none is left.
    """
    reasons = dict(misfits(metric, [example.outputs for _, example in rows]))
    for index, reason in reasons.items():
        bad.reject(path, rows[index][0], f"metric {metric}: {reason}")
    fitting = [row for index, row in enumerate(rows) if index not in reasons]
    if not fitting:
        raise UserError(f"{path}: no usable rows")
    return fitting


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        UserError: it cannot be read, is not JSON, or an object has a key twice.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return found


def existing_folder(path: str | Path) -> Path:
    """``path``; ``UserError`` with the nearest of its neighbours where there is no such folder."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
    hint = f"; {nearest(folder.name, beside)}" if beside else ""
    raise UserError(f"no folder {str(path)!r}{hint}")


def choose(kind: str, wanted: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """``wanted``, or all of ``known`` where it is None.

    Raises:
        UserError: nothing is wanted, something twice, or something unknown.
    """
    if wanted is None:
        return list(known)
    for name in wanted:
        if name not in known:
            raise UserError(f"unknown {kind} {name!r}; {nearest(name, known)}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise UserError(f"'{kind}s' is {list(wanted)!r}; expected different names, at least one")
    return list(wanted)


def cached_rows(
    cache_dir: str,
    key: Mapping[str, Any],
    read: Callable[[], Iterable[Row]],
    notes: Callable[[], Any],
) -> tuple[datasets.Dataset, Any]:
    """The memory-mapped table of rows (``ROW_FEATURES``) and the notes that were kept with it.

    Args:
        key: everything that decides the rows and notes.
        read: gives the rows; those of one task, sample and split follow each other.
        notes: asked once all rows are read.

    Raises:
        UserError: whatever ``read`` raises, or the cache cannot be written.
    """
    path = cache_path(cache_dir, "rows", {**key, "version": READER_VERSION})

    def make(sink: Callable[[pa.RecordBatch], None]) -> Any:
        rows = iter(read())
        while batch := list(islice(rows, _BATCH)):
            sink(_record_batch(batch))
        return notes()

    kept = made_once(path, ROW_FEATURES.arrow_schema, make)
    return datasets.Dataset.from_file(str(path)), kept


def _record_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    columns = {
        "task": [task for task, _, _, _ in rows],
        "split": [split for _, _, split, _ in rows],
        "sample": [sample for _, sample, _, _ in rows],
        "input": [example.input for *_, example in rows],
        "outputs": [example.outputs for *_, example in rows],
        "options": [example.options for *_, example in rows],
    }
    return pa.RecordBatch.from_pydict(columns, schema=ROW_FEATURES.arrow_schema)
