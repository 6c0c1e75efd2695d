"""Pages for ``make check-report``: ordinary, large, comparing, with odd names."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from analysis.report import write_report
from tests.analysis.folders import write_folder
from tests.analysis.report.test_page import ODD


def main(folder: Path) -> None:
    """Write ``NAME/report.html`` into ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    runs = folder / "runs"
    plain = write_folder(runs / "plain", hard=True, ablation=True)
    other = write_folder(runs / "other", hard=True, seed=1)
    odd = write_folder(runs / "odd", names=ODD, hard=True, ablation=True)
    large = write_folder(
        runs / "large", num_tasks=160, num_layers=6, num_steps=20, num_categories=7, ablation=True
    )
    bare = write_folder(runs / "bare", num_tasks=2, num_categories=1)
    (bare / "tasks.json").unlink()
    for name, chosen in {
        "plain": [plain],
        "pair": [plain, other],
        "odd": [odd],
        "large": [large],
        "bare": [bare],
    }.items():
        write_report(chosen, folder / name, "python -m analysis.report ...")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
