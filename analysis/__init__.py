"""Reads run folders, and nothing else; imports no torch."""

from analysis.runs import Run, load_run

__all__ = ["Run", "load_run"]
