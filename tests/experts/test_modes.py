"""mix, merge, select and the exact router gradient, against layers that are computed one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moe_tasks import TaskMoE
from moe_tasks.errors import UserError
from moe_tasks.experts.convert import named_layers
from moe_tasks.training.loss import token_loss
from tests.models import FAMILIES, SEQ2SEQ, batch, routed, without

CONSTANT = {"start": 2.0, "end": 2.0, "rate": 0.0}
MIX = {"name": "softmax", "mode": "mix", "temperature_schedule": CONSTANT}
EXACT = {"name": "gumbel_st", "gradient": "exact", "temperature_schedule": CONSTANT}


class SlowLayer(nn.Module):
    """Runs every expert's plain layer on all rows and adds up the outputs."""

    def __init__(self, experts: list[nn.Module], weights: Tensor) -> None:  # weights [B, m]
        super().__init__()
        self.experts, self.weights = nn.ModuleList(experts), weights

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = [expert(*args, **kwargs) for expert in self.experts]
        hidden = [o[0] if isinstance(o, tuple) else o for o in outputs]
        total = sum(w[:, None, None] * h for w, h in zip(self.weights.mT, hidden, strict=True))
        return (total, *outputs[0][1:]) if isinstance(outputs[0], tuple) else total


def slow(model: TaskMoE, row_weights: Tensor) -> Any:
    """A plain model of ``model``'s class whose layers mix all experts by ``[L, B, m]``."""
    m = model.spec.num_experts
    eye = torch.eye(m)[:, None].expand(-1, len(model.layer_names), -1)  # every layer expert e
    plain = [model.squeeze_route(eye[expert]) for expert in range(m)]
    routed_names = model.layer_names
    by_name = [named_layers(p) for p in plain]
    for index, name in enumerate(routed_names):
        mixed = SlowLayer([layers[name] for layers in by_name], row_weights[index])
        paths = {layer: path for path, layer in plain[0].named_modules()}
        plain[0].set_submodule(paths[by_name[0][name]], mixed)
    return plain[0]


def data(family: str) -> dict[str, Tensor]:
    inputs = batch()
    if family not in SEQ2SEQ:
        inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return inputs


def compare(family: str, model: TaskMoE, row_weights: Tensor, oracle_vectors: Tensor) -> None:
    """Logits, loss and gradients of router, task vectors and experts against the oracle's."""
    inputs = data(family)
    oracle = slow(model, row_weights)
    logits = model(**inputs).logits
    expected = oracle(**without(inputs, "task_ids"), use_cache=False).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    token_loss(logits, inputs["labels"]).backward()
    token_loss(expected, inputs["labels"]).backward()
    grad = model.task_vectors.grad
    assert grad is not None
    assert oracle_vectors.grad is not None
    assert oracle_vectors.grad.abs().max() > 1e-4
    torch.testing.assert_close(
        grad, oracle_vectors.grad, rtol=1e-4, atol=1e-5 * float(oracle_vectors.grad.abs().max())
    )
    mine = {n: p.grad for n, p in model.backbone.named_parameters() if ".experts." in n}
    assert mine
    _compare_experts(mine, oracle)


def _compare_experts(mine: dict[str, Tensor | None], oracle: Any) -> None:
    theirs = {}
    for path, layer in oracle.named_modules():
        if isinstance(layer, SlowLayer):
            for expert, plain in enumerate(layer.experts):
                for name, p in plain.named_parameters():
                    leaf, _, kind = name.rpartition(".")
                    theirs[f"{path}.{leaf}.experts.{expert}.{kind}"] = p.grad
    # Some gradients are zero but for rounding (keys' biases), so one scale for all.
    scale = max(float(g.abs().max()) for g in theirs.values() if g is not None)
    for name, grad in mine.items():
        expected = theirs[name]
        if grad is None:  # an expert that no row used
            assert expected is None or not expected.any()
        else:
            torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_mixing_outputs_equals_all_experts(family: str) -> None:
    model = routed(family, selection=MIX)
    vectors = model.task_vectors.detach().clone().requires_grad_()
    weights = (model.router(vectors) / 2.0).softmax(-1)[:, batch()["task_ids"]]
    compare(family, model, weights, vectors)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_router_gradient_equals_all_experts(family: str, checkpointing: bool) -> None:
    model = routed(family, selection=EXACT, num_experts=4)
    vectors = model.task_vectors.detach().clone().requires_grad_()
    soft = (model.router(vectors) / 2.0).softmax(-1)[:, batch()["task_ids"]]
    hard = torch.nn.functional.one_hot(soft.argmax(-1), 4).float()
    if checkpointing:
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        for module in model.backbone.modules():
            module.training = hasattr(module, "gradient_checkpointing") or module.training
    compare(family, model, hard - soft.detach() + soft, vectors)


