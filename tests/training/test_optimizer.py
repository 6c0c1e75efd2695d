"""Parameter groups and the schedule of their rates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tasks.engines.local import LocalEngine
from moe_tasks.errors import UserError
from moe_tasks.training.adamw import FusedAdamW, joined
from moe_tasks.training.optimizer import build_optimizer, rate_factor, rates
from tests.training import tiny


def test_linear_schedule_by_hand() -> None:
    factors = [rate_factor(step, 10, 4, "linear") for step in range(11)]
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    assert factors == pytest.approx(expected)


def test_constant_schedule_by_hand() -> None:
    assert [rate_factor(step, 5, 2, "constant") for step in range(5)] == [0.5, 1, 1, 1, 1]


@given(st.integers(1, 500), st.floats(0, 1))
def test_every_update_has_a_rate(steps: int, share: float) -> None:
    warmup = round(share * steps)
    for schedule in ("linear", "constant"):
        factors = [rate_factor(step, steps, warmup, schedule) for step in range(steps)]
        assert all(0 < factor <= 1 for factor in factors)
        assert factors[:warmup] == sorted(factors[:warmup])
        assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_each_group_has_its_own_rate() -> None:
    config = tiny.config(
        learning_rate=1.0, router_learning_rate=2.0, task_vectors_learning_rate=3.0, warmup=0.5
    )
    assert rates(config, 4) == {"model": 0.5, "router": 1.0, "task_vectors": 1.5}


def test_groups_rates_and_decay() -> None:
    model = tiny.model("gumbel_st")
    optimizer = build_optimizer(model, tiny.config(weight_decay=0.3))
    seen = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(seen) == len(set(seen))
    assert set(seen) == set(model.parameters())
    assert {g["name"] for g in optimizer.param_groups} == {"model", "router", "task_vectors"}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)


def test_router_moves_at_its_own_rate() -> None:
    model = tiny.model("gumbel_st")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny.trainer(
        None, trained=model, steps=3, learning_rate=0.0, task_vectors_learning_rate=0.0
    ).fit()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(name.startswith("router.") for name in moved)


def test_frozen_parameters_are_left_out() -> None:
    model = tiny.model("gumbel_st")
    model.router.requires_grad_(False)
    optimizer = build_optimizer(model, tiny.config())
    assert {g["name"] for g in optimizer.param_groups} == {"model", "task_vectors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda groups, model: groups["model"].pop(), "trainable parameters in no group: "),
        (
            lambda groups, model: groups["router"].append(groups["model"][0]),
            "is in groups 'model' and 'router'",
        ),
        (
            lambda groups, model: groups["router"].append(torch.nn.Parameter(torch.ones(1))),
            "holds a parameter that the model does not name",
        ),
        (
            lambda groups, model: groups.update(other=[groups["model"].pop()]),
            "'other' has no learning rate",
        ),
    ],
)
def test_wrong_groups_are_refused(change, message: str) -> None:
    model = tiny.model()
    groups = model.parameter_groups()
    change(groups, model)
    model.parameter_groups = lambda: groups  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=message):
        build_optimizer(model, tiny.config())


def moved_by(model, **changes) -> set[str]:
    """Names of the parameters that training changed."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny.trainer(None, trained=model, evaluate=None, **changes).fit()
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def test_patterns_freeze_parameters() -> None:
    patterns = ("backbone.model.encoder.layers.0.*", "router.*", "task_vectors")
    moved = moved_by(tiny.model("gumbel_st"), steps=2, freeze=patterns)
    assert any(name.startswith("backbone.model.decoder.layers.0") for name in moved)
    frozen = ("backbone.model.encoder.layers.0", "router", "task_vectors")
    assert not [name for name in moved if name.startswith(frozen)]


