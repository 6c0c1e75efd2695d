"""Tasks in two dimensions: principal axes, or UMAP (an extra)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.permutation import TIE
from moe_tasks.errors import UserError

METHODS = ("pca", "umap")
_NEIGHBOURS = 15


@dataclass(frozen=True)
class TaskMap:
    """``points [tasks, 2]`` with the names of the two axes."""

    method: str
    points: np.ndarray
    axes: tuple[str, str]


def task_map(values: np.ndarray, distances: np.ndarray, method: str, seed: int) -> TaskMap:
    """Places tasks with ``values [tasks, dim]`` and ``distances [tasks, tasks]``.

    ``pca`` goes by the values, ``umap`` (McInnes et al. 2018) by the distances; of tasks that are
    all equal there is no UMAP.

    Raises:
        UserError: umap-learn is not installed.
    """
    points, shares = principal_axes(values)
    if method == "pca" or distances.max() <= TIE:
        axes = [f"axis {n} ({100 * share:.0f}%)" for n, share in enumerate(shares, start=1)]
        return TaskMap("PCA", points, (axes[0], axes[1]))
    reducer = _umap().UMAP(
        n_neighbors=min(_NEIGHBOURS, len(values) - 1),
        metric="precomputed",
        init=points if np.ptp(points, axis=0).min() > TIE else "random",
        random_state=seed,
        n_jobs=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is precomputed or disconnected
        points = np.asarray(reducer.fit_transform(distances))
    return TaskMap("UMAP", points, ("UMAP 1", "UMAP 2"))


def check_method(method: str) -> None:
    """``UserError`` if what ``method`` needs is not installed."""
    if method == "umap":
        _umap()


def _umap() -> Any:
    try:
        import umap  # pyright: ignore[reportMissingImports]  # slow to import, and an extra
    except ImportError as error:
        raise UserError(
            "the UMAP map needs umap-learn: pip install 'moe_tasks[umap]', or leave --map umap out"
        ) from error
    return umap


def principal_axes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates ``[tasks, 2]`` on the first two principal axes, and their shares of variance."""
    centred = values - values.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(2, len(size))
    points = np.zeros((len(values), 2))
    points[:, :count] = left[:, :count] * size[:count]
    total = float((size**2).sum())
    shares = np.zeros(2)
    shares[:count] = size[:count] ** 2 / total if total > 0 else 0.0
    # Signs are arbitrary: make the largest coordinate positive.
    signs = np.sign(points[np.abs(points).argmax(axis=0), [0, 1]])
    return points * np.where(signs == 0, 1, signs), shares
