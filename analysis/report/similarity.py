"""Are tasks with similar routes similar in other ways, too?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from analysis.permutation import TIE, Measure, from_null, permuted_places
from analysis.report.clusters import vector_distances
from analysis.report.subject import Subject
from analysis.runs import score_rows
from moe_tasks.evaluation.scores import task_means

FEWEST_TASKS = 4


def mantel(a: np.ndarray, b: np.ndarray, *, num_permutations: int = 1000, seed: int = 0) -> Measure:
    """Spearman correlation of two distance matrices ``[tasks, tasks]`` (Mantel 1967).

    One-sided: p is the share of permutations of the tasks that correlate at least as much.
    """
    if len(a) < FEWEST_TASKS:
        return Measure(None, note=f"{len(a)} tasks are too few")
    ranks = [rankdata(squareform(x.round(12), checks=False)) for x in (a, b)]
    units = [r - r.mean() for r in ranks]
    lengths = [float(np.linalg.norm(u)) for u in units]
    if min(lengths) <= TIE:
        return Measure(None, note="all distances are equal")
    first = squareform(units[0] / lengths[0])
    second = squareform(units[1] / lengths[1])
    places = permuted_places(len(a), num_permutations, np.random.default_rng(seed))
    r = [float((first * second[place][:, place]).sum()) / 2 for place in places]
    return from_null(np.array(r)[:, None])[0]


def similarity(subject: Subject, *, num_permutations: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Route distances against distances of task vectors, of the tasks' parameters and of gains.

    ``parameters``: distance of two tasks' models, from the experts' weights. ``transfer``: tasks
    whose gain by experts (train score of the system minus that of the dense model) is alike;
    ``transfer_of_sharing``: Spearman correlation over tasks of gain with mean route similarity to
    the other tasks.
    """
    options = {"num_permutations": num_permutations, "seed": seed}
    routes, vectors = subject.last.distances, subject.vectors()
    parameters = parameter_distances(subject)
    gains = train_gains(subject)
    rows = [i for i, task in enumerate(subject.last.tasks["task"]) if task in gains]
    values = np.array([gains[subject.last.tasks["task"].iloc[i]] for i in rows])
    among = routes[np.ix_(rows, rows)]
    none = Measure(None, note="no scores of training tasks with and without experts")
    return {
        "task_vectors": asdict(
            Measure(None, note="no task vectors")
            if vectors is None
            else mantel(routes, vector_distances(vectors), **options)
        ),
        "parameters": asdict(
            Measure(None, note="no experts' weights")
            if parameters is None
            else mantel(routes, parameters, **options)
        ),
        "transfer": asdict(
            mantel(among, np.abs(values[:, None] - values), **options) if rows else none
        ),
        "transfer_of_sharing": asdict(
            _over_tasks(1 - among, values, num_permutations, seed) if rows else none
        ),
        "expert_distance": expert_distances(subject),
    }


def train_gains(subject: Subject) -> dict[str, float]:
    """Training task -> score of the system minus that of the dense multi-task model."""
    means = task_means(score_rows(subject.run.train_scores))
    mine, base = means.get(subject.system, {}), means.get("multitask", {})
    return {task: score - base[task] for task, score in mine.items() if task in base}


def parameter_distances(subject: Subject) -> np.ndarray | None:
    """``[tasks, tasks]``: distance of the parameters that two tasks' routes choose or merge."""
    products = subject.checkpoint.inner_products
    shot = subject.last
    squares = np.zeros((len(shot.weights),) * 2)
    for at in shot.layers:
        gram = products.get(at.name)
        if gram is None or len(gram) != at.num_experts:
            return None
        weights = shot.weights[:, at.columns]
        inner = weights @ gram @ weights.T
        norms = np.diag(inner)
        squares += (norms[:, None] + norms - 2 * inner).clip(min=0)
    distances = np.sqrt(squares)
    np.fill_diagonal(distances, 0)
    return distances


def expert_distances(subject: Subject) -> dict[str, float]:
    """Layer -> mean distance of two experts' parameters."""
    found = {}
    for at in subject.last.layers:
        gram = subject.checkpoint.inner_products.get(at.name)
        if gram is not None and len(gram) > 1:
            norms = np.diag(gram)
            apart = np.sqrt((norms[:, None] + norms - 2 * gram).clip(min=0))
            found[at.name] = float(apart.sum() / (len(gram) * (len(gram) - 1)))
    return found


def _over_tasks(similarities: np.ndarray, values: np.ndarray, num: int, seed: int) -> Measure:
    T = len(values)
    if T < FEWEST_TASKS:
        return Measure(None, note=f"{T} tasks are too few")
    sharing = rankdata(((similarities.sum(axis=1) - 1) / (T - 1)).round(9))
    ranks = rankdata(values)
    units = [r - r.mean() for r in (sharing, ranks)]
    if min(np.linalg.norm(u) for u in units) <= TIE:
        return Measure(None, note="all tasks are equal")
    x, y = (u / np.linalg.norm(u) for u in units)
    places = permuted_places(T, num, np.random.default_rng(seed))
    return from_null((y[places] @ x)[:, None])[0]
