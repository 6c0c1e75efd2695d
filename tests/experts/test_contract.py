"""What every routed model must keep, over families, granularities and selections."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from moe_tasks import TaskMoE
from moe_tasks.errors import UserError
from moe_tasks.routing.plan import RoutePlan
from tests.models import FAMILIES, SEQ2SEQ, TASKS, batch, routed, select_rows, without

GRANULARITIES = ("layer", "ffn", "attention")
SELECTIONS = ("gumbel_st", "softmax", "average")
families = pytest.mark.parametrize("family", FAMILIES)
seq2seq = pytest.mark.parametrize("family", SEQ2SEQ)


def inputs_for(family: str) -> dict[str, Tensor]:
    data = batch()
    if family not in SEQ2SEQ:  # labels of causal and masked models are as long as the input
        data["labels"] = data["input_ids"].masked_fill(data["attention_mask"] == 0, -100)
    return data


@families
@pytest.mark.parametrize("experts", GRANULARITIES)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_equal_experts_are_the_dense_model(family: str, experts: str, selection: str) -> None:
    data = inputs_for(family)
    dense = FAMILIES[family]()(**without(data, "task_ids"), use_cache=False)
    model = routed(family, perturbed=False, experts=experts, selection=selection)
    output = model(**data)
    torch.testing.assert_close(output.logits, dense.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss, dense.loss, rtol=1e-5, atol=1e-5)


@families
@pytest.mark.parametrize("experts", GRANULARITIES)
@pytest.mark.parametrize("selection", SELECTIONS)
@torch.no_grad()
def test_perturbed_experts_routed_equals_squeezed(
    family: str, experts: str, selection: str
) -> None:
    data = inputs_for(family)
    model = routed(family, experts=experts, selection=selection)
    mixed = model(**data).logits
    for task in data["task_ids"].unique().tolist():
        mask = data["task_ids"] == task
        alone = select_rows(data, mask)
        plain = model.squeeze(TASKS[task])
        squeezed = plain(**without(alone, "task_ids"), use_cache=False).logits
        assert type(plain) is type(FAMILIES[family]())
        assert torch.equal(model(**alone).logits, squeezed)  # same rows: bit for bit
        torch.testing.assert_close(mixed[mask], squeezed, rtol=1e-4, atol=1e-5)


@families
@torch.no_grad()
def test_perturbed_experts_differ_between_tasks(family: str) -> None:
    """Guards the tests above: routes must differ, or equality would be cheap."""
    model = routed(family)
    data = inputs_for(family)
    logits = [model(**{**data, "task_ids": torch.full((8,), t)}).logits for t in range(4)]
    assert len({tuple(r.argmax(-1).tolist()) for r in model.routes()}) > 1
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)


@seq2seq
@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("selection", ["gumbel_st", "softmax"])
@pytest.mark.parametrize("equally_many", [False, True])
@torch.no_grad()
def test_generation_is_the_same_cached_uncached_mixed_and_squeezed(
    family: str, num_beams: int, selection: str, equally_many: bool
) -> None:
    data = without(batch(), "labels")
    if equally_many:  # one task after the other, as evaluation has them
        rows = [(data["task_ids"] == task).nonzero().flatten() for task in (0, 2)]
        data = select_rows(data, torch.cat(rows))
        assert data["task_ids"].tolist() == [0, 0, 0, 2, 2, 2]
    model = routed(family, selection=selection)
    options = {"num_beams": num_beams, "max_new_tokens": 8, "min_new_tokens": 8}
    cached = model.generate(**data, **options)
    assert torch.equal(cached, model.generate(**data, use_cache=False, **options))
    for task in data["task_ids"].unique().tolist():
        mask = data["task_ids"] == task
        alone = select_rows(data, mask)
        plain = model.squeeze(TASKS[task])
        assert torch.equal(cached[mask], plain.generate(**without(alone, "task_ids"), **options))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@torch.no_grad()
def test_decoder_only_generation(family: str) -> None:
    data = batch()
    prompt = {"input_ids": data["input_ids"][:, :5], "task_ids": data["task_ids"]}
    model = routed(family)
    mixed = model.generate(**prompt, max_new_tokens=6, min_new_tokens=6)
    for row, task in enumerate(data["task_ids"].tolist()):
        alone = model.squeeze(TASKS[task]).generate(
            prompt["input_ids"][row : row + 1], max_new_tokens=6, min_new_tokens=6
        )
        assert torch.equal(mixed[row], alone[0])


@families
def test_gradient_checkpointing_has_the_same_gradients(family: str) -> None:
    data = inputs_for(family)
    gradients = []
    for checkpointing in (False, True):
        model = routed(family)
        model.train()
        if checkpointing:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        model(**data).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        assert (plain[name] is None) == (checkpointed[name] is None)
        if plain[name] is not None:
            torch.testing.assert_close(checkpointed[name], plain[name], msg=name)


@families
@pytest.mark.parametrize("stays", [False, True])
def test_gradient_checkpointing_of_rows_that_lie_by_expert_but_not_by_task(
    family: str, stays: bool
) -> None:
    data, row_task = inputs_for(family), [1, 1, 1, 1, 0, 0, 0, 0]
    gradients = []
    for checkpointing in (False, True):
        model = routed(family).train()
        if checkpointing:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        experts = torch.tensor([[1, 0]] * model.num_layers)
        routes = torch.nn.functional.one_hot(experts, model.spec.num_experts).float()
        routes.requires_grad_()
        plan = RoutePlan.build(routes, row_task, "select", stays=stays)
        assert all(route.order is None for route in plan.layers)
        model(**data, route_plan=plan).loss.backward()
        gradients.append(routes.grad)
    plain, checkpointed = gradients
    assert bool(plain.abs().sum((1, 2)).all())
    torch.testing.assert_close(checkpointed, plain)


@seq2seq
@pytest.mark.parametrize("selection", SELECTIONS)
def test_save_and_load(family: str, selection: str, tmp_path: Path) -> None:
    model = routed(family, selection=selection, layers_without_experts=["decoder.0"])
    model.set_step(250)
    model.save(tmp_path / "model")
    loaded = TaskMoE.load(tmp_path / "model")
    data = batch()
    assert torch.equal(model(**data).logits, loaded(**data).logits)
    assert torch.equal(model.routes(), loaded.routes())
    assert loaded.task_names == TASKS
    assert loaded.layer_names == model.layer_names
    assert "decoder.0" not in loaded.layer_names


def test_loading_refuses_missing_and_unknown_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = routed("bart")
    model.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(n for n in weights if "experts.2" in n)
    save_file({n: w for n, w in weights.items() if n != name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"experts\.2"):
        TaskMoE.load(tmp_path)
    save_file({**weights, "stray": weights[name].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="stray"):
        TaskMoE.load(tmp_path)


@seq2seq
def test_squeezed_folder_loads_without_this_package(family: str, tmp_path: Path) -> None:
    model = routed(family)
    plain = model.squeeze("taste")
    plain.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    data = without(batch(), "task_ids")
    assert torch.equal(loaded(**data).logits, plain(**data).logits)
    assert not any("experts" in name or "router" in name for name in loaded.state_dict())


@seq2seq
def test_evaluation_is_repeatable_and_training_is_not(family: str) -> None:
    model = routed(family)
    data = batch()
    assert torch.equal(model(**data).logits, model(**data).logits)
    assert torch.equal(model.routes(), model.routes())
    with torch.no_grad():
        model.task_vectors.mul_(0.01)  # undecided routes, so that noise matters
    model.train()
    draws = {tuple(model.route_weights().argmax(-1).flatten().tolist()) for _ in range(8)}
    assert len(draws) > 1


@seq2seq
def test_a_routed_model_can_be_copied(family: str) -> None:
    model = routed(family)
    twin = copy.deepcopy(model)
    data = batch()
    expected = model(**data).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(**data).logits, expected)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_bf16_autocast_trains(family: str) -> None:
    model = routed(family).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch()).loss
    loss.backward()
    reference = routed(family).train()
    torch.manual_seed(0)
    full = reference(**batch()).loss
    assert abs(loss.item() - full.item()) < 0.5 + 0.1 * full.item()
    assert all(
        p.grad is None or (p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all())
        for p in model.parameters()
    )
    assert model.task_vectors.grad is not None
    assert model.task_vectors.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [False, True])
def test_routes_do_not_depend_on_the_precision_of_the_layers(training: bool) -> None:
    model = routed("bart").train(training)
    data = batch()
    plans = []
    for cast in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            plans.append(model.plan(data["task_ids"]).weights)
    assert torch.equal(*plans)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "router.num_experts"),
        ({"experts": "layr"}, "did you mean 'layer'"),
        ({"router": "linear_layer_specfic"}, "did you mean 'linear_layer_specific'"),
        ({"selection": "gumbel_sr"}, "gumbel_st"),
        ({"layers_without_experts": ["encoder.7"]}, "encoder.7"),
        ({"task_vectors": torch.zeros(3, 5)}, "expected \\(4, 5\\)"),
        ({"task_vectors": torch.full((4, 5), float("nan"))}, "not finite"),
        ({"task_vectors": {"add": torch.zeros(5)}}, "no task vector for colour"),
        ({"selection": {"name": "softmax", "temperature_schedule": {"end": 0}}}, "must be > 0"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaskMoE.from_backbone(FAMILIES["bart"](), TASKS, **options)


def test_unknown_task_names_and_ids() -> None:
    model = routed("bart")
    with pytest.raises(UserError, match="did you mean 'colour'"):
        model.squeeze("color")
    with pytest.raises(UserError, match=r"0\.\.3"):
        model(**{**batch(), "task_ids": torch.full((8,), 4)})
