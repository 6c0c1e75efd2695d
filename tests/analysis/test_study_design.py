"""A design study: one row per setting, paired with the dense base of its seed and split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.study import main
from analysis.study_runs import gather
from analysis.study_table import study_markdown
from tests.analysis.designs import SYSTEMS, by_label, config, ratios
from tests.analysis.tables import write_scored


@pytest.fixture
def design(tmp_path: Path) -> Path:
    """Two routers x two selections x seeds 1-3 on one split; base (.4, .6) in every run."""
    moe = {
        ("linear", "gumbel_st"): [(0.5, 0.6), (0.6, 0.6), (0.7, 0.6)],  # +10, +20, +30%
        ("linear", "average"): [(0.4, 0.6), (0.4, 0.5), (0.4, 0.4)],  # 0, -10, -20%
        ("lstm", "gumbel_st"): [(0.5, 0.6), (0.5, 0.6), (0.8, 0.6)],  # +10, +10, +40%
        ("lstm", "average"): [(0.4, 0.6), (0.5, 0.6), (0.4, 0.6)],  # 0, +10, 0%
    }
    number = 0
    for (router, selection), scores in moe.items():
        for seed, score in enumerate(scores, start=1):
            means = {"multitask": (0.4, 0.6), "moe": score}
            keys = config(router, selection, num_threads=number, logging={"wandb": str(number)})
            write_scored(tmp_path / "design" / str(number), means, seed=seed, **keys)
            number += 1
    return tmp_path / "design"


LABELS = [
    "multitask",
    "moe: router=linear, selection=gumbel_st",
    "moe: router=lstm, selection=gumbel_st",
    "moe: router=lstm, selection=average",
    "moe: router=linear, selection=average",
]


def test_one_row_per_setting(design: Path) -> None:
    study = gather(design)
    rows = by_label(study)
    assert sorted(rows) == sorted(LABELS)
    assert next(iter(rows)) == LABELS[0]
    assert list(rows)[3:] == LABELS[3:]  # the better ones first; the first two are equal
    assert [len(rows[label]) for label in LABELS] == [3] * 5
    assert ratios(study) == {
        LABELS[0]: [],
        LABELS[1]: [10, 20, 30],
        LABELS[2]: [10, 10, 40],
        LABELS[3]: [0, 10, 0],
        LABELS[4]: [0, -10, -20],
    }
    first = rows[LABELS[1]][0]
    assert first.average_relative_gain == pytest.approx(12.5)  # of +25% and 0%
    assert first.unseen_score == pytest.approx(0.55)
    assert first.train_score == pytest.approx(0.65)
    assert rows["multitask"][0].runs == ("0", "3", "6", "9")
    assert study.incomplete == []
    assert len(study.notes) == 1
    assert study.notes[0].endswith(": multitask.")


def test_printed_table(design: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(design)]) == 0
    text = capsys.readouterr().out.replace("\\_", "_")
    lines = {line.split(" | ")[0][2:]: line for line in text.split("**Ratio")[0].splitlines()}
    assert text.index(f"| {LABELS[0]} |") < text.index(f"| {LABELS[1]} |")
    assert lines["multitask"] == "| multitask | 3 | 0.600 | 0.500 | base | - | - | - | - | - |"
    linear, lstm = lines[LABELS[1]].split(" | "), lines[LABELS[2]].split(" | ")
    # t interval of 10, 20, 30 and of 10, 10, 40: 20 -+ 4.3027 * sd / sqrt(3).
    assert linear[1:6] == ["3", "0.700", "0.600", "+20.0", "-4.8 to +44.8"]
    assert lstm[1:6] == ["3", "0.700", "0.600", "+20.0", "-23.0 to +63.0"]
    # p = 1 - t / sqrt(t^2 + 2): .074 (linear), .184 (lstm), .423 (0, 10, 0) and .225 (0, -10, -20)
    assert [line.split(" | ")[8] for line in (lines[a] for a in LABELS[1:])] == [
        "0.297", "0.551", "0.551", "0.551",
    ]  # fmt: skip
    assert linear[7] == "3 of 3"
    assert linear[9].startswith("+25.0")  # ARG of +12.5, +25 and +37.5
    assert "for the 4 comparisons in this table" in text
    assert "12 runs; seeds 1, 2, 3; splits a; 2 unseen tasks; base multitask." in text
    assert f"| {LABELS[3]} | +0.0 | +10.0 | +0.0 |" in text
    table = pd.read_csv(design / "study.csv")
    assert len(table) == 15
    assert set(table["setting"].dropna()) == {label.removeprefix("moe: ") for label in LABELS[1:]}
    assert (design / "study.png").stat().st_size > 5000


def test_base_of_another_setting(tmp_path: Path) -> None:
    for seed, base in ((1, 0.5), (2, 0.4)):
        means = {"multitask": (base,), "moe": (0.5,)}
        write_scored(tmp_path / f"a{seed}", means, seed=seed, **config())
        keys = config("lstm", systems={"moe": SYSTEMS["moe"]})
        write_scored(tmp_path / f"b{seed}", {"moe": (0.6,)}, seed=seed, **keys)
    study = gather(tmp_path)
    assert ratios(study)["moe: router=lstm"] == [20, 50]
    assert study.incomplete == study.notes == []


def test_base_of_the_same_training(tmp_path: Path) -> None:
    """Runs without the base are paired with that of another router, not of another length."""
    for steps, base in ((600, 0.4), (1200, 0.5)):
        training = {"training": {"steps": steps}}
        means = {"multitask": (base,), "moe": (0.5,)}
        write_scored(tmp_path / f"linear{steps}", means, **config(**training))
        write_scored(tmp_path / f"lstm{steps}", {"moe": (0.6,)}, **config("lstm", **training))
    found = ratios(gather(tmp_path))
    assert found["moe: router=lstm, training.steps=600"] == [50]
    assert found["moe: router=lstm, training.steps=1200"] == [20]


def test_dense_runs_that_disagree(tmp_path: Path) -> None:
    for router, base in (("linear", 0.4), ("lstm", 0.6)):
        means = {"multitask": (base,), "moe": (0.75,)}
        write_scored(tmp_path / router, means, **config(router))
    study = gather(tmp_path)
    assert by_label(study)["multitask"][0].unseen_score == pytest.approx(0.5)
    assert ratios(study)["moe: router=lstm"] == ratios(study)["moe: router=linear"] == [50]
    note = next(note for note in study.notes if note.startswith("multitask: "))
    assert "0.2000 apart (seed 0, split a, runs linear, lstm); their mean is used" in note


def test_row_as_base(design: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = gather(design, base=LABELS[2])
    assert study.rows[0].label == LABELS[2]
    assert ratios(study)[LABELS[1]] == [0, 9.090909, -7.142857]  # .55/.55, .60/.55, .65/.70
    assert ratios(study)["multitask"] == [-9.090909, -9.090909, -28.571429]
    assert main([str(design), "--base", "moe: router=lstm"]) == 2
    assert "no run has scores of system 'moe: router=lstm'" in capsys.readouterr().err


def test_missing_seeds_are_noted(design: Path) -> None:
    (design / "11" / "scores.csv").unlink()
    study = gather(design)
    assert len(by_label(study)[LABELS[3]]) == 2
    assert study.incomplete == [("11", "scores.csv is missing: the run has not finished")]
    assert any(note.endswith(f"{LABELS[3]} (seed 3, split a).") for note in study.notes)
    text = study_markdown(study).replace("\\_", "_")
    assert f"| {LABELS[3]} | +0.0 | +10.0 | - |" in text
    assert f"{LABELS[3]} | 2 | 0.625 | 0.525 | +5.0 |" in text  # with no p-value of two runs:
    assert "1 of 2 | - | +6.2 |" in text or "1 of 2 | - | +6.3 |" in text


def test_separate_tables_share_the_base(design: Path) -> None:
    for run in map(str, range(6, 12)):
        scores = pd.read_csv(design / run / "scores.csv")
        scores[scores["system"] == "moe"].to_csv(design / run / "scores.csv", index=False)
    study = gather(design, by=["router.name"])
    lstm = [row for row in study.rows if row.group == "router=lstm"]
    assert {row.label for row in lstm} == {"moe: selection=gumbel_st", "moe: selection=average"}
    assert sorted(round(row.ratio or 0, 6) for row in lstm) == [0, 0, 10, 10, 10, 40]


def test_several_folders(design: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = config("gru")
    write_scored(
        tmp_path / "later" / "0", {"multitask": (0.4, 0.6), "moe": (0.6, 0.6)}, seed=1, **keys
    )
    again = {"multitask": (0.4, 0.6), "moe": (0.8, 0.6)}
    write_scored(tmp_path / "later" / "1", again, seed=1, **config())  # repeats design/0
    folders = [design, tmp_path / "later", tmp_path / "later" / "0"]
    assert main(list(map(str, folders))) == 0
    assert str(design / "study.md") in capsys.readouterr().out
    study = gather(folders)
    found = ratios(study)
    assert found["moe: router=gru, selection=gumbel_st"] == [20]
    assert found[LABELS[1]] == [40, 20, 30]
    assert [run for run, _ in study.incomplete] == [str(design / "0")]
    assert main([str(design), str(tmp_path / "absent")]) == 2


def test_a_split_for_each_seed(tmp_path: Path) -> None:
    for seed in (1, 2):
        means = {"multitask": (0.5,), "moe": (0.6,)}
        write_scored(tmp_path / str(seed), means, seed=seed, split=str(seed), **config())
    text = study_markdown(gather(tmp_path))
    assert "| system | 1 / 1 | 2 / 2 |" in text
    assert "share their unseen tasks" not in text
