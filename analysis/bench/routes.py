"""Whether routes that the data were made with are found again by training only the router.

A frozen model with experts far apart answers random inputs by a planted route per task. Then
another model with the same experts and an untrained router learns those answers.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from analysis.bench.models import batch, limit_threads, routed
from analysis.bench.race import Measures, Repeat
from analysis.bench.setting import Setting
from moe_tasks.engines.local import LocalEngine
from moe_tasks.model import TaskMoE
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import Batch
from moe_tasks.training.optimizer import rates

UNIT = "% of planted routes found"
_SIZES: dict[str, Any] = {
    "num_experts": 3, "rows": 64, "tasks": 8, "width": 32, "ffn": 64, "layers": 1, "heads": 4,
    "vocab": 60, "source": 12, "target": 2, "noise": 0.15, "dropout": 0.0,
}  # fmt: skip
_STEPS = 500
_ANNEALING = 5  # steps of the temperature's schedule per step: the training is short
_SHARPNESS = 8.0  # of the teacher's answers
FAR, _FAR_NOISE = "far_experts", 0.3  # experts so far apart that merging them means little


def sizes(setting: Setting) -> Setting:
    """A small model, on the setting's device."""
    return replace(setting, **_SIZES)


def prepare(setting: Setting) -> Repeat:
    """Percent of (task, layer) pairs whose planted expert is found, with a new seed each time.

    Once with experts well apart, and once so far apart that a linear view of them breaks down.
    """
    limit_threads(setting)
    seed = setting.seed - 1

    def repeat() -> Measures:
        nonlocal seed
        seed += 1
        near, far = (replace(setting, seed=seed, noise=n) for n in (setting.noise, _FAR_NOISE))
        return {"": 100 * recovered(near), FAR: 100 * recovered(far)}

    return repeat


def recovered(setting: Setting, steps: int = _STEPS) -> float:
    """Share of planted (task, layer) routes that training the router alone finds."""
    teacher = routed(setting).to(setting.device).eval()
    _sharpen(teacher)
    student = _untrained(teacher)
    config = TrainingConfig(
        steps=steps,
        freeze=("backbone.*",),
        router_learning_rate=2e-3,
        task_vectors_learning_rate=2e-2,
        warmup=0.0,
        schedule="linear",  # one-row probes are noisy: the last steps must settle
        clip=None,
    )
    engine = LocalEngine(student.train(), config)
    for step in range(steps):
        student.set_step(step * _ANNEALING)
        engine.backward([_answered(teacher, replace(setting, seed=1000 * setting.seed + step))])
        engine.update(rates(config, step))
        engine.zero_gradients()
    found = student.routes().argmax(-1) == teacher.routes().argmax(-1)
    return float(found.float().mean())


@torch.no_grad()
def _sharpen(teacher: TaskMoE) -> None:
    """Make answers say more about the route. (Embeddings are normalised at the input.)"""
    model = teacher.backbone
    model.get_input_embeddings().weight.mul_(_SHARPNESS)
    model.final_logits_bias[:, model.config.eos_token_id] = -1e4  # all answers are equally long


def _untrained(teacher: TaskMoE) -> TaskMoE:
    student = copy.deepcopy(teacher)
    torch.manual_seed(1)
    with torch.no_grad():
        for module in student.router.modules():
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()
        student.task_vectors.normal_()
    return student


@torch.no_grad()
def _answered(teacher: TaskMoE, setting: Setting) -> Batch:
    """Random rows with answers drawn from the teacher as labels."""
    inputs = {name: value.to(setting.device) for name, value in batch(setting).inputs.items()}
    answers: Tensor = teacher.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        task_ids=inputs["task_ids"],
        max_new_tokens=setting.target,
        do_sample=True,
        top_k=0,
    )
    labels = answers[:, 1:].cpu().contiguous()  # without the start token
    return Batch.of({**batch(setting).inputs, "labels": labels}, setting.task_names)
