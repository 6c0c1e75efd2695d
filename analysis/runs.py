"""A run folder as tidy data frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import yaml

from analysis.facts import TASKS_FILE, read_facts
from moe_tasks.errors import UserError
from moe_tasks.evaluation.gain import Gain, gains_from_json
from moe_tasks.evaluation.scores import COLUMNS as SCORE_COLUMNS
from moe_tasks.evaluation.scores import Score, as_scores

CONFIG, SCORES, TRAIN_SCORES = "config.yaml", "scores.csv", "train_scores.csv"
GAIN, ROUTES, TRAINING, ABLATION = "gain.json", "routes.parquet", "train.jsonl", "ablation"
RUN_FILES = (CONFIG, SCORES, TRAIN_SCORES, GAIN, ROUTES)
ROUTE_COLUMNS = ("step", "task", "category", "subcategory", "stack", "layer", "expert", "weight")
ABLATION_COLUMNS = (
    "system", "task", "category", "metric", "num_rows", "stack", "layer", "expert", "weight",
    "base", "score", "drop", "low", "high",
)  # fmt: skip
GROUP_COLUMNS = (
    "system", "task", "category", "metric", "num_rows", "group", "experts", "weight",
    "base", "score", "drop", "low", "high",
)  # fmt: skip
_Content = TypeVar("_Content")


@dataclass(frozen=True)
class Run:
    """What one run left behind.

    Attributes:
        scores: columns ``system, task, category, sample, split, metric, score``; unseen tasks
            after adaptation. A missing score is NaN.
        train_scores: same columns; training tasks without adaptation, ``sample`` is empty.
        routes: system -> columns ``step, task, category, subcategory, stack, layer, expert,
            weight``; training tasks, several snapshots.
        gains: ``moe_over_multitask`` and so on.
        facts: index ``task``, a column per key of ``tasks.json``; empty where there is none.
        training: a row per line of ``train.jsonl``: ``system, step, loss, ...``.
        ablation: columns ``ABLATION_COLUMNS``; what ``python -m analysis.ablation`` found.
        ablation_groups: columns ``GROUP_COLUMNS``; what it found with ``--groups``.
        missing: names of the files that the run has not (yet) written; their frames are empty.
    """

    path: Path
    config: dict[str, Any]
    scores: pd.DataFrame
    train_scores: pd.DataFrame
    routes: dict[str, pd.DataFrame] = field(default_factory=dict)
    gains: dict[str, Gain] = field(default_factory=dict)
    facts: pd.DataFrame = field(default_factory=pd.DataFrame)
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    ablation: pd.DataFrame = field(default_factory=pd.DataFrame)
    ablation_groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def route_table(self) -> pd.DataFrame:
        """Routes of all systems in one frame, with a column ``system``."""
        tables = [table.assign(system=system) for system, table in self.routes.items()]
        return (
            pd.concat(tables, ignore_index=True) if tables else _empty(("system", *ROUTE_COLUMNS))
        )

    @property
    def gain_table(self) -> pd.DataFrame:
        """A row per comparison and task: ``system, base, task, category, new, old, gain``."""
        rows = [
            (g.system, g.base, task, t.category, t.new, t.base, t.gain)
            for g in self.gains.values()
            for task, t in g.per_task.items()
        ]
        columns = ["system", "base", "task", "category", "new", "old", "gain"]
        return pd.DataFrame(rows, columns=pd.Index(columns))


def load_run(path: str | Path) -> Run:
    """Read a run folder; files that a run can lack are listed in ``Run.missing``.

    Raises:
        UserError: no run folder (neither configuration nor results), or a file in it is broken.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"no folder {path}")
    missing = tuple(name for name in RUN_FILES if not (path / name).is_file())
    routed = ROUTES not in missing or any((path / "routes").glob("*.parquet"))
    if CONFIG in missing or (SCORES in missing and not routed):
        raise UserError(_no_run(path, missing))
    return Run(
        path=path,
        config=_read(path / CONFIG, read_config),
        scores=_read(path / SCORES, _read_scores, _empty(SCORE_COLUMNS)),
        train_scores=_read(path / TRAIN_SCORES, _read_scores, _empty(SCORE_COLUMNS)),
        routes=_load_routes(path),
        gains=_read(path / GAIN, _read_gains, {}),
        facts=_read(path / TASKS_FILE, read_facts, pd.DataFrame()),
        training=_read(path / TRAINING, _read_lines, pd.DataFrame()),
        ablation=read_ablation(path / ABLATION),
        ablation_groups=read_ablation(path / ABLATION / "groups", GROUP_COLUMNS),
        missing=missing,
    )


