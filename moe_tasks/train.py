"""Train, adapt and compare systems: ``python -m moe_tasks.train +experiment=fewshot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moe_tasks.cli import main


def job(folder: Path, values: dict[str, Any]) -> None:
    """One run in ``folder``."""
    from moe_tasks.experiment import run  # imports torch: after the configuration is known good

    resume = values.pop("resume") == "auto"
    run(folder, values, resume=resume)


def table(folder: Path) -> None:
    """What the runs of a sweep say together."""
    from analysis import study, sweep

    if any(folder.glob("*/zeroshot")):
        sweep.main([str(folder)])
    if any(folder.glob("*/scores.csv")) or not any(folder.glob("*/zeroshot")):
        study.main([str(folder)])


if __name__ == "__main__":
    main(job, after_sweep=table)