@pytest.mark.parametrize(
    ("kind", "patterns", "message"),
    [
        ("gumbel_st", ("rooter.*",), r"'rooter\.\*' matches no parameter"),
        ("dense", ("backbone.modle.*",), "matches no parameter"),
        ("dense", ("*",), "nothing to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(kind, patterns, message) -> None:
    with pytest.raises(UserError, match=message):
        tiny.trainer(None, trained=tiny.model(kind), freeze=patterns)


def test_a_dense_system_passes_over_patterns_of_routed_ones() -> None:
    assert moved_by(tiny.model("dense"), steps=1, freeze=("router.*", "task_vectors"))


def test_routes_and_experts_learn_in_turns() -> None:
    for steps, turn in ((3, "routes"), (6, "both")):
        model = tiny.model("gumbel_st")
        moved = moved_by(model, steps=steps, alternate_every=3)
        assert any(name.startswith("router") for name in moved)
        assert "task_vectors" in moved
        assert any(name.startswith("backbone") for name in moved) == (turn == "both")
    assert moved_by(tiny.model("dense"), steps=2, alternate_every=3)  # nothing to take turns with


def test_groups_without_a_rate_stay_as_they_are() -> None:
    model = tiny.model("gumbel_st")
    engine = LocalEngine(model, tiny.config())
    groups = model.parameter_groups()
    for updated in (set(groups), {"router"}, {"model"}):
        before = {p: p.detach().clone() for own in groups.values() for p in own}
        _, norm = engine.backward([tiny.batches().next()])
        grads = [p.grad for p in before if p.grad is not None]
        torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(grads))
        engine.update(dict.fromkeys(updated, 0.1), float(norm))
        engine.zero_gradients()
        for name, own in groups.items():
            moved = any(not torch.equal(p, before[p]) for p in own)
            assert moved == (name in updated), name


def test_expert_regularization_pulls_experts_together() -> None:
    apart = {}
    for factor in (0.0, 10.0):
        model = tiny.model("gumbel_st")
        start = model.expert_distance().item()
        tiny.trainer(
            None, trained=model, evaluate=None, steps=10, expert_regularization=factor
        ).fit()
        apart[factor] = model.expert_distance().item() / start
    assert apart[10.0] < 0.97 * apart[0.0]
    assert moved_by(tiny.model("dense"), steps=1, expert_regularization=1.0)


def test_a_summed_loss_has_the_mean_ones_gradient_times_the_targets() -> None:
    model = tiny.model(dropout=0.0)
    batches = [tiny.batches().next(), tiny.batches(seed=4).next()]
    grads = {}
    for loss in ("mean", "sum"):
        engine = LocalEngine(model, tiny.config(loss=loss))
        reported, _ = engine.backward(batches)
        grads[loss] = (reported, model.backbone.lm_head.weight.grad.clone())
        engine.zero_gradients()
    targets = sum(batch.targets for batch in batches)
    torch.testing.assert_close(grads["sum"][0], grads["mean"][0])  # always told per token
    torch.testing.assert_close(grads["sum"][1], grads["mean"][1] * targets)


def _parameters(neighbours: bool) -> list[torch.nn.Parameter]:
    """Four; ``neighbours`` lie one after the other in memory, the last of them before the others.

    Sizes are such that no vector register is left half full, whichever are updated as one.
    """
    block = torch.arange(4.0).repeat_interleave(32).view(4, 4, 8)
    parts = [block[1], block[2], block[3], block[0]]
    return [torch.nn.Parameter(part if neighbours else part.clone()) for part in parts]


def _with_gradients(
    parameters: list[torch.nn.Parameter], present: list[int], neighbours: bool = False
) -> None:
    grads = torch.randn(len(parameters), *parameters[0].shape)
    order = sorted(range(len(parameters)), key=lambda number: parameters[number].data_ptr())
    for place, number in enumerate(order):
        grad = grads[place] if neighbours else grads[place].clone()
        parameters[number].grad = grad if number in present else None


@pytest.mark.parametrize("neighbours", [False, True])
def test_the_update_is_torchs_whoever_has_a_gradient(neighbours: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = _parameters(neighbours), _parameters(False)
    settings = {"lr": 0.1, "weight_decay": 0.2}
    optimizer = FusedAdamW(ours, **settings)
    reference = torch.optim.AdamW(theirs, **settings, fused=True)
    divisor = torch.tensor(3.0)
    everyone = [0, 1, 2, 3]
    for step, present in enumerate(
        [[0, 1], [2, 3], everyone, everyone, [1, 2], everyone, [], [0, 3], everyone, [2], everyone]
    ):
        _with_gradients(ours, present, neighbours=neighbours and step != 3)
        for mine, other in zip(ours, theirs, strict=True):
            other.grad = None if mine.grad is None else mine.grad / divisor
        optimizer.grad_scale = divisor
        optimizer.step()
        reference.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)
            expected = reference.state.get(other, {})
            assert optimizer.state.get(mine, {}).keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(optimizer.state[mine][name], value, rtol=1e-6, atol=0)
    assert optimizer.grad_scale is None


@pytest.mark.parametrize("neighbours", [False, True])
def test_what_never_has_a_gradient_has_no_state(neighbours: bool) -> None:
    parameters = _parameters(neighbours)
    optimizer = FusedAdamW(parameters, lr=0.1)
    for present in ([0, 1], [0, 1, 3]):
        _with_gradients(parameters, present, neighbours)
        optimizer.step()
    assert set(optimizer.state) == {parameters[n] for n in (0, 1, 3)}


def test_neighbours_are_updated_as_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = _parameters(True)
    optimizer = FusedAdamW(parameters, lr=0.1)
    sizes: list[list[int]] = []
    update = torch._fused_adamw_

    def spied(numbers: list[torch.Tensor], *rest: Any, **kwargs: Any) -> None:
        sizes.append([tensor.numel() for tensor in numbers])
        update(numbers, *rest, **kwargs)

    monkeypatch.setattr(torch, "_fused_adamw_", spied)
    everyone = [0, 1, 2, 3]
    for present in (everyone, [0, 1], [2, 3], everyone):  # equally many steps again
        _with_gradients(parameters, present, neighbours=True)
        optimizer.step()
    with torch.no_grad():
        parameters[1].data = parameters[1].clone()  # to where nobody looks for it
    _with_gradients(parameters, everyone, neighbours=True)
    optimizer.step()
    assert sizes == [[128], [32, 32], [32, 32], [128], [32] * 4]


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("before", [([0, 1], [0]), ([0, 1], [2, 3])])
def test_restored_states_go_on(neighbours: bool, before: tuple[list[int], ...]) -> None:
    """To the last bit, which also depends on what is updated as one tensor: sizes are odd."""
    torch.manual_seed(0)
    block = torch.randn(4, 13)
    parameters = [torch.nn.Parameter(part if neighbours else part.clone()) for part in block]
    optimizer = FusedAdamW(parameters, lr=0.1)
    for present in before:
        _with_gradients(parameters, present, neighbours)
        optimizer.step()
    states = {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    weights = [p.detach().clone() for p in parameters]
    _with_gradients(parameters, [0, 1, 2, 3], neighbours)
    optimizer.step()
    expected = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
    optimizer.restore(states)
    counts = [int(optimizer.state[p]["step"]) for p in parameters if p in optimizer.state]
    assert counts == [sum(n in present for present in before) for n in range(len(counts))]
    optimizer.step()  # the gradients are still there
    assert all(map(torch.equal, parameters, expected))


def test_joined_tensors_are_the_same_numbers() -> None:
    block, other = torch.arange(24.0).view(4, 3, 2), torch.arange(5.0)
    parts = [block[0], other, block[1], block[3], torch.tensor(7.0)]
    flat = joined(parts)
    assert [tensor.tolist() for tensor in flat] == [
        list(range(12)),
        list(range(5)),
        list(range(18, 24)),
        [7.0],
    ]
    assert flat[0].data_ptr() == block.data_ptr()
