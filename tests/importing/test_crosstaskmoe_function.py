"""Imported models compute the published function: the published code's own numbers where they lie
beside the checkout, and a slow oracle for every router, expert count and layers without experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moe_tasks import TaskMoE
from moe_tasks.importing.crosstaskmoe import import_crosstaskmoe
from moe_tasks.training.loss import token_loss
from tests.importing import published

FOLDERS = [
    "linear_layer_specific_m3",
    "linear_m2_vanilla",
    "lstm_m3",
    "transformer_layer_specific_m4",
]


def soft(temperature: float) -> dict[str, Any]:
    return {"name": "softmax", "mode": "mix", "temperature_schedule": constant(temperature)}


def hard(temperature: float) -> dict[str, Any]:
    schedule = constant(temperature)
    return {"name": "gumbel_st", "gradient": "exact", "temperature_schedule": schedule}


def constant(temperature: float) -> dict[str, float]:
    return {"start": temperature, "end": temperature, "rate": 0.0}


def error(ours: Tensor | None, expected: Tensor, least: float = 0.0) -> float:
    """Largest difference as a share of the largest expected magnitude (``least`` or more)."""
    ours = _or_zeros(ours, expected)
    assert ours.shape == expected.shape
    scale = max(expected.abs().max().item(), least)
    return (ours - expected).abs().max().item() / scale if scale else ours.abs().max().item()


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    """An expert without rows has no gradient."""
    return torch.zeros_like(like) if gradient is None else gradient


class Published:
    """One folder of published numbers and its imported model."""

    def __init__(self, source: Path, out: Path) -> None:
        self.expected = load_file(source / "expected.safetensors")
        self.model = TaskMoE.load(import_crosstaskmoe(source, out))
        labels = self.expected["labels"]
        self.labels = labels.masked_fill(labels == 1, -100)
        self.task_ids = self.expected["task_ids"]
        layers = [f"{stack}.{i}" for stack in ("encoder", "decoder") for i in range(2)]
        self.routed = [layers.index(name) for name in self.model.layer_names]

    def routes(self) -> Tensor:
        return self.model.route_weights()[:, self.task_ids].detach()

    def run(self, selection: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits and loss; gradients are in the model then."""
        self.model.use_selection(selection)
        self.model.zero_grad()
        inputs = (self.expected["input_ids"], self.expected["attention_mask"], self.labels)
        mask = self.expected["labels_mask"]
        output = self.model(*inputs, task_ids=self.task_ids, decoder_attention_mask=mask)
        loss = token_loss(output.logits, self.labels, label_smoothing=0.1)
        loss.backward()
        return output.logits.detach(), loss.detach()

    def gradients(self, selection: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor | None]:
        self.model.to(dtype)
        self.run(selection)
        return {name: parameter.grad for name, parameter in self.model.named_parameters()}

    def gradient_errors(self, tag: str, selection: dict[str, Any]) -> dict[str, float]:
        """How far gradients are from the published ones, beyond their own rounding.

        Both are sums in float32, up to 8e-5 off the exact ones; in which order they are added up
        differs between processors, and with it that distance. One that is all but zero (1.8e-6
        beside others of 1) has no such digits at all, hence a least magnitude.
        """
        exact = self.gradients(selection, torch.float64)
        ours = self.gradients(selection, torch.float32)
        prefix = f"grad_{tag}."
        wanted = {k.removeprefix(prefix): v for k, v in self.expected.items() if prefix in k}
        wanted["task_vecs"] = self.expected[f"grad_task_vecs_{tag}"]
        assert len(wanted) > 8
        found = {}
        for key, value in wanted.items():
            name, least = published.our_name(key), max(value.abs().max().item(), 1e-4)
            rounding = error(ours[name], _or_zeros(exact[name], value), least)
            found[key] = error(ours[name], value, least) - rounding
        return found


@pytest.fixture(scope="module", params=FOLDERS)
def folder(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    source = shared / "parity" / "crosstaskmoe" / request.param
    return Published(source, tmp_path_factory.mktemp("imported") / "model")


@pytest.mark.parametrize("temperature", [5, 1])
def test_soft_routes_logits_loss_and_gradients(folder: Published, temperature: int) -> None:
    tag = f"tau{temperature}"
    logits, loss = folder.run(soft(temperature))
    assert error(folder.routes(), folder.expected[f"routes_{tag}"][folder.routed]) < 1e-5
    assert error(logits, folder.expected[f"logits_{tag}"]) < 1e-5
    assert error(loss, folder.expected[f"loss_{tag}"]) < 1e-5
    assert max(folder.gradient_errors(tag, soft(temperature)).values()) < 1e-5


def test_hard_routes_logits_loss_and_straight_through_gradients(folder: Published) -> None:
    logits, loss = folder.run(hard(2.0))
    assert torch.equal(folder.routes(), folder.expected["hard_routes"][folder.routed])
    assert error(logits, folder.expected["logits_hard"]) < 1e-5
    assert error(loss, folder.expected["loss_st_tau2"]) < 1e-5
    assert max(folder.gradient_errors("st_tau2", hard(2.0)).values()) < 1e-5


def test_expert_regularisation(folder: Published) -> None:
    ours = folder.model.expert_distance().detach()
    assert error(ours, folder.expected["expert_regularization"]) < 1e-5


def batch() -> dict[str, Tensor]:
    """Padding on both sides, a task twice, tasks out of order."""
    generator = torch.Generator().manual_seed(2)
    input_ids = torch.randint(3, published.VOCAB, (4, 5), generator=generator)
    labels = torch.randint(3, published.VOCAB, (4, 3), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 3:] = 0
    labels[2, 2:] = -100
    task_ids = torch.tensor([2, 0, 2, 1])
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "task_ids": task_ids,
    }


@pytest.mark.parametrize("vanilla", ["", "0"])
@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("router", published.ROUTERS)
def test_any_published_configuration(router: str, m: int, vanilla: str, tmp_path: Path) -> None:
    source = published.write(tmp_path / "theirs", published.config(router, m, vanilla))
    model = TaskMoE.load(import_crosstaskmoe(source, tmp_path / "ours")).double()
    rows = batch()
    for selection, straight_through in ((soft(1.0), False), (hard(2.0), True)):
        oracle = published.Oracle(source)
        router_logits = oracle.router_logits(rows["task_ids"])
        routes = (router_logits / (2.0 if straight_through else 1.0)).softmax(-1)
        if straight_through:
            one_hot = torch.nn.functional.one_hot(routes.argmax(-1), m).double()
            routes = one_hot - routes.detach() + routes
        logits = oracle.forward(rows, routes)
        published.smoothed_loss(logits, rows["labels"]).backward()

        model.use_selection(selection)
        model.zero_grad()
        output = model(**rows)
        published.smoothed_loss(output.logits, rows["labels"]).backward()

        real = rows["labels"] >= 0
        assert error(output.logits[real], logits[real]) < 1e-10
        ours = dict(model.named_parameters())
        for name, weight in oracle.weights.items():
            if weight.grad is not None and "embed_tokens" not in name and "final" not in name[:5]:
                parameter = ours[published.our_name(name)]
                assert error(parameter.grad, weight.grad, least=1e-4) < 1e-9, name
    assert error(model.expert_distance().detach(), oracle.expert_distance().detach(), 1e-4) < 1e-10
