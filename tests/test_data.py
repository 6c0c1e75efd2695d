"""Which rows train, and where an unseen task's route starts."""

from __future__ import annotations

import pytest
import torch

from moe_tasks import TaskMoE
from moe_tasks.adaptation import AdaptationConfig, Adapter, Cell
from moe_tasks.backbones.tokenizer import train_tokenizer
from moe_tasks.data import DataConfig, RunData, training_rows, training_texts
from moe_tasks.evaluation.generation import GenerationConfig, predict
from moe_tasks.experts.convert import squeeze
from moe_tasks.tasks.folder import FolderTasks
from moe_tasks.tasks.synthetic import SyntheticTasks
from tests.models import bart
from tests.runs import write_tasks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    collection = FolderTasks(path=str(folder), cache_dir=str(folder / ".cache")).build()
    tokenizer = train_tokenizer(training_texts(collection), 320, "bart")
    return RunData(collection, tokenizer, DataConfig("content", 40, 8, str(folder / ".cache")))


def test_samples_are_pooled_and_each_row_counts_once(data: RunData) -> None:
    rows = training_rows(data.collection, "size-a")
    texts = data.collection.rows[rows]["input"]
    assert len(set(texts)) == len(texts)
    every = {
        e.input
        for s in data.collection.samples
        for e in data.collection.examples("size-a", "train", s)
    }
    assert set(texts) == every


def test_a_pool_takes_the_place_of_the_samples() -> None:
    collection = SyntheticTasks(seed=3, train_rows=128).build()
    task = collection.roles["train"][0]
    assert training_rows(collection, task) == list(collection.slice(task, "train", "pool"))


def test_unseen_tasks_leave_no_text_behind(data: RunData) -> None:
    texts = training_texts(data.collection)
    assert not any("test" in text.split()[1] or "-dev" in text for text in texts if " " in text)


def test_tokenizer_covers_any_text() -> None:
    for family in ("bart", "t5"):
        tokenizer = train_tokenizer(["one apple", "two apples"], 300, family)  # type: ignore[arg-type]
        for text in ("an apple", "Zürich 北京 \U0001f600", "a  b"):
            ids = tokenizer(text)["input_ids"]
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def routed(data: RunData) -> TaskMoE:
    backbone = bart(vocab_size=len(data.tokenizer), pad_token_id=1, max_position_embeddings=64)
    torch.manual_seed(0)
    model = TaskMoE.from_backbone(backbone, data.train_tasks, noise=0.3, task_dim=8).eval()
    with torch.no_grad():
        model.task_vectors.mul_(4)
    return model


def test_the_best_route_is_that_of_a_slow_search(data: RunData) -> None:
    model = routed(data)
    adapter = Adapter(model, data, AdaptationConfig(), GenerationConfig(), seed=0)
    cell = Cell("moe", "taste-test", data.collection.samples[0])
    _, placed_on = adapter.place(cell)
    batch = data.collate(list(data.collection.slice(cell.task, "train", cell.sample)))
    losses = {}
    for task, route in zip(model.task_names, model.routes(), strict=True):
        plain = squeeze(model.backbone, route, "select")
        with torch.no_grad():
            losses[task] = float(plain(**batch).loss)
    assert len({round(v, 4) for v in losses.values()}) > 1
    assert losses[placed_on] == pytest.approx(min(losses.values()))


def test_predictions_keep_their_order_whatever_the_batch_size(data: RunData) -> None:
    model = routed(data).squeeze("size-a")
    rows = data.collection.slice("size-a", "test", data.collection.samples[0])
    sources = [s[: 4 + i % 5] for i, s in enumerate(data.tokens.sources(rows))]
    alone = predict(model, data.tokenizer, sources, GenerationConfig(batch_size=1), 6)
    together = predict(model, data.tokenizer, sources, GenerationConfig(batch_size=64), 6)
    assert alone == together
    assert len(set(alone)) > 1
