"""``python -m analysis.bench training|growth|memory|generation|... --out DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from analysis.bench.figure import draw
from analysis.bench.machine import describe, peak_flops, write_machine
from analysis.bench.setting import DRAWN, PRESETS, QUICK, SPREAD, Setting, chosen_schemes, schemes
from analysis.bench.suite import BENCHMARKS, Options
from analysis.bench.table import Row, shown, write_table
from moe_tasks.errors import UserError

_DESCRIPTION = """\
Measure what experts cost. One process per scheme; all are asked in turn for one repetition, so
that whatever else the machine does meets them alike. Ratios are to the dense model of the same
depth in the same round (start-up: to the bare imports; grid: to a process per point; growth and
conditional: to what stands after the slash); CSVs hold their median and quartiles, and the median
of the figure itself."""
_EPILOG = """\
DIR/<name>.csv and .png per benchmark and DIR/machine.json are written. Measure on an idle
machine. examples:
  python -m analysis.bench all --out bench
  python -m analysis.bench training --out bench --num-experts 8 --schemes merge_st all_experts
  python -m analysis.bench training --out gpu --device cuda --dtype bf16 --preset bart-large \\
      --num-experts 3 8
"""
_QUICK_RUN = (
    "backbone.width=16", "backbone.heads=2", "backbone.ffn=16", "backbone.encoder_layers=1",
    "backbone.decoder_layers=1", "backbone.vocab_size=320",
)  # fmt: skip
_SIZES = [f.name for f in fields(Setting) if f.name not in ("scheme", "num_experts")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    values = _parser().parse_args(arguments)
    try:
        options = _options(values)
        sizes = {name: getattr(options.setting, name) for name in _SIZES}
        write_machine(describe(sizes), values.out / "machine.json")
        names = list(BENCHMARKS) if values.benchmark == "all" else [values.benchmark]
        for name in names:
            _run(name, options, values.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(name: str, options: Options, out: Path) -> None:
    """One benchmark; its table grows on the disk while it runs."""
    title, benchmark = BENCHMARKS[name]
    rows: list[Row] = []
    for more in benchmark(options):
        rows += more
        write_table(rows, out / f"{name}.csv")
    s = options.setting
    below = (
        f"median of {options.rounds} rounds, {s.rows} rows of {s.tasks} tasks, width {s.width}, "
        f"{s.layers}+{s.layers} layers, source {s.source}, target {s.target}, {s.dtype}, {s.device}"
    )
    draw(rows, title, below, out / f"{name}.png")
    print(f"{title}\n{shown(rows)}\nwrote {out / name}.csv, {out / name}.png\n", flush=True)


def _options(values: argparse.Namespace) -> Options:
    given = {name: getattr(values, name) for name in _SIZES if getattr(values, name) is not None}
    sizes: dict[str, Any] = {**PRESETS[values.preset], **(QUICK if values.quick else {}), **given}
    setting = Setting(**sizes)
    on_cpu = setting.device == "cpu"
    peak = 1e12 * values.peak_tflops if values.peak_tflops else None if on_cpu else peak_flops()
    return Options(
        setting=setting,
        num_experts=values.num_experts or ([2] if values.quick else [1, 3, 8, 16]),
        schemes=chosen_schemes(values.schemes),
        rounds=values.rounds or (3 if values.quick else 9),
        full=values.full,
        together=values.together or (None if on_cpu else 1),
        steps=values.adaptation_steps or (2 if values.quick else 40),
        points=values.adaptation_points or (1 if values.quick else 3),
        run_overrides=(*(_QUICK_RUN if values.quick else ()), *values.run),
        peak_flops=peak,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where to write")
    parser.add_argument("--rounds", type=_positive, help="of each race (default: 9)")
    parser.add_argument(
        "--num-experts", type=_positive, nargs="+", help="values of m (default: 1 3 8 16)"
    )
    parser.add_argument(
        "--schemes",
        nargs="+",
        help=f"of training, growth, memory and routes: {', '.join(schemes())}",
    )
    parser.add_argument(
        "--full", action="store_true", help="also rows per task 1, 2, 4 and widths 128, 256, 512"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument(
        "--together", type=_positive, metavar="N",
        help="schemes alive at once beside the dense model (default: all; 1 on a GPU)",
    )  # fmt: skip
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16, for utilisation")
    parser.add_argument("--adaptation-steps", type=_positive, help="per grid point (default: 40)")
    parser.add_argument("--adaptation-points", type=_positive, help="per unseen task (default: 3)")
    parser.add_argument(
        "--run", action="append", default=[], metavar="KEY=VALUE",
        help="key of the runs that startup and grid start; can be repeated",
    )  # fmt: skip
    _add_sizes(parser.add_argument_group("sizes of model and batch"))
    return parser


def _add_sizes(group: Any) -> None:
    group.add_argument("--preset", choices=list(PRESETS), default="reference")
    group.add_argument("--device", help="cpu (default) or cuda")
    group.add_argument("--dtype", choices=["fp32", "bf16"], help="default: fp32")
    group.add_argument(
        "--routes",
        choices=[SPREAD, DRAWN],
        help="tasks on as many experts as possible (default), or at random",
    )
    defaults = Setting()
    for name in _SIZES:
        if name not in ("device", "dtype", "routes"):
            default = getattr(defaults, name)
            kind = float if isinstance(default, float) else int
            shown_default = "4 widths" if default is None else default
            group.add_argument(f"--{name}", type=kind, help=f"default: {shown_default}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
