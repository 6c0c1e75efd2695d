"""The ``merge_st`` router gradient against autograd through parameter merging, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from moe_tasks.experts.leaf_banks import NormBank, make_bank
from moe_tasks.experts.merging import merge
from moe_tasks.experts.routed_layer import RouteSlot
from moe_tasks.routing.plan import RoutePlan
from tests.models import batch, routed

B, T, M, D = 10, 4, 3, 6
ROWS = {
    "unequal": [0, 0, 0, 1, 2, 2, 3, 3, 3, 3],
    "equal": [0, 0, 1, 1, 2, 2, 3, 3],
    "mixed": [3, 0, 2, 0, 1, 3, 2, 3, 0, 3],
}


class GemmaNorm(nn.Module):
    """A norm that scales by one plus its weight: no plain affine norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


LEAVES = {
    "linear": lambda: nn.Linear(D, 5),
    "linear of many outputs": lambda: nn.Linear(D, 12_000),  # a product is added to the one before
    "linear without bias": lambda: nn.Linear(D, 5, bias=False),
    "layer norm": lambda: nn.LayerNorm(D),
    "rms norm": lambda: nn.RMSNorm(D),
    "gemma norm": lambda: GemmaNorm(D),
    "bilinear leaf": lambda: nn.Conv1d(D, D, 1),
}


def perturbed_bank(leaf: str) -> tuple[nn.Module, RouteSlot]:
    torch.manual_seed(0)
    slot = RouteSlot()
    bank = make_bank(LEAVES[leaf]().double(), M, slot)
    for parameter in bank.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return bank, slot


def inputs(leaf: str, rows: list[int]) -> Tensor:
    shape = (len(rows), D, 7) if leaf == "bilinear leaf" else (len(rows), 7, D)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("order", ROWS)
@pytest.mark.parametrize("grouped", [False, True])  # by the bank, or by the layer around it
def test_merge_st_equals_autograd_through_merging(leaf: str, order: str, grouped: bool) -> None:
    """Hard forward; gradients are those of the merged function at the one-hot point."""
    rows = ROWS[order]
    bank, slot = perturbed_bank(leaf)
    x = inputs(leaf, rows)
    picks = torch.tensor([2, 0, 2, 0])  # expert 1 has no rows
    p = nn.functional.one_hot(picks, M).double().requires_grad_()
    route = RoutePlan.build(p[None], rows, "select").layers[0]
    slot.route = route.grouped() if grouped else route
    y = route.scatter(bank(route.gather(x))) if grouped else bank(x)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    grads = {"x": x.grad, "p": p.grad, **{n: q.grad for n, q in bank.named_parameters()}}

    x2 = x.detach().clone().requires_grad_()
    p2 = p.detach().clone().requires_grad_()
    parameters = {n: q.detach().clone().requires_grad_() for n, q in bank.named_parameters()}
    outputs = []
    for row, task in enumerate(rows):
        merged = {
            name: sum(p2[task, e] * parameters[f"experts.{e}.{name}"] for e in range(M))
            for name in bank.parameter_names()
        }
        outputs.append(functional_call(bank.experts[0], merged, (x2[row : row + 1],)))
    y2 = torch.cat(outputs)
    (y2 * weight).sum().backward()
    torch.testing.assert_close(y, y2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grads["x"], x2.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grads["p"], p2.grad, rtol=1e-10, atol=1e-12)
    for name, parameter in parameters.items():
        if ".1." in name:
            assert grads[name] is None  # an unused expert costs the optimizer nothing
        else:
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_many_tasks_of_one_expert_keep_the_precision_of_float32() -> None:
    """Where each task's gradient is what it adds to those before it."""
    tasks = 32
    bank, slot = perturbed_bank("linear of many outputs")
    x = inputs("linear of many outputs", list(range(tasks))).detach()
    p = nn.functional.one_hot(torch.zeros(tasks, dtype=torch.long), M).double()
    weight = torch.randn(tasks, 7, 12_000, dtype=torch.float64)
    found = []
    for dtype in (torch.float64, torch.float32):
        own = p.detach().to(dtype).requires_grad_()
        slot.route = RoutePlan.build(own[None], list(range(tasks)), "select").layers[0]
        (bank.to(dtype)(x.to(dtype)) * weight.to(dtype)).sum().backward()
        found.append(own.grad)
    exact, rounded = found
    error = (rounded.double() - exact).norm() / exact.norm()
    assert 0 < error < 1e-5


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("order", ROWS)
def test_merge_mode_is_merging(leaf: str, order: str) -> None:
    rows = ROWS[order]
    bank, slot = perturbed_bank(leaf)
    x = inputs(leaf, rows)
    p = torch.randn(T, M, dtype=torch.float64).softmax(-1)
    slot.route = RoutePlan.build(p[None], rows, "merge").layers[0]
    y = bank(x)
    for row, task in enumerate(rows):
        plain = bank.squeezed(p[task], "merge")
        torch.testing.assert_close(y[row : row + 1], plain(x[row : row + 1]))


