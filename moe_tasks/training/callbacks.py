"""What happens beside training: every side effect except checkpoints is a callback."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.training.files import write_text
from moe_tasks.training.model import Trainable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What a callback learns when training starts or continues.

    Attributes:
        system: name of the system in training; a run trains several, one after the other.
        model: to read from.
        config: keys and values of the training configuration.
        step: updates done before (0 unless continued).
        steps: updates wanted in all.
        logged_step: up to here, log records were handed out before.
    """

    system: str
    model: Trainable
    config: Mapping[str, Any]
    step: int
    steps: int
    logged_step: int


class Callback:
    """Base: every method may be overridden, none has to be."""

    def on_start(self, start: Start) -> None:
        """Before the first step."""

    def on_step(self, step: int, loss: float | None) -> None:
        """After update ``step`` (from 1); ``loss`` in nats per token, None when skipped."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        """After an evaluation."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Every ``log_every`` steps and at each evaluation, after ``on_evaluate``.

        ``record`` has ``system``, ``step``, means since the last record (``loss``, ``grad_norm``,
        ``rows_per_s``, ``tokens_per_s``, ``padding`` as a share), rates (``lr``, ``lr_router``,
        ``lr_task_vectors``), ``skipped`` steps so far, the model's ``monitor`` figures, and
        evaluation figures with ``eval_`` before their names; where there are several processes,
        ``ranks`` (see ``engines.figures``).
        """

    def on_checkpoint(self, step: int, path: Path) -> None:
        """After a checkpoint was written."""

    def on_end(self, finished: bool) -> None:
        """When training ends: ``finished``, or given up by a signal or an error."""


class JsonLines(Callback):
    """Writes ``train.jsonl``: one line per record, no step of a system twice.

    When a system's training continues, its lines after the step it continues from are removed;
    so is a line that a kill cut short. Lines of other systems stay.

    Args:
        path: file, made with its folder when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def on_start(self, start: Start) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            old = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            kept = "".join(
                line
                for line in old.splitlines(keepends=True)
                if self._belongs(line, start.system, start.logged_step)
            )
            if kept != old:
                write_text(self.path, kept)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def on_log(self, record: Mapping[str, Any]) -> None:
        finite = {key: _finite(value) for key, value in record.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def _belongs(self, line: str, system: str, step: int) -> bool:
        try:
            record = json.loads(line) if line.endswith("\n") else None
            return record is not None and (record["system"] != system or record["step"] <= step)
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: removed an unreadable line: %.60r", self.path, line)
            return False


class CollapseWarning(Callback):
    """Warns once when one expert serves nearly all tasks in most layers.

    Args:
        share: of layers (``monitor()["route_collapse"]``) from which routes count as collapsed.
        patience: records in a row before the warning.
    """

    def __init__(self, share: float = 0.5, patience: int = 3) -> None:
        self.share, self.patience = share, patience

    def on_start(self, start: Start) -> None:
        self._seen = 0
        self._tasks = len(start.model.task_names)

    def on_log(self, record: Mapping[str, Any]) -> None:
        collapsed = record.get("route_collapse", 0.0)
        self._seen = self._seen + 1 if self._tasks > 1 and collapsed >= self.share else 0
        if self._seen == self.patience:
            logger.warning(
                "step %d: routes have collapsed: in %.0f%% of the layers one expert serves more "
                "than 95%% of the tasks; try a higher starting temperature, another "
                "training.router_learning_rate, or richer task vectors",
                record["step"],
                100 * collapsed,
            )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
