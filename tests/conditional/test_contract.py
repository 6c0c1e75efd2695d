"""What holds for every family, arrangement and subset of the conditional parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from moe_tasks.conditional.conditioned import conditioning_parameters
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.model import CAMTL
from moe_tasks.errors import UserError
from moe_tasks.multitask import MultiTaskModel
from tests.conditional.encoders import (
    FAMILIES,
    HEADS,
    LENGTH,
    batch,
    conditional,
    encoder,
    error,
    pooling,
)

NONE = ConditionalConfig.none(max_length=LENGTH)
ARRANGEMENTS = {
    "base": ConditionalConfig.base(max_length=LENGTH),
    "large": ConditionalConfig.large(max_length=LENGTH),
    "residual": ConditionalConfig(max_length=LENGTH, bottleneck="residual"),
    "only attention": dataclasses.replace(NONE, attention="tiled"),
    "only alignment": dataclasses.replace(NONE, alignment=True),
    "only layer norm": dataclasses.replace(NONE, layer_norm=True),
    "only top": dataclasses.replace(NONE, bottleneck="top"),
    "only chain": dataclasses.replace(NONE, bottleneck="chain"),
    "other blocks": ConditionalConfig(max_length=7, attention_blocks=3),
    "nothing": NONE,
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_arrangement = pytest.mark.parametrize("name", ARRANGEMENTS)


@every_family
@every_arrangement
def test_padding_and_other_rows_change_no_row(family: str, name: str) -> None:
    model = conditional(family, ARRANGEMENTS[name]).double()
    rows = batch(9)
    together = model(**rows)
    for padded in (9, LENGTH, 17):
        wide = batch(padded, longest=9)
        again = model(**wide)
        real = rows["attention_mask"].bool()
        assert error(again.last_hidden_state[:, :9][real], together.last_hidden_state[real]) < 1e-9
        assert error(again.loss, together.loss) < 1e-5
    for row, length in enumerate(rows["attention_mask"].sum(1).tolist()):
        inputs = {k: v[row : row + 1] for k, v in rows.items()}
        alone = model(inputs["input_ids"][:, :length], task_ids=inputs["task_ids"])
        assert error(alone.pooler_output[0], together.pooler_output[row]) < 1e-9


@every_arrangement
def test_rows_differ_by_task_where_a_part_is_on(name: str) -> None:
    model = conditional("bert", ARRANGEMENTS[name])
    rows = batch()
    one, other = (
        model(rows["input_ids"], rows["attention_mask"], task_ids=torch.full((6,), task))
        for task in (0, 2)
    )
    distance = error(one.last_hidden_state, other.last_hidden_state)
    assert (distance > 1e-3) == (name != "nothing")
    if name == "nothing":
        assert distance == 0
        assert conditioning_parameters(model) == []


@every_family
def test_identity_leaves_the_encoder_what_it_was(family: str) -> None:
    plain, rows = encoder(family), batch()
    inputs = {k: rows[k] for k in ("input_ids", "attention_mask")}
    expected = plain(**inputs).last_hidden_state
    parts = ConditionalConfig(max_length=LENGTH, bottleneck="residual", film_init="identity")
    model = CAMTL(encoder(family), list(HEADS), HEADS, parts, pooling=pooling(family)).eval()
    found = model(**inputs, task_ids=rows["task_ids"]).last_hidden_state
    real = rows["attention_mask"].bool()
    assert error(found[real], expected[real]) < 1e-5
    published = dataclasses.replace(parts, film_init="published")
    other = CAMTL(encoder(family), list(HEADS), HEADS, published, pooling=pooling(family)).eval()
    found = other(**inputs, task_ids=rows["task_ids"]).last_hidden_state
    assert error(found[real], expected[real]) > 1e-3


def test_the_published_attention_is_the_tiled_one_at_its_length() -> None:
    tiled = conditional(config=ConditionalConfig.base(max_length=LENGTH))
    published = conditional(config=ConditionalConfig.base(max_length=LENGTH, attention="published"))
    short, full = batch(9), batch(LENGTH, longest=9)
    assert torch.equal(published(**full).pooler_output, tiled(**full).pooler_output)
    exact, expected = tiled.double()(**short), published.double()(**full)
    assert error(exact.pooler_output, expected.pooler_output) < 1e-9
    with pytest.raises(UserError, match="inputs padded to 'max_length' 12, got 9 positions"):
        published(**short)


def test_longer_inputs_repeat_the_bias() -> None:
    bias = conditional().backbone.encoder.layer[0].attention.self.task_bias
    z = torch.randn(4, 24)
    long, short = bias(z, 2 * LENGTH + 3), bias(z, LENGTH)
    assert torch.equal(long[:, LENGTH : 2 * LENGTH, LENGTH : 2 * LENGTH], short)
    assert torch.equal(long[:, 2 * LENGTH :, 2 * LENGTH :], short[:, :3, :3])
    assert not long[:, :LENGTH, LENGTH:].any()


@every_family
@pytest.mark.parametrize("name", ["base", "large", "residual"])
def test_implementations_and_checkpointing_agree(family: str, name: str) -> None:
    rows, results = batch(), []
    for change in ("sdpa", "eager", "checkpointing"):
        model = conditional(family, ARRANGEMENTS[name]).double()
        if change == "checkpointing":
            model.train()  # there is no dropout in these encoders; heads have some
            model.heads.eval()
            model.backbone.gradient_checkpointing_enable()
        else:
            model.backbone.set_attn_implementation(change)
        output = model(**rows)
        output.loss.backward()
        results.append((output.loss, {n: p.grad for n, p in model.named_parameters()}))
    for loss, gradients in results[1:]:
        assert error(loss, results[0][0]) < 1e-5
        for parameter, expected in results[0][1].items():
            found = gradients[parameter]
            assert (found is None) == (expected is None)
            if expected is not None and expected.abs().max() > 1e-4:
                assert error(found, expected) < 1e-6, parameter


@every_arrangement
def test_every_conditioning_parameter_learns(name: str) -> None:
    model = conditional("bert", ARRANGEMENTS[name])
    model(**batch()).loss.backward()
    named = dict(model.named_parameters())
    for parameter in conditioning_parameters(model):
        gradient = named[parameter].grad
        assert gradient is not None, parameter
        assert gradient.abs().sum() > 0, parameter


def test_hidden_states_and_attentions_are_recorded() -> None:
    model, rows = conditional(), batch()
    model.backbone.set_attn_implementation("eager")
    condition = model.condition(rows["task_ids"])
    output = model.backbone(
        rows["input_ids"],
        rows["attention_mask"],
        condition=condition,
        output_hidden_states=True,
        output_attentions=True,
    )
    assert len(output.hidden_states) == 5
    assert [a.shape for a in output.attentions] == [(6, 4, LENGTH, LENGTH)] * 4
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


@every_family
@every_arrangement
def test_a_saved_model_reloads_as_what_it_was(family: str, name: str, tmp_path: Path) -> None:
    model = conditional(family, ARRANGEMENTS[name])
    model.save(tmp_path / "model")
    again = MultiTaskModel.load(tmp_path / "model")
    assert isinstance(again, CAMTL)
    assert (again.config, again.head_configs(), again.pooling) == (
        model.config,
        model.head_configs(),
        model.pooling,
    )
    assert not again.training
    assert torch.equal(again(**batch()).loss, model(**batch()).loss)


def test_a_fresh_top_layer_is_drawn_anew() -> None:
    plain = encoder().state_dict()
    for fresh in (True, False):
        parts = dataclasses.replace(NONE, fresh_top_layer=fresh)
        found = CAMTL(encoder(), list(HEADS), HEADS, parts).backbone.state_dict()
        changed = {name for name in plain if not torch.equal(found[name], plain[name])}
        assert {name.split(".")[2] for name in changed} == ({"3"} if fresh else set())
        assert bool(changed) == fresh


def test_bfloat16_autocast_runs_and_is_close() -> None:
    for name in ("base", "large"):
        model, rows = conditional("bert", ARRANGEMENTS[name]), batch()
        exact = model(**rows).pooler_output
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**rows)
        output.loss.backward()
        assert error(output.pooler_output.float(), exact) < 0.2


def test_parameter_groups_hold_each_parameter_once() -> None:
    model = conditional()
    groups = model.parameter_groups()
    flat = [p for group in groups.values() for p in group]
    assert len(flat) == len({id(p) for p in flat}) == len(list(model.parameters()))
    assert [p.shape for p in groups["task_vectors"]] == [(4, 24)]
    plain = encoder()
    heads = sum(p.numel() for p in model.heads.parameters())
    assert sum(p.numel() for p in groups["model"]) == heads + plain.num_parameters()
