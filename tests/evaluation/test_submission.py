"""GLUE's submission files, and the test files whose rows they answer."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from moe_tasks.errors import UserError
from moe_tasks.evaluation.submission import FILES, write_submission
from moe_tasks.tasks.glue_inputs import read_test_inputs

PREDICTIONS = {
    "cola": ["1", "0"],
    "sst-2": ["0"],
    "mrpc": ["1"],
    "sts-b": ["-0.3", "2.34567", "7", "5"],
    "qqp": ["0"],
    "mnli": ["entailment", "neutral"],
    "mnli-mm": ["contradiction"],
    "qnli": ["not_entailment"],
    "rte": ["entailment"],
    "wnli": ["1"],
    "ax": ["neutral"],
}
# What gluebenchmark.com asks for, written down again.
OFFICIAL = [
    "AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI",
]  # fmt: skip


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_official_files(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "submission"
    written = write_submission(PREDICTIONS, folder)
    assert sorted(path.stem for path in folder.iterdir()) == sorted(OFFICIAL)
    assert sorted(written) == sorted(folder.iterdir())
    for task, predictions in PREDICTIONS.items():
        found = rows(folder / FILES[task])
        assert found[0] == ["index", "prediction"]
        assert [cells[0] for cells in found[1:]] == [str(n) for n in range(len(predictions))]
        if task != "sts-b":
            assert [cells[1] for cells in found[1:]] == predictions
    numbers = [cells[1] for cells in rows(folder / "STS-B.tsv")[1:]]
    assert numbers == ["0.000", "2.346", "5.000", "5.000"]
    assert (folder / "MNLI-m.tsv").read_bytes() == (
        b"index\tprediction\n0\tentailment\n1\tneutral\n"
    )


def test_older_files_are_replaced_and_others_stay(tmp_path: Path) -> None:
    write_submission({"rte": ["entailment"], "wnli": ["0"]}, tmp_path)
    write_submission({"rte": ["not_entailment"]}, tmp_path)
    assert rows(tmp_path / "RTE.tsv")[1] == ["0", "not_entailment"]
    assert rows(tmp_path / "WNLI.tsv")[1] == ["0", "0"]


MISTAKES = {
    "task": ({"colla": ["1"]}, "no task 'colla' in GLUE; did you mean 'cola'"),
    "label": ({"rte": ["entailment", "entailed"]}, "'rte', row 1: .*'entailed' is not among .*"
              "did you mean 'entailment'"),
    "number": ({"qnli": ["1"]}, "'qnli', row 0: prediction '1' is not among"),
    "no number": ({"sts-b": ["3", "high"]}, "'sts-b', row 1: .*'high' is no number; valid: 0 to 5"),
    "nan": ({"sts-b": ["nan"]}, "'nan' is no number"),
    "no rows": ({"cola": []}, "task 'cola': no predictions"),
    "nothing": ({}, "a submission without predictions; tasks: cola"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_prediction_writes_nothing(name: str, tmp_path: Path) -> None:
    predictions, message = MISTAKES[name]
    with pytest.raises(UserError, match=message):
        write_submission({"wnli": ["1"], **predictions} if predictions else {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        write_submission({"wnli": ["1"]}, tmp_path / "file")


# --- test files ---------------------------------------------------------------------------------

TEST_FILES = {
    "CoLA/test.tsv": "index\tsentence\n0\tBill whistled past the house.\n",
    "MRPC/test.tsv": (
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tIt \"fell.\tIt rose.\n"
    ),
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tWho?\t\n1\tWhy?\tHow?\n",
    "MNLI/test_matched.tsv": "index\tgenre\tsentence1\tsentence2\n0\tfiction\tall\tsome\n",
    "MNLI/test_mismatched.tsv": "index\tgenre\tsentence1\tsentence2\n0\tletters\tone\ttwo\n",
    "diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tThe cat.\tA cat.\n",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in TEST_FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    return tmp_path


def test_every_row_of_the_test_files_is_read(root: Path) -> None:
    assert read_test_inputs(root) == {
        "cola": ["Bill whistled past the house."],
        "mrpc": ['It "fell. [SEP] It rose.'],
        "qqp": ["Who? [SEP] ", "Why? [SEP] How?"],  # row 0 has no second question, but an index
        "mnli": ["all [SEP] some"],
        "mnli-mm": ["one [SEP] two"],
        "ax": ["The cat. [SEP] A cat."],
    }
    assert read_test_inputs(root, ["ax"], "|") == {"ax": ["The cat.|A cat."]}


def test_faults_of_test_files_are_one_message(root: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*RTE/test\.tsv"):
        read_test_inputs(root, ["rte"])
    with pytest.raises(UserError, match="unknown task 'axx'; did you mean 'ax'"):
        read_test_inputs(root, ["axx"])
    with pytest.raises(UserError, match=r"holds no test file, such as CoLA/test\.tsv"):
        read_test_inputs(root / "CoLA")
    for content, message in (
        ("index\tsentense\n0\ta\n", r"test\.tsv:1: no column 'sentence'; did you mean 'sentense'"),
        ("index\tsentence\n0\ta\n1\n", r"test\.tsv:3: 1 columns; expected 2"),
        ("index\tsentence\n", r"test\.tsv: no rows"),
    ):
        (root / "CoLA" / "test.tsv").write_text(content)
        with pytest.raises(UserError, match=message):
            read_test_inputs(root, ["cola"])


def test_predictions_for_the_real_folder(shared: Path, tmp_path: Path) -> None:
    """Dev labels stand for predictions: labels of every real task are those of its file."""
    from moe_tasks import config

    folder = shared / "data" / "glue"
    if not folder.is_dir():
        pytest.skip("no data/glue in the shared folder")
    own = {"name": "glue", "path": str(folder), "cache_dir": str(tmp_path / "cache")}
    found = config.part("tasks", own).build()
    labels = {
        task: [row.outputs[0] for row in found.examples(task, "dev", "full")]
        for task in found.tasks
    }
    written = write_submission(labels, tmp_path / "out")
    assert len(written) == len(labels) >= 9
    for task, path in zip(labels, written, strict=True):
        cells = rows(path)[1:]
        same = [float(a) == float(b) if task == "sts-b" else a == b
                for (_, a), b in zip(cells, labels[task], strict=True)]  # fmt: skip
        assert all(same), task
