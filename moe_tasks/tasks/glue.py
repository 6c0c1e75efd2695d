"""``tasks=glue``: GLUE (Wang et al. 2019), its official folders or the hub's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import register
from moe_tasks.tasks.base import Task
from moe_tasks.tasks.detailed import (
    DetailedCollection,
    Made,
    Origin,
    assemble,
    check_files,
    one_source,
)
from moe_tasks.tasks.glue_hub import check_similarity, read_glue
from moe_tasks.tasks.raw_rows import RawRow
from moe_tasks.tasks.reading import (
    BadRows,
    ReaderConfig,
    choose,
    existing_folder,
    make_example,
    text_lines,
)


@dataclass(frozen=True)
class GlueTask:
    """Where a task's rows lie and what they mean.

    Attributes:
        folder: its folder.
        texts: columns of the one or two texts.
        label: column of the label.
        labels: in the order of their numbers; none is a regression.
        metric: a registered metric; the mean where GLUE has two.
        columns: of a file without header.
        dev: name of the dev file.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metric: str = "ACC"
    category: str = "nli"
    columns: tuple[str, ...] = ()
    dev: str = "dev.tsv"


_ONE_OR_ZERO = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("contradiction", "entailment", "neutral")
_PAIR = ("sentence1", "sentence2")
TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA", ("sentence",), "label", _ONE_OR_ZERO, "Matthew-Correlation", "acceptability",
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst-2": GlueTask("SST-2", ("sentence",), "label", _ONE_OR_ZERO, category="sentiment"),
    "mrpc": GlueTask(
        "MRPC", ("#1 String", "#2 String"), "Quality", _ONE_OR_ZERO, "F1-and-ACC", "paraphrase"
    ),
    "sts-b": GlueTask("STS-B", _PAIR, "score", (), "Pearson-and-Spearman", "regression"),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), "is_duplicate", _ONE_OR_ZERO, "F1-and-ACC", "paraphrase"
    ),
    "mnli": GlueTask("MNLI", _PAIR, "gold_label", _NLI, dev="dev_matched.tsv"),
    "mnli-mm": GlueTask("MNLI", _PAIR, "gold_label", _NLI, dev="dev_mismatched.tsv"),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", _ENTAILMENT),
    "rte": GlueTask("RTE", _PAIR, "label", _ENTAILMENT),
    "wnli": GlueTask("WNLI", _PAIR, "label", _ONE_OR_ZERO),
}  # fmt: skip
_MISMATCHED = "mnli-mm"  # has dev rows only, and MNLI's head


@register("tasks", "glue")
@dataclass
class GlueTasks(ReaderConfig):
    """GLUE.

    Attributes:
        path: the folder with ``CoLA/train.tsv``, ``CoLA/dev.tsv`` and so on.
        hub: a data set of the hub with the same tasks as configurations, instead of ``path``.
        tasks: which of the nine (``cola``, ``sst-2``, ``mrpc``, ``sts-b``, ``qqp``, ``mnli``,
            ``qnli``, ``rte``, ``wnli``); those that are there when None.
        separator: between the texts of a pair; BERT's tokenizer reads this one as its own token.

    Every row is in the one sample ``full``. Where ``MNLI/dev_mismatched.tsv`` (or MNLI, on the hub)
    is there, ``mnli-mm`` has its rows, and no role: nothing trains on it. ``Task.features`` has
    ``labels`` in GLUE's order, none for a regression, and ``head``, the task whose head scores it.
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
        if self.path is None:
            return self._on_hub()
        root = existing_folder(self.path)
        names = self._chosen(root)
        origins = _in_folder(root, names)
        tasks = {origin.task: _task(origin.task) for origin in origins}
        convert = partial(_convert, separator=self.separator)
        key = {"glue": "official", "separator": self.separator}
        bad = self.bad_rows()
        return assemble(tasks, origins, _read, convert, key, self.cache_dir, bad, names)

    def _on_hub(self) -> DetailedCollection:
        known = [name for name in TASKS if name != _MISMATCHED]
        names = choose("task", self.tasks, known)
        listed = [*names, *([_MISMATCHED] if "mnli" in names else [])]
        bad = self.bad_rows()
        tasks = {name: _task(name) for name in listed}
        return read_glue(str(self.hub), tasks, names, self.separator, self.cache_dir, bad)

    def _chosen(self, root: Path) -> list[str]:
        known = [name for name in TASKS if name != _MISMATCHED]
        present = [name for name in known if (root / TASKS[name].folder).is_dir()]
        if self.tasks is None and not present:
            folders = ", ".join(TASKS[name].folder for name in known)
            raise UserError(f"{root} holds none of GLUE's folders ({folders})")
        return choose("task", self.tasks, present if self.tasks is None else known)


def _task(name: str) -> Task:
    spec = TASKS[name]
    features = {"labels": list(spec.labels), "head": "mnli" if name == _MISMATCHED else name}
    return Task(name, spec.metric, spec.category, features=features)


def _in_folder(root: Path, names: Sequence[str]) -> list[Origin]:
    origins = []
    for name in names:
        folder = root / TASKS[name].folder
        origins += [Origin(name, "train", folder / "train.tsv")]
        origins += [Origin(name, "dev", folder / TASKS[name].dev)]
        mismatched = folder / TASKS[_MISMATCHED].dev
        if name == "mnli" and mismatched.is_file():
            origins.append(Origin(_MISMATCHED, "dev", mismatched))
    return check_files(origins)


def _read(path: Path, bad: BadRows) -> Iterator[RawRow]:
    spec = next(spec for spec in TASKS.values() if spec.folder == path.parent.name)
    lines = text_lines(path, bad)
    columns = spec.columns
    if not columns:
        columns = tuple(next(lines, (0, ""))[1].split("\t"))
        for wanted in (*spec.texts, spec.label):
            if wanted not in columns:
                raise UserError(f"{path}:1: no column {wanted!r}; {nearest(wanted, columns)}")
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) == len(columns):
            yield RawRow(dict(zip(columns, cells, strict=True)), f"{path}:{number}")
        else:
            bad.reject(path, number, f"{len(cells)} columns; expected {len(columns)}")


def _convert(origin: Origin, row: RawRow, separator: str) -> list[Made]:
    spec = TASKS[origin.task]
    texts = [row.columns[name].strip() for name in spec.texts]
    for name, text in zip(spec.texts, texts, strict=True):
        if not text:
            raise ValueError(f"column {name!r} is empty")
    label = row.columns[spec.label].strip()
    if not label:
        raise ValueError(f"column {spec.label!r} is empty: a row without a label")
    if not spec.labels:
        check_similarity(spec.label, label)
    return [(make_example(separator.join(texts), [label], spec.labels), {})]
