"""The published recipes: they compose, parse, and hold the paper's numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from moe_tasks import config
from moe_tasks.cli import conf_dir
from moe_tasks.conditional.build import arrangement
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.run_config import RunConfig


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("config", overrides=["tasks.path=gym", "run_dir=run", *overrides])
    values = OmegaConf.to_container(found, resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items() if k not in ("run_dir", "resume")}


@pytest.mark.parametrize("name", ["published_stage1", "published_twostage"])
def test_sizes_are_the_papers(name: str) -> None:
    run = RunConfig.parse(composed(f"+experiment={name}"))
    assert run.name == name
    assert run.tasks["name"] == "gym"
    assert run.tasks["split"] == "random"
    assert run.backbone == {"name": "pretrained", "path": "facebook/bart-base"}
    assert (run.data.prompt, run.data.max_source, run.data.max_target) == ("name", 512, 64)
    assert run.generation.num_beams == 4
    assert (run.router.name, run.router.num_experts) == ("linear_layer_specific", 3)
    assert (run.router.hidden_dim, run.router.init_std) == (64, 0.02)
    assert (run.experts.name, run.experts.noise) == ("layer", 1e-8)
    training = run.training
    assert (training.steps, training.accumulation, training.loss) == (30_000, 2, "sum")
    assert run.sampling["tasks_per_batch"] * run.sampling["rows_per_task"] == 16
    rates = {"model": 1e-5, "router": 1e-3, "task_vectors": 1e-2}
    assert training.rates == rates
    assert (training.label_smoothing, training.clip, training.warmup) == (0.1, 0.1, 0.06)
    adaptation = run.adaptation
    assert adaptation.samples == 5
    assert len(list(adaptation.grid())) == 9
    assert (adaptation.steps, adaptation.eval_every) == (1000, 100)


def test_stage_one_selects_as_published() -> None:
    run = RunConfig.parse(composed("+experiment=published_stage1"))
    selection = config.part("selection", run.selection)
    assert (selection.mode, selection.gradient, selection.noise) == ("select", "exact", "row")
    assert selection.temperature(0) == 2.0
    assert selection.temperature(1000) == pytest.approx(2.0 * 2.718281828 ** (-0.3))
    assert selection.temperature(30_000) == 0.1
    assert set(run.systems) == {"direct", "multitask", "moe"}


def test_stage_two_anneals_from_average_to_the_learned_routes() -> None:
    run = RunConfig.parse(composed("+experiment=published_twostage"))
    system = run.systems["twostage"]
    assert system.routes_from == "moe"
    assert system.training(run.training).steps == 60_000
    selection = config.part("selection", system.selection_over(run.selection))
    assert selection.mode == "mix"
    assert selection.temperature(0) == 300.0
    assert selection.temperature(57_037) > 1.0 == selection.temperature(57_039)
    assert run.task_vectors["name"] == "fisher"
    assert (run.task_vectors["dim"], run.task_vectors["learn"]) == (128, False)


def test_conditional_encoders_have_the_papers_sizes() -> None:
    run = RunConfig.parse(composed("+experiment=published_camtl"))
    assert run.backbone == {"name": "pretrained", "path": "bert-base-cased"}
    assert set(run.systems) == {"multitask", "camtl", "camtl_unsure"}
    training = run.training
    assert (training.epochs, training.warmup, training.loss) == (5, 0.1, "task_mean")
    assert set(training.rates.values()) == {2e-5}
    assert run.data.max_source == 128
    assert arrangement(run.systems["camtl"].conditional) == ConditionalConfig.base(max_length=128)
    assert run.systems["camtl"].freeze_layers == "0-4"
    sampling = config.part("sampling", run.sampling_of("camtl_unsure"))
    assert (sampling.rows_per_task, sampling.rows_per_batch) == (32, 32)
    assert sampling.borrow == {"sts-b": "mrpc"}


@pytest.mark.parametrize(
    "override", ["router=lstm", "selection=softmax", "task_vectors=text", "backbone=tiny_bart"]
)
def test_a_part_of_a_recipe_can_be_exchanged(override: str) -> None:
    run = RunConfig.parse(composed("+experiment=published_stage1", override))
    group, option = override.split("=")
    part = getattr(run, group)
    name = part["name"] if isinstance(part, dict) else part.name
    assert name == {"tiny_bart": "tiny"}.get(option, option)
