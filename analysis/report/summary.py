"""The answer in five sentences, made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LEVEL = 0.05


def summary(statistics: Mapping[str, Any]) -> list[str]:
    """Five sentences: what was read, categories, features, training, comparison.

    Where there are several route tables the sentences are about the first; it is named.
    """
    runs, routes = statistics["runs"], statistics["routes"]
    num = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    if not routes:
        return [f"{num} without any route table: nothing can be said about experts."]
    name, about = next(iter(routes.items()))
    read = (
        f"{num} with {len(routes)} route table{'s' if len(routes) != 1 else ''} "
        f"{'was' if len(runs) == 1 else 'were'} read; the next sentences are about {name}: "
        f"{about['num_tasks']} tasks over {len(about['layers'])} layers with experts."
    )
    return [
        read,
        _categories(about["clusters"]["category"]["overall"]),
        _features(about["association"]),
        _training(about),
        _others(statistics["comparison"], about["ablation"]),
    ]


def _categories(found: Mapping[str, Any]) -> str:
    gap, rand = found["similarity_gap"], found["adjusted_rand"]
    if gap["value"] is None:
        return f"Nothing can be said about human categories: {gap['note']}."
    numbers = (
        f"(similarity within minus between categories {gap['value']:.3f}, {_p(gap)}; adjusted Rand "
        f"index of clusters {rand['value']:.2f}, {_p(rand)})"
    )
    both = [m["p_value"] is not None and m["p_value"] <= LEVEL for m in (gap, rand)]
    if all(both):
        how = "strongly" if rand["value"] >= 0.6 else "partly" if rand["value"] >= 0.2 else "weakly"
        return f"Routes {how} agree with the human categories {numbers}."
    if any(both):
        return f"Routes agree with the human categories only by one of two measures {numbers}."
    return f"Routes do not agree with the human categories more than by chance {numbers}."


def _features(found: Mapping[str, Any]) -> str:
    if not found["num_pairs"]:
        return "No features of tasks were known that experts could be compared with."
    count = f"{found['num_significant']} of {found['num_pairs']} pairs of expert and feature"
    if not found["num_significant"]:
        return f"Of {found['num_pairs']} pairs of expert and feature none are associated."
    return f"{count} are associated after correction; the strongest: {found['in_words'][0]}."


def _training(about: Mapping[str, Any]) -> str:
    load = about["load"]
    decided = 1 - float(np.mean([row["route_entropy"] for row in load]))
    unused = sum(len(row["unused_experts"]) for row in load)
    total = sum(row["num_experts"] for row in load)
    text = f"Routes are {100 * decided:.0f}% decided and {unused} of {total} experts are unused"
    moves = [row for row in about["movement"] if row["from_previous"] is not None]
    if not moves:
        return f"{text}; how they moved during training is not known."
    return (
        f"{text}; between the last two snapshots routes moved by "
        f"{100 * moves[-1]['from_previous']:.1f}%, since the first one by "
        f"{100 * (moves[-1]['from_first'] or 0):.1f}%."
    )


def _others(pairs: list[Any], ablation: Mapping[str, Any]) -> str:
    known = [pair["matched"] for pair in pairs if pair["matched"]["value"] is not None]
    if known:
        mean = np.mean([m["value"] for m in known])
        chance = np.mean([m["chance"] for m in known])
        return (
            f"With experts matched, two route tables share {100 * mean:.0f}% of their routes on "
            f"average, where tasks in random order share {100 * chance:.0f}%."
        )
    if ablation["experts"]:
        worst = max(ablation["experts"], key=lambda row: row["drop"])
        return (
            f"Disabling {worst['stack']} layer {worst['layer']} expert {worst['expert']} costs its "
            f"{worst['num_tasks']} tasks most: {worst['drop']:.3f} of score each, a random expert "
            f"of equal use {worst['control']:.3f} ({_p(worst)})."
        )
    return (
        "One route table alone does not say whether another seed would find the same routes, and "
        "without an ablation not whether the experts matter."
    )


def _p(measure: Mapping[str, Any]) -> str:
    p = measure["p_value"]
    return "no p-value" if p is None else f"p = {p:.3f}" if p >= 0.001 else "p < .001"
