"""MT-Uncertainty: the formulas against slow ones, and batches that hold what is unsure."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from scipy import stats
from torch import Tensor

from moe_tasks import config as configuration
from moe_tasks.conditional import uncertainty
from moe_tasks.conditional.batches import UncertainBatches
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.model import CAMTL
from moe_tasks.errors import UserError
from moe_tasks.tasks.sampling import BatchSampler
from moe_tasks.tasks.uncertainty_sampling import UncertaintySampling
from moe_tasks.training.data import Batch
from tests.conditional.encoders import HEADS, LENGTH, VOCAB, conditional, encoder

PARTS = ConditionalConfig.base(max_length=LENGTH)


def test_entropies_are_those_of_scipy() -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * 4
    expected = stats.entropy(logits.double().softmax(-1).numpy(), axis=-1)
    assert torch.allclose(
        uncertainty.entropy(logits).double(), torch.tensor(expected), rtol=1e-4, atol=1e-6
    )
    normalized = torch.tensor(expected) / (math.log(5) + 1e-5)
    found = uncertainty.normalized_entropy(logits).double()
    assert torch.allclose(found, normalized, rtol=1e-4, atol=1e-6)
    sure = uncertainty.entropy(torch.tensor([[1e4, 0.0], [0.0, 0.0]]))
    assert sure.tolist() == [0.0, pytest.approx(math.log(2))]
    assert not uncertainty.normalized_entropy(torch.randn(3, 1)).any()


def test_formulas_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    task_ids = torch.randint(0, 4, (40,), generator=generator) * 2
    labels = torch.tensor([2, 2, 3, 3, 7, 7, 1])[task_ids]
    nats = torch.rand(40, generator=generator) * labels.float().log()
    normalized = nats / labels.clamp_min(2).float().log()
    published = uncertainty.published_scores(normalized, task_ids)
    paper = uncertainty.paper_scores(nats, labels, task_ids)
    ids, h, u = task_ids.numpy(), nats.double().numpy(), normalized.double().numpy()
    means = {t: u[ids == t].mean() for t in set(ids.tolist())}
    raw = max(h[ids == t].mean() for t in means)
    for row in range(40):
        factor = means[int(ids[row])] / max(means.values())
        assert float(published[row]) == pytest.approx(u[row] * factor, rel=1e-5)
        c = int(labels[row])
        expected = h[row] / (math.log(c) * raw) if c > 1 else 0.0
        assert float(paper[row]) == pytest.approx(expected, rel=1e-5)
    assert not uncertainty.published_scores(torch.zeros(3), torch.zeros(3).long()).any()


def test_numbers_are_less_sure_when_errors_are_larger() -> None:
    predictions = torch.tensor([0.1, 2.5, 4.9, 2.4])
    means = []
    for size in (0.05, 0.5, 5.0, 500.0):
        targets = predictions + size * torch.tensor([1.0, -1.0, 1.0, -1.0])
        scores = uncertainty.numeric_entropy(predictions, targets, 0.0, 5.0)
        assert bool(((scores >= 0) & (scores <= 1.0001)).all())
        means.append(float(scores.mean()))
    assert means == sorted(means)
    assert means[0] < 0.5
    assert means[-1] > 0.99
    scores = uncertainty.numeric_entropy(predictions, predictions + 0.5, 0.0, 5.0)
    assert scores[0] < scores[1]  # near an end of the range
    density = stats.norm(2.5, 0.5).pdf(numpy.linspace(0, 5, 64, endpoint=False) + 2.5 / 64)
    expected = stats.entropy(density) / math.log(64)
    assert float(scores[1]) == pytest.approx(expected, rel=1e-4)


def test_picks_are_the_highest_and_earlier_of_equals() -> None:
    scores = torch.tensor([0.5, 0.9, 0.5, 0.1, 0.9])
    assert uncertainty.pick(scores, 3).tolist() == [1, 4, 0]
    assert uncertainty.pick(scores, 9).tolist() == [1, 4, 0, 2, 3]
    with pytest.raises(UserError, match="not finite"):
        uncertainty.pick(torch.tensor([0.5, float("nan")]), 1)


def test_borrowed_scores_come_in_order() -> None:
    scores, ids = torch.arange(7.0), torch.tensor([1, 0, 2, 1, 2, 1, 0])
    assert uncertainty.borrow(scores, ids, 1, 2).tolist() == [2, 1, 2, 4, 4, 5, 6]
    assert uncertainty.borrow(scores, ids, 2, 1).tolist() == [0, 1, 0, 3, 3, 5, 6]
    assert torch.equal(scores, torch.arange(7.0))


class Candidates:
    """Rows of every task, of 4 to 12 tokens."""

    def __init__(self, sampler: BatchSampler) -> None:
        self.sampler = sampler

    def next(self) -> Batch:
        rows = [(i, row) for i, (_, drawn) in enumerate(self.sampler.next()) for row in drawn]
        lengths = torch.tensor([4 + row % 9 for _, row in rows])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        ids = torch.stack([(torch.arange(mask.shape[1]) * 7 + row) % 50 for _, row in rows]) + 2
        labels = torch.zeros(mask.shape) + torch.tensor([row % 2 for _, row in rows])[:, None]
        inputs = {
            "input_ids": (ids % VOCAB) * mask + 1 - mask,
            "attention_mask": mask,
            "labels": labels.where(mask.bool(), torch.tensor(-100.0)),
            "task_ids": torch.tensor([i for i, _ in rows]),
            "row": torch.tensor([row for _, row in rows]),
        }
        return Batch.of(inputs, list(HEADS))

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.sampler.load_state_dict(state)

    def fingerprint(self) -> dict[str, Any]:
        return self.sampler.fingerprint()


class Rows(CAMTL):
    """Lets a row's number travel with it."""

    def forward(self, *args: Any, row: Tensor | None = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def sampled(model: CAMTL | None = None, **changes: Any) -> UncertainBatches:
    settings = UncertaintySampling(**{"rows_per_task": 6, "rows_per_batch": 5, **changes})
    sampler = settings.candidates({task: range(30) for task in HEADS}, seed=1)
    if model is None:
        model = conditional(config=PARTS)
        model.__class__ = Rows
    return UncertainBatches(Candidates(sampler), model, settings, rows_at_once=7)


@pytest.mark.parametrize("formula", ["published", "paper"])
def test_a_batch_holds_the_highest_scores(formula: str) -> None:
    twin, batches = sampled(formula=formula), sampled(formula=formula)
    for _ in range(3):
        candidates = twin._candidates.next()
        scores = twin.scores(candidates)
        chosen = batches.next()
        best = set(scores.argsort(descending=True, stable=True)[:5].tolist())
        pairs = list(
            zip(*(candidates.inputs[k].tolist() for k in ("task_ids", "row")), strict=True)
        )
        found = list(zip(*(chosen.inputs[k].tolist() for k in ("task_ids", "row")), strict=True))
        assert set(found) == {pairs[i] for i in best}
        assert found == sorted(found, key=pairs.index)
        assert chosen.inputs["input_ids"].shape[1] == int(
            chosen.inputs["attention_mask"].sum(1).max()
        )
        assert chosen.inputs["labels"].shape == chosen.inputs["input_ids"].shape
        assert chosen.tasks == tuple(t for i, t in enumerate(HEADS) if i in {p[0] for p in found})


def test_in_bf16_scores_are_near_those_in_float32() -> None:
    batches = sampled()
    candidates = batches._candidates.next()
    scores = batches.scores(candidates)
    batches._cast = True
    rounded = batches.scores(candidates)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, scores)
    assert torch.allclose(rounded, scores, rtol=0.05, atol=0.01)


