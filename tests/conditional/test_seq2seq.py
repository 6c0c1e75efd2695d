"""Conditional parts in the encoder of BART and T5, alone and under experts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_tasks.conditional.conditioned import conditioning_parameters
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.convert import convert
from moe_tasks.errors import UserError
from moe_tasks.multitask import MultiTaskModel
from tests.conditional.encoders import error
from tests.conditional.seq2seq import IDENTITY, PARTS, Model, SlowEncoder, build, shaken
from tests.models import SEQ2SEQ, TASKS, batch, llama, without

HARD = {"name": "gumbel_st"}
SELECTIONS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "select": HARD,
    "exact": {**HARD, "gradient": "exact"},
    "mix": {"name": "softmax", "mode": "mix"},
    "merge": {"name": "softmax", "mode": "merge"},
}
every_family = pytest.mark.parametrize("family", SEQ2SEQ)
every_arrangement = pytest.mark.parametrize("name", PARTS)
dense_and_routed = pytest.mark.parametrize("kind", ["dense", "select"])


def logits(model: Any, rows: dict[str, Tensor]) -> Tensor:
    """Of real target positions ``[N, vocabulary]``."""
    return model(**rows).logits[rows["labels"] != -100]


@every_family
@every_arrangement
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_encoder_computes_what_a_slow_one_does(family: str, name: str, attention: str) -> None:
    model, rows = shaken(family, name), batch()
    model.backbone.set_attn_implementation(attention)
    condition, mask = model.condition(rows["task_ids"]), rows["attention_mask"]
    states = model.backbone.get_encoder()(
        rows["input_ids"], attention_mask=mask, condition=condition
    )
    for row, length in enumerate(mask.sum(1).tolist()):
        expected = SlowEncoder(model, int(rows["task_ids"][row]))(rows["input_ids"][row, :length])
        # T5's own norms compute variances in float32.
        bound = 1e-6 if family == "t5" else 1e-9
        assert error(states.last_hidden_state[row, :length], expected) < bound


@every_family
@dense_and_routed
def test_at_its_start_as_the_identity_it_is_the_plain_model(family: str, kind: str) -> None:
    rows, plain = batch(), SEQ2SEQ[family]().double()
    expected = logits(plain, without(rows, "task_ids"))
    assert error(logits(build(family, IDENTITY, SELECTIONS[kind]), rows), expected) < 1e-6
    other = dataclasses.replace(IDENTITY, film_init="published")
    assert error(logits(build(family, other, SELECTIONS[kind]), rows), expected) > 1e-3


@every_family
@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "dense") for name in PARTS), *(("chain", k) for k in SELECTIONS)]
)
def test_padding_and_rows_of_other_tasks_change_no_row(family: str, name: str, kind: str) -> None:
    model, rows = shaken(family, name, SELECTIONS[kind]), batch()
    together = model(**rows).logits
    wide = {**rows, "input_ids": torch.nn.functional.pad(rows["input_ids"], (0, 4), value=7)}
    wide["attention_mask"] = torch.nn.functional.pad(rows["attention_mask"], (0, 4))
    assert error(model(**wide).logits, together) < 1e-9
    for row in (0, 3, 5):
        alone = {key: value[row : row + 1] for key, value in rows.items()}
        length = int(alone["attention_mask"].sum())
        alone = {**alone, "input_ids": alone["input_ids"][:, :length]}
        alone["attention_mask"] = alone["attention_mask"][:, :length]
        assert error(model(**alone).logits[0], together[row]) < 1e-9


@every_family
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chain", "dense"),
        ("residual", "dense"),
        ("chain", "exact"),
        ("residual", "select"),
        ("chain", "mix"),
    ],
)
def test_checkpointed_activations_give_the_same_gradients(
    family: str, name: str, kind: str
) -> None:
    found = []
    for checkpointed in (False, True):
        model = shaken(family, name, SELECTIONS[kind]).train()
        if checkpointed:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        model.loss(batch()).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert set(conditioning_parameters(model)) <= found[0].keys()
    for key, value in found[0].items():
        assert value.abs().max() > 0 or "decoder" in key or "experts" in key, key
        assert error(found[1][key], value) < 1e-9 or value.abs().max() < 1e-12, key


@every_family
@every_arrangement
@dense_and_routed
def test_a_tasks_own_model_computes_what_its_rows_get(family: str, name: str, kind: str) -> None:
    model, rows = shaken(family, name, SELECTIONS[kind]), batch()
    together = model(**rows).logits
    for task in TASKS:
        own = rows["task_ids"] == model.task_id(task)
        alone = {key: value[own] for key, value in without(rows, "task_ids").items()}
        assert error(model.squeeze(task)(**alone).logits, together[own]) < 1e-9
    average = model.conditioned(model.squeeze("add"), None)
    other: Any = average
    assert error(other(**without(rows, "task_ids")).logits, together) > 1e-3


def one_by_one(model: Model, rows: dict[str, Tensor], **options: Any) -> list[list[int]]:
    answers = []
    for row in range(len(rows["input_ids"])):
        length = int(rows["attention_mask"][row].sum())
        plain: Any = model.squeeze(TASKS[int(rows["task_ids"][row])])
        ids = plain.generate(rows["input_ids"][row : row + 1, :length], **options)
        answers.append(trimmed(ids[0].tolist()))
    return answers


def trimmed(ids: list[int]) -> list[int]:
    """Up to the end of sequence; batches are padded after it."""
    end = next((place for place, token in enumerate(ids[1:], 1) if token in (1, 2)), len(ids))
    return ids[:end]


@every_family
@dense_and_routed
@pytest.mark.parametrize("beams", [1, 3])
def test_mixed_batches_generate_what_each_row_alone_does(
    family: str, kind: str, beams: int
) -> None:
    model, rows = shaken(family, "chain", SELECTIONS[kind]), without(batch(), "labels")
    options: Any = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False}
    expected = one_by_one(model, rows, **options)
    for cached in (True, False):
        found = model.generate(**rows, **options, use_cache=cached)
        assert [trimmed(ids) for ids in found.tolist()] == expected
    assert len({tuple(ids) for ids in expected}) > 2  # tasks and inputs differ


@every_family
def test_mixtures_generate_alike_with_and_without_a_cache(family: str) -> None:
    model, rows = shaken(family, "chain", SELECTIONS["mix"]), without(batch(), "labels")
    options: Any = {"num_beams": 2, "max_new_tokens": 5}
    cached, plain = (model.generate(**rows, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)


@every_family
@dense_and_routed
def test_a_saved_model_is_what_it_was(family: str, kind: str, tmp_path: Path) -> None:
    model, rows = shaken(family, "chain", SELECTIONS[kind]).float(), batch()
    model.save(tmp_path)
    again: Any = MultiTaskModel.load(tmp_path)
    assert type(again) is type(model)
    assert (again.config, again.task_names) == (model.config, model.task_names)
    assert torch.equal(again(**rows).logits, model(**rows).logits)
    plain: Any = again.squeeze("add")
    with pytest.raises(UserError, match=r"no place in a plain (Bart|T5)For"):
        plain.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


@every_family
def test_parameters_are_in_one_group_each_and_all_parts_learn(family: str) -> None:
    model = shaken(family, "residual", HARD)
    groups = model.parameter_groups()
    flat = [p for group in groups.values() for p in group]
    assert len(flat) == len({id(p) for p in flat}) == len(list(model.parameters()))
    assert {tuple(p.shape) for p in groups["task_vectors"]} == {(4, 32), (4, 8)}
    model.loss(batch()).backward()
    named = dict(model.named_parameters())
    assert not [n for n in conditioning_parameters(model) if named[n].grad is None]
    assert not [n for n in conditioning_parameters(model) if ".decoder" in n]


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (ConditionalConfig.base(max_length=8), {}, "fresh_top_layer' changes the last layer of"),
        (ConditionalConfig(max_length=8), {}, "'conditional.bottleneck: top' changes the last"),
        (ConditionalConfig.large(max_length=9), {}, "width 32 is no multiple of 'max_length' 9"),
        (PARTS["chain"], {"encoder_layerdrop": 0.1}, r"drops some \(encoder_layerdrop=0.1\)"),
    ],
)
def test_what_does_not_fit_is_one_line(
    config: ConditionalConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build("bart", config, **changes)
    assert "\n" not in str(raised.value)


def test_a_model_of_another_plan_is_refused() -> None:
    with pytest.raises(UserError, match="LlamaForCausalLM has not the layer plan of BERT, BART"):
        convert(llama(), PARTS["chain"])
