"""Predictions as the files that GLUE's site takes (gluebenchmark.com, FAQ "submission format")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.metrics import finite_number
from moe_tasks.tasks.glue import TASKS, GlueTask
from moe_tasks.tasks.glue_hub import HIGHEST, LOWEST
from moe_tasks.training.files import write_text

_NAMES = {"mnli": "MNLI-m", "mnli-mm": "MNLI-mm"}
FILES = {name: f"{_NAMES.get(name, spec.folder)}.tsv" for name, spec in TASKS.items()}
FILES["ax"] = "AX.tsv"  # the diagnostic set, which MNLI's head labels


def write_submission(predictions: Mapping[str, Sequence[str]], folder: str | Path) -> list[Path]:
    """One file per task: ``index<TAB>prediction``, rows numbered from 0.

    Labels are texts for MNLI, AX, QNLI and RTE and 0 or 1 for the others; STS-B's numbers are cut
    to 0..5. The site wants all eleven files in one flat zip.

    Args:
        predictions: task (a key of ``FILES``) -> a label, or a number, per row of its test file.
        folder: made where it is absent; older files of these names are replaced.

    Raises:
        UserError: an unknown task, no rows, or a prediction that is no label; nothing was written.
    """
    if not predictions:
        raise UserError(f"a submission without predictions; tasks: {', '.join(FILES)}")
    texts = {_file(task): _content(task, rows) for task, rows in predictions.items()}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return [folder / name for name in texts]


def _file(task: str) -> str:
    if task not in FILES:
        raise UserError(f"no task {task!r} in GLUE; {nearest(task, FILES)}")
    return FILES[task]


def _content(task: str, rows: Sequence[str]) -> str:
    if not rows:
        raise UserError(f"task {task!r}: no predictions")
    spec = TASKS["mnli" if task == "ax" else task]
    lines = ["index\tprediction"]
    for index, prediction in enumerate(rows):
        try:
            lines.append(f"{index}\t{_checked(spec, prediction.strip())}")
        except ValueError as error:
            raise UserError(f"task {task!r}, row {index}: prediction {error}") from None
    return "\n".join([*lines, ""])


def _checked(spec: GlueTask, prediction: str) -> str:
    if spec.labels:
        if prediction not in spec.labels:
            hint = nearest(prediction, spec.labels)
            raise ValueError(f"{prediction!r:.80} is not among the labels; {hint}")
        return prediction
    number = finite_number(prediction)
    if number is None:
        raise ValueError(f"{prediction!r:.80} is no number; valid: {LOWEST:g} to {HIGHEST:g}")
    return f"{min(max(number, LOWEST), HIGHEST):.3f}"
