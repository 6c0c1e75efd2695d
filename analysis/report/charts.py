"""Pictures of statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.report.scene import (
    Dot,
    Line,
    Rect,
    Scene,
    Text,
    number,
    p_text,
    text_width,
    ticks,
    widest,
)

_ROW = 18.0
_BOTTOM = 46.0


def measure_dots(by_unit: Mapping[str, Mapping[str, Any]], title: str) -> Scene:
    """One statistic for every unit: the value (filled where p <= .05) and chance (a line)."""
    rows = [(unit, m) for unit, m in by_unit.items()]
    values = [v for _, m in rows for v in (m["value"], m["chance"]) if v is not None]
    left = widest([unit for unit, _ in rows]) + 20
    scene = Scene(title, left + 460, 14 + len(rows) * _ROW + _BOTTOM)
    low, high = min([0.0, *values]), max([0.1, *values])
    x_of = _axis(scene, low, high, left, 360, 14, len(rows) * _ROW, title)
    for place, (unit, m) in enumerate(rows):
        y = 14 + (place + 0.5) * _ROW
        scene.add(Text(left - 10, y, unit, 11, "end"))
        if m["value"] is None:
            scene.add(Text(left + 6, y, m["note"], 10, fill="grey"))
            continue
        if m["chance"] is not None:
            x = x_of(m["chance"])
            scene.add(Line(((x, y - 6), (x, y + 6)), "grey", 2))
        found = m["p_value"] is not None and m["p_value"] <= 0.05
        tip = f"{unit}: {m['value']:.3f}\nchance {number(m['chance'], 3)}\n{p_text(m['p_value'])}"
        scene.add(Dot(x_of(m["value"]), y, "heat", tip, 4.5, hollow=not found))
        scene.add(Text(left + 372, y, p_text(m["p_value"]), 10, fill="grey"))
    return scene


def load_bars(rows: Sequence[Mapping[str, Any]]) -> Scene:
    """Each layer's experts by load, and its route entropy as a dot."""
    names = [f"{row['stack']} {row['layer']}" for row in rows]
    left = widest(names) + 20
    scene = Scene(
        "Load of experts and route entropy, by layer", left + 420, 14 + len(rows) * 22 + _BOTTOM
    )
    x_of = _axis(
        scene, 0, 1, left, 380, 14, len(rows) * 22,
        "share of routes (bars), route entropy (dot)",
    )  # fmt: skip
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = 14 + place * 22.0
        scene.add(Text(left - 10, y + 11, name, 11, "end"))
        start = 0.0
        for expert, load in enumerate(row["load"]):
            tip = f"{name} expert {expert}\nload {load:.3f}"
            width = max(x_of(start + load) - x_of(start) - 1.5, 0.0)
            scene.add(Rect(x_of(start), y + 3, width, 16, "heat", 0.25 + 0.12 * (expert % 5), tip))
            hidden = abs(x_of(row["route_entropy"]) - x_of(start) - width / 2) < 9
            if width > 14 and not hidden:
                scene.add(Text(x_of(start) + width / 2, y + 11, str(expert), 10, "middle"))
            start += load
        tip = f"{name}\nroute entropy {row['route_entropy']:.3f}"
        scene.add(Dot(x_of(row["route_entropy"]), y + 11, "positive", tip, 4.5))
    return scene


