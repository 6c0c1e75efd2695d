"""Time of a training step of encoders with heads: plain, with conditional parts, and unsure.

Steps are the engine's own, on rows of random tokens, sorted by task and padded to the longest;
lengths are spread evenly from a quarter of ``source`` to all of it, as those of sentences are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from transformers import BertConfig, BertModel

from analysis.bench.race import Contender, Measures, Repeat
from analysis.bench.setting import Setting
from analysis.bench.training import Step, seconds
from moe_tasks.conditional.batches import UncertainBatches
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.heads import HeadConfig
from moe_tasks.conditional.model import CAMTL
from moe_tasks.tasks.uncertainty_sampling import UncertaintySampling
from moe_tasks.training.data import Batch, Batches

PLAIN, BASE, LARGE, UNSURE = "encoder", "camtl_base", "camtl_large", "mt_uncertainty"
_PARTS = {
    PLAIN: ConditionalConfig.none(),
    BASE: ConditionalConfig.base(),
    LARGE: ConditionalConfig.large(),
    UNSURE: ConditionalConfig.base(),
}


def layers(setting: Setting) -> list[Contender]:
    """A plain encoder, and the two published arrangements around it."""
    return [Contender(name, prepare, setting.using(name)) for name in (PLAIN, BASE, LARGE)]


def sampling(setting: Setting) -> list[Contender]:
    """The base arrangement on rows as they come, and on those that it is unsure of."""
    return [Contender(name, prepare, setting.using(name)) for name in (BASE, UNSURE)]


def prepare(setting: Setting) -> Repeat:
    """Seconds of one step, the choice of its rows included."""
    model = _model(setting).to(setting.device)
    batches: Batches = _Same(setting, setting.rows // setting.tasks)
    if setting.scheme == UNSURE:
        settings = UncertaintySampling(rows_per_batch=setting.rows)
        candidates = _Same(setting, settings.rows_per_task)
        cast = setting.precision == "bf16"
        batches = UncertainBatches(candidates, model, settings, cast=cast)
    step = Step(setting, model, batches.next)
    step.warm_up()

    def repeat() -> Measures:
        both = seconds(step.backward, setting.device)
        return {"": both + seconds(step.update, setting.device)}

    return repeat


def _model(setting: Setting) -> CAMTL:
    torch.manual_seed(setting.seed)
    encoder = BertModel(
        BertConfig(
            vocab_size=setting.vocab,
            hidden_size=setting.width,
            num_hidden_layers=setting.layers,
            num_attention_heads=setting.heads,
            intermediate_size=setting.ffn or 4 * setting.width,
            hidden_dropout_prob=setting.dropout,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=max(64, setting.source),
        )
    )
    heads = dict.fromkeys(setting.task_names, HeadConfig("classification", num_labels=3))
    parts = dataclasses.replace(_PARTS[setting.scheme], max_length=setting.source)
    return CAMTL(encoder, setting.task_names, heads, parts)


class _Same:
    """The same random rows again and again, so many of each task."""

    def __init__(self, setting: Setting, rows_per_task: int) -> None:
        generator = torch.Generator().manual_seed(setting.seed)
        rows = rows_per_task * setting.tasks
        ids = torch.randint(1, setting.vocab, (rows, setting.source), generator=generator)
        shortest = max(1, setting.source // 4)
        lengths = torch.linspace(shortest, setting.source, rows).long()
        lengths = lengths[torch.randperm(rows, generator=generator)]
        inputs = {
            "input_ids": ids,
            "attention_mask": (torch.arange(setting.source) < lengths[:, None]).long(),
            "labels": torch.randint(3, (rows, 1), generator=generator),
            "task_ids": torch.arange(setting.tasks).repeat_interleave(rows_per_task),
        }
        self._batch = Batch.of(inputs, setting.task_names)

    def next(self) -> Batch:
        return self._batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing changes."""

    def fingerprint(self) -> dict[str, Any]:
        return {}
