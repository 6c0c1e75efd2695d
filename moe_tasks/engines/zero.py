"""Training on DeepSpeed: every process has a part of the rows, and all weights or a part of them.

Gradients stay where they arise until a step's last row is done; then parameters that no process
used are left out everywhere, those that only some used are filled with zeros, and DeepSpeed adds
up (and with ZeRO divides) the rest. So no process ever waits for a gradient that another does not
have, and running out of memory is no deadlock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import nn

from moe_tasks.config import override
from moe_tasks.engines.base import (
    OutOfMemory,
    advice,
    check_state,
    checkpoint_gradients,
    is_out_of_memory,
)
from moe_tasks.engines.gathering import Gathered, check_gathering
from moe_tasks.engines.pieces import FlatAdamW
from moe_tasks.engines.processes import Processes
from moe_tasks.engines.reduction import Divided, Partitioned, Replicated, zero_gradient
from moe_tasks.engines.sharing import share, share_together
from moe_tasks.engines.spreading import Losses, spread_experts
from moe_tasks.engines.streams import Streams
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import Batch
from moe_tasks.training.model import Trainable
from moe_tasks.training.optimizer import build_optimizer, freeze, parameter_names

logger = logging.getLogger(__name__)


class DeepSpeedEngine:
    """See :class:`~moe_tasks.engines.base.Engine`.

    Args:
        stage: what is divided over the processes (ZeRO): 0, 1, 2 or 3.
        expert_parallel: so many neighbouring processes together have the experts of a routed
            model; needs stage 1 or 2.
        extra: keys of DeepSpeed's configuration beside ours.
    """

    def __init__(
        self,
        model: Trainable,
        config: TrainingConfig,
        processes: Processes,
        stage: int,
        extra: Mapping[str, Any],
        expert_parallel: int = 1,
    ) -> None:
        self.model, self.config, self.processes, self.splits = model, config, processes, 1
        if stage == 3:
            check_gathering(model)
        freeze(model, config.freeze)
        names = parameter_names(model)
        self._shapes = {name: p.shape for p, name in names.items()}
        self.device = next(iter(names)).device
        self._weights, self.peers = spread_experts(model, config, processes, expert_parallel)
        layout = self._weights.layout
        self._parameters = {name: p for p, name in parameter_names(model).items()}
        self._streams = Streams(model, self.device, layout.rank, layout.world, layout.size)
        if config.gradient_checkpointing:
            checkpoint_gradients(model)
        plain = build_optimizer(model, config)
        optimizer = FlatAdamW(plain, layout, _rate_names(model, names)) if stage else plain
        with processes.calling("set-up"):
            self._engine, *_ = deepspeed.initialize(
                model=Losses(model, config, self.device.type, self.peers),
                optimizer=optimizer,
                config=override(_settings(stage), extra),
                dist_init_required=False,
            )
            if stage == 3:
                self._weights = Gathered(layout, model, self._engine, processes)
        if isinstance(optimizer, FlatAdamW):
            kind = Partitioned if stage == 3 else Divided
            self._updates = kind(self._engine, optimizer, self._parameters, processes)
        else:
            self._updates = Replicated(self._engine, optimizer, self._parameters)
        self._weights.release()
        self._used: frozenset[str] = frozenset()
        self._norm = torch.zeros((), device=self.device)

    def backward(self, batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        self._weights.release()
        with self.processes.calling("gradients"):
            with self._unreduced(), self._weights.computing():
                loss = self._accumulate(batches)
            with self.processes.calling("reduction"):
                self._updates.reduce(self._used)
            self._norm = self._updates.norm()
        return loss, self._norm

    def update(self, rates: Mapping[str, float], norm: float | None = None) -> None:
        with self.processes.calling("update"):
            clip = self.config.clip
            if clip is not None and (norm is None or norm + 1e-6 > clip):  # torch's own margin
                divisor = ((self._norm + 1e-6) / clip).clamp(min=1.0)
                torch._foreach_div_(self._updates.gradients(), divisor)  # type: ignore[attr-defined]
            self._updates.update(self._used, rates)
            self._weights.updated()

    def zero_gradients(self) -> None:
        self._updates.zero_gradients()

    def complete(self) -> bool:
        if not self._weights.elsewhere:
            return True
        with self.processes.calling("all weights"):
            return self._weights.collect()

    def tensors(self) -> dict[str, torch.Tensor]:
        self.complete()
        with self.processes.calling("optimizer state"):
            return {**self._updates.states(), **self._streams.tensors()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        states: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                name, field = check_state(key, value, self._shapes)
                states.setdefault(name, {})[field] = value
        self._updates.load(states)
        self._streams.load(tensors)

    def load_model(self, path: Path) -> None:
        self._weights.make_room()
        self.model.load_weights(path)
        self._weights.keep()
        self._updates.take_weights()

    def save_model(self, path: Path) -> None:
        self.model.save(path)

    @contextmanager
    def _unreduced(self) -> Iterator[None]:
        """Gradients stay in this process; at the end, DeepSpeed reduces those that there are."""
        with ExitStack() as unreduced:
            unreduced.enter_context(self._updates.unreduced())
            try:
                yield
            except BaseException:
                self.zero_gradients()  # the others would not take part
                raise
            with self.processes.calling("reduction"):
                unreduced.close()

    def _accumulate(self, batches: Sequence[Batch]) -> torch.Tensor:
        """This process's part of the gradients, zeros where only others have one; global loss."""
        state = self._streams.tensors()
        while True:
            error: RuntimeError | None = None
            loss = torch.zeros((), device=self.device)
            try:
                loss = self._gradients(batches)
            except RuntimeError as raised:
                if not is_out_of_memory(raised):
                    raise
                if self._weights.elsewhere:  # the others are waiting for this one
                    raise OutOfMemory(advice(batches, raised)) from raised
                error = raised
            failures, loss = self._exchange(error is not None, loss)
            if not failures:
                return loss
            self._split_further(batches, error or RuntimeError("in another process"), state)

    def _split_further(
        self, batches: Sequence[Batch], error: RuntimeError, state: Mapping[str, torch.Tensor]
    ) -> None:
        if self.splits >= max(batch.rows for batch in batches):
            raise OutOfMemory(advice(batches, error)) from error
        self.zero_gradients()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._streams.load(state)
        self.splits *= 2
        logger.warning("out of memory: batches are now computed in %d parts", self.splits)

    def _exchange(self, failed: bool, loss: torch.Tensor) -> tuple[int, torch.Tensor]:
        """The step's one exchange of sizes: failures, the loss, and which parameters are used."""
        used = [_has_gradient(self._parameters.get(name)) for name in self._shapes]
        sums = torch.tensor([float(failed), 0.0, *used], dtype=torch.float64, device=self.device)
        sums[1] = loss
        failures, _, *users = self.processes.sum(sums).tolist()
        if not failures:
            self._used = frozenset(n for n, u in zip(self._shapes, users, strict=True) if u)
            for name in self._used & self._parameters.keys():
                parameter = self._parameters[name]
                if parameter.grad is None:
                    zero_gradient(parameter, self._shapes[name])
        return int(failures), sums[1].float()

    def _gradients(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Backward through this process's rows; returns their share of the loss per token."""
        world = self.processes.world
        targets = max(1, sum(batch.targets for batch in batches))
        # Gradients are averaged over the processes.
        factor = world if self.config.loss == "sum" else world / targets
        total = torch.zeros((), device=self.device)
        for batch in batches:
            for part in batch.parts(self.splits):
                with self._streams.batch():
                    loss = self._engine(**self._rows(part))
                    self._engine.backward(loss * factor)
                total += loss.detach() / targets
        if self.config.expert_regularization:
            with self._weights.everywhere():
                distance = self.model.expert_distance()
                if distance.requires_grad:
                    self._engine.backward(self.config.expert_regularization * distance)
        return total

    def _rows(self, part: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """This process's rows, and whose it computes them with."""
        rank, world = self.processes.rank, self.processes.world
        group = None
        if self.peers is None:
            rows = share(part, rank, world)
        else:
            rows, group = share_together(part, rank, world, self.peers.size)
        return {"group": group, **{key: value.to(self.device) for key, value in rows.items()}}


def _has_gradient(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.grad is not None


def _rate_names(model: Trainable, names: Mapping[nn.Parameter, str]) -> dict[str, str]:
    """By trainable parameter, the name of its learning rate."""
    groups = model.parameter_groups().items()
    return {names[p]: group for group, parameters in groups for p in parameters if p in names}


def _settings(stage: int) -> dict[str, Any]:
    zero = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
    if stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": 0,  # we say what stays
            "memory_efficient_linear": False,  # would change torch for good
            "sub_group_size": 2**50,  # a group of the optimizer is one piece of memory
            "reduce_bucket_size": 50_000_000,
        }
    return {
        "train_micro_batch_size_per_gpu": 1,  # rows are divided by us, not by DeepSpeed
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
