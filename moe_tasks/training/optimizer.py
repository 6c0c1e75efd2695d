"""AdamW over named parameter groups, and the schedule of their rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from moe_tasks.errors import UserError, nearest
from moe_tasks.training.adamw import FusedAdamW
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.model import Trainable


def rate_factor(
    step: int, steps: int, warmup: int, schedule: Literal["linear", "constant"]
) -> float:
    """Share of the peak rate that update ``step`` (counted from 0) uses.

    Rises through 1/warmup, ..., 1; a linear schedule then falls so that update ``steps`` would
    be the first with rate 0. No update is wasted on a rate of 0.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return max(0.0, (steps - step) / max(1, steps - warmup))


def rates(config: TrainingConfig, step: int) -> dict[str, float]:
    """Learning rate of each parameter group at update ``step``, counted from 0."""
    warmup = round(config.warmup * config.steps)
    factor = rate_factor(step, config.steps, warmup, config.schedule)
    return {name: peak * factor for name, peak in config.rates.items()}


def updated_groups(model: Trainable, config: TrainingConfig, step: int) -> frozenset[str]:
    """Groups that update ``step`` changes: all, or in turns those of the routes and the rest.

    Routes come first. Models whose routes do not learn have no turns.
    """
    groups = model.parameter_groups()
    routes = {n for n in groups if n != "model" and any(p.requires_grad for p in groups[n])}
    if config.alternate_every is None or not routes:
        return frozenset(groups)
    return frozenset(routes if step // config.alternate_every % 2 == 0 else {"model"})


def freeze(model: Trainable, patterns: Sequence[str]) -> None:
    """Exclude parameters from training whose name matches a pattern (``*``, ``?``, ``[...]``).

    Patterns for routes and experts are passed over by models that have none.

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    dense = not model.parameter_groups().get("router")
    for pattern in patterns:
        matching = [name for name in named if fnmatchcase(name, pattern)]
        of_routes = any(word in pattern for word in ("router", "task_vectors", "experts"))
        if not matching and not (dense and of_routes):
            raise UserError(
                f"'training.freeze': {pattern!r} matches no parameter; {nearest(pattern, named)}"
            )
        for name in matching:
            named[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise UserError("'training.freeze' leaves nothing to train")


def build_optimizer(model: Trainable, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with one rate per group; 1-D parameters (biases, norms) are not decayed.

    A parameter without a gradient (an expert that no row used) is skipped by AdamW: no cost, no
    update, no decay.

    Raises:
        ValueError: a trainable parameter is in no group, in two, or in a group without a rate.
    """
    groups = _trainable_groups(model)
    param_groups = []
    for name, parameters in groups.items():
        if name not in config.rates:
            raise ValueError(f"parameter group {name!r} has no learning rate")
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decayed]
            decay = config.weight_decay if decayed else 0.0
            if chosen:
                param_groups.append({"params": chosen, "name": name, "weight_decay": decay})
    kind = FusedAdamW if _fusible(groups) else torch.optim.AdamW
    return kind(param_groups, lr=0.0, betas=_pair(config.betas), eps=config.eps)


def state_tensors(
    optimizer: torch.optim.AdamW, names: Mapping[nn.Parameter, str]
) -> dict[str, torch.Tensor]:
    """``optimizer/<parameter>/<field>`` of every parameter that was ever updated."""
    return {
        f"optimizer/{name}/{field}": value.clone() if field == "step" else value
        for parameter, name in names.items()
        for field, value in optimizer.state.get(parameter, {}).items()
    }  # counts of steps may share memory, which no file of tensors can express


def restore_states(
    optimizer: torch.optim.AdamW, states: Mapping[nn.Parameter, dict[str, torch.Tensor]]
) -> None:
    """Continue with these states, each moved to its parameter, and none for other parameters."""
    placed = {p: {k: v.to(p.device) for k, v in state.items()} for p, state in states.items()}
    if isinstance(optimizer, FusedAdamW):
        optimizer.restore(placed)
        return
    optimizer.state.clear()
    for parameter, state in placed.items():
        optimizer.state[parameter] = state


def parameter_names(model: Trainable) -> dict[nn.Parameter, str]:
    """The name of each trainable parameter, once per tensor even where weights are tied."""
    names: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            names.setdefault(parameter, name)
    return names


def _trainable_groups(model: Trainable) -> dict[str, list[nn.Parameter]]:
    names = parameter_names(model)
    groups: dict[str, list[nn.Parameter]] = {}
    seen: dict[nn.Parameter, str] = {}
    for group, parameters in model.parameter_groups().items():
        groups[group] = [p for p in parameters if p.requires_grad]
        for parameter in groups[group]:
            if parameter not in names:
                raise ValueError(f"group {group!r} holds a parameter that the model does not name")
            if parameter in seen:
                raise ValueError(
                    f"parameter {names[parameter]!r} is in groups {seen[parameter]!r} and {group!r}"
                )
            seen[parameter] = group
    missing = [name for parameter, name in names.items() if parameter not in seen]
    if missing:
        raise ValueError(f"trainable parameters in no group: {', '.join(missing[:5])}")
    return groups


def _fusible(groups: dict[str, list[nn.Parameter]]) -> bool:
    """Whether all parameters are of one kind, and of one that the fused update knows."""
    kinds = {(p.device, p.dtype) for group in groups.values() for p in group}
    device, dtype = next(iter(kinds))
    return len(kinds) == 1 and dtype.is_floating_point and device.type in ("cpu", "cuda")


def _pair(betas: tuple[float, ...]) -> tuple[float, float]:
    return betas[0], betas[1]
