"""The closing table: what it says, and that it fits where it is shown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from moe_tasks.evaluation.gain import counts_most, relative_gain
from moe_tasks.evaluation.summary import gain_lines, print_summary, summary_markdown

CATEGORIES = ("classification", "closed-book knowledge")
SYSTEMS = ("moe", "multitask", "direct")
CONTROLS = ("moe_random", "moe_untrained", "moe_category", "multitask_wide", "moe_2x")


def rows(systems: tuple[str, ...] = SYSTEMS) -> list[dict]:
    """Four tasks; multitask scores .5, moe .6, others .25; task 3 has a zero base."""
    levels = {"multitask": 0.5, "moe": 0.6}
    return [
        {
            "system": system,
            "task": f"task_{task}",
            "category": CATEGORIES[task % 2],
            "sample": sample,
            "split": "test",
            "metric": "Classification-F1",
            "score": 0.0 if task == 3 and system == "multitask" else levels.get(system, 0.25),
        }
        for task in range(4)
        for sample in ("13", "21")
        for system in systems
    ]


def printed(table: list[dict], width: int = 80, encoding: str = "utf-8", **options) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    gains = [relative_gain(table, "moe", "multitask")] if table else []
    print_summary(table, gains, console=Console(file=file, width=width), **options)
    file.seek(0)
    return file.read()


def cells(text: str, first: str) -> list[str]:
    return next(
        line.split() for line in text.splitlines() if line.strip(" |").startswith(first + " ")
    )


def test_means_per_category_and_overall() -> None:
    text = printed(rows())
    assert cells(text, "category") == ["category", "tasks", "direct", "multitask", "moe"]
    assert cells(text, "classification") == ["classification", "2", "0.250", "0.500", "0.600"]
    assert cells(text, "closed-book")[2:] == ["2", "0.250", "0.250", "0.600"]
    assert cells(text, "all") == ["all", "4", "0.250", "0.375", "0.600"]
    assert "moe over multitask: +20.0% [20.0, 20.0] over 3 tasks" in text
    assert "mean score: +60.0%" in text
    assert "over 4 tasks (4 up, 0 down, 0 equal)" in text
    assert "1 task left out: base is zero: task_3" in text


def test_missing_scores_are_marked() -> None:
    table = rows()
    for r in table:
        if r["system"] == "moe" and r["task"] == "task_0":
            r["score"] = ""
    text = printed(table)
    assert cells(text, "classification")[-1] == "0.600*"
    assert "* moe: 1 task without a score, not in the mean: task_0" in text


@pytest.mark.parametrize("width", [80, 60, 132])
def test_every_line_fits_and_every_system_is_shown(width: int) -> None:
    text = printed(rows(SYSTEMS + CONTROLS), width, per_task=True, majority={"task_0": 0.5})
    assert max(map(len, text.splitlines())) <= width
    heads = " ".join(line for line in text.splitlines() if line.startswith("category"))
    assert set(SYSTEMS + CONTROLS) <= set(heads.split())


def test_plain_where_there_is_no_terminal() -> None:
    text = printed(rows(), encoding="ascii")
    assert text.isascii()
    assert "\x1b" not in printed(rows())


def test_task_table_has_the_majority_baseline() -> None:
    text = printed(rows(), per_task=True, majority={"task_0": 0.5, "task_1": None})
    assert cells(text, "task") == ["task", "metric", "majority", "direct", "multitask", "moe"]
    assert cells(text, "task_0") == ["task_0", "Class-F1", "0.500", "0.250", "0.500", "0.600"]
    assert cells(text, "task_1")[2] == "-"


def test_names_are_shown_as_they_are() -> None:
    table = rows()
    for r in table:
        r["task"] = f"[red]{r['task']}|<b>"
        r["category"] = "[bold]*x*"
    text = printed(table, per_task=True)
    assert "[red]task_0|<b>" in text
    assert "[bold]*x*" in text
    markdown = summary_markdown(table, [], per_task=True)
    assert "\\[red\\]task\\_0\\|&lt;b>" in markdown
    assert "<b>" not in markdown


def test_markdown_is_a_table() -> None:
    table = rows()
    text = summary_markdown(table, [relative_gain(table, "moe", "multitask")])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "| all | 4 | 0.250 | 0.375 | 0.600 |" in lines
    assert "- moe over multitask: +20.0%" in text


def test_nothing_scored_yet() -> None:
    assert "all" in printed([])


def test_words_for_gains_without_interval_or_average() -> None:
    one = [r for r in rows() if r["task"] == "task_0"]
    assert gain_lines(relative_gain(one, "moe", "multitask"))[0] == (
        "moe over multitask: +20.0% (no interval) over 1 task"
    )
    zero = [r for r in rows() if r["task"] == "task_3"]
    lines = gain_lines(relative_gain(zero, "moe", "multitask"))
    assert lines[0] == (
        "moe over multitask: no average relative gain: no task has a base to divide by"
    )


def test_the_task_that_counts_most_is_named_with_the_average_of_the_others() -> None:
    table = rows()
    for r in table:
        if r["system"] == "moe" and r["task"] == "task_1":
            r["score"] = 0.0  # of 0.5
    gain = relative_gain(table, "moe", "multitask")
    alone = relative_gain([r for r in table if r["task"] != "task_1"], "moe", "multitask")
    assert counts_most(gain) == ("task_1", pytest.approx(alone.average))
    assert "  counts most: task_1, -100.0%; without it +20.0%" in gain_lines(gain)
    two = [r for r in table if r["task"] != "task_0"]
    assert not any(
        "counts most" in line for line in gain_lines(relative_gain(two, "moe", "multitask"))
    )


def test_many_left_out_are_cut_short() -> None:
    table = [{**r, "score": 0.0} for r in rows()]
    table += [{**r, "task": f"more_{r['task']}", "score": 0.0} for r in rows()]
    lines = gain_lines(relative_gain(table, "moe", "multitask"))
    assert lines[-1].endswith("and 2 more")
