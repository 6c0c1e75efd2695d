"""The ``config.json`` of the published code of 2009.09139, and the model that it describes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from moe_tasks import config as configuration
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.heads import HeadConfig
from moe_tasks.conditional.model import CAMTL
from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.reading import check_task_name, read_json

_BASE, _LARGE = "CA-MTL-base", "CA-MTL-large"
_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "pad_token_id",
)  # fmt: skip


@dataclass
class PublishedConfig:
    """The keys of a published ``config.json`` that an import needs; it may have others.

    Attributes:
        architecture: ``CA-MTL-base`` or ``CA-MTL-large``.
        tasks: names, in the order of their ids.
        num_labels: of each task; 1 is a regression.
        max_seq_length: length that inputs were padded to.
    """

    architecture: str
    tasks: list[str]
    num_labels: list[int]
    max_seq_length: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            if isinstance(value, int) and value < (key != "pad_token_id"):
                raise ValueError(f"{key!r} is {value}; it must be at least 1")
        if self.architecture not in (_BASE, _LARGE):
            hint = nearest(self.architecture, (_BASE, _LARGE))
            raise ValueError(f"unknown 'architecture' {self.architecture!r}; {hint}")
        if self.is_base and self.num_hidden_layers % 2:
            raise ValueError(
                f"'num_hidden_layers' is {self.num_hidden_layers}: the published base arrangement "
                "has an even number of layers"
            )
        self._check_tasks()

    def _check_tasks(self) -> None:
        if not self.tasks:
            raise ValueError("'tasks' names no task")
        if len(self.tasks) != len(self.num_labels):
            raise ValueError(f"{len(self.tasks)} 'tasks', but {len(self.num_labels)} 'num_labels'")
        if twice := [task for task in self.tasks if self.tasks.count(task) > 1]:
            raise ValueError(f"'tasks' names {twice[0]!r} more than once")
        for task, count in zip(self.tasks, self.num_labels, strict=True):
            if count < 1:
                raise ValueError(f"'num_labels' of task {task!r} is {count}; it must be at least 1")

    @property
    def is_base(self) -> bool:
        """Whether this is the base arrangement, with one adapter in a last layer of its own."""
        return self.architecture == _BASE

    def conditional(self) -> ConditionalConfig:
        """Our parts of the published arrangement."""
        arrange = ConditionalConfig.base if self.is_base else ConditionalConfig.large
        return arrange(max_length=self.max_seq_length)

    def heads(self) -> dict[str, HeadConfig]:
        """Task -> head."""
        return {
            task: HeadConfig("regression" if count == 1 else "classification", count)
            for task, count in zip(self.tasks, self.num_labels, strict=True)
        }

    def model(self) -> CAMTL:
        """The model of these sizes, with random weights."""
        sizes = {key: getattr(self, key) for key in _SIZES}
        return CAMTL(BertModel(BertConfig(**sizes)), self.tasks, self.heads(), self.conditional())


def read_config(path: Path) -> PublishedConfig:
    """The keys of a published ``config.json``.

    Raises:
        UserError: a key is missing or has a wrong value; names the file and the key.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values")
    own = {f.name: values[f.name] for f in fields(PublishedConfig) if f.name in values}
    try:
        config = configuration.from_mapping(PublishedConfig, own)
        with torch.device("meta"):
            config.model()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # transformers refuses values in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no BERT model: {type(error).__name__}: {reason}") from error
    for task in config.tasks:
        check_task_name(task, path)
    return config
