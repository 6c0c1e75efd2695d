"""``tasks=glue``: GLUE (Wang et al. 2019), its official folders or the hub's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import register
from moe_tasks.tasks.base import Example, Split, Task, TaskCollection
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.detailed import one_source
from moe_tasks.tasks.glue_hub import read_glue
from moe_tasks.tasks.reading import (
    BadRows,
    ReaderConfig,
    Row,
    cached_rows,
    choose,
    existing_folder,
    keep_fitting,
    make_example,
    text_lines,
)

SAMPLE = "full"


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

Files = dict[tuple[str, Split], Path]


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

    def build(self) -> TaskCollection:
        """Read, or find in the cache, all rows of the chosen tasks.

        Raises:
            UserError: something is missing or malformed, or the hub cannot be reached; names file
                and line, or key.
        """
        if self.path is None:
            return self._on_hub()
        root = existing_folder(self.path)
        names = self._chosen(root)
        files = _files(root, names)
        bad = self.bad_rows()
        key = {
            "path": str(root),
            "content": content_hash(files.values(), root),
            "files": [[*identity, path.name] for identity, path in files.items()],
            "separator": self.separator,
            "bad_rows": [bad.policy, bad.max_share],
        }
        rows, skipped = cached_rows(
            self.cache_dir, key, lambda: _rows(files, self.separator, bad), lambda: bad.skipped
        )
        tasks = {name: _task(name) for name in dict.fromkeys(task for task, _ in files)}
        return TaskCollection(tasks, {"train": names}, [SAMPLE], rows, skipped)

    def _on_hub(self) -> TaskCollection:
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


def _files(root: Path, names: list[str]) -> Files:
    files: Files = {}
    for name in names:
        folder = root / TASKS[name].folder
        files[name, "train"], files[name, "dev"] = folder / "train.tsv", folder / TASKS[name].dev
        mismatched = folder / TASKS[_MISMATCHED].dev
        if name == "mnli" and mismatched.is_file():
            files[_MISMATCHED, "dev"] = mismatched
    for path in files.values():
        if not path.is_file():
            there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"no file {path}; {nearest(path.name, there)}")
    return files


def _rows(files: Files, separator: str, bad: BadRows) -> Iterator[Row]:
    for name in dict.fromkeys(task for task, _ in files):
        num_rows = 0
        for (task, split), path in files.items():
            if task == name:
                examples = keep_fitting(
                    TASKS[name].metric, path, _examples(path, TASKS[name], separator, bad), bad
                )
                num_rows += len(examples)
                for _, example in examples:
                    yield name, SAMPLE, split, example
        bad.finish(name, num_rows)


def _examples(
    path: Path, spec: GlueTask, separator: str, bad: BadRows
) -> list[tuple[int, Example]]:
    lines = text_lines(path, bad)
    columns = spec.columns
    if not columns:
        columns = tuple(next(lines, (0, ""))[1].split("\t"))
        for wanted in (*spec.texts, spec.label):
            if wanted not in columns:
                raise UserError(f"{path}:1: no column {wanted!r}; {nearest(wanted, columns)}")
    examples = []
    for number, line in lines:
        cells = line.split("\t")
        try:
            if len(cells) != len(columns):
                raise ValueError(f"{len(cells)} columns; expected {len(columns)}")
            examples.append(
                (number, _example(dict(zip(columns, cells, strict=True)), spec, separator))
            )
        except ValueError as error:
            bad.reject(path, number, str(error))
    return examples


def _example(cells: Mapping[str, str], spec: GlueTask, separator: str) -> Example:
    texts = [cells[name].strip() for name in spec.texts]
    for name, text in zip(spec.texts, texts, strict=True):
        if not text:
            raise ValueError(f"column {name!r} is empty")
    label = cells[spec.label].strip()
    if not label:
        raise ValueError(f"column {spec.label!r} is empty: a row without a label")
    return make_example(separator.join(texts), [label], spec.labels)
