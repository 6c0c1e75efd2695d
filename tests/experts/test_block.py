"""Experts' parameters lie in one piece of memory, and what moves them changes no number."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from moe_tasks.experts import products
from moe_tasks.experts.bank import ExpertBank
from moe_tasks.experts.block import block_of
from moe_tasks.experts.leaf_banks import make_bank
from moe_tasks.experts.routed_layer import RouteSlot
from moe_tasks.routing.plan import RoutePlan

M = 4
ROWS = [0, 0, 1, 2, 2]
EXPERTS = torch.tensor([3, 0, 3])  # of the three tasks


def bank_of_experts() -> ExpertBank:
    torch.manual_seed(0)
    bank = make_bank(nn.Linear(6, 5), M, RouteSlot())
    for parameter in bank.parameters():
        nn.init.normal_(parameter)
    return bank


def lies_in_one_block(bank: ExpertBank, name: str) -> bool:
    return block_of(bank.stack(name)).data_ptr() == bank.stack(name)[0].data_ptr()


def outcome(bank: ExpertBank, x: Tensor) -> list[Tensor]:
    """Output and all gradients of one call."""
    x = x.clone().requires_grad_()
    routes = nn.functional.one_hot(EXPERTS, M).to(x.dtype).requires_grad_()
    bank.slot.route = RoutePlan.build(routes[None], ROWS, "select").layers[0]
    y = bank(x)
    bank.zero_grad()
    y.square().sum().backward()
    bank.slot.route = None
    grads = [p.grad for p in (x, routes, *bank.parameters())]
    return [y, *(grad for grad in grads if grad is not None)]


def moved(bank: ExpertBank) -> ExpertBank:
    for parameter in bank.parameters():  # as an optimizer does that flattens its parameters
        parameter.data = parameter.data.clone()
    return bank


def one_moved(bank: ExpertBank) -> ExpertBank:
    weight = bank.stack("weight")[2]
    weight.data = weight.data.clone()
    return bank


def loaded(bank: ExpertBank) -> ExpertBank:
    other = make_bank(nn.Linear(6, 5), M, RouteSlot())
    other.load_state_dict(bank.state_dict())
    return other


def there_and_back(bank: ExpertBank) -> ExpertBank:
    return bank.to(torch.float64).to(torch.float32)


@pytest.mark.parametrize(
    ("change", "packed"),
    [(copy.deepcopy, True), (loaded, True), (there_and_back, True), (moved, False),
     (one_moved, False)],
    ids=["copy", "load", "to", "moved", "one moved"],
)  # fmt: skip
def test_outputs_and_gradients_do_not_depend_on_where_parameters_lie(
    change: Callable[[ExpertBank], ExpertBank], packed: bool
) -> None:
    x = torch.randn(len(ROWS), 3, 6)
    before = outcome(bank_of_experts(), x)
    bank = bank_of_experts()
    outcome(bank, x)  # what a bank remembers of where they lay must not outlive it
    bank = change(bank)
    assert lies_in_one_block(bank, "weight") is packed
    after = outcome(bank, x)
    assert len(after) == len(before) == 1 + 2 + 2 * 2  # weights and biases of two experts
    assert all(map(torch.equal, after, before))


def test_a_parameter_changed_alone_changes_its_block() -> None:
    bank = bank_of_experts()
    with torch.no_grad():
        bank.stack("weight")[1].fill_(7.0)
    block = block_of(bank.stack("weight"))
    assert bool((block[1] == 7.0).all())
    assert torch.equal(block, torch.stack(bank.stack("weight")))


@torch.no_grad()
def generated(bank: ExpertBank, x: Tensor, tokens: int) -> list[Tensor]:
    """Outputs for so many tokens ``x [B, 1, D]``, as in one call of ``generate``."""
    routes = nn.functional.one_hot(EXPERTS, M).float()[None]
    bank.slot.route = RoutePlan.build(routes, ROWS, "select", stays=True).layers[0]
    outputs = [bank(x) for _ in range(tokens)]
    bank.slot.route = None
    return outputs


@torch.no_grad()
def one_by_one(bank: ExpertBank, x: Tensor) -> Tensor:
    """Row by row through the expert's own module."""
    experts = [bank.experts[int(EXPERTS[task])] for task in ROWS]
    return torch.stack([expert(row) for expert, row in zip(experts, x, strict=True)])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", [1, 2, 3, 7])
@pytest.mark.parametrize("weights_first", [0, 4], ids=["never", "few rows"])  # as on each CPU
def test_few_rows_go_through_their_experts(
    weights_first: int, positions: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_FEW", weights_first)
    torch.manual_seed(0)
    bank = make_bank(nn.Linear(6, 5, bias=bias), M, RouteSlot())
    for parameter in bank.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(len(ROWS), positions, 6)
    for output in generated(bank, x, 2):
        torch.testing.assert_close(output, one_by_one(bank, x))


def transposed(bank: ExpertBank) -> ExpertBank:
    for weight in bank.stack("weight"):  # the same numbers at the same place
        weight.data = weight.data.mT
    return bank


@pytest.mark.parametrize(
    "change", [moved, one_moved, transposed], ids=["moved", "one moved", "transposed"]
)
def test_each_call_looks_anew_where_parameters_lie(
    change: Callable[[ExpertBank], ExpertBank],
) -> None:
    torch.manual_seed(0)
    bank, x = make_bank(nn.Linear(6, 6), M, RouteSlot()), torch.randn(len(ROWS), 1, 6)
    generated(bank, x, 2)
    change(bank)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(1.0)
    for output in generated(bank, x, 2):
        torch.testing.assert_close(output, one_by_one(bank, x))


def test_keeping_some_experts_packs_them() -> None:
    bank = bank_of_experts()
    expected = [bank.stack("weight")[e].detach().clone() for e in (0, 3)]
    bank.keep([0, 3])
    assert lies_in_one_block(bank, "weight")
    assert all(map(torch.equal, bank.stack("weight"), expected))
