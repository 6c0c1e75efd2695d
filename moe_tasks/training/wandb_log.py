"""Weights & Biases: the same records as ``train.jsonl``; offline unless asked otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from moe_tasks.errors import UserError
from moe_tasks.training.callbacks import Callback, Start


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
        mode: Literal["offline", "online", "disabled"] = "offline",
        project: str = "moe_tasks",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.project = Path(folder).resolve(), project
        self.mode: Literal["offline", "online", "disabled"] = mode
        self.config = dict(config or {})
        self._run: Any = None

    def on_start(self, start: Start) -> None:
        if self.mode == "disabled":
            return
        import wandb  # slow to import, and needed by this callback alone

        key = f"{self.folder}/{start.system}"
        try:
            self._run = wandb.init(
                project=self.project,
                group=self.folder.name,
                name=f"{self.folder.name}-{start.system}",
                # The same id when training continues, so that a server joins the parts.
                id=hashlib.sha256(key.encode()).hexdigest()[:16],
                resume="allow" if self.mode == "online" else None,
                mode=self.mode,
                dir=str(self.folder),
                config={**self.config, "system": start.system, "training": dict(start.config)},
                settings=_settings(wandb),
            )
        except (OSError, wandb.Error) as error:
            raise UserError(
                f"wandb cannot start: {error}; log in with `wandb login`, or set "
                "wandb.mode=offline or disabled"
            ) from error

    def on_log(self, record: Mapping[str, Any]) -> None:
        if self._run is not None:
            figures = {key: value for key, value in record.items() if _is_number(value)}
            self._run.log(figures, step=record["step"])

    def on_end(self, finished: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if finished else 1)
            self._run = None


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
