"""The benchmarks: which processes race against each other, and what becomes of their figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from analysis.bench import conditional, generation, grid, memory, routes, startup, training
from analysis.bench.flops import training_flops
from analysis.bench.race import Contender, Race, Repeat, race
from analysis.bench.setting import DENSE, Setting, router_gradients
from analysis.bench.table import Row, row, rows_of
from moe_tasks.errors import UserError

_FULL_EXPERTS, _FULL_ROWS_PER_TASK, _FULL_WIDTHS = 8, (1, 2, 4), (128, 256, 512)
_BEAMS = (1, 4)
_SEEDS = 3  # of planted routes: each is a training of its own


@dataclass(frozen=True)
class Options:
    """Attributes:
    setting: sizes; its scheme and number of experts are set per race.
    num_experts: values of m.
    schemes: of training and memory, the dense model first.
    rounds: of each race.
    full: also several rows per task and widths.
    together: at most so many schemes beside the dense model are alive at once; ``None``: all.
    steps, points: of the adaptation grid, per point and per task.
    run_overrides: keys of the runs that start-up and grid start.
    peak_flops: of the device per second, for model FLOP utilisation.
    """

    setting: Setting
    num_experts: Sequence[int] = (1, 3, 8, 16)
    schemes: Sequence[str] = (DENSE,)
    rounds: int = 9
    full: bool = False
    together: int | None = None
    steps: int = 40
    points: int = 3
    run_overrides: tuple[str, ...] = ()
    peak_flops: float | None = None

    @property
    def one_size(self) -> Setting:
        """For benchmarks at one number of experts: 8, or the largest wanted below."""
        below = [m for m in self.num_experts if m <= _FULL_EXPERTS]
        return replace(self.setting, num_experts=max(below, default=min(self.num_experts)))


def run_training(options: Options) -> Iterator[list[Row]]:
    """Seconds per training step."""
    for setting in _settings(options):
        found: list[Row] = []
        for outcome in _races(options, setting, training.prepare, options.rounds):
            found += rows_of(outcome, setting, "s")
        yield found + (_throughput(found, setting, options) if setting.device != "cpu" else [])


def run_growth(options: Options) -> Iterator[list[Row]]:
    """Seconds per training step over those with the fewest experts, which alternate with them."""
    numbers = sorted({m for m in options.num_experts if m > 1} or options.num_experts)
    base = f"m={numbers[0]}"
    for scheme in options.schemes:
        if scheme == DENSE:
            continue
        sizes = {f"m={m}": replace(options.setting, scheme=scheme, num_experts=m) for m in numbers}
        contenders = [Contender(name, training.prepare, own) for name, own in sizes.items()]
        outcome = _checked(race(contenders, options.rounds), base)
        found = []
        for line in rows_of(outcome, options.setting, "s", base=base):
            name, colon, part = line.scheme.partition(":")
            label = f"{scheme}{colon}{part}/{base}"
            found.append(replace(line, scheme=label, num_experts=sizes[name].num_experts))
        yield found


def run_memory(options: Options) -> Iterator[list[Row]]:
    """Peak MiB of a training step beyond weights and optimizer state; one round tells it."""
    for setting in _settings(options):
        found = []
        for outcome in _races(options, setting, memory.prepare, 1):
            found += rows_of(outcome, setting, "MiB")
        yield found


def run_generation(options: Options) -> Iterator[list[Row]]:
    """Seconds for decoding a batch, greedily and with beams."""
    setting = options.one_size
    checked = _checked(race([Contender("check", generation.prepare_check, setting)], 1), "check")
    same = checked.results["check"][0][""]
    yield [row(generation.CHECK, setting, [], same, "1 = bit-identical")]
    for beams in _BEAMS:
        outcome = race(generation.contenders(setting, beams), options.rounds)
        found = rows_of(_checked(outcome, DENSE), setting, "s")
        yield [replace(r, scheme=r.scheme + (f":beams{beams}" if beams > 1 else "")) for r in found]


def run_startup(options: Options) -> Iterator[list[Row]]:
    """Seconds from the start of a process to its first training step."""
    setting = options.one_size
    outcome = race(startup.contenders(setting, options.run_overrides), options.rounds)
    yield rows_of(_checked(outcome, startup.IMPORTS), setting, "s", base=startup.IMPORTS)


def run_grid(options: Options) -> Iterator[list[Row]]:
    """Adaptation points per second."""
    setting = options.one_size
    contenders = grid.contenders(setting, options.steps, options.points, options.run_overrides)
    outcome = _checked(race(contenders, options.rounds), grid.NAIVE)
    yield rows_of(outcome, setting, "s/point", grid.NAIVE, {grid.RATE: "points/s"})


def run_routes(options: Options) -> Iterator[list[Row]]:
    """Planted routes found again, by router gradient; ratios are shares found, rounds seeds."""
    setting = routes.sizes(options.setting)
    wanted = [name for name in options.schemes if name in router_gradients()]
    contenders = [Contender(s, routes.prepare, setting.using(s)) for s in wanted]
    for name, rounds in race(contenders, min(options.rounds, _SEEDS)).results.items():
        for key in ("", routes.FAR):
            shares = [figures[key] / 100 for figures in rounds]
            label = f"{name}:{key}" if key else name
            yield [row(label, setting, shares, 100 * median(shares), routes.UNIT)]


def run_conditional(options: Options) -> Iterator[list[Row]]:
    """Seconds per step of encoders: conditional parts over none, unsure rows over rows as they
    come."""
    setting = options.one_size
    for contenders in (conditional.layers(setting), conditional.sampling(setting)):
        base = contenders[0].name
        outcome = _checked(race(contenders, options.rounds), base)
        found = rows_of(outcome, setting, "s", base=base)
        yield [replace(r, scheme=f"{r.scheme}/{base}") for r in found]


BENCHMARKS: dict[str, tuple[str, Callable[[Options], Iterator[list[Row]]]]] = {
    "training": ("Time of a training step", run_training),
    "growth": ("Time of a training step over that with the fewest experts", run_growth),
    "memory": ("Peak memory beyond weights and optimizer state", run_memory),
    "generation": ("Time of decoding a batch", run_generation),
    "startup": ("Time to the first training step", run_startup),
    "grid": ("Adaptation grid", run_grid),
    "conditional": ("Time of a training step of encoders with heads", run_conditional),
    "routes": ("Planted routes found by training only the router", run_routes),
}


def _settings(options: Options) -> Iterator[Setting]:
    """One per number of experts, then what ``full`` adds."""
    base = options.setting
    for m in options.num_experts:
        yield replace(base, num_experts=m)
    if options.full:
        base = replace(base, num_experts=_FULL_EXPERTS)
        for count in _FULL_ROWS_PER_TASK:
            if count * base.tasks != base.rows:
                yield replace(base, rows=count * base.tasks)
        for width in _FULL_WIDTHS:
            if width != base.width:
                yield replace(base, width=width, ffn=None)


def _races(
    options: Options, setting: Setting, prepare: Callable[[Setting], Repeat], rounds: int
) -> Iterator[Race]:
    """All schemes against the dense model; in parts where not all fit into memory together."""
    others = [scheme for scheme in options.schemes if scheme != DENSE]
    size = options.together or max(1, len(others))
    parts = [others[start : start + size] for start in range(0, len(others), size)] or [[]]
    for number, part in enumerate(parts):
        names = [DENSE, *part]
        outcome = race([Contender(n, prepare, setting.using(n)) for n in names], rounds)
        yield _checked(outcome, DENSE, shown=number == 0)


def _checked(outcome: Race, base: str, shown: bool = True) -> Race:
    if base in outcome.failed:
        raise UserError(f"{base!r}, the base of all ratios, failed: {outcome.failed[base]}")
    outcome.hidden = () if shown else (base,)
    return outcome


def _throughput(rows: Sequence[Row], setting: Setting, options: Options) -> list[Row]:
    """Rows/s, tokens/s and model FLOP utilisation of whole steps."""
    per_step: dict[str, float] = {
        "rows/s": setting.rows,
        "tokens/s": setting.rows * (setting.source + setting.target),
    }
    if options.peak_flops:
        flops = training_flops(setting)
        per_step["% MFU"] = 100 * flops / options.peak_flops
    steps = [r for r in rows if r.is_main and r.ratio]
    return [
        replace(
            r,
            scheme=f"{r.scheme}:{unit}",
            ratio=1 / (r.ratio or 1),
            low=1 / (r.high or 1),
            high=1 / (r.low or 1),
            absolute=amount / r.absolute,
            unit=unit,
        )
        for r in steps
        for unit, amount in per_step.items()
    ]
