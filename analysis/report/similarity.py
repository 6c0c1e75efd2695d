"""Are tasks with similar routes similar in other ways, too?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from analysis.permutation import TIE, Measure, from_null, permuted_places
from analysis.report.clusters import vector_distances
from analysis.report.scores import score_means
from analysis.report.subject import Subject
from analysis.routes import Snapshot

FEWEST_TASKS = 4


def mantel(a: np.ndarray, b: np.ndarray, *, num_permutations: int = 1000, seed: int = 0) -> Measure:
    """Spearman correlation of two distance matrices ``[tasks, tasks]`` (Mantel 1967).

    One-sided, by permuting the tasks of one.
    """
    if len(a) < FEWEST_TASKS:
        return Measure(None, note=f"{len(a)} tasks are too few")
    of_a, of_b = _ranked(a), _ranked(b)
    if of_a is None or of_b is None:
        return Measure(None, note="all distances are equal")
    first, second = squareform(of_a), squareform(of_b)
    rng = np.random.default_rng(seed)
    places = permuted_places(len(a), num_permutations, rng)
    r = [float((first * second[place][:, place]).sum()) / 2 for place in places]
    return from_null(np.array(r)[:, None], rng)[0]


def _ranked(distances: np.ndarray) -> np.ndarray | None:
    """Ranks of all pairs, standardised."""
    return _standard(rankdata(squareform(distances.round(12), checks=False)))


def _standard(values: np.ndarray) -> np.ndarray | None:
    """With mean 0 and length 1; None where all are equal."""
    values = values - values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > TIE else None


def similarity(subject: Subject, *, num_permutations: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Route distances against distances of task vectors, of the tasks' parameters and of gains.

    ``parameters``: see ``parameter_measure``. ``transfer``: tasks
    whose gain by experts (train score of the system minus that of the dense model) is alike;
    ``transfer_of_sharing``: Spearman correlation over tasks of gain with mean route similarity to
    the other tasks.
    """
    options = {"num_permutations": num_permutations, "seed": seed}
    routes, vectors = subject.last.distances, subject.vectors()
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
            parameter_measure(subject, num_permutations=min(num_permutations, 200), seed=seed)
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
    means = score_means(subject.run)["train"]
    mine, base = means.get(subject.system, {}), means.get("multitask", {})
    return {task: score - base[task] for task, score in mine.items() if task in base}


def parameter_measure(subject: Subject, *, num_permutations: int = 200, seed: int = 0) -> Measure:
    """Correlation of route distances with ``parameter_distances``.

    Tasks that share experts share parameters, so that it is high for any experts. Chance and
    p-value are therefore by permuting each layer's experts: do tasks whose routes differ more use
    experts that lie farther apart? (Pearson: ranks would go by the number of other experts alone.)
    """
    shot = subject.last
    grams = _grams(subject)
    if grams is None:
        return Measure(None, note="no experts' weights")
    if len(shot.weights) < FEWEST_TASKS:
        return Measure(None, note=f"{len(shot.weights)} tasks are too few")
    routes = _standard(squareform(shot.distances, checks=False))
    rng = np.random.default_rng(seed)
    r = []
    for draw in range(num_permutations + 1):
        if draw:
            grams = [gram[np.ix_(*[rng.permutation(len(gram))] * 2)] for gram in grams]
        distances = _standard(squareform(_parameter_distances(shot, grams), checks=False))
        if routes is None or distances is None:
            return Measure(None, note="all distances are equal")
        r.append(float(routes @ distances))
    return from_null(np.array(r)[:, None], rng)[0]


def parameter_distances(subject: Subject) -> np.ndarray | None:
    """``[tasks, tasks]``: distance of the parameters that two tasks' routes choose or merge."""
    grams = _grams(subject)
    return None if grams is None else _parameter_distances(subject.last, grams)


def _grams(subject: Subject) -> list[np.ndarray] | None:
    """Inner products of each layer's experts; None unless all are known."""
    layers, products = subject.last.layers, subject.checkpoint.inner_products
    found = [products[at.name] for at in layers if len(products.get(at.name, ())) == at.num_experts]
    return found if len(found) == len(layers) else None


def _parameter_distances(shot: Snapshot, grams: Sequence[np.ndarray]) -> np.ndarray:
    squares = np.zeros((len(shot.weights),) * 2)
    for at, gram in zip(shot.layers, grams, strict=True):
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
    sharing = _standard(rankdata(((similarities.sum(axis=1) - 1) / (T - 1)).round(9)))
    gains = _standard(rankdata(values))
    if sharing is None or gains is None:
        return Measure(None, note="all tasks are equal")
    rng = np.random.default_rng(seed)
    return from_null((gains[permuted_places(T, num, rng)] @ sharing)[:, None], rng)[0]