def movement_lines(rows: Sequence[Mapping[str, Any]]) -> Scene:
    """Distances between snapshots over training steps."""
    lines = {"from_previous": "heat", "from_first": "c2", "to_last": "positive"}
    names = {"from_previous": "moved since the previous one", "from_first": "since the first one",
             "to_last": "left to the last one"}  # fmt: skip
    steps = [row["step"] for row in rows]
    values = [row[key] for row in rows for key in lines if row[key] is not None]
    scene = Scene("Movement of routes during training", 640, 330)
    left, top, width, height = 52.0, 20.0, 400.0, 250.0
    high = max([0.05, *values])
    span = max(steps[-1] - steps[0], 1)

    def x_of(step: float) -> float:
        return left + (step - steps[0]) / span * width

    for tick in ticks(0, high):
        y = top + height * (1 - tick / high)
        scene.add(
            Line(((left, y), (left + width, y))), Text(left - 6, y, f"{tick:g}", 10, "end", "grey")
        )
    for tick in ticks(steps[0], max(steps[-1], steps[0] + 1)):
        if tick <= steps[-1]:
            scene.add(Text(x_of(tick), top + height + 14, f"{tick:g}", 10, "middle", "grey"))
    scene.add(Text(left + width / 2, top + height + 34, "training step", 11, "middle", "grey"))
    for place, (key, colour) in enumerate(lines.items()):
        known = [
            (x_of(r["step"]), top + height * (1 - r[key] / high), r)
            for r in rows
            if r[key] is not None
        ]
        scene.add(Line(tuple((x, y) for x, y, _ in known), colour, 1.8))
        for x, y, row in known:
            scene.add(
                Dot(x, y, colour, f"step {row['step']}\n{names[key]}: {row[key]:.3f}", 3.2, place)
            )
        y = top + 12 + 20 * place
        scene.add(
            Dot(left + width + 16, y, colour, "", 4, place),
            Text(left + width + 26, y, names[key], 10.5),
        )
    return scene


def drop_bars(experts: Sequence[Mapping[str, Any]]) -> Scene:
    """Mean drop of each expert's tasks with its interval, over the control's interval."""
    names = [
        f"{e['stack']} {e['layer']} expert {e['expert']} ({e['num_tasks']} tasks)" for e in experts
    ]
    left = widest(names) + 20
    bounds = [
        b for e in experts for b in (*(e["interval"] or ()), *e["control_interval"], e["drop"])
    ]
    title = "Drop of score without an expert (bar: random expert of equal use)"
    scene = Scene(title, left + 460, 14 + len(experts) * _ROW + _BOTTOM)
    x_of = _axis(
        scene, min([0.0, *bounds]), max([0.01, *bounds]), left, 360, 14, len(experts) * _ROW,
        "drop of the score",
    )  # fmt: skip
    for place, (name, e) in enumerate(zip(names, experts, strict=True)):
        y = 14 + (place + 0.5) * _ROW
        low, high = e["control_interval"]
        tip = f"{name}\ndrop {e['drop']:.3f}\ncontrol {e['control']:.3f}\n{p_text(e['p_value'])}"
        scene.add(Text(left - 10, y, name, 11, "end"))
        scene.add(Rect(x_of(low), y - 6, max(x_of(high) - x_of(low), 1), 12, "grey", 0.3, tip))
        if e["interval"]:
            scene.add(Line(tuple((x_of(b), y) for b in e["interval"]), "heat", 1.8))
        scene.add(Dot(x_of(e["drop"]), y, "heat", tip, 4.5, hollow=e["p_value"] > 0.05))
        scene.add(Text(left + 372, y, p_text(e["p_value"]), 10, fill="grey"))
    return scene


def _axis(
    scene: Scene,
    low: float,
    high: float,
    left: float,
    width: float,
    top: float,
    height: float,
    name: str,
) -> Any:
    """A horizontal axis with grid lines below ``height``; returns value -> x."""
    span = max(high - low, 1e-9)

    def x_of(value: float) -> float:
        return left + (value - low) / span * width

    for tick in ticks(low, high):
        x = x_of(tick)
        scene.add(Line(((x, top), (x, top + height)), "grey" if tick == 0 else "line"))
        scene.add(
            Text(
                x, top + height + 12, number(tick, 10).rstrip("0").rstrip("."), 10, "middle", "grey"
            )
        )
    x = max(left + width / 2, text_width(name, 10.5) / 2 + 6)
    scene.add(
        Text(left, top + height + 31, name, 10.5, fill="grey")
        if x > left + width / 2
        else Text(left + width / 2, top + height + 31, name, 10.5, "middle", "grey")
    )
    return x_of
