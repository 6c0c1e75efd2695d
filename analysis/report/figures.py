"""Which pictures a report has, each with its data."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import squareform

from analysis.report import charts, grids, pictures
from analysis.report.clusters import STATISTICS, vector_distances
from analysis.report.maps import task_map
from analysis.report.scene import Scene
from analysis.report.similarity import FEWEST_TASKS, parameter_distances
from analysis.report.subject import Subject


@dataclass(frozen=True)
class Figure:
    """Attributes:
    key: end of the file name, unique within a route table.
    section: of the page.
    caption: what is seen; plain text.
    data: what is drawn, for the CSV file.
    extra: what the page's script needs besides (of the heat map).
    """

    key: str
    section: str
    scene: Scene
    caption: str
    data: pd.DataFrame
    extra: Mapping[str, Any] = field(default_factory=dict)


def figures(
    subject: Subject, about: Mapping[str, Any], *, method: str = "pca", seed: int = 0
) -> Iterator[Figure]:
    """Pictures of one route table, section by section; ``method``: see ``task_map``."""
    yield _heat_map(subject)
    yield from _clusters(about["clusters"])
    yield from _trees(subject, method, seed)
    yield from _association(subject, about["association"])
    loads = pd.DataFrame(about["load"])
    yield Figure("load", "load", charts.load_bars(about["load"]), _LOAD, loads)
    if len(about["movement"]) > 1:
        data = pd.DataFrame(about["movement"]).drop(columns=["by_layer", "similarity_gap"])
        scene = charts.movement_lines(about["movement"])
        yield Figure("movement", "load", scene, _MOVEMENT, data)
    yield from _similarity(subject)
    yield from _ablation(about["ablation"])


def comparison_figure(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> Figure:
    rows = [
        {"a": p["a"], "b": p["b"], "common_tasks": p["num_common_tasks"], **p["matched"]}
        for p in pairs
    ]
    scene = grids.matched_grid(names, pairs)
    return Figure("comparison", "comparison", scene, _COMPARISON, pd.DataFrame(rows))


_LOAD = (
    "Bars: share of all routes that each expert of a layer has. Dot: how undecided routes are, "
    "0 (one expert) to 1 (all experts alike)."
)
_MOVEMENT = (
    "Total variation distance between route tables at different steps, mean over tasks and "
    "layers: 0 is no change, 1 is other experts everywhere."
)
_COMPARISON = (
    "Share of the routes that two route tables have in common when experts are matched one to one "
    "in each layer."
)


def _heat_map(subject: Subject) -> Figure:
    scene, rank = pictures.route_map(subject.last)
    order = pictures.task_order(subject.last)
    same = [s for s in subject.shots if s.layers == subject.last.layers]
    places = {task: row for row, task in enumerate(subject.last.tasks["task"])}
    same = [s for s in same if set(s.tasks["task"]) == set(places)]
    steps = []
    for shot in same:
        row_of = {task: row for row, task in enumerate(shot.tasks["task"])}
        rows = [row_of[subject.last.tasks["task"].iloc[row]] for row in order]
        weights = (shot.weights[rows] * 255).round().clip(0, 255).astype(np.uint8)
        steps.append(base64.b64encode(weights.tobytes()).decode())
    caption = (
        "Stronger colour: more weight. Rows are tasks with the colour of their category; columns "
        "are the experts of each layer (L)."
    )
    extra = {
        "rank": rank,
        "height": pictures.ROW,
        "steps": [shot.step for shot in same],
        "weights": steps,
    }
    return Figure("routes", "routes", scene, caption, subject.run.routes[subject.system], extra)


def _clusters(found: Mapping[str, Any]) -> Iterator[Figure]:
    names = {"adjusted_rand": "adjusted Rand index", "silhouette": "silhouette"}
    for label, by_unit in found.items():
        rows = [
            {"unit": unit, "statistic": name, **by_unit[unit][name]}
            for unit in by_unit
            for name in STATISTICS
        ]
        for name in names if label == "category" else ("adjusted_rand",):
            title = f"{names[name]} with the {label}"
            scene = charts.measure_dots({unit: m[name] for unit, m in by_unit.items()}, title)
            caption = (
                "Dot: the value, filled where p is at most .05 (one test each, not adjusted for "
                "their number). Line: mean of random labels."
            )
            yield Figure(f"clusters-{label}-{name}", "clusters", scene, caption, pd.DataFrame(rows))


def _trees(subject: Subject, method: str, seed: int) -> Iterator[Figure]:
    tasks = subject.last.tasks
    names, categories = tasks["task"].tolist(), tasks["category"].tolist()
    if len(names) < 3:
        return
    vectors = subject.vectors()
    kinds: list[tuple[str, str, np.ndarray, np.ndarray]] = [
        ("routes", "routes", subject.last.distances, subject.last.weights)
    ]
    if vectors is not None:
        kinds.append(("vectors", "task vectors", vector_distances(vectors), vectors))
    for key, of, distances, values in kinds:
        found = task_map(values, distances, method, seed)
        title = f"Map of tasks by {of} ({found.method})"
        scene = pictures.scatter_map(found.points, found.axes, names, categories, title)
        caption = "A dot is a task; equal ones share a dot."
        data = tasks.assign(axis_1=found.points[:, 0], axis_2=found.points[:, 1])
        yield Figure(f"map-{key}", "clusters", scene, caption, data)
        if distances.max() > 0:
            tree = pictures.tree_of(distances)
            scene = pictures.dendrogram(distances, names, categories, of)
            caption = f"Average linkage on distances of {of}. Coloured branches hold one category."
            columns = pd.Index(["first", "second", "distance", "num_tasks"])
            data = pd.DataFrame(tree, columns=columns)
            yield Figure(f"tree-{key}", "clusters", scene, caption, data)


def _association(subject: Subject, found: Mapping[str, Any]) -> Iterator[Figure]:
    if not found["pairs"]:
        return
    columns = [
        f"{at.stack} {at.layer} e{expert}"
        for at in subject.last.layers
        for expert in range(at.num_experts)
    ]
    values = {
        (p["feature"], f"{p['stack']} {p['layer']} e{p['expert']}"): (
            p["r"],
            f"{p['feature']}\n{p['stack']} layer {p['layer']} expert {p['expert']}\n"
            f"r = {p['r']:.2f}, q = {p['q_value']:.3f}",
            p["q_value"] <= 0.05,
        )
        for p in found["pairs"]
    }
    scene = grids.signed_grid(
        "Correlation of experts' weights with features", found["features"], columns, values
    )
    caption = (
        "Red: the expert goes with the feature; blue: it avoids it. A point marks pairs that stay "
        "below .05 after correction for all pairs (Benjamini-Hochberg)."
    )
    yield Figure("features", "features", scene, caption, pd.DataFrame(found["pairs"]))


def _similarity(subject: Subject) -> Iterator[Figure]:
    vectors, parameters = subject.vectors(), parameter_distances(subject)
    kinds = [
        (
            "vectors",
            "distance of task vectors",
            None if vectors is None else vector_distances(vectors),
        ),
        ("parameters", "distance of parameters", parameters),
    ]
    routes = subject.last.distances
    for key, name, distances in kinds:
        if distances is None or len(routes) < FEWEST_TASKS:
            continue
        x, y = (squareform(d, checks=False) for d in (routes, distances))
        title = f"Distance of routes and {name}"
        scene = grids.density(x, y, "distance of routes", name, title)
        first, second = np.triu_indices(len(routes), 1)
        tasks = subject.last.tasks["task"].to_numpy()
        data = pd.DataFrame({"a": tasks[first], "b": tasks[second], "routes": x, key: y})
        caption = "Pairs of tasks; stronger colour: more pairs."
        yield Figure(f"similarity-{key}", "similarity", scene, caption, data)


def _ablation(found: Mapping[str, Any]) -> Iterator[Figure]:
    experts = found["experts"]
    if not experts:
        return
    caption = (
        "Dot and line: mean drop over the tasks that use the expert, and its 95% interval. Grey "
        "bar: 95% of random experts of equal use. Filled where p is at most .05."
    )
    flat = [{k: v for k, v in e.items() if k != "per_category"} for e in experts]
    yield Figure("ablation", "ablation", charts.drop_bars(experts), caption, pd.DataFrame(flat))
    names = {f"{e['stack']} {e['layer']} e{e['expert']}": e["per_category"] for e in experts}
    categories = sorted({c for per in names.values() for c in per})
    cells = {
        (category, name): (
            per[category]["drop"],
            f"{category}\n{name}\ndrop {per[category]['drop']:.3f} "
            f"over {per[category]['num_tasks']} tasks",
            False,
        )
        for name, per in names.items()
        for category in categories
        if category in per
    }
    scale = max([0.05, *(abs(value) for value, _, _ in cells.values())])
    scene = grids.signed_grid("Drop by category", categories, list(names), cells, scale)
    caption = "Red: the category's tasks score less without the expert."
    rows = [
        {"expert": name, "category": category, **per[category]}
        for name, per in names.items()
        for category in per
    ]
    yield Figure("ablation-categories", "ablation", scene, caption, pd.DataFrame(rows))
