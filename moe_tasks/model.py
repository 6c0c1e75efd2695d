"""The task-level mixture-of-experts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from moe_tasks import config as configuration
from moe_tasks.errors import UserError
from moe_tasks.experts.bank import banks_of, expert_distance
from moe_tasks.experts.convert import convert, named_layers, squeeze
from moe_tasks.experts.deferred import deferring
from moe_tasks.experts.routed_layer import cache_for_experts
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.routing.plan import RoutePlan
from moe_tasks.routing.routers import Router, build_router
from moe_tasks.routing.selection import Selection


@dataclass
class TaskMoEConfig:
    """What rebuilds a :class:`TaskMoE` around a backbone.

    Attributes:
        num_experts: m, versions of every routed layer.
        experts: granularity, a name registered under ``experts``.
        router, hidden_dim: router name and inner width.
        router_init_std: standard deviation of the router's initial weights, biases zero (the
            published code inherits 0.02 from BART); ``None`` leaves torch's own.
        selection: ``name`` of the selection and its own keys.
        task_dim: width of a task vector.
        learn_task_vectors: whether they are parameters.
        layers_without_experts: names such as ``encoder.0``.
        experts_per_layer: where unused ones were dropped, how many each routed layer has left.
    """

    num_experts: int = 3
    experts: str = "layer"
    router: str = "linear_layer_specific"
    hidden_dim: int = 64
    router_init_std: float | None = None
    selection: dict[str, Any] = field(default_factory=lambda: {"name": "gumbel_st"})
    task_dim: int = 128
    learn_task_vectors: bool = True
    layers_without_experts: tuple[str, ...] = ()
    experts_per_layer: tuple[int, ...] | None = None


class TaskMoE(MultiTaskModel):
    """A Hugging Face model whose layers exist m times, routed by task (arXiv 2205.12701).

    Args:
        backbone: converted in place.
        tasks: names, in the order of their ids.
        spec: see :class:`TaskMoEConfig`.
        noise: standard deviation of the noise on every expert's copy of the pretrained layer.
        task_vectors: ``[tasks, task_dim]``; drawn from a standard normal if ``None``.

    Attributes:
        weights_stay: whether weights lie in one place from the start of a forward pass to the end
            of its backward pass. Gradients may then be worked out when backward has left their
            layer, which saves memory (:class:`~moe_tasks.experts.deferred.Deferred`).
    """

    step: Tensor
    vector_choices: Tensor | None

    def __init__(
        self,
        backbone: PreTrainedModel,
        tasks: Sequence[str],
        spec: TaskMoEConfig,
        *,
        noise: float = 0.0,
        task_vectors: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, tasks)
        self.spec = spec
        self.layer_names = convert(
            backbone,
            spec.experts_per_layer or spec.num_experts,
            experts=spec.experts,
            layers_without_experts=spec.layers_without_experts,
            noise=noise,
        )
        all_layers = named_layers(backbone)
        self.num_layers = len(all_layers)
        self._routed = [list(all_layers).index(name) for name in self.layer_names]
        self._banks = [list(banks_of(all_layers[name])) for name in self.layer_names]
        self.weights_stay = True
        self.router = self._new_router()
        self.selection: Selection = configuration.part("selection", spec.selection)
        self._set_vectors(tasks, task_vectors)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def _new_router(self) -> Router:
        spec = self.spec
        sizes = (spec.task_dim, self.num_layers, spec.num_experts, spec.hidden_dim)
        router = build_router(spec.router, *sizes, init_std=spec.router_init_std)
        return router.to(next(self.backbone.parameters()).device)

    def _set_vectors(self, tasks: Sequence[str], vectors: Tensor | None) -> None:
        shape = (len(tasks), self.spec.task_dim)
        device = next(self.backbone.parameters()).device
        vectors = torch.randn(shape) if vectors is None else vectors.detach().clone().float()
        vectors = vectors.to(device)
        if tuple(vectors.shape) != shape:
            raise UserError(f"task vectors have shape {tuple(vectors.shape)}; expected {shape}")
        if not torch.isfinite(vectors).all():
            bad = [t for t, v in zip(tasks, vectors, strict=True) if not torch.isfinite(v).all()]
            raise UserError(f"task vectors of {', '.join(bad)} are not finite")
        self.task_vectors = nn.Parameter(vectors, requires_grad=self.spec.learn_task_vectors)
        self.offer_vectors(None)

    def offer_vectors(self, choices: Tensor | None) -> None:
        """Draw each task's vector anew in every training step, from ``choices [tasks, K, dim]``.

        Routes at evaluation, and what is saved, stay those of ``task_vectors``.
        """
        if choices is not None and choices.shape[::2] != self.task_vectors.shape:
            raise ValueError(f"choices of shape {tuple(choices.shape)} for these task vectors")
        choices = None if choices is None else choices.to(self.task_vectors)
        self.register_buffer("vector_choices", choices, persistent=False)

    @classmethod
    def from_backbone(
        cls,
        model_or_name: PreTrainedModel | str,
        tasks: Sequence[str],
        num_experts: int = 3,
        experts: str = "layer",
        router: str = "linear_layer_specific",
        selection: str | Mapping[str, Any] = "gumbel_st",
        task_vectors: Tensor | Mapping[str, Tensor] | None = None,
        *,
        learn_task_vectors: bool = True,
        hidden_dim: int = 64,
        router_init_std: float | None = None,
        task_dim: int = 128,
        layers_without_experts: Collection[str] = (),
        noise: float = 1e-8,
    ) -> TaskMoE:
        """A routed model around a dense one, every expert a copy of the dense layer plus noise.

        Args:
            model_or_name: a loaded Hugging Face model (converted in place), or a folder or hub
                name for ``AutoModelForSeq2SeqLM``.
            tasks: task names.
            task_vectors: ``[tasks, dim]``, or one ``[dim]`` tensor per task name; random if
                ``None``, then of width ``task_dim``.
            noise: standard deviation (1e-8 in 2205.12701).

        Raises:
            UserError: unknown names, shapes that do not fit.
        """
        if isinstance(model_or_name, str):
            backbone: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(model_or_name)
        else:
            backbone = model_or_name
        if isinstance(task_vectors, Mapping):
            task_vectors = _stack_vectors(task_vectors, tasks)
        if isinstance(selection, str):
            selection = {"name": selection}
        spec = TaskMoEConfig(
            num_experts=num_experts,
            experts=experts,
            router=router,
            hidden_dim=hidden_dim,
            router_init_std=router_init_std,
            selection=dict(selection),
            task_dim=task_dim if task_vectors is None else task_vectors.shape[-1],
            learn_task_vectors=learn_task_vectors,
            layers_without_experts=tuple(layers_without_experts),
        )
        return cls(backbone, tasks, spec, noise=noise, task_vectors=task_vectors)

    @classmethod
    def from_meta(cls, backbone: PreTrainedModel, meta: Mapping[str, Any]) -> MultiTaskModel:
        """The model that a saved folder's meta data describes, its weights still to be loaded."""
        return cls(
            backbone, meta["tasks"], configuration.from_mapping(TaskMoEConfig, meta["config"])
        )

    def set_step(self, step: int) -> None:
        self.step.fill_(step)

    def use_selection(self, selection: Mapping[str, Any]) -> None:
        """Change how logits become routes (``name`` and the selection's own keys)."""
        self.selection = configuration.part("selection", selection)
        self.spec = dataclasses.replace(self.spec, selection=dict(selection))

    def fix_routes(self, routes: Tensor) -> None:
        """Give every task the fixed route ``[tasks, layers, experts]``.

        One-hot routes select an expert; others mix outputs.
        """
        m = self.spec.num_experts
        everywhere = routes.new_zeros(len(routes), self.num_layers, m)
        everywhere[:, self._routed] = routes
        self.spec = dataclasses.replace(
            self.spec,
            router="identity",
            task_dim=self.num_layers * m,
            learn_task_vectors=False,
        )
        self.router = self._new_router()
        self.use_selection(
            {"name": "fixed", "mode": "select" if bool((routes == 1).any(-1).all()) else "mix"}
        )
        self._set_vectors(self.task_names, everywhere.flatten(1))

    def take_routes(self, source: TaskMoE) -> None:
        """Route as ``source`` does, with its trained router and task vectors, both frozen.

        Raises:
            UserError: the models differ in tasks, layers or experts.
        """
        mine = (self.task_names, self.layer_names, self.num_layers, self.spec.num_experts)
        theirs = (source.task_names, source.layer_names, source.num_layers, source.spec.num_experts)
        if mine != theirs:
            raise UserError("routes can only be taken from a model of the same tasks and layers")
        self.spec = dataclasses.replace(
            self.spec,
            router=source.spec.router,
            hidden_dim=source.spec.hidden_dim,
            task_dim=source.spec.task_dim,
            learn_task_vectors=False,
        )
        self.router = copy.deepcopy(source.router).requires_grad_(False)
        self._set_vectors(self.task_names, source.task_vectors)

    def logits(self) -> Tensor:
        """Router logits ``[layers, tasks, experts]`` of the layers with experts."""
        return self._logits_of(self.task_vectors)

    def _logits_of(self, vectors: Tensor) -> Tensor:
        # Not in bfloat16, in which near logits tie and the layers' gradients get lost in their sum.
        with torch.autocast(vectors.device.type, enabled=False):
            logits = self.router(vectors)
        return logits if len(self._routed) == self.num_layers else logits[self._routed]

    def route_weights(self) -> Tensor:
        """Route weights ``[layers, tasks, experts]``; random only in training mode."""
        return self._weights(self._drawn_logits())

    def _drawn_logits(self) -> Tensor:
        """Logits as a training step sees them: of one of the vectors offered to each task."""
        choices = self.vector_choices
        if choices is None or not self.training:
            return self.logits()
        num_tasks, num_choices, _ = choices.shape
        drawn = torch.randint(num_choices, (num_tasks,), device=choices.device)
        return self._logits_of(choices[torch.arange(num_tasks, device=choices.device), drawn])

    def _weights(self, logits: Tensor) -> Tensor:
        return self.selection(logits, step=int(self.step), training=self.training)

    @torch.no_grad()
    def routes(self) -> Tensor:
        """Deterministic routes ``[tasks, layers, experts]``, as evaluation uses them."""
        return self.selection(self.logits(), step=int(self.step), training=False).transpose(0, 1)

    def plan(self, task_ids: Tensor) -> RoutePlan:
        """The route plan of rows with these task ids ``[B]``, for one call of the model.

        Raises:
            UserError: an id that belongs to no task.
        """
        rows = task_ids.tolist()
        places = {task: place for place, task in enumerate(dict.fromkeys(sorted(rows)))}
        if not all(0 <= task < len(self.task_names) for task in places):
            raise UserError(
                f"task ids must be in 0..{len(self.task_names) - 1}; "
                f"got {min(places)}..{max(places)}"
            )
        mode, gradient = self.selection.mode, self.selection.gradient
        # Always of all tasks: a route must not depend, in the last bit, on the batch's others.
        logits = self._drawn_logits()
        if self.selection.by_row(self.training):
            weights = self._weights(logits.index_select(1, task_ids.to(logits.device)))
            row_task = range(len(rows))
        else:
            weights = self._weights(logits)
            if len(places) < len(self.task_names):
                weights = weights[:, list(places)]
            row_task = [places[row] for row in rows]
        plan = RoutePlan.build(weights, row_task, mode, gradient, stays=self.weights_stay)
        return deferring(plan, self._banks) if self.weights_stay else plan

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task_ids: Tensor,
        route_plan: RoutePlan | None = None,
        **kwargs: Any,
    ) -> Any:
        """Rows ``[B, S]`` of tasks ``task_ids [B]`` (and ``labels [B, T]``) to ``loss, logits``.

        Args:
            route_plan: what :meth:`plan` would make, if it is made already.
        """
        return self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            route_plan=self.plan(task_ids) if route_plan is None else route_plan,
            use_cache=False,
            **kwargs,
        )

    @torch.no_grad()
    def generate(self, input_ids: Tensor, *, task_ids: Tensor, **kwargs: Any) -> Any:
        """``generate`` of the backbone for rows ``[B, S]`` whose tasks may differ."""
        if self.selection.mode == "mix" and kwargs.get("use_cache") is not False:
            cache = cache_for_experts(self.backbone.config, kwargs.get("cache_implementation"))
            kwargs.setdefault("past_key_values", cache)
        return self.backbone.generate(input_ids, route_plan=self.plan(task_ids), **kwargs)

    @torch.no_grad()
    def route_of(self, vector: Tensor) -> Tensor:
        """Deterministic route ``[layers, experts]`` of any task vector ``[task_dim]``."""
        logits = self._logits_of(vector.to(self.task_vectors)[None])
        return self.selection(logits, step=int(self.step), training=False)[:, 0]

    def for_task(self, task: str, vector: Tensor, like: str | None = None) -> TaskMoE:
        """A copy that serves one task, from ``vector`` on, whose route can go on learning.

        Args:
            like: see :meth:`conditioned`.
        """
        twin = copy.deepcopy(self)
        twin.task_names = (task,)
        twin.spec = dataclasses.replace(self.spec, learn_task_vectors=True)
        twin._set_vectors(twin.task_names, vector[None])
        return twin

    def squeeze(self, task: str) -> PreTrainedModel:
        return self.squeeze_route(self.routes()[self.task_id(task)])

    def squeeze_route(self, weights: Tensor) -> PreTrainedModel:
        """The plain Hugging Face model of a route ``[layers, experts]``.

        Where outputs are mixed (``mix``) no plain model computes the same; the one returned has
        the experts' parameters merged.
        """
        return squeeze(self.backbone, weights, self.selection.mode)

    def expert_distance(self) -> Tensor:
        return expert_distance(self.backbone).to(self.step.device)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = super().parameter_groups()
        groups["router"] = list(self.router.parameters())
        groups["task_vectors"] = [self.task_vectors] if self.spec.learn_task_vectors else []
        return groups

    @torch.no_grad()
    def monitor(self) -> dict[str, float]:
        logits = self.logits()
        log_p = logits.log_softmax(-1)
        load = self.routes().mean(0)  # [L, m] share of tasks per expert
        chosen = self.selection.mode == "select" and self.selection.differentiable
        collapsed = (load.max(-1).values > 0.95).float().mean() if chosen else 0.0
        return {
            "temperature": self.selection.temperature(int(self.step)),
            "route_entropy": float(-(log_p.exp() * log_p).sum(-1).mean()),
            "route_collapse": float(collapsed),
        }

    def _meta(self) -> dict[str, Any]:
        return {**super()._meta(), "kind": "task_moe", "config": dataclasses.asdict(self.spec)}

    @staticmethod
    def load(path: str | Path) -> TaskMoE:
        """The model that :meth:`save` wrote; ``UserError`` if it is not a routed one."""
        model = MultiTaskModel.load(path)
        if not isinstance(model, TaskMoE):
            raise UserError(f"{path} holds a dense model, not a TaskMoE")
        return model


def _stack_vectors(vectors: Mapping[str, Tensor], tasks: Sequence[str]) -> Tensor:
    missing = [task for task in tasks if task not in vectors]
    if missing:
        raise UserError(f"no task vector for {', '.join(missing[:5])} ({len(missing)} missing)")
    widths = {tuple(vectors[task].shape) for task in tasks}
    if len(widths) > 1:
        raise UserError(f"task vectors differ in shape: {sorted(widths)}")
    return torch.stack([vectors[task] for task in tasks])
