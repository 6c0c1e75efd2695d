"""``tasks=superglue``: SuperGLUE (Wang et al. 2019), its official folders or the hub's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.tasks import superglue_rows as rows
from moe_tasks.tasks.base import Example, Split, Task
from moe_tasks.tasks.detailed import (
    DetailedCollection,
    Details,
    Made,
    Origin,
    assemble,
    check_files,
    labelled,
    one_source,
)
from moe_tasks.tasks.json_lines import json_objects
from moe_tasks.tasks.raw_rows import HubRows, RawRow
from moe_tasks.tasks.reading import BadRows, ReaderConfig, choose, existing_folder

_FALSE_TRUE = ("false", "true")
_FILES: dict[Split, str] = {"train": "train.jsonl", "dev": "val.jsonl"}
_HUB_SPLITS = {"train": "train", "dev": "validation"}

Make = Callable[[rows.Columns, str], "Example | tuple[Example, Details]"]
Flatten = Callable[[rows.Columns], Iterator[rows.Columns]]


@dataclass(frozen=True)
class SuperGlueTask:
    """What a task's rows mean.

    Attributes:
        folder: its official folder.
        labels: in the order of the hub's numbers; none where a row has answer options of its own.
        texts: columns that make the input, where that is all there is to it.
        metric: a registered metric; the mean where SuperGLUE has two.
        make: columns and separator -> example, for the others.
        flatten: an official line -> rows with the hub's columns.
        pairs: columns and separator -> a row per answer option, for choices among them.
    """

    folder: str
    labels: tuple[str, ...] = _FALSE_TRUE
    texts: tuple[str, ...] = ()
    metric: str = "ACC"
    category: str = "question answering"
    make: Make | None = None
    flatten: Flatten = lambda columns: iter((columns,))
    pairs: Callable[[rows.Columns, str], list[Made]] | None = None

    def examples(self, columns: rows.Columns, separator: str, pairs: bool) -> list[Made]:
        """The examples of a flat row; ``ValueError`` where it cannot be used."""
        if pairs and self.pairs is not None:
            return self.pairs(columns, separator)
        if self.make is None:
            return [(labelled(columns, self.texts, self.labels, separator), {})]
        made = self.make(columns, separator)
        return [made if isinstance(made, tuple) else (made, {})]


_NLI = ("premise", "hypothesis")
TASKS: dict[str, SuperGlueTask] = {
    "boolq": SuperGlueTask("BoolQ", texts=("question", "passage")),
    "cb": SuperGlueTask(
        "CB", ("entailment", "contradiction", "neutral"), _NLI, "Macro-F1-and-ACC", "nli"
    ),
    "copa": SuperGlueTask(
        "COPA", (), category="multiple choice", make=rows.copa, pairs=rows.copa_pairs
    ),
    "multirc": SuperGlueTask(
        "MultiRC", ("0", "1"), metric="F1-of-1", make=rows.multirc, flatten=rows.flat_multirc
    ),
    "record": SuperGlueTask(
        "ReCoRD",
        (),
        (),
        "QA-F1-and-EM",
        "multiple choice",
        rows.record,
        rows.flat_record,
        rows.record_pairs,
    ),
    "rte": SuperGlueTask("RTE", ("entailment", "not_entailment"), _NLI, category="nli"),
    "wic": SuperGlueTask("WiC", texts=("word", "sentence1", "sentence2"), category="word sense"),
    "wsc": SuperGlueTask("WSC", category="coreference", make=rows.wsc, flatten=rows.flat_wsc),
}


@register("tasks", "superglue")
@dataclass
class SuperGlueTasks(ReaderConfig):
    """SuperGLUE.

    Attributes:
        path: the folder with ``BoolQ/train.jsonl``, ``BoolQ/val.jsonl`` and so on.
        hub: a data set of the hub with the same tasks as configurations, instead of ``path``.
        tasks: which of the eight (``boolq``, ``cb``, ``copa``, ``multirc``, ``record``, ``rte``,
            ``wic``, ``wsc``); those that are there when None.
        pairs: whether COPA and ReCoRD are a row per answer option, right or not, as encoders with
            heads learn them: the option with the highest score answers the question.
        separator: between texts; BERT's tokenizer reads this one as its own token.

    Rows are in the one sample ``full``. ``Task.features["head_kind"]`` is ``classification``, with
    ``labels``, or ``choice`` among a row's own options; as pairs it has ``labels`` as well.
    ``details["group"]`` says which rows of MultiRC, or which pairs, belong to one question, and of
    pairs ``details`` has ``option``, and the question's ``answers``.
    """

    path: str | None = None
    hub: str | None = None
    tasks: list[str] | None = None
    pairs: bool = False
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
        tasks = {o.task: _task(o.task, self.pairs) for o in origins}
        bad = self.bad_rows()
        convert = partial(_convert, separator=self.separator, pairs=self.pairs)
        key = {"superglue": list(tasks), "separator": self.separator, "pairs": self.pairs}
        return assemble(tasks, origins, _read, convert, key, self.cache_dir, bad)

    def _on_hub(self) -> list[Origin]:
        names, hub = choose("task", self.tasks, list(TASKS)), str(self.hub)
        rows_of = {name: HubRows(hub, name, _HUB_SPLITS) for name in names}
        return [Origin(name, split, rows_of[name]) for name in names for split in _FILES]


def _in_folder(path: str, wanted: list[str] | None) -> list[Origin]:
    root = existing_folder(path)
    present = [name for name, spec in TASKS.items() if (root / spec.folder).is_dir()]
    if wanted is None and not present:
        folders = ", ".join(spec.folder for spec in TASKS.values())
        raise UserError(f"{root} holds none of SuperGLUE's folders ({folders})")
    names = choose("task", wanted, present if wanted is None else list(TASKS))
    origins = [
        Origin(name, split, root / TASKS[name].folder / file)
        for name in names
        for split, file in _FILES.items()
    ]
    return check_files(origins)


def _task(name: str, pairs: bool) -> Task:
    spec = TASKS[name]
    features: dict[str, Any] = {"head_kind": "choice" if spec.pairs else "classification"}
    labels = rows.NO_YES if spec.pairs and pairs else spec.labels
    if labels:
        features["labels"] = list(labels)
    return Task(name, spec.metric, spec.category, features=features)


def _read(path: Path, bad: BadRows) -> Iterable[RawRow]:
    flatten = next(spec.flatten for spec in TASKS.values() if spec.folder == path.parent.name)
    for line, columns in json_objects(path, bad):
        try:
            yield from (RawRow(flat, f"{path}:{line}") for flat in flatten(columns))
        except ValueError as error:
            bad.reject(path, line, str(error))


def _convert(origin: Origin, row: RawRow, separator: str, pairs: bool) -> list[Made]:
    return TASKS[origin.task].examples(row.columns, separator, pairs)