def test_norm_banks_recognise_plain_affine_norms_only() -> None:
    kinds = {name: type(perturbed_bank(name)[0]) is NormBank for name in LEAVES}
    assert kinds["layer norm"]
    assert kinds["rms norm"]
    assert not kinds["gemma norm"]


def test_merge_does_not_depend_on_the_other_tasks() -> None:
    p = torch.randn(5, M).softmax(-1)
    parameters = [torch.randn(11, 13) for _ in range(M)]
    together = merge(p, parameters)
    for task in range(5):
        assert torch.equal(together[task], merge(p[task : task + 1], parameters)[0])


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_experts_without_rows_have_no_gradient(family: str) -> None:
    model = routed(family, num_experts=5).train()
    data = batch()
    torch.manual_seed(7)
    drawn = model.route_weights()  # the same noise as in the call below
    torch.manual_seed(7)
    model(**data).loss.backward()
    used = drawn[:, data["task_ids"].unique()].sum(1) > 0  # [layers, experts]
    assert not used.all()
    for name, parameter in model.backbone.named_parameters():
        path = name.split(".")
        if "experts" in path:
            number = int(path[path.index("experts") + 1])
            layer = next(int(part) for part in path if part.isdigit())
            stack = "decoder" if "decoder" in path else "encoder"
            row = model.layer_names.index(f"{stack}.{layer}")
            has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            if not used[row, number]:
                assert parameter.grad is None, name
            else:
                assert has or "bias" in name, name  # a key's bias changes no attention weight


@pytest.mark.parametrize("router", ["linear", "linear_layer_specific"])
def test_a_planted_route_is_found_by_training_only_the_router(router: str) -> None:
    """Experts that solve one task each; the router alone must give each task its expert."""
    torch.manual_seed(0)
    slot = RouteSlot()
    bank = make_bank(nn.Linear(D, D), M, slot)
    for parameter in bank.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
    bank.requires_grad_(False)
    from moe_tasks import registry
    from moe_tasks.routing.selection import Annealing, GumbelStraightThrough

    planted = torch.tensor([1, 0, 2, 1])
    net = registry.lookup("router", router)(8, 1, M, 32)
    vectors = torch.randn(T, 8)
    selection = GumbelStraightThrough(Annealing(2.0, 0.3, 0.01))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    rows = [t for t in range(T) for _ in range(4)]
    for step in range(200):
        x = torch.randn(len(rows), 3, D)
        target = torch.stack([bank.experts[planted[t]](x[i]) for i, t in enumerate(rows)])
        weights = selection(net(vectors), step=step, training=True)
        slot.route = RoutePlan.build(weights, rows, "select").layers[0]
        loss = (bank(x) - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert net(vectors)[0].argmax(-1).tolist() == planted.tolist()
