"""Rows of the page's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = list[Any]
SECTIONS = (
    ("routes", "Routes"),
    ("clusters", "Clusters and human categories"),
    ("features", "Experts and features of tasks"),
    ("load", "Load, entropy, movement"),
    ("similarity", "Similarity"),
    ("ablation", "Ablation"),
)
_MOST_PAIRS = 40
_SIMILARITY = {
    "task_vectors": "task vectors",
    "parameters": "parameters of the tasks' models",
    "transfer": "gain by experts (pairs of tasks)",
    "transfer_of_sharing": "gain by experts (tasks, with mean similarity to others)",
}


def system_rows(systems: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        [
            s["system"],
            s["train_score"],
            s["unseen_score"],
            s["num_unseen"],
            s["average_relative_gain"],
            *(s["interval"] or (None, None)),
        ]
        for s in systems
    ]


def cluster_rows(clusters: Mapping[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    for label, by_unit in clusters.items():
        yield (
            label,
            [
                [unit, name.replace("_", " "), m["value"], m["chance"], m["p_value"], m["note"]]
                for unit, found in by_unit.items()
                for name, m in found.items()
            ],
        )


def pair_rows(pairs: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        [
            f"{p['stack']} {p['layer']} expert {p['expert']}",
            p["feature"],
            p["method"].replace("_", "-"),
            p["num_tasks"],
            p["r"],
            p["low"],
            p["high"],
            p["p_value"],
            p["q_value"],
        ]
        for p in pairs[:_MOST_PAIRS]
    ]


def load_rows(load: Sequence[Mapping[str, Any]]) -> list[Row]:
    keys = ("route_entropy", "load_entropy", "specialisation", "effective_experts", "largest_load")
    return [
        [
            f"{row['stack']} {row['layer']}",
            row["num_experts"],
            *(row[key] for key in keys),
            ", ".join(map(str, row["unused_experts"])) or "none",
        ]
        for row in load
    ]


def similarity_rows(similarity: Mapping[str, Any]) -> list[Row]:
    return [
        [name, m["value"], m["chance"], m["p_value"], m["note"]]
        for key, name in _SIMILARITY.items()
        for m in [similarity[key]]
    ]


def drop_rows(experts: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        [
            f"{e['stack']} {e['layer']} expert {e['expert']}",
            e["num_tasks"],
            e["drop"],
            *(e["interval"] or (None, None)),
            e["control"],
            e["p_value"],
            ", ".join(e["hurt_most"]),
        ]
        for e in experts
    ]


def group_rows(groups: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        [
            g["group"],
            g["num_tasks"],
            g["drop"],
            *(g["interval"] or (None, None)),
            g["control"],
            g["excess"],
            *(g["excess_interval"] or (None, None)),
        ]
        for g in groups
    ]


def design_rows(designs: Sequence[Mapping[str, Any]]) -> list[Row]:
    keys = ("router", "selection", "task_vectors", "routes", "num_experts", "seed", "split")
    found = ("adjusted_rand", "adjusted_rand_p", "similarity_gap", "similarity_gap_p",
             "route_entropy", "specialisation", "unused", "train", "unseen")  # fmt: skip
    return [
        [d["name"], *("" if d[key] is None else str(d[key]) for key in keys), *map(d.get, found)]
        for d in designs
    ]


def stage_rows(stages: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        [
            s["before"],
            s["after"],
            s["moved"],
            s["train"],
            *(s["train_interval"] or (None, None)),
            s["unseen"],
            *(s["unseen_interval"] or (None, None)),
            f"{s['up']} up, {s['down']} down",
        ]
        for s in stages
    ]


def stability_rows(groups: Sequence[Mapping[str, Any]]) -> list[Row]:
    keys = ("system", "num_pairs", "in_common", "lowest", "chance", "distances")
    return [[group[key] for key in keys] for group in groups]


def comparison_rows(pairs: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        [
            p["a"],
            p["b"],
            p["num_common_tasks"],
            p["matched"]["value"],
            p["matched"]["chance"],
            p["matched"]["p_value"],
            p["distances"]["value"],
            p["distances"]["p_value"],
            p["matched"]["note"] or _apart(p),
        ]
        for p in pairs
    ]


def _apart(pair: Mapping[str, Any]) -> str:
    only = pair["only_a"], pair["only_b"]
    return f"{only[0]} tasks only in the first, {only[1]} only in the second" if any(only) else ""
