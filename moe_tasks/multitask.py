"""What every model that is trained answers to, and the dense one: the multi-task baseline.

Dense and routed models answer to the same calls, so that training, adaptation and evaluation know
no difference.
"""

from __future__ import annotations

import copy
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from moe_tasks.errors import UserError, nearest
from moe_tasks.training.loss import token_loss

_MODEL_FILE, _META_FILE = "model.safetensors", "task_moe.json"
# By the kind that a folder names; they import this module.
_KINDS = {
    "task_moe": "model:TaskMoE",
    "camtl": "conditional.model:CAMTL",
    "camtl_moe": "conditional.routed:RoutedCAMTL",
    "conditional_seq2seq": "conditional.seq2seq:ConditionalSeq2Seq",
}


def _tied(state: Mapping[str, Tensor]) -> list[list[str]]:
    """Names by tensor: tied weights have several."""
    names: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in state.items():
        # Empty tensors have no address.
        place = (tensor.data_ptr() or id(tensor), tensor.shape)
        names.setdefault(place, []).append(name)
    return list(names.values())


class MultiTaskModel(nn.Module):
    """Base: a Hugging Face model that serves named tasks; a task's id is its place in the list."""

    backbone: Any  # a PreTrainedModel; nn.Module's own typing would lose that it can be called

    def __init__(self, backbone: PreTrainedModel, tasks: Sequence[str]) -> None:
        super().__init__()
        if len(set(tasks)) != len(tasks):
            raise UserError("task names must be unique")
        self.backbone = backbone
        self.task_names = tuple(tasks)

    def task_id(self, task: str) -> int:
        """Id of a task; ``UserError`` with the nearest names if there is no such task."""
        if task not in self.task_names:
            raise UserError(f"unknown task {task!r}; {nearest(task, self.task_names)}")
        return self.task_names.index(task)

    def loss(self, inputs: Mapping[str, Tensor], label_smoothing: float = 0.0) -> Tensor:
        """Summed loss of a batch's targets (see ``training.model.Trainable``)."""
        given = dict(inputs)
        weights = given.pop("weights", None)
        return token_loss(self(**given).logits, given["labels"], label_smoothing, weights)

    def squeeze(self, task: str) -> PreTrainedModel:
        """The plain Hugging Face model of one task."""
        raise NotImplementedError

    def conditioned(self, plain: PreTrainedModel, like: str | None) -> PreTrainedModel:
        """``plain``, cut out of this model, told its task where the model has conditional parts.

        Args:
            like: training task whose embedding it starts from; the mean of all if ``None``.
        """
        return plain

    def set_step(self, step: int) -> None:
        """Tell the model the optimizer step, on which temperatures depend."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning-rate group: ``model``, ``router``, ``task_vectors``."""
        return {"model": list(self.backbone.parameters()), "router": [], "task_vectors": []}

    def expert_distance(self) -> Tensor:
        """How far a layer's experts are apart, summed over layers, scalar; 0 without experts."""
        return torch.zeros(())

    def monitor(self) -> dict[str, float]:
        """Numbers worth a look during training."""
        return {}

    def _meta(self) -> dict[str, Any]:
        return {"kind": "dense", "tasks": list(self.task_names)}

    def save(self, path: str | Path) -> None:
        """Write config, meta data and weights (safetensors) into folder ``path``."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.backbone.config.save_pretrained(path)
        generation = getattr(self.backbone, "generation_config", None)  # encoders have none
        if isinstance(generation, GenerationConfig):
            generation.save_pretrained(path)
        meta = {"backbone": type(self.backbone).__name__, **self._meta()}
        (path / _META_FILE).write_text(json.dumps(meta, indent=1) + "\n")
        state = self.state_dict()
        kept = {names[0]: state[names[0]].contiguous() for names in _tied(state)}
        save_file(kept, path / _MODEL_FILE, metadata={"format": "pt"})

    def load_weights(self, path: str | Path) -> None:
        """Fill this model from a folder that :meth:`save` wrote.

        Raises:
            UserError: the folder's weights have unknown or missing names, or other shapes.
        """
        file = Path(path) / _MODEL_FILE
        state = self.state_dict()
        try:
            found = load_file(file)
            for names in _tied(state):  # the file has one of them
                saved = [name for name in names if name in found]
                found.update((name, found[saved[0]]) for name in names if saved)
            self.load_state_dict(found, strict=True)
        except (RuntimeError, SafetensorError, OSError) as error:
            raise UserError(f"{file}: weights do not fit this model: {error}") from error

    @staticmethod
    def load(path: str | Path) -> MultiTaskModel:
        """The model that :meth:`save` wrote into ``path``, in evaluation mode.

        Raises:
            UserError: no such folder, or its files do not belong together.
        """
        path = Path(path)
        try:
            meta = json.loads((path / _META_FILE).read_text())
        except FileNotFoundError:
            raise UserError(f"{path} holds no saved model ({_META_FILE} is missing)") from None
        except ValueError as error:
            raise UserError(f"{path / _META_FILE}: not readable: {error}") from error
        backbone = _empty_backbone(path, meta.get("backbone", ""))
        place = _KINDS.get(meta.get("kind"))
        cls: Any = pkgutil.resolve_name(f"moe_tasks.{place}") if place else DenseModel
        model: MultiTaskModel = cls.from_meta(backbone, meta)
        model.load_weights(path)
        return model.eval()


def _empty_backbone(path: Path, class_name: str) -> PreTrainedModel:
    cls = getattr(transformers, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise UserError(f"{path / _META_FILE}: {class_name!r} is no model class of transformers")
    config = AutoConfig.from_pretrained(path)
    model = cls(config)
    if (path / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model


class DenseModel(MultiTaskModel):
    """The multi-task baseline: one set of weights for every task."""

    @classmethod
    def from_meta(cls, backbone: PreTrainedModel, meta: Mapping[str, Any]) -> MultiTaskModel:
        """The model that a saved folder's meta data describes, its weights still to be loaded."""
        return cls(backbone, meta["tasks"])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Rows ``[B, S]`` (and ``labels [B, T]``) to a model output; ``task_ids`` is ignored."""
        return self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            use_cache=False,
            **kwargs,
        )

    def generate(self, input_ids: Tensor, *, task_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """``generate`` of the backbone; ``task_ids`` is ignored."""
        return self.backbone.generate(input_ids, **kwargs)

    def squeeze(self, task: str) -> PreTrainedModel:
        return copy.deepcopy(self.backbone)
