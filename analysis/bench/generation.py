"""Time of decoding a batch: one task as a plain model, and tasks mixed in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from analysis.bench.models import backbone, batch, limit_threads, routed, synchronise
from analysis.bench.race import Contender, Measures, Repeat
from analysis.bench.setting import DENSE, Setting, router_gradients
from moe_tasks.model import TaskMoE

SQUEEZED, ONE_TASK = "squeezed", "routed_one_task"
MIXED, TASK_BY_TASK = "mixed", "task_by_task"
SCHEMES = (DENSE, SQUEEZED, ONE_TASK, MIXED, TASK_BY_TASK)
CHECK = "squeezed_is_routed"

Generate = Callable[..., Any]


def contenders(setting: Setting, beams: int) -> list[Contender]:
    """The ways to decode the same rows with so many beams."""
    prepare = partial(prepare_beams, beams)
    return [Contender(scheme, prepare, setting.using(scheme)) for scheme in SCHEMES]


def prepare_beams(beams: int, setting: Setting) -> Repeat:
    """Seconds of decoding all rows; every answer has the same length."""
    decode, rows = _decoder(setting), _rows(setting)
    options = {**_options(setting), "num_beams": beams}
    decode(rows, **options)

    def repeat() -> Measures:
        synchronise(setting.device)
        began = time.perf_counter()
        decode(rows, **options)
        synchronise(setting.device)
        return {"": time.perf_counter() - began}

    return repeat


def prepare_check(setting: Setting) -> Repeat:
    """1 if squeezed and routed model give a task the same bits, in every token's logits; else 0.

    Greedy and beam search are compared, and the squeezed model's class is that of a plain one.
    """
    model, rows = _routed(setting), _rows(setting)
    names = {DENSE: backbone(setting), SQUEEZED: model.squeeze(setting.task_names[0])}

    def repeat() -> Measures:
        plain: Any = names[SQUEEZED]
        same = type(plain) is type(names[DENSE])
        for beams in (1, 4):
            options = {
                **_options(setting),
                "num_beams": beams,
                "output_logits": True,
                "return_dict_in_generate": True,
            }
            one = torch.zeros_like(rows["task_ids"])
            left = _generate(plain.generate, rows, **options)
            right = _generate(partial(model.generate, task_ids=one), rows, **options)
            same &= torch.equal(left.sequences, right.sequences)
            same &= all(map(torch.equal, left.logits, right.logits))
        return {"": float(same)}

    return repeat


def _options(setting: Setting) -> dict[str, Any]:
    length = setting.target
    return {"do_sample": False, "min_new_tokens": length, "max_new_tokens": length}


def _rows(setting: Setting) -> dict[str, Tensor]:
    inputs = batch(setting).inputs
    names = ("input_ids", "attention_mask", "task_ids")
    return {name: inputs[name].to(setting.device) for name in names}


def _generate(generate: Generate, rows: dict[str, Tensor], **options: Any) -> Any:
    with torch.inference_mode():
        return generate(
            input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], **options
        )


def _decoder(setting: Setting) -> Callable[..., Any]:
    """Decodes rows as the setting's scheme does."""
    limit_threads(setting)
    if setting.scheme == DENSE:
        return partial(_generate, _on_device(backbone(setting), setting).generate)
    model = _routed(setting)
    if setting.scheme == SQUEEZED:
        return partial(_generate, model.squeeze(setting.task_names[0]).generate)  # type: ignore[arg-type]
    if setting.scheme == TASK_BY_TASK:
        return partial(_task_by_task, [model.squeeze(task) for task in setting.task_names])

    def routed_decode(rows: dict[str, Tensor], **options: Any) -> Any:
        ids = rows["task_ids"]
        ids = torch.zeros_like(ids) if setting.scheme == ONE_TASK else ids
        return _generate(partial(model.generate, task_ids=ids), rows, **options)

    return routed_decode


def _task_by_task(models: list[Any], rows: dict[str, Tensor], **options: Any) -> None:
    for number, model in enumerate(models):
        mine = {name: value[rows["task_ids"] == number] for name, value in rows.items()}
        _generate(model.generate, mine, **options)


def _routed(setting: Setting) -> TaskMoE:
    scheme = router_gradients()[0]
    return _on_device(routed(setting.using(scheme)), setting)


def _on_device(model: Any, setting: Setting) -> Any:
    dtype = torch.bfloat16 if setting.dtype == "bf16" else torch.float32
    return model.to(setting.device, dtype).eval()