def test_scores_do_not_depend_on_how_rows_are_cut_or_on_dropout() -> None:
    batches = sampled()
    candidates = batches._candidates.next()
    scores = batches.scores(candidates)
    batches._rows_at_once = 100
    assert torch.allclose(batches.scores(candidates), scores, rtol=1e-4)
    batches._model.train()
    batches._model.heads[0].dropout.p = 0.9  # type: ignore[union-attr]
    assert torch.allclose(batches.scores(candidates), scores, rtol=1e-4)
    assert batches._model.training
    batches._settings.dropout = True
    assert not torch.allclose(batches.scores(candidates), scores, rtol=1e-2)
    assert not any(p.grad is not None for p in batches._model.parameters())


def test_a_regression_scores_itself_borrows_or_never_trains() -> None:
    likeness = 1
    for changes, check in (
        ({}, lambda own, other: bool((own > 0).all())),
        ({"regression": "zero"}, lambda own, other: not own.any()),
        ({"regression": "zero", "borrow": {"likeness": "grammar"}}, torch.equal),
    ):
        batches = sampled(**changes)
        candidates = batches._candidates.next()
        scores, ids = batches.scores(candidates), candidates.inputs["task_ids"]
        assert check(scores[ids == likeness], scores[ids == 0])
    with pytest.raises(UserError, match=r"'sampling\.borrow': no task 'gramar'; did you mean"):
        sampled(borrow={"likeness": "gramar"})


def test_a_stopped_run_draws_the_same_rows() -> None:
    straight, stopped = sampled(), sampled()
    for _ in range(2):
        assert torch.equal(straight.next().inputs["row"], stopped.next().inputs["row"])
    resumed = sampled()
    resumed.load_state_dict(stopped.state_dict())
    for _ in range(3):
        assert torch.equal(straight.next().inputs["row"], resumed.next().inputs["row"])
    assert resumed.drawn == straight.drawn == dict.fromkeys(HEADS, 30)
    assert sum(resumed.used.values()) == 25
    assert resumed.used == straight.used
    assert resumed.fingerprint() == straight.fingerprint()
    assert resumed.fingerprint() != sampled(formula="paper").fingerprint()
    last = straight.table().splitlines()[-1].split()
    assert last == ["all", "120", "25", "0.208", "of", "drawn"]


def test_settings_are_registered_and_checked() -> None:
    found = configuration.part("sampling", {"name": "mt_uncertainty", "rows_per_batch": 8})
    assert found == UncertaintySampling(rows_per_batch=8)
    for wrong, message in (
        ({"rows_per_batch": 0}, "rows_per_batch is 0"),
        ({"regression_range": [5.0, 0.0]}, "expected two rising numbers"),
        ({"formula": "papers"}, "did you mean 'paper'"),
        ({"rows_per_task": 0}, "rows_per_task is 0"),
    ):
        with pytest.raises(UserError, match=message):
            configuration.part("sampling", {"name": "mt_uncertainty", **wrong})
    with pytest.raises(UserError, match="for encoders with heads"):
        found.build({"a": [1]}, 0)


def test_a_model_learns_from_uncertain_rows() -> None:
    torch.manual_seed(1)
    model = Rows(encoder(initializer_range=0.05), list(HEADS), HEADS, PARTS).eval()
    batches = sampled(model, rows_per_batch=8)
    known = batches._candidates.next()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def loss_of(batch: Batch) -> Tensor:
        return model(**batch.inputs).loss

    before = loss_of(known).item()
    for _ in range(120):
        optimizer.zero_grad()
        loss_of(batches.next()).backward()
        optimizer.step()
    assert loss_of(known).item() < 0.2 * before
    assert min(batches.used.values()) > 0