@pytest.mark.parametrize("family", FAMILIES)
def test_probing_one_row_per_task_is_exact_where_its_rows_are_alike(family: str) -> None:
    inputs = data(family)
    first = [0, 1, 2, 4]  # of tasks 2, 0, 1, 3
    rows = torch.tensor([first[i] for i in (0, 1, 0, 2, 3, 1, 0, 2)])
    inputs = {name: value[rows] for name, value in inputs.items()}
    grads = {}
    for gradient in ("exact", "probe"):
        model = routed(family, selection={**EXACT, "gradient": gradient})
        token_loss(model(**inputs).logits, inputs["labels"]).backward()
        grads[gradient] = model.task_vectors.grad
    scale = float(grads["exact"].abs().max())
    assert scale > 1e-4
    torch.testing.assert_close(grads["probe"], grads["exact"], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("without_experts", [(), ("decoder.0",)])
def test_mixed_outputs_generate_the_same_cached_and_not(
    family: str, beams: int, without_experts: tuple[str, ...]
) -> None:
    model = routed(family, selection=MIX, layers_without_experts=without_experts)
    inputs = without(data(family), "labels")
    options = {"num_beams": beams, "max_new_tokens": 8, "do_sample": False}
    with torch.no_grad():
        cached = model.generate(**inputs, **options)
        uncached = model.generate(**inputs, **options, use_cache=False)
        oracle = slow(model, model.route_weights()[:, inputs["task_ids"].repeat_interleave(beams)])
        single = [
            model.generate(**{k: v[i : i + 1] for k, v in inputs.items()}, **options)[0]
            for i in range(len(inputs["input_ids"]))
        ]
    assert torch.equal(cached, uncached)
    for row, alone in zip(cached, single, strict=True):
        assert row.tolist()[: len(alone)] == alone.tolist()
    if beams == 1:  # teacher forcing the oracle gives the same greedy tokens
        encoded = {k: inputs[k] for k in ("input_ids", "attention_mask")}
        again = oracle(**encoded, decoder_input_ids=cached[:, :-1], use_cache=False).logits
        free = ~torch.isin(cached[:, 1:], torch.tensor([0, 1, 2]))
        assert torch.equal(again.argmax(-1)[free], cached[:, 1:][free])


def test_mixed_outputs_refuse_a_static_cache() -> None:
    model = routed("bart", selection=MIX)
    with pytest.raises(UserError, match="dynamic cache"):
        model.generate(**without(batch(), "labels"), cache_implementation="static")


def test_noise_per_row_draws_a_route_for_every_row() -> None:
    model = routed("bart", selection={"name": "gumbel_st", "noise": "row"}).train()
    task_ids = torch.zeros(64, dtype=torch.int64)
    plan = model.plan(task_ids)
    assert plan.weights.shape[1] == 64
    drawn = plan.weights.argmax(-1)  # [L, B]
    assert all(len(set(layer)) == 3 for layer in drawn.tolist())
    assert model.eval().plan(task_ids).weights.shape[1] == 1
    model.train()(**batch()).logits.sum().backward()
    assert model.task_vectors.grad is not None


def test_expert_distance_is_the_mean_over_pairs_of_summed_norms() -> None:
    model = routed("bart")
    total = 0.0
    experts = [
        named_layers(model.squeeze_route(torch.eye(3)[e].expand(len(model.layer_names), -1)))
        for e in range(3)
    ]
    for name in model.layer_names:
        for a, b in ((0, 1), (0, 2), (1, 2)):
            pairs = zip(experts[a][name].parameters(), experts[b][name].parameters(), strict=True)
            total += sum(float((p - q).detach().norm()) for p, q in pairs) / 3
    distance = model.expert_distance()
    assert distance.item() == pytest.approx(total, rel=1e-5)
    distance.backward()
    assert routed("bart", num_experts=1).expert_distance() == 0.0


def test_layers_without_experts_leave_the_routers_other_layers_alone() -> None:
    model = routed("bart", layers_without_experts=("encoder.0",), router="lstm")
    everywhere = model.router(model.task_vectors)
    assert everywhere.shape[0] == 4
    assert model.layer_names == ["encoder.1", "decoder.0", "decoder.1"]
    assert torch.equal(model.logits(), everywhere[1:])
    with pytest.raises(UserError, match="leave at least one"):
        routed("bart", layers_without_experts=[*model.layer_names, "encoder.0"])


def test_routes_taken_over_stay_as_they_are() -> None:
    source = routed("bart", router="gru")
    target = routed("bart", router="linear")
    target.take_routes(source)
    assert torch.equal(target.routes(), source.routes())
    assert not any(p.requires_grad for p in target.router.parameters())
    target.train()(**batch()).logits.sum().backward()
    assert target.task_vectors.grad is None
    with pytest.raises(UserError, match="same tasks and layers"):
        target.take_routes(routed("bart", num_experts=2))


@pytest.mark.parametrize(("n", "mode"), [(1, "select"), (2, "mix")])
def test_fixed_routes_of_n_experts(n: int, mode: str, tmp_path: Any) -> None:
    model = routed("bart", layers_without_experts=("decoder.1",))
    routes = torch.zeros(4, 3, 3)
    routes[..., :n] = 1 / n
    model.fix_routes(routes)
    assert model.selection.mode == mode
    assert torch.equal(model.train().routes(), routes)
    model.save(tmp_path)
    assert torch.equal(TaskMoE.load(tmp_path).routes(), routes)
