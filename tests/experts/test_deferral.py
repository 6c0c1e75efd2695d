"""Weight gradients that are worked out late are the same, in another order."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_tasks import TaskMoE
from tests.models import batch, routed

FEW, MANY = batch(target=3), batch(target=40)
SHORT = batch(rows=3, source=4)
FIRST, LAST = "encoder.layers.0.fc1.", "decoder.layers.1.fc1."


def gradients(model: TaskMoE, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the routes and of every parameter that has one."""
    model.zero_grad()
    torch.manual_seed(5)
    plan = model.plan(data["task_ids"])
    plan.weights.retain_grad()
    model(**data, route_plan=plan).loss.backward()
    found = {"routes": plan.weights.grad, **{n: p.grad for n, p in model.named_parameters()}}
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


def arrivals(model: TaskMoE, data: dict[str, Tensor]) -> list[str]:
    """Names of parameters, as their gradients come."""
    came: list[str] = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: came.append(name))
        for name, parameter in model.named_parameters()
    ]
    gradients(model, data)
    for hook in hooks:
        hook.remove()
    return came


def waits(model: TaskMoE, data: dict[str, Tensor], name: str = "weight") -> bool:
    """Whether all such gradients of the last layer come after all weights' of the first."""
    came = arrivals(model, data)
    first = [n for n, own in enumerate(came) if FIRST in own and own.endswith("weight")]
    last = [n for n, own in enumerate(came) if LAST in own and own.endswith(name)]
    assert first
    assert last
    assert min(last) > max(first) or max(last) < min(first)
    return min(last) > max(first)


def test_gradients_wait_where_tokens_are_few() -> None:
    model = routed("bart").train()
    for data, late in ((FEW, True), (MANY, False), (FEW, True)):
        waits(model, data)  # the first batch of a size shows which layers have few tokens
        assert waits(model, data) is late
    model.weights_stay = False
    assert not waits(model, FEW)


def test_gradients_of_vectors_wait_for_those_of_their_layer() -> None:
    model = routed("bart").train()
    arrivals(model, FEW)
    for data in (FEW, MANY, MANY):
        assert waits(model, data, "bias")
    model.weights_stay = False
    assert not waits(model, MANY, "bias")


@pytest.mark.parametrize("family", ["bart", "t5", "llama"])
@pytest.mark.parametrize("gradient", ["merge_st", "exact"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_late_gradients_are_the_same(
    family: str, gradient: str, checkpointing: bool, precision: torch.dtype
) -> None:
    selection = {"name": "gumbel_st", "gradient": gradient}
    model = routed(family, selection=selection).train()
    if checkpointing:
        model.backbone.gradient_checkpointing_enable()
    data = FEW if family != "llama" else {**SHORT, "labels": SHORT["input_ids"]}
    cast: Any = torch.autocast("cpu", precision, enabled=precision != torch.float32)
    with cast:
        late, came_late = gradients(model, data), arrivals(model, data)
        model.weights_stay = False
        at_once, came_at_once = gradients(model, data), arrivals(model, data)
    assert came_late != came_at_once
    assert sorted(came_late) == sorted(came_at_once)
    assert late.keys() == at_once.keys()
    for name, grad in at_once.items():
        if ".experts." in name:
            assert torch.equal(late[name], grad), name
        elif name == "routes":  # added up in another order
            assert (late[name] - grad).norm() <= 1e-5 * grad.norm()


def test_a_backward_pass_in_part_leaves_nothing_for_the_next() -> None:
    model = routed("bart").train()
    whole = gradients(model, FEW)
    model.zero_grad()
    torch.manual_seed(5)
    loss = model(**FEW).loss
    embedding = model.backbone.get_input_embeddings().weight
    torch.autograd.grad(loss, embedding, retain_graph=True)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-7)


def test_two_calls_of_one_plan_add_up() -> None:
    model = routed("bart").train()
    once = gradients(model, FEW)
    model.zero_grad()
    torch.manual_seed(5)
    plan = model.plan(FEW["task_ids"])
    (model(**FEW, route_plan=plan).loss + model(**FEW, route_plan=plan).loss).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, 2 * once[name], rtol=1e-4, atol=1e-6)


def test_frozen_experts_have_nothing_to_wait_for() -> None:
    model = routed("bart").train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".experts." not in name)
    late = gradients(model, FEW)
    model.weights_stay = False
    at_once = gradients(model, FEW)
    assert late.keys() == at_once.keys()
    for name, grad in at_once.items():
        torch.testing.assert_close(late[name], grad, rtol=1e-4, atol=1e-6)


def test_what_was_never_worked_out_is_forgotten_with_the_graph() -> None:
    model = routed("bart").train()
    plan = model.plan(FEW["task_ids"])
    alive = [weakref.ref(layer.deferred) for layer in plan.layers if layer.deferred]
    assert alive
    embedding = model.backbone.get_input_embeddings().weight
    torch.autograd.grad(model(**FEW, route_plan=plan).loss, embedding)
    del plan
    gc.collect()
    assert not any(reference() for reference in alive)
