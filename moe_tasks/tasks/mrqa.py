"""``tasks=mrqa``: extractive question answering in the MRQA 2019 format (Fisch et al. 2019).

``train/<task>.jsonl.gz`` and ``dev/<task>.jsonl.gz`` (or ``.jsonl``). The first line is a header;
every other line is a context with its questions. Or the hub's table, one question a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import register
from moe_tasks.tasks.base import Split, Task
from moe_tasks.tasks.detailed import (
    DetailedCollection,
    Made,
    Origin,
    assemble,
    cell,
    list_cell,
    number_cell,
    one_source,
    text_cell,
)
from moe_tasks.tasks.json_lines import json_objects
from moe_tasks.tasks.raw_rows import HubRows, RawRow
from moe_tasks.tasks.reading import (
    BadRows,
    ReaderConfig,
    check_task_name,
    choose,
    existing_folder,
    make_example,
)
from moe_tasks.tasks.table_files import as_text

HUB_TASKS = ("SQuAD", "NewsQA", "TriviaQA-web", "SearchQA", "HotpotQA", "NaturalQuestionsShort")
_SUFFIXES = (".jsonl.gz", ".jsonl")
_SPLITS: tuple[Split, ...] = ("train", "dev")


@dataclass(frozen=True)
class _Subset(HubRows):
    """The rows of one of the data sets that the hub's table has below each other."""

    subset: str = ""

    def _load(self, split: str) -> Any:
        rows = super()._load(split)
        places = [n for n, name in enumerate(rows["subset"]) if name == self.subset]
        if not places:
            raise ValueError(f"no {self.subset!r}; {nearest(self.subset, set(rows['subset']))}")
        return rows.select(places)


@register("tasks", "mrqa")
@dataclass
class MrqaTasks(ReaderConfig):
    """Span extraction.

    Attributes:
        path: the folder with ``train/`` and ``dev/``.
        hub: a data set of the hub with MRQA's columns, instead of ``path``.
        tasks: which; when None those with a train file, or MRQA's six.
        separator: between question and context; BERT's tokenizer reads this one as its own token.

    A row is a question: its input is question, separator, context; all accepted answers are its
    outputs. ``Task.features["head_kind"]`` is ``span``. ``details`` has, as places in the input,
    ``context``, its first character, and ``start`` and ``end`` (exclusive) of the first detected
    answer, None where none was detected; and the question's ``id``.
    """

    path: str | None = None
    hub: str | None = None
    tasks: list[str] | None = None
    separator: str = " [SEP] "

    def __post_init__(self) -> None:
        super().__post_init__()
        one_source(self.path, self.hub)

    def build(self) -> DetailedCollection:
        """Read, or find in the cache, all rows of the chosen tasks.

        Raises:
            UserError: something is missing or malformed, or the hub cannot be reached; names file
                and line, or key.
        """
        origins = self._on_hub() if self.path is None else _in_folder(self.path, self.tasks)
        names = dict.fromkeys(origin.task for origin in origins)
        features = {"head_kind": "span", "extractive": True}
        tasks = {n: Task(n, "QA-F1", "question answering", features=features) for n in names}
        convert = partial(_convert, separator=self.separator)
        key = {"mrqa": list(tasks), "separator": self.separator}
        bad = self.bad_rows()
        return assemble(tasks, origins, _read, convert, key, self.cache_dir, bad)

    def _on_hub(self) -> list[Origin]:
        hub, splits = str(self.hub), {"train": "train", "dev": "validation"}
        names = choose("task", self.tasks, HUB_TASKS)
        return [Origin(n, s, _Subset(hub, splits=splits, subset=n)) for n in names for s in _SPLITS]


def _in_folder(path: str, wanted: list[str] | None) -> list[Origin]:
    root = existing_folder(path)
    known = {split: _tasks_in(root / split) for split in _SPLITS}
    if not known["train"]:
        raise UserError(f"{root}: no file train/<task>{' or train/<task>'.join(_SUFFIXES)}")
    names = choose("task", wanted, sorted(known["train"]))
    for name in names:
        if name not in known["dev"]:
            expected = root / "dev" / f"{name}{_SUFFIXES[0]}"
            raise UserError(f"no file {expected}; {nearest(name, known['dev'])}")
    return [Origin(name, split, known[split][name]) for name in names for split in _SPLITS]


def _tasks_in(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for suffix in _SUFFIXES:
        for path in sorted(folder.glob(f"*{suffix}")):
            name = path.name.removesuffix(suffix)
            check_task_name(name, path)
            if found.setdefault(name, path) != path:
                raise UserError(f"{path}: the same task and split as {found[name].name}")
    return found


def _read(path: Path, bad: BadRows) -> Iterator[RawRow]:
    lines = json_objects(path, bad)
    line, header = next(lines, (1, {}))
    if "header" not in header:
        raise UserError(f'{path}:{line}: no header; expected {{"header": {{"dataset": ...}}}}')
    for line, columns in lines:
        where = f"{path}:{line}"
        try:
            context, questions = cell(columns, "context"), list_cell(columns, "qas")
            yield from (RawRow({**cells, "context": context}, where) for cells in _maps(questions))
        except ValueError as error:
            bad.reject_at(where, str(error))


def _maps(values: Sequence[Any]) -> Iterable[Mapping[str, Any]]:
    for value in values:
        if not isinstance(value, Mapping):
            raise ValueError(f"'qas' holds {value!r:.60}; expected {{...}}")
    return values


def _convert(origin: Origin, row: RawRow, separator: str) -> list[Made]:
    columns = row.columns
    question = text_cell(columns, "question")
    answers = [as_text(answer, "answers").strip() for answer in list_cell(columns, "answers")]
    if not any(answers):
        raise ValueError("'answers' is empty: a row without a label")
    # The context keeps white space at its start: characters are counted from there.
    context = as_text(cell(columns, "context"), "context").rstrip()
    first = len(question) + len(separator)
    example = make_example(f"{question}{separator}{context}", [a for a in answers if a])
    details = {"id": text_cell(columns, "qid"), "context": first}
    span = _span(cell(columns, "detected_answers"))
    if span is not None:
        start, end = span
        if not start <= end < len(context):
            size = f"0 to {len(context) - 1}"
            raise ValueError(f"'char_spans' is {list(span)}, last included; valid: {size}")
        answer = context[start : end + 1]
        start += len(answer) - len(answer.lstrip())
        details |= {"start": first + start, "end": first + start + len(answer.strip())}
    return [(example, details)]


def _span(detected: Any) -> tuple[int, int] | None:
    """First and last character, in the context, of the first detected answer.

    Official lines list answers, each with pairs ``char_spans``; the hub's columns are lists over
    answers, whose ``char_spans`` have lists ``start`` and ``end``.
    """
    spans = detected["char_spans"] if isinstance(detected, Mapping) else detected
    if not isinstance(spans, list):
        raise ValueError(f"'detected_answers' is {detected!r:.60}; expected a list")
    for one in spans:
        if isinstance(detected, Mapping):
            starts, ends = list_cell(one, "start"), list_cell(one, "end")
            pairs = [list(pair) for pair in zip(starts, ends, strict=True)]
        else:
            pairs = list_cell(one, "char_spans")
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2:
                raise ValueError(f"'char_spans' holds {pair!r:.60}; expected [first, last]")
            first, last = (number_cell({"char_spans": place}, "char_spans") for place in pair)
            return first, last
    return None
