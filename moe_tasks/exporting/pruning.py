"""Routed models without the experts that nobody uses."""

from __future__ import annotations

import dataclasses

from moe_tasks.experts.bank import banks_of
from moe_tasks.experts.convert import named_layers
from moe_tasks.model import TaskMoE


def drop_unused_experts(model: TaskMoE) -> None:
    """Fix the routes and drop the experts that no task uses, in place.

    The others are numbered anew, layer by layer; every task's outputs stay as they are.
    """
    routes, mode = model.routes(), model.selection.mode  # [T, L, m]
    used = [layer.nonzero().flatten().tolist() for layer in (routes > 0).any(0)]
    layers = named_layers(model.backbone)
    for name, experts in zip(model.layer_names, used, strict=True):
        banks = list(banks_of(layers[name]))
        for bank in banks:
            bank.keep(experts)
        for bank in banks:  # those that lie together are alike only now
            bank.pack()
    counts = tuple(map(len, used))
    renumbered = routes.new_zeros(*routes.shape[:2], max(counts))
    for layer, experts in enumerate(used):
        renumbered[:, layer, : len(experts)] = routes[:, layer, experts]
    model.spec = dataclasses.replace(model.spec, num_experts=max(counts), experts_per_layer=counts)
    model.fix_routes(renumbered)
    model.use_selection({"name": "fixed", "mode": mode})
