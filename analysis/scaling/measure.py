"""``python -m analysis.scaling measure --out DIR``: the small end of the model, measured here.

Constants come from one process (CPU seconds, dense and routed, at half the rows) and from sums that
two exchange; from them follows what the model says about one and more, beside what these take.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from analysis.bench.machine import describe, write_machine
from analysis.bench.race import Contender, Race, race
from analysis.bench.setting import DENSE, Setting
from analysis.output import write_text, written_aside
from analysis.scaling import group
from analysis.scaling.cluster import Cluster, as_json
from analysis.scaling.cost import UPDATE_BYTES, Job, cost, updated
from analysis.scaling.numbers import positive
from analysis.scaling.sizes import Backbone
from moe_tasks.errors import UserError

_SCHEME, _HALF = "merge_st", "half"
_EPILOG = """\
Rows are per process, so all processes together train on world x rows. Each uses one thread; more
processes than cores take turns, which the prediction counts in. DIR/measured.csv, cluster.json (for
--cluster) and machine.json are written. Measure on an idle machine; cpu_ratio, CPU seconds per row
over those of the plain engine in one process, says what remains on a busy one."""


@dataclass(frozen=True)
class Layout:
    """``world`` processes at a ZeRO stage; stage None: the plain engine."""

    world: int
    stage: int | None

    @property
    def name(self) -> str:
        return f"{self.world}" + ("" if self.stage is None else f" zero{self.stage}")


@dataclass(frozen=True)
class Line:
    """One layout's figures.

    Attributes:
        predicted_s, measured_s: of a step; ``error`` is how far the first is off, as a share.
        cpu_s: CPU seconds of a step where processes take turns on the cores, which other work on
            the machine hardly changes (but waiting for it is not in there).
        rows_per_s: of all processes.
        of_linear: rows_per_s over ``world`` times that of the plain engine in one process.
        cpu_ratio: CPU seconds per row over those of that process.
    """

    layout: str
    predicted_s: float
    measured_s: float
    cpu_s: float
    error: float
    rows_per_s: float
    of_linear: float
    cpu_ratio: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    values = _parser().parse_args(arguments)
    try:
        setting = Setting(
            scheme=_SCHEME, threads=1, rows=values.rows, tasks=values.tasks, width=values.width,
            layers=values.layers, vocab=values.vocab, source=values.source, target=values.target,
            num_experts=values.num_experts, heads=values.heads, device=values.device,
            dtype=values.dtype,
        )  # fmt: skip
        layouts = [Layout(1, None)] + [Layout(w, s) for w in values.worlds for s in values.stages]
        found = race(_contenders(setting, layouts), values.rounds)
        if found.failed:
            name, error = next(iter(found.failed.items()))
            raise UserError(f"{name}: {error}")
        cluster = constants(found, setting, layouts)
        lines = [_line(found, layout, setting, cluster) for layout in layouts]
        _write(lines, values.out / "measured.csv")
        write_text(values.out / "cluster.json", as_json(cluster))
        write_machine(describe(vars(setting)), values.out / "machine.json")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_table(lines))
    print(f"wrote {values.out / 'measured.csv'}, cluster.json, machine.json")
    return 0


def backbone_of(setting: Setting) -> Backbone:
    """The sizes of the measured model, for the model of costs."""
    s = setting
    return Backbone("measured", s.width, s.ffn or 4 * s.width, s.heads, s.vocab, s.layers, s.layers)


def constants(found: Race, setting: Setting, layouts: Sequence[Layout]) -> Cluster:
    """What the measurements say about one process and the link between two."""
    half, backbone = _half(setting), backbone_of(setting)
    passes = {name: _median(found, f"{_HALF} {name}", group.PASSES) for name in (DENSE, _SCHEME)}
    update = _median(found, f"{_HALF} {_SCHEME}", group.UPDATE)
    flops = 3 * half.rows * backbone.forward_flops(half.source, half.target)
    latency, bandwidth = _link(found, next((x for x in layouts if x.world == 2), None))
    return Cluster(
        name="measured",
        flops=flops / passes[DENSE],
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        memory_bandwidth=updated(_job(half, 1)) * UPDATE_BYTES / max(update, 1e-9),
        per_node=10**6,
        near=bandwidth,
        far=bandwidth,
        near_latency=latency,
        far_latency=latency,
        expert_overhead=passes[_SCHEME] / passes[DENSE],
        word=4,
    )


def predicted(setting: Setting, layout: Layout, cluster: Cluster) -> float:
    """Seconds of a step; processes beyond the number of cores take turns."""
    of = cost(_job(setting, layout.world), cluster, "replicated")
    return (of.compute_s + of.update_s) * _turns(layout.world) + of.gradients_s


def _link(found: Race, pair: Layout | None) -> tuple[float, float]:
    """Latency and bandwidth, from sums of few and of many numbers between two processes."""
    if pair is None:
        return 1e-9, 1e15  # nothing is exchanged
    seconds = {n: _median(found, pair.name, f"{group.EXCHANGE}{n}") for n in ("small", "large")}
    sizes = group.bytes_exchanged()
    # A sum is two passes of a ring of two: bytes / bandwidth + 2 latencies.
    slope = (seconds["large"] - seconds["small"]) / (sizes["large"] - sizes["small"])
    return seconds["small"] / 2, 1 / max(slope, 1e-15)


def _contenders(setting: Setting, layouts: Sequence[Layout]) -> list[Contender]:
    half = _half(setting)
    return [
        *(
            Contender(f"{_HALF} {n}", partial(group.prepare, world=1, stage=None), half.using(n))
            for n in (DENSE, _SCHEME)
        ),
        *(
            Contender(
                layout.name,
                partial(group.prepare, world=layout.world, stage=layout.stage),
                replace(setting, rows=setting.rows * layout.world),
            )
            for layout in layouts
        ),
    ]


def _half(setting: Setting) -> Setting:
    if setting.rows % (2 * setting.tasks):
        raise UserError(f"{setting.rows} rows: give a multiple of twice the {setting.tasks} tasks")
    return replace(setting, rows=setting.rows // 2)


def _job(setting: Setting, world: int) -> Job:
    return Job(
        backbone_of(setting), setting.num_experts, world, rows=setting.rows, tasks=setting.tasks,
        source=setting.source, target=setting.target,
    )  # fmt: skip


def _line(found: Race, layout: Layout, setting: Setting, cluster: Cluster) -> Line:
    said, seconds = predicted(setting, layout, cluster), _median(found, layout.name, "")
    alone = Layout(1, None).name
    pairs = zip(found.results[layout.name], found.results[alone], strict=True)
    return Line(
        layout.name,
        said,
        seconds,
        _median(found, layout.name, group.CPU) / layout.world * _turns(layout.world),
        said / seconds - 1,
        layout.world * setting.rows / seconds,
        # In the same round, so that other work on the machine meets both.
        median(one[""] / many[""] for many, one in pairs),
        _median(found, layout.name, group.CPU) / (layout.world * _median(found, alone, group.CPU)),
    )


def _median(found: Race, name: str, key: str) -> float:
    return median(figures[key] for figures in found.results[name])


def _turns(world: int) -> float:
    """Processes per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1.0, world / (cores or 1))


