"""Heads of tokens and of spans: labels of rows, and encoders that learn them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_tasks import config
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.heads import HeadConfig
from moe_tasks.conditional.labels import head_configs
from moe_tasks.conditional.model import CAMTL
from moe_tasks.conditional.placed import PlacedRows, kind_of
from moe_tasks.conditional.spans import SpanHead
from moe_tasks.data import DataConfig, RunData
from moe_tasks.errors import UserError
from moe_tasks.evaluation.heads import scored_answers
from moe_tasks.evaluation.metrics import score
from moe_tasks.evaluation.places import span_answers, tag_answers
from moe_tasks.tasks.tokens import collate
from tests.conditional.encoders import encoder
from tests.tasks.superglue_files import LINES, write
from tests.tasks.test_mrqa import HEADER, question
from tests.tasks.test_mrqa import write as write_mrqa
from tests.tasks.test_token_places import PIECES, wordpiece

SENTENCES = """José B-PER
met O
the O
poet O
in O
New B-LOC
York I-LOC

Ångström B-PER
who O
lived O
in O
York B-LOC

the O
poet O
met O
José B-PER
"""
FILLER = "who met the poet in there ; his home was , " * 6
CONTEXTS = {"New York": f"{FILLER}he lived in New York.", "1994": f"from 1994 {FILLER}"}


def collection(name: str, root: Path, **keys: object) -> Any:
    own = {"name": name, "path": str(root), "cache_dir": str(root / "cache"), **keys}
    return config.part("tasks", own).build()


def run_data(found: Any, root: Path, max_source: int) -> RunData:
    settings = DataConfig(max_source=max_source, cache_dir=str(root / "cache"))
    return RunData(found, wordpiece(), settings, heads=True)


@pytest.fixture
def ner(tmp_path: Path) -> RunData:
    for split in ("train", "dev"):
        file = tmp_path / "names" / f"{split}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(SENTENCES)
    return run_data(collection("ner", tmp_path), tmp_path, 24)


@pytest.fixture
def mrqa(tmp_path: Path) -> RunData:
    lines: list[Any] = [HEADER]
    for number, (answer, context) in enumerate(CONTEXTS.items()):
        start = context.index(answer)
        detected = {"text": answer, "char_spans": [[start, start + len(answer) - 1]]}
        asked = question(str(number), "where was he ?", [answer], detected)
        lines.append({"context": context, "qas": [asked]})
    for split in ("train", "dev"):
        write_mrqa(tmp_path / split / "SQuAD.jsonl", *lines)
    return run_data(collection("mrqa", tmp_path), tmp_path, 40)


def placed(data: RunData) -> PlacedRows:
    return PlacedRows(data.collection, data.tokens, data.tokenizer, data.config.max_source)


def model(task: str, labels: int) -> CAMTL:
    sizes: dict[str, Any] = {
        "vocab_size": len(PIECES),
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    parts = ConditionalConfig.none()
    heads = {task: HeadConfig("tokens", labels)}
    return CAMTL(
        encoder("bert", initializer_range=0.1, **sizes), [task], heads, parts, pooling="first"
    )


def batch(data: RunData, task: str) -> tuple[range, dict[str, Tensor]]:
    rows = data.collection.slice(task, "train", "full")
    found = placed(data)
    sources = found.sources(rows)
    inputs = collate(sources, found.targets(rows), data.pad_token_id, data.sep_token_id)
    return rows, {**inputs, "task_ids": torch.zeros(len(rows), dtype=torch.int64)}


def learn(encoder_model: CAMTL, inputs: dict[str, Tensor], loss: Any, steps: int) -> None:
    optimizer = torch.optim.AdamW(encoder_model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(inputs).backward()
        optimizer.step()


def test_an_encoder_learns_names(ner: RunData) -> None:
    task = "names"
    rows, inputs = batch(ner, task)
    names = ner.collection.task(task).features["labels"]
    assert names == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert inputs["labels"].shape == inputs["input_ids"].shape
    assert kind_of(ner.collection, task) == "tokens"
    learner = model(task, len(names))
    references = ner.references(rows)
    before = score("Entity-F1", tag_answers(learner, ner, task, rows), references)
    learn(learner, inputs, lambda given: learner(**given).loss, 40)
    answers = tag_answers(learner, ner, task, rows, batch_size=2)
    assert answers == [accepted[0] for accepted in references]
    assert before < score("Entity-F1", answers, references) == 1


def test_an_encoder_finds_answers_in_any_window(mrqa: RunData) -> None:
    rows, inputs = batch(mrqa, "SQuAD")
    found = placed(mrqa)
    counts = [len(found.windows(row)) for row in rows]
    assert min(counts) > 1
    for row, source, labels in zip(rows, found.sources(rows), found.targets(rows), strict=True):
        holding = next(w for w in found.windows(row) if w.ids == source.tolist())
        text = mrqa.collection.rows[row]["input"]
        assert holding.text(text, *map(int, labels)) in CONTEXTS
    assert found.windows(rows[0])[0].ids != found.sources(rows)[0].tolist()  # not the first one
    # Two labels per token are a span head's scores; its loss is over tokens.
    learner, head = model("SQuAD", 2), SpanHead("SQuAD", 4, 0.1)

    def loss(given: dict[str, Tensor]) -> Tensor:
        asked = {key: value for key, value in given.items() if key != "labels"}
        return head.loss(learner(**asked).logits["SQuAD"], given["labels"])

    learn(learner, inputs, loss, 60)
    answers = span_answers(learner, mrqa, "SQuAD", rows, batch_size=3)
    assert score("EM", answers, mrqa.references(rows)) == 1
    assert span_answers(learner, mrqa, "SQuAD", rows, longest=1)[0] in ("New", "York", "1994")


def test_rows_of_classes_are_as_ever_and_choices_are_refused(tmp_path: Path) -> None:
    for task in ("CB", "COPA"):
        for split in ("train", "val"):
            write(tmp_path, task, LINES[task], split=split)
    data = run_data(collection("superglue", tmp_path), tmp_path, 40)
    (row,), (other,) = (data.collection.slice(t, "train", "full") for t in ("cb", "copa"))
    assert placed(data).targets([row])[0].tolist() == [2]
    assert placed(data).sources([row])[0].tolist() == data.tokens.sources([row])[0].tolist()
    with pytest.raises(UserError, match=r"'copa' is a choice among options.*set tasks\.pairs=true"):
        placed(data).targets([other])


def test_spans_need_their_places(mrqa: RunData) -> None:
    from moe_tasks.tasks.base import TaskCollection

    bare = TaskCollection(
        mrqa.collection.tasks, mrqa.collection.roles, mrqa.collection.samples, mrqa.collection.rows
    )
    with pytest.raises(UserError, match="answers as spans need a collection with places"):
        PlacedRows(bare, mrqa.tokens, mrqa.tokenizer, 40).sources([0])


@pytest.fixture
def choices(tmp_path: Path) -> RunData:
    """Two questions of COPA and ReCoRD's, a row per option."""
    other = {"premise": "the poet met", "choice1": "who", "choice2": "lived", "label": 0, "idx": 5}
    for split in ("train", "val"):
        first = {**LINES["COPA"], "choice1": "the poet", "choice2": "York"}
        write(tmp_path, "COPA", first, {**first, **other}, split=split)
        write(tmp_path, "ReCoRD", LINES["ReCoRD"], split=split)
    return run_data(collection("superglue", tmp_path, pairs=True), tmp_path, 40)


