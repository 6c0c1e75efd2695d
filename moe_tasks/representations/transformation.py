"""From raw vectors to task vectors: one affine map, fitted on the training tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_tasks.errors import UserError


@dataclass(frozen=True)
class Transformation:
    """``x -> (x - mean) / scale @ matrix``.

    Attributes:
        mean, scale: ``[raw dim]``.
        matrix: ``[raw dim, dim]``.
    """

    mean: Tensor
    scale: Tensor
    matrix: Tensor

    def __call__(self, raw: Tensor) -> Tensor:
        """``[..., raw dim]`` to ``[..., dim]``."""
        return (raw - self.mean) / self.scale @ self.matrix


def fit_transformation(
    raw: Tensor, *, standardise: bool, whiten: float, dim: int | None = None
) -> Transformation:
    """Principal directions of centred vectors, scaled so that all numbers together have
    standard deviation 1.

    Args:
        raw: ``[tasks, raw dim]`` of the training tasks.
        standardise: give every raw dimension the same weight first.
        whiten: directions are divided by their singular value to this power: 0 leaves distances
            as they are (PCA), 1 makes all directions equally wide.
        dim: at most so many directions, the widest; never more than the tasks have, which is one
            less than there are tasks.

    Raises:
        UserError: all rows are equal.
    """
    mean = raw.mean(0)
    scale = raw.std(0, correction=0).clamp_min(1e-6) if standardise else torch.ones_like(mean)
    standard = (raw - mean) / scale
    _, widths, directions = torch.linalg.svd(standard, full_matrices=False)
    kept = widths > 1e-3 * widths[0].clamp_min(1e-6)  # centred: at most one less than tasks
    if dim is not None:
        kept[dim:] = False
    if not kept.any():
        raise UserError("task vectors: all training tasks have the same examples")
    matrix = directions[kept].mT * widths[kept] ** -whiten
    matrix /= (standard @ matrix).std(correction=0)
    return Transformation(mean, scale, matrix)
