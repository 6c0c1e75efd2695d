"""Route tables side by side: routers, selections, seeds; two stages before and after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.report.scores import mean_interval, score_means
from analysis.report.subject import Subject

DESIGN = ("system", "router", "selection", "task_vectors", "routes", "num_experts")


def designs(
    subjects: Sequence[Subject], about: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per route table: how it was made, what its routes are like, what was scored."""
    return [{**design(s), **_found(about[s.name]), **_scores(s)} for s in subjects]


def design(subject: Subject) -> dict[str, Any]:
    """``name, DESIGN, seed, split``: from the configuration; None where it does not say."""
    config = subject.run.config
    own = _mapping(_mapping(config, "systems"), subject.system)
    parts = {
        part: {**_mapping(config, part), **_mapping(own, part)}
        for part in ("router", "selection", "task_vectors")
    }
    stage = own.get("routes_from")
    source = _mapping(_mapping(_mapping(config, "systems"), str(stage)), "router")
    router = {**parts["router"], **source}.get("name")
    return {
        "name": subject.name,
        "system": subject.system,
        "router": router,
        "selection": " ".join(
            str(value)
            for key, value in parts["selection"].items()
            if key in ("name", "mode") or (key, value) == ("gradient", "exact")
        ),
        "task_vectors": parts["task_vectors"].get("name"),
        "routes": f"of {stage}" if stage else own.get("routes", "learned"),
        "num_experts": parts["router"].get("num_experts"),
        "seed": config.get("seed"),
        "split": _mapping(config, "tasks").get("split"),
    }


def stability(
    subjects: Sequence[Subject], pairs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per design that several runs share: how far their routes are the same.

    Means over pairs of runs of ``matched`` and ``distances`` (see ``matching.comparison``).
    """
    design_of = {s.name: tuple(str(design(s)[key]) for key in DESIGN) for s in subjects}
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for pair in pairs:
        if design_of[pair["a"]] == design_of[pair["b"]] and pair["matched"]["value"] is not None:
            groups[design_of[pair["a"]]].append(pair)
    return [
        {
            "system": names[0],
            "num_pairs": len(found),
            "in_common": float(np.mean([pair["matched"]["value"] for pair in found])),
            "lowest": float(min(pair["matched"]["value"] for pair in found)),
            "chance": float(np.mean([pair["matched"]["chance"] for pair in found])),
            "distances": _mean([pair["distances"]["value"] for pair in found]),
        }
        for names, found in groups.items()
    ]


def two_stages(subjects: Sequence[Subject], *, seed: int = 0) -> list[dict[str, Any]]:
    """One row per system that took over another one's router, against that one.

    ``moved``: total variation distance of the two route tables, mean over tasks and layers.
    ``train`` and ``unseen``: mean difference of scores, after minus before, with its bootstrap 95%
    interval over tasks; ``up`` and ``down`` count unseen tasks.
    """
    by_place = {(s.run.path, s.system): s for s in subjects}
    rows = []
    for after in subjects:
        source = _mapping(_mapping(after.run.config, "systems"), after.system).get("routes_from")
        before = by_place.get((after.run.path, str(source)))
        if before is None:
            continue
        row: dict[str, Any] = {"before": before.name, "after": after.name}
        same = before.last.layers == after.last.layers
        same &= before.last.tasks["task"].tolist() == after.last.tasks["task"].tolist()
        apart = np.abs(before.last.weights - after.last.weights).sum(axis=1) if same else None
        row["moved"] = None if apart is None else float(apart.mean() / 2 / len(after.last.layers))
        for key, means in score_means(after.run).items():
            old, new = means.get(before.system, {}), means.get(after.system, {})
            change = np.array([new[task] - old[task] for task in new if task in old])
            row[key] = float(change.mean()) if len(change) else None
            row[f"{key}_interval"] = mean_interval(change, np.random.default_rng(seed))
            row["up"], row["down"] = int((change > 0).sum()), int((change < 0).sum())
        rows.append(row)
    return rows


def _found(about: Mapping[str, Any]) -> dict[str, Any]:
    clusters = about["clusters"]["category"]["overall"]
    rand, gap = clusters["adjusted_rand"], clusters["similarity_gap"]
    return {
        "adjusted_rand": rand["value"],
        "adjusted_rand_p": rand["p_value"],
        "similarity_gap": gap["value"],
        "similarity_gap_p": gap["p_value"],
        "route_entropy": _mean([row["route_entropy"] for row in about["load"]]),
        "specialisation": _mean([row["specialisation"] for row in about["load"]]),
        "unused": sum(len(row["unused_experts"]) for row in about["load"]),
    }


def _scores(subject: Subject) -> dict[str, Any]:
    return {
        key: _mean(list(means.get(subject.system, {}).values()))
        for key, means in score_means(subject.run).items()
    }


def _mapping(content: Any, key: str) -> Mapping[str, Any]:
    found = content.get(key) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
