"""Experts in an encoder with heads, alone and under conditional parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.convert import convert
from moe_tasks.conditional.model import CAMTL
from moe_tasks.conditional.modules import Condition
from moe_tasks.conditional.routed import RoutedCAMTL
from moe_tasks.experts.convert import squeeze
from moe_tasks.model import TaskMoEConfig
from moe_tasks.multitask import MultiTaskModel
from tests.conditional.encoders import HEADS, LENGTH, batch, encoder, error, shaken

ARRANGEMENTS = {
    "experts": ConditionalConfig.none(max_length=LENGTH),
    "base": ConditionalConfig.base(max_length=LENGTH),
    "large": ConditionalConfig.large(max_length=LENGTH),
    "residual": ConditionalConfig(max_length=LENGTH, bottleneck="residual"),
}
MODES: dict[str, dict[str, Any]] = {
    "merge_st": {"name": "gumbel_st"},
    "exact": {"name": "gumbel_st", "gradient": "exact"},
    "probe": {"name": "gumbel_st", "gradient": "probe"},
    "mix": {"name": "softmax", "mode": "mix"},
    "merge": {"name": "softmax", "mode": "merge"},
}
every_arrangement = pytest.mark.parametrize("name", ARRANGEMENTS)


def routed(name: str, mode: str = "merge_st", family: str = "bert") -> RoutedCAMTL:
    """Of float64, in evaluation mode, every expert and every conditional part different."""
    backbone = encoder(family)
    torch.manual_seed(1)
    spec = TaskMoEConfig(selection=MODES[mode], task_dim=8, hidden_dim=8)
    model = RoutedCAMTL(backbone, list(HEADS), spec, HEADS, ARRANGEMENTS[name])
    return shaken(model.eval()).double()  # type: ignore[return-value]


@every_arrangement
@pytest.mark.parametrize("mode", MODES)
def test_rows_of_other_tasks_and_padding_change_no_row(name: str, mode: str) -> None:
    model = routed(name, mode)
    together, rows = model(**batch(9)), batch(9)
    wide = model(**batch(LENGTH, longest=9))
    assert error(wide.loss, together.loss) < 1e-5
    for row, length in enumerate(rows["attention_mask"].sum(1).tolist()):
        ids = rows["input_ids"][row : row + 1, :length]
        alone = model(ids, task_ids=rows["task_ids"][row : row + 1])
        assert error(alone.pooler_output[0], together.pooler_output[row]) < 1e-9


@every_arrangement
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_task_computes_what_its_squeezed_encoder_does(name: str, family: str) -> None:
    model = routed(name, family=family)
    for task_id, route in enumerate(model.routes()):
        plain = squeeze(model.backbone, route, "select")
        ids = torch.full((6,), task_id)
        inputs = {k: v for k, v in batch().items() if k in ("input_ids", "attention_mask")}
        condition = model.condition(ids)
        extra = {} if condition is None else {"condition": condition}
        expected = plain(**inputs, **extra).last_hidden_state
        assert error(model.encode(**inputs, task_ids=ids)[0], expected) < 1e-12


@every_arrangement
def test_gradients_reach_router_conditions_and_the_experts_in_use(name: str) -> None:
    model = routed(name, "exact")
    hard = model.routes()
    model(**batch()).loss.backward()
    groups = {group: [p.grad for p in ps] for group, ps in model.parameter_groups().items()}
    assert all(any(g is not None and bool(g.any()) for g in grads) for grads in groups.values())
    used = {int(e) for e in hard[:, 0].argmax(-1)}
    bank = model.backbone.encoder.layer[0].attention.self.query
    for number, expert in enumerate(bank.experts):
        assert (expert.weight.grad is not None) == (number in used)


@every_arrangement
@pytest.mark.parametrize("mode", MODES)
def test_checkpointed_activations_give_the_same_gradients(name: str, mode: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = routed(name, mode).train()
        if checkpointed:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        model(**batch()).loss.backward()
        named = model.named_parameters()
        gradients.append({n: p.grad for n, p in named if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[0].items():
        assert error(gradients[1][key], value) < 1e-9, key


@every_arrangement
def test_equal_experts_are_the_encoder_without_experts(name: str) -> None:
    torch.manual_seed(1)
    plain = CAMTL(encoder(), list(HEADS), HEADS, ARRANGEMENTS[name]).eval()
    torch.manual_seed(1)
    spec = TaskMoEConfig(task_dim=8, hidden_dim=8)
    model = RoutedCAMTL(encoder(), list(HEADS), spec, HEADS, ARRANGEMENTS[name]).eval()
    shared = dict(model.named_parameters())
    with torch.no_grad():
        for key, value in plain.named_parameters():
            if key in shared:
                shared[key].copy_(value)
    assert error(model(**batch()).loss, plain(**batch()).loss) < 1e-5


@every_arrangement
def test_a_saved_model_is_what_it_was(name: str, tmp_path: Path) -> None:
    model = routed(name).float()
    model.save(tmp_path)
    again = MultiTaskModel.load(tmp_path)
    assert isinstance(again, RoutedCAMTL)
    assert torch.equal(again(**batch()).loss, model(**batch()).loss)
    assert torch.equal(again.routes(), model.routes())


def test_conditions_follow_rows_into_another_order() -> None:
    condition = Condition(torch.tensor([2, 0, 1]), torch.eye(3), torch.eye(3))
    turned = condition.of_rows(lambda rows: rows.flip(0))
    assert torch.equal(turned.rows(condition.embeddings), condition.rows(torch.eye(3)).flip(0))


def test_conditional_parts_exist_once() -> None:
    backbone = encoder()
    convert(backbone, ARRANGEMENTS["base"])
    parts = {name for name, _ in backbone.named_parameters()}
    model = routed("base")
    conditional = [n for n in parts if "film" in n or "task_bias" in n or "adapter" in n]
    names = {name for name, _ in model.named_parameters()}
    assert conditional
    assert all(f"backbone.{name}" in names for name in conditional)
