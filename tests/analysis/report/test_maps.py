"""Tasks in two dimensions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from analysis.report.__main__ import main
from analysis.report.maps import task_map
from tests.analysis.folders import write_folder
from tests.analysis.tables import shot


def test_pca_equals_scikit_learn() -> None:
    routes = shot(0.7)
    found = task_map(routes.weights, routes.distances, "pca", 0)
    pca = PCA(2).fit(routes.weights)
    assert np.abs(found.points) == pytest.approx(np.abs(pca.transform(routes.weights)), abs=1e-9)
    share = 100 * pca.explained_variance_ratio_[0]
    assert found.axes[0] == f"axis 1 ({share:.0f}%)"


def test_umap_keeps_neighbours_together() -> None:
    pytest.importorskip("umap", reason="the extra umap is not installed")
    routes = shot(1000.0, num_tasks=60, num_layers=4)
    maps = [task_map(routes.weights, routes.distances, "umap", 3).points for _ in range(2)]
    assert np.array_equal(*maps)
    apart = np.linalg.norm(maps[0][:, None] - maps[0], axis=-1) + 1e9 * np.eye(60)
    categories = routes.tasks["category"].to_numpy()
    assert (categories == categories[apart.argmin(axis=1)]).mean() > 0.9
    for values in (np.zeros((4, 2)), np.arange(4.0)[:, None] * [1, 0]):
        distances = np.abs(values[:, None] - values).sum(-1)
        assert np.isfinite(task_map(values, distances, "umap", 0).points).all()


def test_without_umap_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    run = write_folder(tmp_path / "run")
    assert main([str(run), "--map", "umap"]) == 2
    assert "pip install 'moe_tasks[umap]'" in capsys.readouterr().err
    assert not (run / "report").exists()
