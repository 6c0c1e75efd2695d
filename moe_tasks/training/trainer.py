"""The only training loop: draw, compute, update, evaluate, log, save; exact to continue."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from moe_tasks.engines.base import Engine, OutOfMemory
from moe_tasks.engines.figures import RankFigures
from moe_tasks.engines.local import LocalEngine
from moe_tasks.errors import UserError
from moe_tasks.training import identity
from moe_tasks.training.callbacks import Callback, Start
from moe_tasks.training.checkpoint import Checkpoint, CheckpointStore, Damaged
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import Batch, Batches
from moe_tasks.training.evaluation import Evaluation, Undivided, evaluate_together
from moe_tasks.training.model import Trainable
from moe_tasks.training.optimizer import rates, updated_groups
from moe_tasks.training.randomness import seed_training
from moe_tasks.training.signals import Interrupted, StopSignals
from moe_tasks.training.state import RunState, TrainResult

logger = logging.getLogger(__name__)


class Trainer:
    """Trains one system; continues exactly where it was stopped.

    All randomness of training (dropout, Gumbel noise) comes from torch's global generator, which
    is seeded from ``seed`` and ``system``, saved in checkpoints, and untouched by evaluation.

    Args:
        model: on the device where it is to be trained.
        batches: supply of batches with its own resumable state.
        folder: the run's folder; checkpoints go to ``checkpoints/<system>`` in it. None writes
            nothing and keeps the best weights in memory.
        system: name of what is trained.
        evaluate: figures of a model in evaluation mode, without gradients; ``loss`` decides which
            weights are best (lowest). Or an ``Evaluation``, whose pieces processes share.
        callbacks: called in order.
        seed: any whole number.
        facts: JSON-able, beside configuration and batches, that must not change when the run is
            continued, such as the name of the backbone.
        engine: makes what computes. Where it has several processes, each runs its own trainer with
            equal arguments; only the main one writes and calls the callbacks.

    Raises:
        UserError: ``system`` cannot be a folder's name.
    """

    def __init__(
        self,
        model: Trainable,
        config: TrainingConfig,
        batches: Batches,
        folder: Path | None,
        *,
        system: str,
        evaluate: Evaluation | Callable[[Trainable], Mapping[str, float]] | None = None,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        engine: Callable[[Trainable, TrainingConfig], Engine] = LocalEngine,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", system):
            raise UserError(f"{system!r} cannot name a system; use letters, digits, . _ + -")
        self.model, self.config, self.batches, self.system = model, config, batches, system
        self.callbacks, self.seed = tuple(callbacks), seed
        self.store = None
        if folder is not None:
            self.store = CheckpointStore(Path(folder) / "checkpoints" / system, config.keep)
        self.state = RunState()
        self._evaluation = Undivided(evaluate) if callable(evaluate) else evaluate
        self._facts = dict(facts or {})
        self._engine = engine(model, config)
        self._processes = self._engine.processes
        self._ranks = RankFigures(self._engine)
        self._signals = StopSignals()
        self._saved: tuple[int, int] | None = None
        self._best_weights: dict[str, torch.Tensor] | None = None

    def fit(self, resume: bool = False) -> TrainResult:
        """Train to the last step; the model then has the last weights (see ``restore_best``).

        Args:
            resume: continue from the newest intact checkpoint, if there is one.

        Raises:
            UserError: there are checkpoints but ``resume`` is false, they belong to another
                configuration or are all damaged, a checkpoint cannot be written, memory runs out
                even for single rows, or too many steps in a row had no finite gradient.
            Interrupted: a signal came; a checkpoint was written before.
        """
        started = time.monotonic()
        if self.config.num_threads is not None:
            torch.set_num_threads(self.config.num_threads)
        self._begin(resume)
        finished = False
        try:
            with StopSignals() as self._signals:
                self._call("on_start", self._start())
                self.model.train()
                self._close_step()
                while self.state.step < self.config.steps:
                    self._train_step()
                    self._close_step()
                self._engine.complete()
                finished = True
        finally:
            self._call("on_end", finished)
        path = self.store.path(self.state.step) if self.store else None
        return self.state.result(path, time.monotonic() - started)

    def restore_best(self) -> bool:
        """Give the model the weights of its best evaluation; False when there was none.

        Raises:
            UserError: their checkpoint is damaged.
        """
        step = self.state.best_step
        if self._best_weights is not None:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(self._best_weights[name])
        elif step is not None and self.store is not None:
            try:
                self.model.load_weights(self.store.verify(step).path)
            except Damaged as error:
                raise UserError(f"the best checkpoint is damaged: {error}") from None
        return step is not None

    def _begin(self, resume: bool) -> None:
        seed_training(self.seed, self.system)
        if self.store is not None:
            step = self._processes.on_main(self._find_resumable) if resume else None
            if step is not None:
                self._resume(Checkpoint(self.store.path(step), step))
            elif self.store.steps():
                raise UserError(
                    f"{self.store.folder} already holds checkpoints; continue with resume=auto, "
                    "or choose another run_dir"
                )
        self.model.set_step(self.state.step)

    def _find_resumable(self) -> int | None:
        found = self.store.find_resumable() if self.store else None
        return None if found is None else found.step

    def _resume(self, checkpoint: Checkpoint) -> None:
        values = checkpoint.state()
        identity.require_same(values["identity"], self._identity(), checkpoint.path)
        try:
            self._engine.load_model(checkpoint.path)
            self._engine.load_tensors(checkpoint.tensors())
            self.batches.load_state_dict(values["batches"])
            self._engine.splits = values["splits"]
            self.state = RunState.from_dict(values["run"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{checkpoint.path} does not fit this run: {error}") from error
        self._saved = (self.state.step, self.state.closed_step)
        self._check_best(checkpoint)

    def _check_best(self, checkpoint: Checkpoint) -> None:
        step = self.state.best_step
        if self.store is None or step is None or step == checkpoint.step:
            return
        if self._processes.on_main(lambda: self._damage(step)):
            self.state.best_step = self.state.best_metric = None

    def _damage(self, step: int) -> bool:
        assert self.store is not None
        try:
            self.store.verify(step)
        except Damaged as error:
            logger.warning("the best checkpoint is lost: %s; the next evaluation sets it", error)
            return True
        return False

    def _train_step(self) -> None:
        started = time.perf_counter()
        drawn = [self.batches.next() for _ in range(self.config.accumulation)]
        if self.config.loss == "task_mean":
            drawn = [batch.weighted_by_task() for batch in drawn]
        batches = [part for batch in drawn for part in batch.by_length(self.config.length_groups)]
        step = self.state.step
        try:
            # The step's only wait for the device.
            loss, norm = torch.stack(self._engine.backward(batches)).tolist()
        except OutOfMemory as error:
            raise UserError(f"step {step + 1} of {self.system}: {error}") from error
        good = math.isfinite(loss) and math.isfinite(norm)
        if good:
            updated = updated_groups(self.model, self.config, step)
            used = rates(self.config, step)
            self._engine.update({n: rate for n, rate in used.items() if n in updated}, norm)
        self._engine.zero_gradients()
        self.state.step = step + 1
        self.model.set_step(step + 1)
        self.state.meter.add(batches, loss, norm, time.perf_counter() - started, good)
        self._count_bad(good, loss, batches)
        self._call("on_step", step + 1, loss if good else None)

    def _count_bad(self, good: bool, loss: float, batches: Sequence[Batch]) -> None:
        if good:
            self.state.bad_in_row = 0
            return
        self.state.skipped += 1
        self.state.bad_in_row += 1
        what = "gradient norm" if math.isfinite(loss) else f"loss ({loss})"
        tasks = ", ".join(sorted({task for batch in batches for task in batch.tasks}))
        text = f"step {self.state.step} of {self.system}: {what} is not finite; tasks: {tasks}"
        if self.state.bad_in_row >= self.config.max_bad_steps:
            kept = self.store.steps() if self.store else []
            raise UserError(
                f"{text}. That was {self.state.bad_in_row} steps in a row, so training stops; "
                "try lower learning rates or precision=fp32. "
                + (f"Last checkpoint: step {kept[-1]}" if kept else "There is no checkpoint")
            )
        logger.warning("%s; step skipped", text)

    def _close_step(self) -> None:
        """Everything due after an update; also run first when a signal left it undone."""
        state, config = self.state, self.config
        self._heed_signals()
        if state.closed_step < state.step:
            last = state.step == config.steps
            improved, metrics = False, None
            if self._evaluation is not None and (last or _due(state.step, config.eval_every)):
                metrics = evaluate_together(
                    self._evaluation, self._engine, self.seed, self._signals
                )
                if metrics is None:
                    self._heed_signals()
                    raise RuntimeError("an evaluation ended without figures and without a signal")
                improved = self._note_evaluation(metrics)
            if last or metrics or _due(state.step, config.log_every):
                self._log(metrics or {})
            state.closed_step = state.step
            regular = _due(state.step, config.save_every) and not state.bad_in_row
            if last or improved or regular:
                self._save()
        if state.step < config.steps:
            self._heed_signals()

    def _note_evaluation(self, metrics: Mapping[str, float]) -> bool:
        state = self.state
        state.history.append({"step": state.step, **metrics})
        self._call("on_evaluate", state.step, metrics)
        loss = metrics["loss"]
        if not math.isfinite(loss):
            logger.warning("step %d: evaluation loss is %s", state.step, loss)
        elif state.best_metric is None or loss < state.best_metric:
            state.best_step, state.best_metric = state.step, loss
            if self.store is None:
                named = self.model.named_parameters()
                self._best_weights = {name: p.detach().clone() for name, p in named}
            return True
        return False

    def _log(self, metrics: Mapping[str, float]) -> None:
        state = self.state
        used = rates(self.config, state.step - 1)
        self._call(
            "on_log",
            {
                "system": self.system,
                "step": state.step,
                **state.meter.means(),
                **{"lr" if k == "model" else f"lr_{k}": rate for k, rate in used.items()},
                "skipped": state.skipped,
                **self.model.monitor(),
                **{f"eval_{key}": value for key, value in metrics.items()},
                **self._ranks.record(),
            },
        )
        state.meter.reset()

    def _save(self) -> None:
        if self.store is None or self._saved == (self.state.step, self.state.closed_step):
            return
        values = {
            "system": self.system,
            "run": self.state.to_dict(),
            "batches": self.batches.state_dict(),
            "splits": self._engine.splits,
            "identity": self._identity(),
        }
        store, step, tensors = self.store, self.state.step, self._engine.tensors()

        def write() -> None:
            store.save(
                step, self._engine.save_model, tensors, values, best_step=self.state.best_step
            )

        self._processes.on_main(write)
        self._saved = (step, self.state.closed_step)
        self._call("on_checkpoint", step, store.path(step))

    def _heed_signals(self) -> None:
        """End training when a signal has reached any process."""
        number = self._processes.largest(self._signals.received or 0)
        if number:
            self._interrupt(number)

    def _interrupt(self, number: int) -> NoReturn:
        self._save()
        path = self.store.path(self.state.step) if self.store else None
        raise Interrupted(number, self.system, self.state.step, self.config.steps, path)

    def _start(self) -> Start:
        state = self.state
        config = dataclasses.asdict(self.config)
        steps = self.config.steps
        return Start(self.system, self.model, config, state.step, steps, state.closed_step)

    def _identity(self) -> dict[str, Any]:
        return identity.describe(self.config, self.batches, self.model, self.seed, self._facts)

    def _call(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks if self._processes.is_main else ():
            getattr(callback, event)(*arguments)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
