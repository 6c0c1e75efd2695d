"""Weights & Biases: the records of ``train.jsonl`` and the report's figures; offline by default."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from moe_tasks.errors import UserError
from moe_tasks.training.callbacks import Callback, Start

Mode = Literal["offline", "online", "disabled"]


class WandbLog(Callback):
    """One wandb run per system, all files inside the run folder.

    Nothing but the records and ``config`` is recorded: no environment, command line, code, git
    state, console output or facts about the machine.

    Args:
        folder: the run's folder.
        mode: ``offline`` (send later with ``wandb sync``), ``online`` or ``disabled``.
        project: of wandb.
        config: what to file beside the training configuration.
    """

    def __init__(
        self,
        folder: Path,
        mode: Mode = "offline",
        project: str = "moe_tasks",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.project = Path(folder).resolve(), project
        self.mode: Mode = mode
        self.config = dict(config or {})
        self._run: Any = None

    def on_start(self, start: Start) -> None:
        if self.mode != "disabled":
            config = {"system": start.system, "training": dict(start.config)}
            self._run = _start(
                self.folder, start.system, self.mode, self.project, {**self.config, **config}
            )

    def on_log(self, record: Mapping[str, Any]) -> None:
        if self._run is not None:
            figures = {key: value for key, value in record.items() if _is_number(value)}
            self._run.log(figures, step=record["step"])

    def on_end(self, finished: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if finished else 1)
            self._run = None


def log_report(folder: Path, mode: Mode = "offline", project: str = "moe_tasks") -> None:
    """The figures and sentences of ``folder/report`` as a wandb run beside those of the systems.

    The page itself stays here: it names the folder.
    """
    report = Path(folder).resolve() / "report"
    figures = sorted(report.glob("*.png"))
    if mode == "disabled" or not figures:
        return
    import wandb

    run = _start(report.parent, "report", mode, project, {})
    run.log({f"report/{figure.stem}": wandb.Image(str(figure)) for figure in figures})
    statistics = json.loads((report / "statistics.json").read_text(encoding="utf-8"))
    run.summary["report"] = " ".join(statistics["summary"])
    run.finish()


def _start(folder: Path, name: str, mode: Mode, project: str, config: Mapping[str, Any]) -> Any:
    import wandb  # slow to import, and needed here alone

    try:
        return wandb.init(
            project=project,
            group=folder.name,
            name=f"{folder.name}-{name}",
            # The same id when training continues, so that a server joins the parts.
            id=hashlib.sha256(f"{folder}/{name}".encode()).hexdigest()[:16],
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=str(folder),
            config=dict(config),
            settings=_settings(wandb),
        )
    except (OSError, wandb.Error) as error:
        raise UserError(
            f"wandb cannot start: {error}; log in with `wandb login`, or set "
            "logging.wandb=offline or disabled"
        ) from error


def _settings(wandb: Any) -> Any:
    return wandb.Settings(
        console="off",
        silent=True,
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="",
        username="",
        email="",
        program="",
        reinit="finish_previous",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
