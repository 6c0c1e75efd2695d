"""Many runs as one table: settings x seeds x task splits, every system beside its controls.

``python -m analysis.study DIR [DIR ...]`` gathers the run folders below (Hydra multiruns) and
writes ``study.csv`` (a row per system, setting, seed and split), ``study.md`` and ``study.png``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.agreement import MEASURES, Measure
from analysis.figures import study_dots
from analysis.output import write_text
from analysis.study_runs import Study, StudyRow, gather
from analysis.study_table import study_markdown
from moe_tasks.errors import UserError

_DESCRIPTION = """\
Gather the run folders below DIR (for instance Hydra multiruns over settings, seeds and task
splits) into one table with a row per system and setting: the mean score on training tasks and on
unseen tasks, the gain of the mean unseen score over BASE of the same seed and split, its mean with
95% intervals and p-value, and how far routes agree with categories."""
_EPILOG = """\
Seed and split of a run are the keys seed and tasks.split of its config.yaml. Other keys in which
runs differ, such as router.name, make settings; systems without experts do not depend on router,
selection and task vectors and are counted once. Runs that stopped early, lack a system or repeat
another one are listed in study.md with the reason.

example: python -m analysis.study multirun/2026-01-31/10-00-00 --out study --by router.num_experts
"""


def write_study(study: Study, out: Path) -> list[Path]:
    """Write ``study.csv``, ``study.md`` and ``study.png`` into ``out``."""
    table = pd.DataFrame([_flat(row) for row in study.rows])
    write_text(out / "study.csv", table.to_csv(index=False))
    write_text(out / "study.md", study_markdown(study))
    study_dots(study, out / "study.png")
    return [out / name for name in ("study.csv", "study.md", "study.png")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.study",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dirs", metavar="DIR", type=Path, nargs="+", help="folder with run folders below it"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write (default: the first DIR)"
    )
    parser.add_argument(
        "--base",
        default="multitask",
        help="the system to compare with (default: multitask), or one row of the table, such as "
        '"moe: router=linear"',
    )
    parser.add_argument(
        "--by",
        metavar="KEY",
        action="append",
        default=[],
        help="configuration key, such as router.num_experts, whose values go to separate tables; "
        "can be repeated",
    )
    options = parser.parse_args(arguments)
    try:
        study = gather(options.dirs, options.base, options.by)
        files = write_study(study, options.out or options.dirs[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(study_markdown(study))
    print("wrote " + ", ".join(map(str, files)))
    return 0


def _flat(row: StudyRow) -> dict[str, Any]:
    values = {
        "run": ", ".join(row.runs),
        "group": row.group,
        "seed": row.seed,
        "split": row.split,
        "system": row.system,
        "setting": ", ".join(f"{key}={value}" for key, value in row.setting),
        "label": row.label,
        "base": row.base,
        "num_tasks": row.num_tasks,
        "train_score": row.train_score,
        "unseen_score": row.unseen_score,
        "ratio_percent": row.ratio,
        "arg_percent": row.average_relative_gain,
        "num_left_out": row.num_left_out,
    }
    for name in MEASURES:
        measure = row.agreement.get(name, Measure(None))
        values[name], values[f"{name}_chance"] = measure.value, measure.chance
        values[f"{name}_p"] = measure.p_value
    return values


if __name__ == "__main__":
    sys.exit(main())
