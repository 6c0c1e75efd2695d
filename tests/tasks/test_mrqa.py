"""MRQA's files and the hub's table: the same examples and places; files with faults."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from moe_tasks import config
from moe_tasks.errors import UserError
from moe_tasks.evaluation.metrics import score
from moe_tasks.tasks.base import Example
from moe_tasks.tasks.detailed import DetailedCollection

HEADER = {"header": {"dataset": "SQuAD", "split": "train"}}
CONTEXT = " [TLE] The Nile flows to the sea. The  Nile is long."
NILE = CONTEXT.rindex("The  Nile")


def span(first: int, length: int) -> dict[str, Any]:
    text = CONTEXT[first : first + length]
    spans = [[first, first + length - 1], [0, 3]]
    return {"text": text, "char_spans": spans, "token_spans": [[1, 2]]}


def question(qid: str, text: str, answers: list[str], *detected: Any) -> dict[str, Any]:
    return {"qid": qid, "question": text, "answers": answers, "detected_answers": list(detected)}


ASKED = [
    question("a1", "What is long?", ["The Nile", "Nile"], {"text": "x", "char_spans": []},
             span(NILE, 10)),
    question("a2", " Who? ", ["nobody"]),
]  # fmt: skip
LINE = {"id": "", "context": CONTEXT, "qas": ASKED, "context_tokens": [["The", 7]]}
OTHER = {"context": "Up.", "qas": [question("b", "Where?", ["Up", "Up", ""], span(0, 2))]}
EXPECTED = [
    Example(f"What is long? [SEP] {CONTEXT}", ("The Nile", "Nile")),
    Example(f"Who? [SEP] {CONTEXT}", ("nobody",)),
]


def write(file: Path, *lines: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    text = "\n".join([*texts, ""]).encode()
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, suffix in (("train", ".jsonl.gz"), ("dev", ".jsonl")):
        write(tmp_path / "mrqa" / split / f"SQuAD{suffix}", HEADER, LINE)
        write(tmp_path / "mrqa" / split / f"NewsQA{suffix}", HEADER, OTHER, LINE)
    write(tmp_path / "mrqa" / "dev" / "DROP.jsonl", HEADER, LINE)  # a set for evaluation alone
    return tmp_path / "mrqa"


def build(root: Path | None, cache: Path, **keys: object) -> DetailedCollection:
    own = {"name": "mrqa", "path": root and str(root), "cache_dir": str(cache), **keys}
    return config.part("tasks", own).build()


def check(found: DetailedCollection, task: str) -> None:
    for split in ("train", "dev"):
        assert found.examples(task, split, "full")[-2:] == EXPECTED
        starts, ends = (found.of_rows(name, task, split)[-2:] for name in ("start", "end"))
        text = EXPECTED[0].input
        # The detected answer's own place, not the first one of the same words, without its
        # last blank; the other question has none.
        assert text[starts[0] : ends[0]] == "The  Nile"
        assert starts == (text.rindex("The  Nile"), None)
        firsts = found.of_rows("context", task, split)[-2:]
        assert [e.input[n:] for e, n in zip(EXPECTED, firsts, strict=True)] == [CONTEXT] * 2
        assert found.of_rows("id", task, split)[-2:] == ("a1", "a2")


def test_official_files(root: Path, tmp_path: Path) -> None:
    for _ in range(2):  # read, then from the cache
        found = build(root, tmp_path / "cache")
        assert found.roles["train"] == ("NewsQA", "SQuAD")
        check(found, "SQuAD")
        check(found, "NewsQA")
        assert found.examples("NewsQA", "dev", "full")[0] == Example("Where? [SEP] Up.", ("Up",))
        assert found.task("SQuAD").features["head_kind"] == "span"
    assert build(root, tmp_path, tasks=["SQuAD"]).roles["train"] == ("SQuAD",)


def test_the_hubs_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(subset: str, asked: dict[str, Any]) -> dict[str, Any]:
        spans = [
            {"start": [a for a, _ in one["char_spans"]], "end": [b for _, b in one["char_spans"]]}
            for one in asked["detected_answers"]
        ]
        texts = [one["text"] for one in asked["detected_answers"]]
        detected = {"text": texts, "char_spans": spans}
        return {**asked, "subset": subset, "context": CONTEXT, "detected_answers": detected}

    def load(path: str, name: None, split: str, **others: Any) -> datasets.Dataset:
        assert split in ("train", "validation")
        rows = [row("SQuAD", ASKED[0]), row("NewsQA", ASKED[0]), row("SQuAD", ASKED[1])]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    check(build(None, tmp_path, hub="some/mrqa", tasks=["SQuAD"]), "SQuAD")
    with pytest.raises(UserError, match="hub data set some/mrqa, split train: no 'TriviaQA-web'"):
        build(None, tmp_path, hub="some/mrqa")


def test_without_the_hub_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hub data set some/mrqa, split train: .") as raised:
        build(None, tmp_path, hub="some/mrqa", tasks=["SQuAD"])
    assert "\n" not in str(raised.value)


def asking(**changes: Any) -> dict[str, Any]:
    kept = {key: value for key, value in {**ASKED[0], **changes}.items() if value is not None}
    return {**LINE, "qas": [kept]}


def spanned(*pair: Any) -> dict[str, Any]:
    return asking(detected_answers=[{"text": "x", "char_spans": [list(pair)]}])


MISTAKES = {
    "json": ('{"context": "a', "not JSON"),
    "context": ({"contxt": "a", "qas": []}, "no 'context'; did you mean 'contxt'"),
    "questions": ({**LINE, "qas": {}}, r"'qas' is \{\}; expected a list"),
    "a question": ({**LINE, "qas": ["Who?"]}, r"'qas' holds 'Who\?'; expected"),
    "no question": (asking(question=None), "no 'question'"),
    "no answers": (asking(answers=[]), "'answers' is empty: a row without a label"),
    "answers": (asking(answers="Nile"), "'answers' is 'Nile'; expected a list"),
    "outside": (spanned(3, 99), r"'char_spans' is \[3, 99\], last included; valid: 0 to "),
    "backwards": (spanned(3, 2), r"'char_spans' is \[3, 2\]"),
    "negative": (spanned(-1, 2), "'char_spans' is -1; expected a whole number"),
    "no pair": (spanned(1), r"'char_spans' holds \[1\]; expected \[first, last\]"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_fault_in_a_file_is_one_message(name: str, root: Path, tmp_path: Path) -> None:
    line, message = MISTAKES[name]
    write(root / "train" / "SQuAD.jsonl.gz", HEADER, LINE, line)
    with pytest.raises(UserError, match=rf"SQuAD\.jsonl\.gz:3: .*{message}") as raised:
        build(root, tmp_path, tasks=["SQuAD"])
    assert "\n" not in str(raised.value)
    found = build(root, tmp_path, tasks=["SQuAD"], on_bad_row="skip", max_bad_share=0.5)
    check(found, "SQuAD")
    assert len(found.skipped) == 1


def test_what_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    file = root / "train" / "SQuAD.jsonl.gz"
    write(file, LINE)
    with pytest.raises(UserError, match=r"SQuAD\.jsonl\.gz:1: no header"):
        build(root, tmp_path)
    file.write_bytes(gzip.compress(b"{}" * 99)[:-9])
    with pytest.raises(UserError, match=r"SQuAD\.jsonl\.gz: not gzip: "):
        build(root, tmp_path)
    write(root / "train" / "SQuAD.jsonl", HEADER, LINE)
    with pytest.raises(UserError, match=r"the same task and split as SQuAD\.jsonl\.gz"):
        build(root, tmp_path)
    (root / "train" / "SQuAD.jsonl").unlink()
    with pytest.raises(UserError, match="unknown task 'DROP'"):  # nothing to train on
        build(root, tmp_path, tasks=["DROP"])
    write(root / "train" / "HotpotQA.jsonl", HEADER, LINE)
    with pytest.raises(UserError, match=r"no file .*dev.HotpotQA\.jsonl\.gz"):
        build(root, tmp_path, tasks=["HotpotQA"])
    with pytest.raises(UserError, match=r"no file train/<task>\.jsonl\.gz or train/<task>\.jsonl"):
        build(root / "dev", tmp_path)


def test_scores_are_those_of_squad() -> None:
    """Values of the official script (v1.1), which MRQA uses, worked out by hand."""
    accepted = [["The Nile", "river Nile"], ["42"], ["the"]]
    given = ["Nile, the river", "42.", "a"]
    assert score("EM", given, accepted) == pytest.approx((0 + 1 + 1) / 3)
    # Words without articles: {nile, river} against {river, nile}; 42; nothing in common.
    assert score("QA-F1", given, accepted) == pytest.approx((1 + 1 + 0) / 3)
