"""Column files and the hub's tables of named entities: the same rows; files with faults."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from moe_tasks import config
from moe_tasks.errors import UserError
from moe_tasks.tasks.base import Example
from moe_tasks.tasks.detailed import DetailedCollection

# CoNLL-2003's own files: four columns, documents, IOB1 (B- only between neighbours of one type).
TRAIN = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
Ann NNP I-NP B-PER

-DOCSTART- -X- O O

ok UH O O
"""
DEV = "Ann NNP I-NP I-PER\nleft VBD I-VP O\n"
ROWS = [
    Example("EU rejects German", ("B-ORG O B-MISC",)),
    Example("Peter Blackburn Ann", ("B-PER I-PER B-PER",)),
    Example("ok", ("O",)),
]
WNUT = "I\tO\nlike\tO\nNew\tB-location\nYork\tI-location\n\t\nBo\tB-person\n"
LABELS = ["O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "conll/eng.train": TRAIN, "conll/eng.testa": DEV, "conll/eng.testb": TRAIN,
        "wnut/train.txt": WNUT, "wnut/dev.txt": WNUT, "notes/readme.md": "",
    }  # fmt: skip
    for name, text in files.items():
        file = tmp_path / "ner" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "ner"


def build(root: Path | None, cache: Path, **keys: object) -> DetailedCollection:
    own = {"name": "ner", "path": root and str(root), "cache_dir": str(cache), **keys}
    return config.part("tasks", own).build()


def test_column_files(root: Path, tmp_path: Path) -> None:
    for _ in range(2):  # read, then from the cache
        found = build(root, tmp_path / "cache")
        assert found.roles["train"] == ("conll", "wnut")
        assert found.examples("conll", "train", "full") == ROWS
        assert found.examples("conll", "test", "full") == ROWS
        assert found.examples("conll", "dev", "full") == [Example("Ann left", ("B-PER O",))]
        wnut = [Example("I like New York", ("O O B-location I-location",)),
                Example("Bo", ("B-person",))]  # fmt: skip
        assert found.examples("wnut", "dev", "full") == wnut
        assert not found.has_rows("wnut", "test", "full")
        assert found.task("conll").features == {"head_kind": "tokens", "labels": LABELS}
        assert found.task("conll").metric == "Entity-F1"
    own = build(root, tmp_path, tasks=["conll"], types=["PER", "ORG", "MISC", "LOC"])
    labels = own.task("conll").features["labels"]
    assert (labels[:3], len(labels)) == (["O", "B-PER", "I-PER"], 9)


def test_the_hubs_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = datasets.ClassLabel(names=LABELS)
    rows = [
        {"words": e.input.split(), "ner": [LABELS.index(t) for t in e.outputs[0].split()]}
        for e in ROWS
    ]
    kinds = {"named": datasets.List(names), "numbers": datasets.List(datasets.Value("int64"))}

    def load(path: str, name: str, split: str, **others: object) -> datasets.Dataset:
        assert split in ("train", "validation")
        features = {"words": datasets.List(datasets.Value("string")), "ner": kinds[path]}
        return datasets.Dataset.from_list(rows, features=datasets.Features(features))

    monkeypatch.setattr(datasets, "load_dataset", load)
    table = {"tokens": "words", "tags": "ner", "splits": {"train": "train", "dev": "validation"}}
    hub = {
        "a": {**table, "path": "named"},
        "b": {**table, "path": "numbers", "labels": LABELS},
    }
    found = build(None, tmp_path, hub=hub)
    for task in hub:
        assert found.examples(task, "train", "full") == ROWS
        assert found.examples(task, "dev", "full") == ROWS
        assert found.task(task).features["labels"] == LABELS
    with pytest.raises(
        UserError, match="split train: its tags are numbers without names; give 'la"
    ):
        build(None, tmp_path, hub={"c": {**table, "path": "numbers"}})
    with pytest.raises(UserError, match="split train: no column 'wrds'; did you mean 'words'"):
        build(None, tmp_path, hub={"d": {**table, "path": "named", "tokens": "wrds"}})
    with pytest.raises(
        UserError, match=r"numbers/train:1: tag '3' of 'EU'; expected O, B-<type> or I"
    ):
        build(None, tmp_path, hub={"e": {**table, "path": "numbers", "labels": LABELS[:3]}})


def test_without_the_hub_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hub data set some/ner, split train: .") as raised:
        build(None, tmp_path, hub={"x": {"path": "some/ner"}})
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"'path' \(a folder\) or 'hub'.*neither is given"):
        build(None, tmp_path)


MISTAKES = {
    "columns": ("Ann NNP I-PER\n", "conll.eng.train:15: 3 columns; expected 4, the tag last"),
    "tag": ("Ann NNP I-NP PER\n", "conll.eng.train:15: tag 'PER' of 'Ann'; expected O, .*'B-PER'"),
    "inside": ("ok UH O O\nAnn NNP I-NP J-PER\n", "conll.eng.train:15: tag 'J-PER' of 'Ann'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_fault_in_a_file_is_one_message(name: str, root: Path, tmp_path: Path) -> None:
    lines, message = MISTAKES[name]
    (root / "conll" / "eng.train").write_text(f"{TRAIN}\n{lines}\nok UH O O\n")
    with pytest.raises(UserError, match=message) as raised:
        build(root, tmp_path)
    assert "\n" not in str(raised.value)
    found = build(root, tmp_path, on_bad_row="skip", max_bad_share=0.5)
    assert found.examples("conll", "train", "full") == [*ROWS, ROWS[-1]]
    assert len(found.skipped) == 1


def test_types_outside_the_list_are_named(root: Path, tmp_path: Path) -> None:
    (root / "conll" / "eng.testa").write_text("ok UH O O\n\nAnn NNP I-NP I-PERS\n")
    message = r"eng\.testa:3: entity type 'PERS' is not in the train rows; did you mean 'PER'"
    with pytest.raises(UserError, match=message):
        build(root, tmp_path)
    message = r"eng\.train:3: entity type 'MISC' is not among 'types'; valid: ORG, PER"
    with pytest.raises(UserError, match=message):
        build(root, tmp_path, types=["PER", "ORG"], tasks=["conll"])


def test_what_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    (root / "wnut" / "dev.txt").rename(root / "wnut" / "development.txt")
    with pytest.raises(
        UserError, match=r"no file .*wnut.dev\.txt; did you mean 'development\.txt'"
    ):
        build(root, tmp_path)
    with pytest.raises(UserError, match="unknown task 'wnt'; did you mean 'wnut'"):
        build(root, tmp_path, tasks=["wnt"])
    (root / "conll" / "train.txt").write_text(TRAIN)
    with pytest.raises(UserError, match=r"train\.txt: eng\.train is a train file too"):
        build(root, tmp_path)
    with pytest.raises(UserError, match=r"no task; expected <task>/train\.txt"):
        build(root / "notes", tmp_path)