def score_rows(frame: pd.DataFrame) -> list[Score]:
    """Rows of ``Run.scores`` or ``Run.train_scores`` for ``moe_tasks.evaluation``."""
    rows = zip(*(frame[column].tolist() for column in SCORE_COLUMNS), strict=True)
    return as_scores(dict(zip(SCORE_COLUMNS, row, strict=True)) for row in rows)


def load_facts(path: Path) -> pd.DataFrame:
    """A ``tasks.json`` as ``Run.facts``; ``UserError`` if it cannot be read."""
    return _read(path, read_facts)


def read_ablation(folder: Path, columns: tuple[str, ...] = ABLATION_COLUMNS) -> pd.DataFrame:
    """The files of ``python -m analysis.ablation`` in ``folder`` as one frame, maybe empty."""
    tables = []
    for file in sorted(folder.glob("*.jsonl")):
        table = _read(file, _read_lines)
        lacking = sorted(set(columns) - set(table.columns))
        if len(table) and lacking:
            raise UserError(f"{file}: no {', '.join(lacking)}")
        tables += [table] if len(table) else []
    return pd.concat(tables, ignore_index=True) if tables else _empty(columns)


def find_runs(path: str | Path) -> list[Path]:
    """Run folders at or below ``path``, sorted; also those that stopped before their first file
    (Hydra leaves a ``.hydra`` folder in them). Nothing is looked for inside a run folder."""
    path = Path(path)
    if (path / CONFIG).is_file():
        return [path]
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    below = [run for folder in folders if not folder.is_symlink() for run in find_runs(folder)]
    return below or ([path] if (path / ".hydra").is_dir() else [])


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file that holds keys and values."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError("expected keys and values")
    return content


def _no_run(path: Path, missing: tuple[str, ...]) -> str:
    lacks = ", ".join(missing)
    if any(run != path for run in find_runs(path)):
        return (
            f"{path} is no run folder but holds some: name one of them, or gather all with "
            f"python -m analysis.study {path}"
        )
    return f"{path} is no run folder: it lacks {lacks} (needed: {CONFIG}, and {SCORES} or {ROUTES})"


def _read(
    path: Path, reader: Callable[[Path], _Content], absent: _Content | None = None
) -> _Content:
    if absent is not None and not path.is_file():
        return absent
    try:
        return reader(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame({column: pd.Series(dtype=object) for column in columns})


def _read_scores(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    _check_columns(frame.columns, SCORE_COLUMNS)
    columns: dict[str, list[str]] = {column: frame[column].tolist() for column in SCORE_COLUMNS}
    # Line 1 is the header.
    scores = [_score(text, line) for line, text in enumerate(columns.pop("score"), start=2)]
    return pd.DataFrame({**columns, "score": np.array(scores, dtype=float)})


def _score(text: str, line: int) -> float:
    try:
        return float(text.strip() or "nan")
    except ValueError:
        raise ValueError(f"line {line}: score {text!r} is no number") from None


def _read_lines(path: Path) -> pd.DataFrame:
    """JSON lines; a last line that a stop cut short is left out."""
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"line {number}: {error}") from None
    return pd.DataFrame(rows)


def _read_gains(path: Path) -> dict[str, Gain]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("expected keys and values")
    return gains_from_json(content)


def _load_routes(path: Path) -> dict[str, pd.DataFrame]:
    routes = {}
    if (path / ROUTES).is_file():
        routes["moe"] = _read(path / ROUTES, _read_routes)
    for table in sorted((path / "routes").glob("*.parquet")):
        routes[table.stem] = _read(table, _read_routes)
    return routes


def _read_routes(path: Path) -> pd.DataFrame:
    table = pyarrow.parquet.read_table(path)
    _check_columns(table.column_names, ROUTE_COLUMNS)
    columns: dict[str, list[Any]] = table.select(list(ROUTE_COLUMNS)).to_pydict()
    for name in ("task", "category", "subcategory", "stack"):
        columns[name] = ["" if value is None else str(value) for value in columns[name]]
    weights = np.array(columns.pop("weight"), dtype=float)
    frame = pd.DataFrame({**columns, "weight": weights})
    return frame.astype({"step": int, "layer": int, "expert": int})


def _check_columns(present: Iterable[str], columns: tuple[str, ...]) -> None:
    lacking = sorted(set(columns) - set(present))
    if lacking:
        raise ValueError(f"no column {', '.join(lacking)}; a table has {', '.join(columns)}")
