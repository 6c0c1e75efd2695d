"""What each process did since the last log record, where a run has several."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from moe_tasks.engines.base import Engine, backbone_of
from moe_tasks.routing.plan import RoutePlan
from moe_tasks.training.loss import IGNORED

_MIB = 2**20
_RSS_UNIT = 1024  # Linux counts memory in KiB


class RankFigures:
    """Counts the rows that a process computes in training, whatever the engine does with them.

    Args:
        engine: whose model is counted; nothing is where it has one process.
    """

    def __init__(self, engine: Engine) -> None:
        self._processes, self._device = engine.processes, engine.device
        self._begin()
        if self._processes.world > 1:
            backbone = backbone_of(engine.model)
            # Not the method itself: a copy of the model would copy what it belongs to.
            backbone.register_forward_pre_hook(lambda *a: self._count(*a), with_kwargs=True)

    def record(self) -> dict[str, Any]:
        """``{"ranks": ...}`` for the log, in the main process; a collective, like a log record.

        Lists by rank, since the last record: ``rows``, ``tokens`` (without padding), ``seconds``
        per collective call, waiting for the others included (``gradients`` and ``update`` less the
        calls within them, mostly arithmetic; ``sum``, ``reduction``, ``dispatch`` exchange), and
        ``memory_mib``, the peak so far. ``expert_rows`` are the rows that selected each expert, of
        all processes and layers. On a GPU, seconds are those that the host waited.
        """
        if self._processes.world == 1:
            return {}
        own = {
            "rows": self._rows,
            "tokens": int(self._tokens),
            "memory_mib": round(_peak_memory(self._device) / _MIB, 1),
            "seconds": {c: round(s, 4) for c, s in self._processes.seconds().items()},
            "expert_rows": self._experts,
        }
        self._begin()
        found = self._processes.gather(own)
        return {"ranks": _merged(found)} if found else {}

    def _begin(self) -> None:
        self._rows = 0
        self._tokens = torch.zeros((), dtype=torch.int64, device=self._device)
        self._experts: list[int] = []

    def _count(self, module: Any, args: Any, inputs: Mapping[str, Any]) -> None:
        if not module.training:
            return
        self._rows += len(inputs["input_ids"])
        for key in ("attention_mask", "labels"):
            if inputs.get(key) is not None:
                counted = inputs[key] != (IGNORED if key == "labels" else 0)
                self._tokens += counted.sum()
        plan = inputs.get("route_plan")
        if plan is not None and plan.mode == "select":
            self._count_experts(plan, len(inputs["input_ids"]))

    def _count_experts(self, plan: RoutePlan, rows: int) -> None:
        tasks: Sequence[int] = plan.row_task
        if len(tasks) != rows:  # experts are spread: the plan has the rows of a whole group
            batch: Any = plan.layers[0].batch  # type: ignore[attr-defined]
            tasks = [tasks[row] for row in batch.own]
        self._experts = self._experts or [0] * plan.weights.shape[-1]
        of_task = Counter(tasks)
        for layer in plan.layers:
            for task, count in of_task.items():
                self._experts[layer.keys[task]] += count


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def _merged(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    calls = dict.fromkeys(call for rank in ranks for call in rank["seconds"])
    lists = {key: [rank[key] for rank in ranks] for key in ("rows", "tokens", "memory_mib")}
    seconds = {call: [rank["seconds"].get(call, 0.0) for rank in ranks] for call in calls}
    load = [sum(rows) for rows in zip(*(rank["expert_rows"] for rank in ranks), strict=True)]
    return {**lists, "seconds": seconds, **({"expert_rows": load} if load else {})}
