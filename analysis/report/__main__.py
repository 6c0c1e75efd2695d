"""Entry point of ``python -m analysis.report``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.facts import read_ontology
from analysis.report import write_report
from analysis.report.maps import METHODS
from analysis.runs import load_facts
from moe_tasks.errors import UserError

_DESCRIPTION = """\
What did the experts learn? Turns run folders into one page that needs nothing else, report.html,
with statistics.json and each figure as PNG, SVG and CSV beside it."""
_EPILOG = """\
Features of tasks come from tasks.json in the run folder, or --tasks. The cost of disabling experts
is shown after `python -m analysis.ablation RUN`.

example: python -m analysis.report runs/a runs/b --out report
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="a run folder")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write (default: RUN/report of the first)"
    )
    parser.add_argument(
        "--ontology",
        metavar="FILE",
        type=Path,
        help="{category: {subcategory: [tasks]}} as JSON, in place of the runs' own categories",
    )
    parser.add_argument(
        "--tasks",
        metavar="FILE",
        type=Path,
        help="facts about tasks (the layout of tasks.json), in place of the runs' own",
    )
    parser.add_argument("--permutations", type=int, default=1000, help="per test (default: 1000)")
    parser.add_argument(
        "--map", choices=METHODS, default="pca", help="of tasks; umap is an extra (default: pca)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of permutations and bootstraps")
    options = parser.parse_args(given)
    if options.permutations < 1:
        parser.error("--permutations must be at least 1")
    try:
        path = write_report(
            options.runs,
            options.out or options.runs[0] / "report",
            shlex.join(["python", "-m", "analysis.report", *given]),
            ontology=read_ontology(options.ontology) if options.ontology else None,
            facts=load_facts(options.tasks) if options.tasks else None,
            num_permutations=options.permutations,
            seed=options.seed,
            method=options.map,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
