"""``tasks=ner``: named entities in the column format of CoNLL-2003 (Tjong Kim Sang, De Meulder).

``<task>/train.txt``, ``<task>/dev.txt`` and perhaps ``<task>/test.txt``: one word a line with its
tag in the last column, an empty line between sentences. Or a table of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.entities import OUTSIDE, as_bio
from moe_tasks.registry import register
from moe_tasks.tasks.base import SPLITS, Split, Task
from moe_tasks.tasks.cache import reading
from moe_tasks.tasks.detailed import (
    SAMPLE,
    DetailedCollection,
    Made,
    Origin,
    assemble,
    list_cell,
    one_source,
)
from moe_tasks.tasks.raw_rows import HubRows, RawRow
from moe_tasks.tasks.reading import (
    BadRows,
    ReaderConfig,
    check_task_name,
    choose,
    existing_folder,
    make_example,
    text_lines,
)
from moe_tasks.tasks.table_files import as_text

# Also the names that CoNLL-2003, WNUT-17 and others give their files.
_FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train.txt", "train.conll", "train.tsv", "eng.train", "wnut17train.conll"),
    "dev": ("dev.txt", "dev.conll", "dev.tsv", "valid.txt", "eng.testa", "emerging.dev.conll"),
    "test": ("test.txt", "test.conll", "test.tsv", "eng.testb", "emerging.test.annotated"),
}
_BLANKS = re.compile(r"[ \t]+")
_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"O|[BI]-\S+")


@dataclass(frozen=True)
class HubTable(HubRows):
    """A data set of the hub with a list of words and one of tags in each row.

    Attributes:
        tokens, tags: the columns.
        labels: names of the tags where they are numbers that the data set itself gives no names.
    """

    splits: dict[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"}
    )
    tokens: str = "tokens"
    tags: str = "ner_tags"
    labels: list[str] | None = None

    def _load(self, split: str) -> Any:
        rows = super()._load(split)
        for column in (self.tokens, self.tags):
            if column not in rows.column_names:
                raise ValueError(f"no column {column!r}; {nearest(column, rows.column_names)}")
        names = getattr(getattr(rows.features[self.tags], "feature", None), "names", self.labels)
        return [
            {"tokens": row[self.tokens], "tags": _named(row[self.tags], names)}
            for row in rows.select_columns([self.tokens, self.tags])
        ]


def _named(tags: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    if all(isinstance(tag, str) for tag in tags):
        return list(tags)
    if names is None:
        raise ValueError("its tags are numbers without names; give 'labels'")
    return [str(names[tag] if 0 <= tag < len(names) else tag) for tag in tags]


@register("tasks", "ner")
@dataclass
class NerTasks(ReaderConfig):
    """Named-entity recognition.

    Attributes:
        path: a folder with a folder per task.
        hub: tables of the hub by task name, instead of ``path``.
        tasks: which; all when None.
        types: the entity types of all tasks; those of each task's train rows when None.

    A row is a sentence: its input is its words with single blanks between them, its output their
    tags likewise, as BIO whatever the file has (CoNLL-2003's own files have IOB1).
    ``Task.features`` has ``labels``, the tags in the order of their numbers, and ``head_kind``
    ``tokens``.
    """

    path: str | None = None
    hub: dict[str, HubTable] | None = None
    tasks: list[str] | None = None
    types: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_source(self.path, str(self.hub) if self.hub else None)

    def build(self) -> DetailedCollection:
        """Read, or find in the cache, all rows of the chosen tasks.

        Raises:
            UserError: something is missing or malformed, or the hub cannot be reached; names file
                and line, or key.
        """
        origins = self._on_hub() if self.path is None else _in_folder(self.path, self.tasks)
        tasks = {
            origin.task: Task(origin.task, "Entity-F1", "named entities") for origin in origins
        }
        bad = self.bad_rows()
        key = {"ner": list(tasks), "types": self.types}
        convert = _Converter(self.types)
        found = assemble(tasks, origins, _read, convert, key, self.cache_dir, bad)
        for name, task in tasks.items():
            types = self.types or _types_of(found, name)
            features = {"head_kind": "tokens", "labels": labels_of(types)}
            found.tasks[name] = replace(task, features=features)
        return found

    def _on_hub(self) -> list[Origin]:
        tables = self.hub or {}
        for name in tables:
            check_task_name(name, "'tasks.hub'")
        names = choose("task", self.tasks, list(tables))
        return [Origin(n, s, tables[n]) for n in names for s in SPLITS if s in tables[n].splits]


def labels_of(types: Sequence[str]) -> list[str]:
    """``O``, then ``B-`` and ``I-`` of each type."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def _types_of(found: DetailedCollection, task: str) -> list[str]:
    rows = found.examples(task, "train", SAMPLE)
    return sorted({tag[2:] for row in rows for tag in row.outputs[0].split() if tag != OUTSIDE})


class _Converter:
    """Sentences to examples; what types there are is learned from a task's train rows."""

    def __init__(self, types: Sequence[str] | None) -> None:
        self._given = types
        self._seen: dict[str, set[str]] = {}

    def __call__(self, origin: Origin, row: RawRow) -> list[Made]:
        words = [as_text(word, "tokens") for word in list_cell(row.columns, "tokens")]
        tags = [as_text(tag, "tags") for tag in list_cell(row.columns, "tags")]
        if len(words) != len(tags):
            raise ValueError(f"{len(words)} words with {len(tags)} tags")
        self._check(origin, words, tags)
        example = make_example(" ".join(words), [" ".join(as_bio(tags))])
        if not all(words) or len(example.input.split(" ")) != len(words):
            raise ValueError("a word is empty or holds a blank")
        return [(example, {})]

    def _check(self, origin: Origin, words: Sequence[str], tags: Sequence[str]) -> None:
        for word, tag in zip(words, tags, strict=True):
            if not _TAG.fullmatch(tag):
                near = nearest(tag, labels_of(self._known(origin.task)))
                expected = f"expected O, B-<type> or I-<type>; {near}"
                raise ValueError(f"tag {tag!r:.60} of {word!r:.60}; {expected}")
        types = {tag[2:] for tag in tags if tag != OUTSIDE}
        if self._given is None and origin.split == "train":
            self._seen.setdefault(origin.task, set()).update(types)
        known = self._known(origin.task)
        for kind in sorted(types.difference(known)):
            where = "among 'types'" if self._given else "in the train rows"
            raise ValueError(f"entity type {kind!r:.60} is not {where}; {nearest(kind, known)}")

    def _known(self, task: str) -> list[str]:
        return sorted(self._given or self._seen.get(task, ()))


def _in_folder(path: str, wanted: list[str] | None) -> list[Origin]:
    root = existing_folder(path)
    with reading(root):
        found = {p.name: _files(p) for p in sorted(root.iterdir()) if p.is_dir()}
    names = choose("task", wanted, [name for name, files in found.items() if "train" in files])
    if not names:
        raise UserError(f"{root}: no task; expected <task>/train.txt, dev.txt, and test.txt or not")
    for name in names:
        check_task_name(name, root)
        if "dev" not in found[name]:
            there = [p.name for p in (root / name).iterdir()]
            raise UserError(f"no file {root / name / 'dev.txt'}; {nearest('dev.txt', there)}")
    return [Origin(name, split, path) for name in names for split, path in found[name].items()]


def _files(folder: Path) -> dict[Split, Path]:
    found: dict[Split, Path] = {}
    for split, names in _FILES.items():
        there = [folder / name for name in names if (folder / name).is_file()]
        if len(there) > 1:
            raise UserError(f"{there[0]}: {there[1].name} is a {split} file too")
        if there:
            found[split] = there[0]
    return found


def _read(path: Path, bad: BadRows) -> Iterator[RawRow]:
    cells: list[list[str]] = []
    first = width = 0
    broken = False  # one bad line, one bad sentence
    for number, line in chain(text_lines(path, bad), [(0, "")]):
        if line.strip():
            parts = _BLANKS.split(line.strip(" \t"))
            width = width or max(len(parts), 2)
            first = first or number
            if len(parts) != width and not broken:
                broken = True
                bad.reject(path, number, f"{len(parts)} columns; expected {width}, the tag last")
            cells.append(parts)
            continue
        if cells and not broken and cells[0][0] != _DOCUMENT:
            columns = {"tokens": [c[0] for c in cells], "tags": [c[-1] for c in cells]}
            yield RawRow(columns, f"{path}:{first}")
        cells, first, broken = [], 0, False