@pytest.mark.parametrize(
    ("task", "options", "accepted"),
    [
        ("copa", [("the poet", "York"), ("who", "lived")], [["York"], ["who"]]),
        ("record", [("Ann", "Bob Ray")] * 2, [["Bob Ray"], ["Ann"]]),
    ],
)
def test_the_likeliest_option_answers_a_question(
    task: str, options: list[tuple[str, str]], accepted: list[list[str]], choices: RunData
) -> None:
    assert kind_of(choices.collection, task) == "classification"
    (head,) = head_configs(choices.collection, [task]).values()
    assert (head.kind, head.num_labels) == ("classification", 2)
    learner, rows = model(task, 2), choices.collection.slice(task, "dev", "full")
    learner = CAMTL(learner.backbone, [task], {task: head}, learner.config, pooling="mean")
    found, references = scored_answers(learner, choices, task, rows)
    assert references == accepted
    # Slowly: one row after the other.
    chances = []
    for row in rows:
        ids = torch.tensor(choices.rows.sources([row])[0][None], dtype=torch.int64)
        kinds = collate(choices.rows.sources([row]), [ids[0][:0].numpy()], 0, choices.sep_token_id)
        logits = learner(
            ids, token_type_ids=kinds["token_type_ids"], task_ids=torch.tensor([0])
        ).logits[task]
        chances.append(logits.softmax(-1)[0, 1].item())
    best = [options[n][int(chances[2 * n + 1] > chances[2 * n])] for n in range(2)]
    assert found == best
    learn(learner, batch(choices, task)[1], lambda given: learner(**given).loss, 60)
    found, references = scored_answers(learner, choices, task, rows)
    assert [[answer] for answer in found] == accepted
    assert score(choices.collection.task(task).metric, found, references) == 1
