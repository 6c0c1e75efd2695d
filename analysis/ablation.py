"""What is each expert worth? Takes one away at a time and evaluates its tasks again.

``python -m analysis.ablation RUN`` writes ``RUN/ablation/SYSTEM.jsonl``, with ``--groups``
``RUN/ablation/groups/SYSTEM.jsonl``, which ``python -m analysis.report`` reads. This module runs
the model; the rest of ``analysis`` does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from analysis.disabling import Ablation, Group, Place
from analysis.output import write_text
from moe_tasks.errors import UserError, nearest
from moe_tasks.pool import num_workers, pooled
from moe_tasks.workspace import Workspace

_DESCRIPTION = """\
Disable one expert at a time and evaluate every training task that uses it on its test rows again.
Tasks lose the expert only: a selected expert is replaced by the router's next best one, of a
mixture the others take over its weight. With --groups one expert of every layer is disabled at a
time: expert 0 of all layers, expert 1, ..., and random ones as a control."""
_EPILOG = """\
Finished tasks are kept: the same command goes on where it was stopped. Tasks that do not use an
expert do not change without it and are not evaluated.

example: python -m analysis.ablation runs/a && python -m analysis.report runs/a
"""

NUM_RANDOM = 10
Work = Mapping[str, Sequence[Place | Group]]


def ablate(
    run: Path,
    out: Path,
    *,
    system: str = "moe",
    top: int | None = None,
    max_rows: int | None = None,
    workers: int | None = None,
    groups: bool = False,
    num_random: int = NUM_RANDOM,
    on_progress: Callable[[int, int, str], None] = lambda done, total, task: None,
) -> Path:
    """Write ``out/SYSTEM.jsonl``, one line per task and disabled expert; returns the file.

    With ``groups`` one line per task and disabled group: see ``Ablation.groups``.

    Args:
        top: only each expert's ``top`` tasks, by the router's probability; all if ``None``.
        max_rows: test rows per task; all if ``None``.
        workers: processes; one per core if ``None``.
        num_random: random groups.
        on_progress: called with tasks done, tasks in all and the last task's name.

    Raises:
        UserError: no such run or system, or the system has no experts.
    """
    workspace = Workspace.open(run)
    _check_system(workspace, system)
    ablation = Ablation(workspace, system, max_rows)
    wanted: Work = dict(ablation.groups(num_random, top) if groups else ablation.places(top))
    file = (out / "groups" if groups else out) / f"{system}.jsonl"
    kept = {_key(row): row for row in _read(file, ablation.identity)}
    work = {
        task: [r for r in removals if _key({"task": task, **ablation.about(task, r)}) not in kept]
        for task, removals in wanted.items()
    }
    work = {task: removals for task, removals in work.items() if removals}
    write_text(file, "".join(json.dumps(row) + "\n" for row in kept.values()))
    count, total = len(wanted) - len(work), len(wanted)
    rows_by_task = _rows(ablation, work, num_workers(workers, max(len(work), 1)))
    with file.open("a", encoding="utf-8") as lines, closing(rows_by_task):
        for task, rows in rows_by_task:
            lines.write("".join(json.dumps(row) + "\n" for row in rows))
            lines.flush()
            count += 1
            on_progress(count, total, task)
    return file


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(c)) for c in ("task", "stack", "layer", "expert", "group", "experts"))


def _check_system(workspace: Workspace, system: str) -> None:
    systems = workspace.config.systems
    routed = [name for name, config in systems.items() if config.model == "moe"]
    if system not in routed:
        raise UserError(f"{system!r} is no system with experts; {nearest(system, routed)}")


def _read(file: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Finished lines of the same weights and rows; a line cut short by a stop is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if all(row.get(key) == value for key, value in identity.items()):
            rows.append(row)
    return rows


def _rows(
    ablation: Ablation, work: Work, workers: int
) -> Generator[tuple[str, list[dict[str, Any]]]]:
    if workers == 1:
        for task, removals in work.items():
            yield task, ablation.rows(task, removals)
        return
    arguments = (str(ablation.workspace.folder), ablation.system, ablation.max_rows)
    with closing(pooled(work.items(), workers, _ablating, arguments)) as done:
        for (task, _), rows in done:
            yield task, rows


def _ablating(folder: str, system: str, max_rows: int | None) -> Callable[..., Any]:
    return Ablation(Workspace.open(folder), system, max_rows).rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.ablation",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run folder")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: RUN/ablation")
    parser.add_argument("--system", default="moe", help="default: moe")
    parser.add_argument("--top", type=_positive, help="only each expert's so many main tasks")
    parser.add_argument(
        "--groups", action="store_true", help="disable one expert of every layer at a time"
    )
    parser.add_argument(
        "--random",
        type=_positive,
        default=NUM_RANDOM,
        help=f"random groups (default: {NUM_RANDOM})",
    )
    parser.add_argument("--rows", type=_positive, help="at most so many test rows per task")
    parser.add_argument("--workers", type=_positive, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    try:
        file = ablate(
            options.run,
            options.out or options.run / "ablation",
            system=options.system,
            top=options.top,
            max_rows=options.rows,
            workers=options.workers,
            groups=options.groups,
            num_random=options.random,
            on_progress=lambda done, total, task: print(
                f"{done}/{total} tasks: {task}", file=sys.stderr
            ),
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"wrote {file}")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
