"""The figures of ``analysis``, one function each; all write a file and return nothing."""

from analysis.bars import gain_bars
from analysis.dots import study_dots
from analysis.heatmap import route_heatmap
from analysis.scores_figure import scores_figure

__all__ = ["gain_bars", "route_heatmap", "scores_figure", "study_dots"]
