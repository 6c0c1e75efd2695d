"""Linear layers of one input are one product, and give what each of them gives alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from moe_tasks import TaskMoE
from moe_tasks.experts import convert
from moe_tasks.experts.block import block_of
from moe_tasks.experts.deferred import deferring
from moe_tasks.experts.leaf_banks import LinearBank
from moe_tasks.experts.routed_layer import RouteSlot
from moe_tasks.exporting.pruning import drop_unused_experts
from moe_tasks.routing.plan import RoutePlan
from tests.models import batch, routed

M = 4
ROWS = [0, 0, 1, 2, 2]
EXPERTS = torch.tensor([3, 0, 3])  # of the three tasks


def outcome(model: TaskMoE) -> tuple[dict[str, Tensor], int]:
    """Logits and all gradients of one call, and the number of products of experts in its graph."""
    model.zero_grad()
    data = batch()
    if not model.backbone.config.is_encoder_decoder:
        data["labels"] = data["input_ids"]
    plan = model.plan(data["task_ids"])
    if plan.weights.requires_grad:
        plan.weights.retain_grad()
    output = model(**data, route_plan=plan)
    output.loss.backward()
    found = {"logits": output.logits, "routes": plan.weights.grad}
    found |= {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {name: x.detach().clone() for name, x in found.items() if x is not None}
    return found, products_in(output.loss)


def products_in(loss: Tensor) -> int:
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return sum(node.name() == "_GroupedLinearBackward" for node in seen)


@pytest.mark.parametrize(
    ("family", "linears", "products"),
    [("bart", 2 * 6 + 2 * 10, 2 * 4 + 2 * 7), ("t5", 2 * 6 + 2 * 10, 2 * 4 + 2 * 7),
     ("llama", 2 * 7, 2 * 4), ("qwen3", 2 * 7, 2 * 4), ("bert", 2 * 6, 2 * 4)],
)  # fmt: skip
def test_gradients_are_those_of_one_layer_at_a_time(
    family: str, linears: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint, fewer = outcome(routed(family).train())
    monkeypatch.setattr(convert, "join", lambda layer: None)
    alone, more = outcome(routed(family).train())
    assert (fewer, more) == (products, linears)
    assert joint.keys() == alone.keys()
    for name, x in alone.items():
        torch.testing.assert_close(joint[name], x, rtol=1e-4, atol=1e-5, msg=name)


def pruned(model: TaskMoE) -> TaskMoE:
    drop_unused_experts(model)
    return model


def all_moved(model: TaskMoE) -> TaskMoE:
    for parameter in model.parameters():  # as an engine does that flattens them in another order
        parameter.data = parameter.data.clone()
    return model


@pytest.mark.parametrize(
    ("change", "products"),
    [(copy.deepcopy, 22), (lambda model: model.double().float(), 22), (pruned, 22),
     (all_moved, 32)],
    ids=["copy", "to", "pruned", "moved"],
)  # fmt: skip
@pytest.mark.parametrize("family", ["bart", "t5"])  # queries come last, or first, in a module
def test_what_moves_parameters_changes_no_number(
    change: Callable[[TaskMoE], TaskMoE], products: int, family: str
) -> None:
    model = routed(family)
    before, _ = outcome(model)
    after, count = outcome(change(model))
    assert count == products
    torch.testing.assert_close(before["logits"], after["logits"])


def group(sizes: Sequence[int]) -> tuple[RouteSlot, list[LinearBank]]:
    torch.manual_seed(0)
    slot = RouteSlot()
    banks = [LinearBank(nn.Linear(6, size), M, slot) for size in sizes]
    for parameter in nn.ModuleList(banks).parameters():
        nn.init.normal_(parameter)
    banks[0].lead(banks[::-1])
    return slot, banks


def one_by_one(bank: LinearBank, x: Tensor) -> Tensor:
    return torch.stack(
        [bank.experts[int(EXPERTS[task])](row) for task, row in zip(ROWS, x, strict=True)]
    )


def test_each_expert_has_its_layers_in_one_piece() -> None:
    _, banks = group([5, 3, 4])
    ends = {}
    for bank in banks:
        block = block_of(bank.stack("weight"))
        assert block.data_ptr() == bank.stack("weight")[0].data_ptr()  # a view for itself, too
        ends[block.data_ptr()] = block[0].data_ptr() + block[0].nbytes
    starts = sorted(ends)
    assert [ends[start] for start in starts[:-1]] == starts[1:]


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("called", [(0, 1, 2), (0, 2), (1, 0, 2), (2,)])
@pytest.mark.parametrize("other", [None, 1])
def test_layers_may_be_called_in_any_order_and_with_any_input(
    learning: bool, called: Sequence[int], other: int | None
) -> None:
    slot, banks = group([5, 3, 4])
    same, another = torch.randn(2, len(ROWS), 3, 6)
    weights = nn.functional.one_hot(EXPERTS, M).float().requires_grad_(learning)
    route = RoutePlan.build(weights[None], ROWS, "select").layers[0]
    with torch.set_grad_enabled(learning), slot.holding(route):
        for number in called:
            x = another if number == other else same
            torch.testing.assert_close(banks[number](x), one_by_one(banks[number], x))
    assert not slot.beside


def test_nothing_is_kept_of_a_layer_that_was_not_called() -> None:
    slot, banks = group([5, 3])
    weights = nn.functional.one_hot(EXPERTS, M).float().requires_grad_()
    route = RoutePlan.build(weights[None], ROWS, "select").layers[0]
    with slot.holding(route):
        banks[0](torch.randn(len(ROWS), 3, 6)).sum().backward()
        assert list(slot.beside) == [banks[1]]
    assert not slot.beside
    assert all(float(p.grad.abs().max()) == 0 for p in banks[1].parameters() if p.grad is not None)


@pytest.mark.parametrize("stays", [True, False])
def test_inputs_may_lie_in_any_order(stays: bool) -> None:
    found = []
    for lying in (torch.clone, lambda x: x.mT.contiguous().mT):
        _, banks = group([5, 3])
        model = nn.ModuleList(banks)
        weights = nn.functional.one_hot(EXPERTS, M).float().requires_grad_()
        plan = RoutePlan.build(weights[None], ROWS, "select", stays=stays)
        if stays:
            plan = deferring(plan, [banks])
        x = lying(torch.linspace(-1, 1, len(ROWS) * 3 * 6).view(len(ROWS), 3, 6)).requires_grad_()
        with banks[0].slot.holding(plan.layers[0].grouped()):
            sum(bank(x).square().sum() for bank in banks).backward()
        found.append([x.grad, weights.grad, *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert (one is None) is (other is None)
        assert one is None or torch.equal(one, other)
