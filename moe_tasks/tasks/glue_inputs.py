"""Inputs of GLUE's test files, which have no labels: what a submission predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.glue import TASKS
from moe_tasks.tasks.reading import BadRows, choose, existing_folder, text_lines

_MATCHED, _DIAGNOSTIC = "mnli", "ax"
TEST_FILES: dict[str, tuple[str, ...]] = {
    **{name: (f"{spec.folder}/test.tsv",) for name, spec in TASKS.items()},
    "mnli": ("MNLI/test_matched.tsv",),
    "mnli-mm": ("MNLI/test_mismatched.tsv",),
    _DIAGNOSTIC: ("AX/AX.tsv", "AX/diagnostic.tsv", "diagnostic/diagnostic.tsv"),
}


def read_test_inputs(
    path: str | Path, tasks: Sequence[str] | None = None, separator: str = " [SEP] "
) -> dict[str, list[str]]:
    """Task -> the input of each row of its test file, in order, worded as ``GlueTasks`` words them.

    Args:
        path: the folder of ``CoLA/test.tsv``, ``MNLI/test_matched.tsv``, ``AX/AX.tsv`` and so on.
        tasks: which; those that are there when None. ``ax`` is the diagnostic set.

    Raises:
        UserError: a file is missing or malformed; names file and line.
    """
    root = existing_folder(path)
    found = {name: _find(root, files) for name, files in TEST_FILES.items()}
    chosen = choose("task", tasks, list(found))
    for name in chosen if tasks is not None else ():
        if found[name] is None:
            raise UserError(f"no file {root / TEST_FILES[name][0]}")
    files = {name: file for name in chosen if (file := found[name]) is not None}
    if not files:
        raise UserError(f"{root} holds no test file, such as {TEST_FILES['cola'][0]}")
    return {name: _inputs(file, _texts(name), separator) for name, file in files.items()}


def _find(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _texts(name: str) -> tuple[str, ...]:
    return TASKS[_MATCHED if name == _DIAGNOSTIC else name].texts


def _inputs(path: Path, texts: Sequence[str], separator: str) -> list[str]:
    # Nothing may be left out here: a prediction belongs to a row by its number.
    lines = text_lines(path, BadRows())
    columns = next(lines, (0, ""))[1].split("\t")
    for wanted in texts:
        if wanted not in columns:
            raise UserError(f"{path}:1: no column {wanted!r}; {nearest(wanted, columns)}")
    places = [columns.index(name) for name in texts]
    inputs = []
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise UserError(f"{path}:{number}: {len(cells)} columns; expected {len(columns)}")
        inputs.append(separator.join(cells[place].strip() for place in places))
    if not inputs:
        raise UserError(f"{path}: no rows")
    return inputs