def _write(lines: Sequence[Line], path: Path) -> None:
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(vars(lines[0])))
        writer.writeheader()
        writer.writerows(vars(line) for line in lines)


def _table(lines: Sequence[Line]) -> str:
    form = "{:10s} {:>11s} {:>10s} {:>7s} {:>7s} {:>7s} {:>9s} {:>9s}"
    head = ("processes", "predicted s", "measured s", "CPU s", "error", "rows/s", "of linear")
    rows = [
        form.format(
            x.layout, f"{x.predicted_s:.4f}", f"{x.measured_s:.4f}", f"{x.cpu_s:.4f}",
            f"{x.error:+.0%}", f"{x.rows_per_s:.1f}", f"{x.of_linear:.2f}", f"{x.cpu_ratio:.2f}",
        )
        for x in lines
    ]  # fmt: skip
    return "\n".join([form.format(*head, "CPU ratio"), *rows])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.scaling measure",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--worlds", nargs="+", type=positive, default=[2, 4], metavar="N")
    parser.add_argument("--stages", nargs="+", type=int, default=[1], choices=[0, 1, 2])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=positive, default=9, help="of the race (default: 9)")
    for name, default in (
        ("rows", 32), ("tasks", 8), ("source", 48), ("target", 12), ("width", 128), ("layers", 3),
        ("vocab", 2000), ("num-experts", 3), ("heads", 4),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=positive, default=default, help=f"default: {default}")
    return parser
