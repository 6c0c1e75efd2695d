"""Task vectors from templates: placing by text, and what training draws from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moe_tasks.errors import UserError
from moe_tasks.experiment import prepare_backbones
from moe_tasks.model import TaskMoE
from moe_tasks.representations.prompt import (
    InputVectors,
    PromptSentenceVectors,
    PromptTaskVectors,
    PromptVectors,
)
from moe_tasks.representations.text import mean_encoder_states
from moe_tasks.run_config import RunConfig
from moe_tasks.systems import build_system
from moe_tasks.workspace import Workspace
from tests.runs import values, write_tasks
from tests.zeroshot_runs import run_values, write_prompted

TASKS = ("coat", "hat", "shoe")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("prompt")
    config = RunConfig.parse(run_values(write_prompted(folder / "tasks")))
    workspace = Workspace(folder / "run", config)
    prepare_backbones(workspace, resume=False)
    return workspace


def source(workspace: Workspace, **keys: float) -> PromptTaskVectors:
    found = PromptVectors(**keys).build(workspace.vector_context)  # type: ignore[arg-type]
    found.fit(TASKS)
    return found


def test_a_vector_is_the_mean_over_the_templates_texts(workspace: Workspace) -> None:
    context = workspace.vector_context
    assert context.prompts is not None
    texts = context.prompts.texts("hat")
    assert texts == ["colour of the hat ? text red , blue , green",
                     "text colour of the hat ? red , blue , green"]  # fmt: skip
    made = source(workspace)
    each = [
        mean_encoder_states(context.model, context.prompts.ids([t]), context.pad_token_id)
        for t in texts
    ]
    assert made.transformation is not None
    expected = made.transformation(torch.stack(each).mean(0))
    assert torch.allclose(made.fit(TASKS)[1], expected, atol=1e-4)
    assert torch.allclose(made.place("hat", "any"), expected, atol=1e-4)
    assert torch.allclose(made.place_texts(texts), expected, atol=1e-4)


def test_an_unseen_task_is_placed_by_its_text_alone(workspace: Workspace) -> None:
    made = source(workspace)
    assert torch.isfinite(made.place("own", "no such sample")).all()
    one, other = (made.place_texts([t]) for t in ("colour of the hat ?", "tell the colour"))
    assert not torch.allclose(one, other)


def test_choices_are_means_of_some_templates(workspace: Workspace) -> None:
    made = source(workspace, dropout=0.5)
    choices = made.choices(TASKS)
    assert choices is not None
    assert choices.shape[0] == 3
    context = workspace.vector_context
    assert context.prompts is not None
    first, second = context.prompts.texts("hat")
    allowed = torch.stack([made.place_texts(t) for t in ([first], [second], [first, second])])
    distances = torch.cdist(choices[1], allowed)
    assert float(distances.min(1).values.max()) < 1e-3
    assert set(distances.argmin(1).tolist()) == {0, 1, 2}
    assert torch.equal(choices, source(workspace, dropout=0.5).choices(TASKS))  # type: ignore[arg-type]
    assert source(workspace, dropout=0.0).choices(TASKS) is None


def routed(workspace: Workspace) -> TaskMoE:
    parts = workspace.routing_parts("moe")
    dense = workspace.vector_context.model.__class__(workspace.vector_context.model.config)
    system = workspace.config.systems["moe"]
    model = build_system(system, dense, TASKS, ["a"] * 3, parts, 0)
    assert isinstance(model, TaskMoE)
    return model


def test_training_draws_vectors_and_evaluation_does_not(workspace: Workspace) -> None:
    model = routed(workspace)
    assert model.vector_choices is not None
    model.use_selection({"name": "softmax", "temperature_schedule": {"rate": 0.0}})
    model.train()
    drawn = {tuple(model.route_weights().flatten().tolist()) for _ in range(20)}
    assert len(drawn) > 3
    routes = model.routes()
    assert torch.equal(routes, model.routes())
    model.eval()
    assert torch.equal(model.route_weights().transpose(0, 1), routes)
    assert not [name for name in model.state_dict() if "choices" in name]


def test_fixed_routes_draw_nothing(workspace: Workspace) -> None:
    model = routed(workspace)
    model.fix_routes(torch.nn.functional.one_hot(model.routes().argmax(-1), 3).float())
    assert model.vector_choices is None


def test_inputs_alone(workspace: Workspace) -> None:
    made = InputVectors(examples=4).build(workspace.vector_context)
    vectors = made.fit(TASKS)
    inputs, _ = workspace.data.texts("hat", None)
    raw = mean_encoder_states(
        workspace.vector_context.model, inputs[:4], workspace.data.pad_token_id
    )
    assert made.transformation is not None
    assert torch.allclose(vectors[1], made.transformation(raw), atol=1e-4)


def test_by_a_sentence_encoder(workspace: Workspace) -> None:
    path = str(workspace.initial_folder(1))
    made = PromptSentenceVectors(path=path).build(workspace.vector_context)
    assert isinstance(made, PromptTaskVectors)
    vectors = made.fit(TASKS)
    prompts = workspace.vector_context.prompts
    assert prompts is not None
    assert torch.allclose(made.place_texts(prompts.texts("coat")), vectors[0], atol=1e-4)


def test_collections_without_templates_have_their_instruction(tmp_path: Path) -> None:
    run = values(write_tasks(tmp_path), task_vectors={"name": "prompt"})
    workspace = Workspace(tmp_path / "run", RunConfig.parse(run))
    prepare_backbones(workspace, resume=False)
    with pytest.raises(UserError, match="'colour-a' has neither templates nor an instruction"):
        workspace.vectors("moe")
