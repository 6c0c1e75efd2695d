"""GLUE's folders: what rows become, and files with faults."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scipy import stats
from sklearn.metrics import f1_score

from moe_tasks import config
from moe_tasks.errors import UserError
from moe_tasks.evaluation.glue import average
from moe_tasks.evaluation.metrics import score
from moe_tasks.tasks.base import Example, TaskCollection
from moe_tasks.tasks.glue_hub import read_glue_test
from tests.tasks.glue_tables import stand_in

MNLI = "index\tgenre\tsentence1\tsentence2\tgold_label\n"
FILES = {
    "CoLA/train.tsv": "gj04\t1\t\tBill broke it.\ngj04\t0\t*\tBill it broke \"the.\n",
    "CoLA/dev.tsv": "gj04\t0\t*\tMary sing.\ngj04\t1\t\tMary sings.\n",
    "STS-B/train.tsv": "index\tsentence1\tsentence2\tscore\n1\ta\tb\t4.750\n",
    "STS-B/dev.tsv": "index\tsentence1\tsentence2\tscore\n1\tc\td\t0\n",
    "MNLI/train.tsv": MNLI + "1\tfiction\tall\tsome\tentailment\n",
    "MNLI/dev_matched.tsv": MNLI + "1\tfiction\tall\tnone\tcontradiction\n",
    "MNLI/dev_mismatched.tsv": MNLI + "1\tletters\tone\ttwo\tneutral\n",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        file = tmp_path / "glue" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\xef\xbb\xbf" + content.encode())
    return tmp_path / "glue"


def build(root: Path, **keys: object) -> TaskCollection:
    own = {"name": "glue", "path": str(root), "cache_dir": str(root.parent / "cache"), **keys}
    return config.part("tasks", own).build()


def test_rows_of_each_kind(root: Path) -> None:
    found = build(root)
    assert found.roles["train"] == ("cola", "sts-b", "mnli")
    assert found.examples("cola", "train", "full") == [
        Example("Bill broke it.", ("1",), ("0", "1")),
        Example('Bill it broke "the.', ("0",), ("0", "1")),
    ]
    assert found.examples("sts-b", "train", "full") == [Example("a [SEP] b", ("4.750",))]
    nli = ("contradiction", "entailment", "neutral")
    assert found.examples("mnli", "dev", "full")[0] == Example("all [SEP] none", nli[:1], nli)
    assert found.examples("mnli-mm", "dev", "full")[0] == Example("one [SEP] two", nli[2:], nli)
    assert not found.has_rows("mnli-mm", "train", "full")
    assert found.task("mnli-mm").features == {"labels": list(nli), "head": "mnli"}
    assert found.task("sts-b").features["labels"] == []
    assert build(root, tasks=["cola"]).roles["train"] == ("cola",)
    assert build(root, separator="|").examples("sts-b", "dev", "full")[0].input == "c|d"


MISTAKES = {
    "column": ("STS-B/dev.tsv", "index\tsentence_1\tsentence2\tscore\n", "no column 'sentence1'"),
    "no header": ("MNLI/train.tsv", "1\tx\tall\tsome\tneutral\n", r"train\.tsv:1: no column"),
    "cells": ("CoLA/dev.tsv", "gj04\t1\tMary.\n", r"dev\.tsv:1: 3 columns; expected 4"),
    "label": ("CoLA/train.tsv", "gj04\t2\t\tMary.\n", r"train\.tsv:1: output '2' is not among"),
    "no label": ("CoLA/train.tsv", "gj04\t\t\tMary.\n", "column 'label' is empty: a row without"),
    "no number": ("STS-B/train.tsv", FILES["STS-B/dev.tsv"][:-2] + "x\n", "'score' is 'x'; expe"),
    "hidden": ("STS-B/train.tsv", FILES["STS-B/dev.tsv"][:-2] + "-1\n", "'score' is -1: a row wit"),
    "empty text": ("CoLA/dev.tsv", "gj04\t1\t\t \n", r"dev\.tsv:1: column 'sentence' is empty"),
    "no rows": ("CoLA/dev.tsv", "", r"dev\.tsv: no usable dev rows of 'cola'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_fault_in_a_file_is_one_message(name: str, root: Path) -> None:
    file, content, message = MISTAKES[name]
    (root / file).write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        build(root)
    assert "\n" not in str(raised.value)


def test_what_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="unknown task 'colla'; did you mean 'cola'"):
        build(root, tasks=["colla"])
    with pytest.raises(UserError, match=r"no file .*RTE/train\.tsv"):
        build(root, tasks=["rte"])
    (root / "MNLI" / "dev_matched.tsv").unlink()
    with pytest.raises(UserError, match=r"no file .*dev_matched\.tsv; did you mean 'dev_mismat"):
        build(root)
    with pytest.raises(UserError, match="holds none of GLUE's folders"):
        build(root / "CoLA")


def test_bad_rows_can_be_left_out(root: Path) -> None:
    (root / "CoLA" / "train.tsv").write_text(FILES["CoLA/train.tsv"] + "gj04\t1\n")
    found = build(root, on_bad_row="skip", max_bad_share=0.3)
    assert len(found.examples("cola", "train", "full")) == 2
    assert [line.split(": ", 1)[1] for line in found.skipped] == ["2 columns; expected 4"]


def test_official_scores() -> None:
    wanted, given = list("1101001"), list("1011001")
    references = [[label] for label in wanted]
    accuracy = sum(a == b for a, b in zip(wanted, given, strict=True)) / 7
    f1 = f1_score(wanted, given, pos_label="1")
    assert score("F1-of-1", given, references) == pytest.approx(f1)
    assert score("F1-and-ACC", given, references) == pytest.approx((f1 + accuracy) / 2)
    assert score("F1-of-1", ["0"], [["0"]]) == 0
    numbers, guesses = [1.0, 2.5, 2.5, 4.0, 0.2], [0.9, 2.0, 3.1, 3.1, 0.4]
    texts, truths = list(map(str, guesses)), [[str(n)] for n in numbers]
    rank, linear = stats.spearmanr(numbers, guesses)[0], stats.pearsonr(numbers, guesses)[0]
    assert score("Spearman-Correlation", texts, truths) == pytest.approx(rank)
    assert score("Pearson-and-Spearman", texts, truths) == pytest.approx((rank + linear) / 2)
    assert score("Spearman-Correlation", ["x"] * 5, truths) == 0
    scores = {"mrpc": {"f1": 0.8, "acc": 0.6}, "mnli": {"m": 0.5}, "mnli-mm": {"mm": 0.7}}
    assert average(scores) == pytest.approx((0.7 + 0.6) / 2)


def test_the_real_folder(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "glue"
    if not folder.is_dir():
        pytest.skip("no data/glue in the shared folder")
    found = build(folder, cache_dir=str(tmp_path))
    assert len(found.roles["train"]) == 9
    assert found.skipped == ()
    sizes = {t: [len(found.slice(t, s, "full")) for s in ("train", "dev")] for t in found.tasks}
    assert sizes["cola"] == [1200, 300]
    assert sizes["wnli"] == [635, 71]
    for task in found.tasks.values():
        rows = found.examples(task.name, "dev", "full")
        seen = Counter(row.outputs[0] for row in rows)
        assert not task.features["labels"] or set(seen) == set(task.features["labels"])
        own = [row.outputs[0] for row in rows]
        assert score(task.metric, own, [[o] for o in own]) == pytest.approx(1.0)


def from_hub(tmp_path: Path, **keys: object) -> TaskCollection:
    own = {"name": "glue", "hub": "some/glue", "cache_dir": str(tmp_path / "cache"), **keys}
    return config.part("tasks", own).build()


def test_the_hubs_tables_are_the_folders_rows(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stand_in(monkeypatch)
    found = from_hub(tmp_path, tasks=["cola", "sts-b", "mnli", "qnli"])
    assert found.roles["train"] == ("cola", "sts-b", "mnli", "qnli")
    assert {split for table, split in asked if table == "mnli"} == {
        "train", "validation_matched", "validation_mismatched",
    }  # fmt: skip
    scores = (root / "STS-B" / "dev.tsv").read_text().replace("0\n", "0.000\n")  # as GLUE has them
    (root / "STS-B" / "dev.tsv").write_text(scores)
    official = build(root)
    for name in ("cola", "sts-b", "mnli", "mnli-mm"):
        assert found.task(name) == official.task(name)
        for split in ("train", "dev"):
            if name == "mnli-mm" and split == "train":
                assert not found.has_rows(name, split, "full")
                continue
            rows = official.examples(name, split, "full")
            own = found.examples(name, split, "full")
            assert own == rows[: len(own)], (name, split)
            assert own
    labels = ("entailment", "not_entailment")
    assert found.examples("qnli", "dev", "full") == [
        Example("Who? [SEP] No.", ("not_entailment",), labels)
    ]
    before = len(asked)
    again = from_hub(tmp_path, tasks=["cola", "sts-b", "mnli", "qnli"])
    assert again.examples("mnli-mm", "dev", "full") == found.examples("mnli-mm", "dev", "full")
    assert len(asked) == before  # from the cache
    assert tuple(from_hub(tmp_path, tasks=["qqp"]).tasks) == ("qqp",)


HUB_MISTAKES = {
    "hidden": ("cola", {"cola__train": [{"sentence": "x", "label": -1}]},
               "some/glue/train:1: 'label' is -1: a row without a label"),
    "hidden number": ("sts-b", {"stsb__train": [{"sentence1": "x", "sentence2": "y", "label": -1}]},
                      "'label' is -1: a row without a label; valid: 0 to 5"),
    "no number": ("sts-b", {"stsb__train": [{"sentence1": "x", "sentence2": "y", "label": "z"}]},
                  "'label' is 'z'; expected a number"),
    "column": ("mnli", {"mnli__train": [{"premise": "x", "hypotesis": "y", "label": 0}]},
               "no 'hypothesis'; did you mean 'hypotesis'"),
    "label": ("qqp", {"qqp__train": [{"question1": "x", "question2": "y", "label": 2}]},
              "'label' is 2: outside the list of labels; valid: 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", HUB_MISTAKES)
def test_a_wrong_table_is_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, changed, message = HUB_MISTAKES[name]
    stand_in(monkeypatch, **changed)
    with pytest.raises(UserError, match=message) as raised:
        from_hub(tmp_path, tasks=[task])
    assert "\n" not in str(raised.value)


def test_one_source_of_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'path' \(a folder\) or 'hub'.*both are given"):
        from_hub(tmp_path, path=str(tmp_path))
    with pytest.raises(UserError, match=r"'path' \(a folder\) or 'hub'.*neither is given"):
        from_hub(tmp_path, hub=None)
    with pytest.raises(UserError, match=r"hub data set some/glue \(cola\), split train: ."):
        from_hub(tmp_path, tasks=["cola"])  # which the tests cannot reach


def test_test_splits_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    assert read_glue_test("some/glue", ["cola", "qqp", "mnli-mm", "ax"], "|") == {
        "cola": ["Bill whistled."],
        "qqp": ["Who?|"],  # a row without a text keeps its place
        "mnli-mm": ["one|three"],
        "ax": ["The cat.|A cat."],
    }
    stand_in(monkeypatch, ax__test=[{"premise": "x"}])
    with pytest.raises(UserError, match=r"some/glue/test:1: no 'hypothesis'"):
        read_glue_test("some/glue", ["ax"], "|")
