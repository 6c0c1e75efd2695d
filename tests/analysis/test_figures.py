"""Figures: order of rows, any shape, odd names, labels inside the picture and not overlapping."""

from __future__ import annotations

import itertools
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import style
from analysis.figures import gain_bars, route_heatmap, study_dots
from analysis.heatmap import task_order
from analysis.study_runs import gather
from moe_tasks.evaluation.gain import relative_gain
from tests.analysis.tables import route_table, score_table, shot, write_run, write_scored


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    save = style.save

    def keep(figure: Figure, path: Path) -> None:
        saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(style, "save", keep)
    return saved


def boxes(figure: Figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Texts that are drawn, with their places (left, bottom, right, top) in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    return [(t.get_text(), t.get_window_extent(canvas.get_renderer()).extents) for t in texts]


def check_legible(figure: Figure) -> None:
    width, height = figure.canvas.get_width_height()
    found = boxes(figure)
    for text, (left, bottom, right, top) in found:
        inside = left >= -1 and bottom >= -1 and right <= width + 1 and top <= height + 1
        assert inside, f"{text!r} leaves the picture"
    for i, (a, (left, bottom, right, top)) in enumerate(found):
        for b, (other_left, other_bottom, other_right, other_top) in found[:i]:
            across = min(right, other_right) - max(left, other_left)
            along = min(top, other_top) - max(bottom, other_bottom)
            # Boxes hold the room for accents and tails, so a little overlap is none of ink.
            assert across < 1.5 or along < 3, f"{a!r} and {b!r} overlap"


@pytest.mark.parametrize(
    ("num_tasks", "num_layers", "num_experts", "num_categories"),
    [(40, 2, 3, 5), (109, 6, 3, 7), (6, 1, 8, 2), (1, 1, 1, 1), (30, 6, 2, 30)],
)
def test_heatmap_is_legible(
    tmp_path: Path,
    figures: list[Figure],
    num_tasks: int,
    num_layers: int,
    num_experts: int,
    num_categories: int,
) -> None:
    table = route_table(
        1.0,
        num_tasks=num_tasks,
        num_layers=num_layers,
        num_experts=num_experts,
        num_categories=num_categories,
    )
    route_heatmap(table, tmp_path / "routes.png", title="run")
    check_legible(figures[0])
    texts = [text for text, _ in boxes(figures[0])]
    assert {f"task_{t}" for t in range(num_tasks)} <= set(texts)
    assert {f"cat_{c}" for c in range(num_categories)} <= set(texts)
    assert {"encoder", "decoder", f"run: routes of {num_tasks} tasks at step 100"} <= set(texts)
    assert matplotlib.image.imread(tmp_path / "routes.png").std() > 0.01


def test_heatmap_shows_the_weights_in_order(tmp_path: Path, figures: list[Figure]) -> None:
    table = route_table(1.0)
    route_heatmap(table, tmp_path / "routes.png")
    routes = shot(1.0)
    drawn = np.concatenate([axes.images[0].get_array() for axes in figures[0].axes[:2]], axis=1)
    np.testing.assert_allclose(drawn, routes.weights[task_order(routes)])


def test_tasks_lie_by_category_subcategory_and_similarity() -> None:
    routes = shot(1.0, num_tasks=60, hard=True)
    order = task_order(routes)
    assert sorted(order) == list(range(60))
    labels = [tuple(row) for row in routes.tasks[["category", "subcategory"]].to_numpy()[order]]
    assert labels == sorted(labels)

    def total(rows: np.ndarray) -> float:
        steps = [routes.distances[a, b] for a, b in pairwise(rows)]
        return sum(s for s, (a, b) in zip(steps, pairwise(labels), strict=True) if a == b)

    as_given = np.array(sorted(range(60), key=lambda t: (labels[list(order).index(t)], t)))
    assert total(order) < total(as_given)


def test_odd_names_are_text(tmp_path: Path, figures: list[Figure]) -> None:
    table = route_table(1.0, num_tasks=4, num_categories=2)
    odd = {"task_0": "<b>$\\frac$</b>", "task_1": "=1+1", "task_2": "x" * 300, "task_3": "$"}
    table["task"] = table["task"].replace(odd)
    table["category"] = "$a_b$ & \\c"
    for ending in ("png", "svg"):
        route_heatmap(table, tmp_path / f"routes.{ending}", title="$x")
    texts = [text for text, _ in boxes(figures[0])]
    assert "<b>$\\frac$</b>" in texts
    assert max(len(text) for text in texts) <= 80
    assert "<b>" not in (tmp_path / "routes.svg").read_text()


def test_gain_bars(tmp_path: Path, figures: list[Figure]) -> None:
    scores = score_table({"multitask": 0.0, "moe": 0.1}, num_tasks=20)
    scores["task"] += "_with_a_name_that_is_long"
    base = scores["system"] == "multitask"
    scores.loc[base & scores["task"].str.startswith("new_3_"), "score"] = 0.0
    scores.loc[base & scores["task"].str.startswith("new_4_"), "score"] = 0.001
    scores.loc[base & scores["task"].str.startswith("new_5_"), "score"] = None
    gain = relative_gain(scores.to_dict("records"), "moe", "multitask")
    gain_bars(gain, tmp_path / "gain.png")
    check_legible(figures[0])
    texts = [text for text, _ in boxes(figures[0])]
    assert {"base is zero", "no score of multitask", "not scored"} <= set(texts)
    assert sum(text.endswith("% >") for text in texts) == 1
    assert sum(text.startswith("new_") for text in texts) == 20


def test_gain_bars_without_any_gain(tmp_path: Path, figures: list[Figure]) -> None:
    scores = score_table({"multitask": -1.0, "moe": 0.1}, num_tasks=2)
    gain = relative_gain(scores.to_dict("records"), "moe", "multitask")
    gain_bars(gain, tmp_path / "gain.png")
    check_legible(figures[0])


def test_study_dots(tmp_path: Path, figures: list[Figure]) -> None:
    effects = {"direct": -0.2, "multitask": 0.0, "moe": 0.08, "moe_2x": 0.1, "multitask_2x": 0.05}
    for seed in range(3):
        for split in "ab":
            scores = score_table(effects, seed=seed)
            write_run(tmp_path / f"{seed}{split}", scores, seed=seed, split=split)
    study_dots(gather(tmp_path), tmp_path / "study.png")
    check_legible(figures[0])
    texts = {text for text, _ in boxes(figures[0])}
    assert {"direct", "moe", "moe_2x over multitask_2x", "a", "b"} <= texts


def test_study_dots_of_many_settings(tmp_path: Path, figures: list[Figure]) -> None:
    routers = ("linear_layer_specific", "transformer_layer_specific", "lstm", "gru")
    for number, parts in enumerate(
        itertools.product(routers, ("gumbel_st", "softmax"), ("text", "learned"), (1, 2))
    ):
        router, selection, vectors, seed = parts
        groups = {"router": router, "selection": selection, "task_vectors": vectors}
        config: dict[str, Any] = {key: {"name": name} for key, name in groups.items()}
        config["systems"] = {"multitask": {"model": "dense"}, "moe": {}}
        means = {"multitask": (0.5, 0.6), "moe": (0.5 + number / 200, 0.6)}
        write_scored(tmp_path / str(number), means, seed=seed, **config)
    study_dots(gather(tmp_path), tmp_path / "study.png")
    check_legible(figures[0])
    texts = [text for text, _ in boxes(figures[0])]
    assert sum(text.startswith("moe: ") for text in texts) == 16
    assert "moe: transformer_layer_specific, gumbel_st, learned" in texts
