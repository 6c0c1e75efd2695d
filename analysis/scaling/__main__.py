"""``python -m analysis.scaling --out DIR``: which layout wins, from 1 to 1,024 devices.

``python -m analysis.scaling measure --out DIR`` compares the model with a few processes here.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.output import write_text, written_aside
from analysis.scaling.cluster import CLUSTERS, Cluster, as_json, read_cluster
from analysis.scaling.cost import Cost, Job, cost
from analysis.scaling.figure import draw
from analysis.scaling.numbers import positive
from analysis.scaling.sizes import BACKBONES
from moe_tasks.errors import UserError, nearest

_WORLDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_EXPERTS = (3, 8, 16, 64)
_COLUMNS = (
    "backbone", "num_experts", "world", "layout", "owners", "step_s", "compute_s", "update_s",
    "gradients_s", "dispatch_s", "gradient_gb", "dispatch_gb", "memory_gb", "fits", "imbalance",
    "best",
)  # fmt: skip
Point = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["measure"]:
        from analysis.scaling import measure  # imports torch

        return measure.main(given[1:])
    values = _parser().parse_args(given)
    try:
        cluster = read_cluster(values.cluster)
        points = list(_points(values, cluster))
        with written_aside(values.out / "scaling.csv") as aside:
            _write(points, aside)
        write_text(values.out / "cluster.json", as_json(cluster))
        draw(points, cluster, values.out / "scaling.png")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_table(points))
    print(f"wrote {values.out / 'scaling.csv'}, cluster.json, scaling.png")
    return 0


def layouts(job: Job, cluster: Cluster) -> list[Cost]:
    """Every layout with every number of owners that divides experts and devices."""
    found = [cost(job, cluster, "replicated"), cost(job, cluster, "sharded")]
    for owners in range(2, min(job.world, job.num_experts) + 1):
        if job.num_experts % owners == 0 and job.world % owners == 0:
            shared = Job(**{**vars(job), "owners": owners})
            found += [cost(shared, cluster, name) for name in ("dispatch", "direct")]
    return found


def _points(values: argparse.Namespace, cluster: Cluster) -> Iterator[Point]:
    for name in values.backbones:
        if name not in BACKBONES:
            raise UserError(f"unknown backbone {name!r}; {nearest(name, BACKBONES)}")
        for num_experts in values.num_experts:
            for world in values.worlds:
                job = Job(
                    BACKBONES[name], num_experts, world, rows=values.rows, tasks=values.tasks,
                    source=values.source, target=values.target,
                )  # fmt: skip
                yield from _rows(job, cluster)


def _rows(job: Job, cluster: Cluster) -> list[Point]:
    costs = layouts(job, cluster)
    fitting = [c for c in costs if c.memory_bytes <= cluster.memory_bytes]
    best = min(fitting, key=lambda c: c.step_s, default=None)
    return [
        {
            "backbone": job.backbone.name, "num_experts": job.num_experts, "world": job.world,
            "layout": c.layout, "owners": c.owners, "step_s": c.step_s, "compute_s": c.compute_s,
            "update_s": c.update_s, "gradients_s": c.gradients_s, "dispatch_s": c.dispatch_s,
            "gradient_gb": c.gradient_bytes / 1e9, "dispatch_gb": c.dispatch_bytes / 1e9,
            "memory_gb": c.memory_bytes / 1e9, "fits": int(c in fitting),
            "imbalance": c.imbalance, "best": int(c is best),
        }
        for c in costs
    ]  # fmt: skip


def _write(points: Sequence[Point], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        for point in points:
            writer.writerow({column: _short(point[column]) for column in _COLUMNS})


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value


def _table(points: Sequence[Point]) -> str:
    """The fastest layout that fits, per backbone, m and world."""
    groups = dict.fromkeys((p["backbone"], p["num_experts"]) for p in points)
    worlds = list(dict.fromkeys(p["world"] for p in points))
    lines = [
        "fastest fit: R replicated, S sharded, Xk dispatch and Dk direct with k owners, - none"
    ]
    lines.append(f"{'backbone':11s} {'m':>3s} " + " ".join(f"{w:>5d}" for w in worlds))
    for name, m in groups:
        mine = [p for p in points if (p["backbone"], p["num_experts"]) == (name, m)]
        cells = (_cell([p for p in mine if p["world"] == w and p["best"]]) for w in worlds)
        lines.append(f"{name:11s} {m:3d} " + " ".join(f"{cell:>5s}" for cell in cells))
    return "\n".join(lines)


def _cell(best: Sequence[Point]) -> str:
    if not best:
        return "-"
    letter = {"replicated": "R", "sharded": "S", "dispatch": "X", "direct": "D"}[best[0]["layout"]]
    return letter if best[0]["owners"] == 1 else f"{letter}{best[0]['owners']}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--cluster", default="h100", help=f"{', '.join(CLUSTERS)}, or a JSON file of constants"
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), metavar="NAME")
    parser.add_argument("--num-experts", nargs="+", type=positive, default=_EXPERTS, metavar="M")
    parser.add_argument("--worlds", nargs="+", type=positive, default=_WORLDS, metavar="N")
    for name, default in (("rows", 32), ("tasks", 8), ("source", 512), ("target", 64)):
        parser.add_argument(f"--{name}", type=positive, default=default, help="per device")
    return parser


if __name__ == "__main__":
    sys.exit(main())
