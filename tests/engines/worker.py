"""One of several processes that train: ``python -m tests.engines.worker CASES OUT``.

Runs the named cases one after the other in one process group, and in the main process the same
training without DeepSpeed; writes what differed as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from moe_tasks.engines.config import EngineConfig, EngineMaker
from moe_tasks.engines.local import LocalEngine
from moe_tasks.engines.processes import Processes
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.tasks.sampling import UniformSampling
from moe_tasks.training.data import TrainBatches
from moe_tasks.training.evaluation import evaluate_together
from moe_tasks.training.signals import Interrupted, StopSignals
from moe_tasks.training.trainer import Trainer
from tests import models
from tests.training import tiny

UNUSED = ".experts.2."


class Worker:
    """What a case may use."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes, self.folder = processes, folder

    def maker(self, stage: int) -> EngineMaker:
        return EngineConfig("deepspeed", stage).maker(self.processes)

    def alone(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """``work`` in the main process; the others wait."""
        return self.processes.on_main(work)


def model(family: str) -> TaskMoE:
    """``bart`` has fixed routes: experts 0 and 1 serve two tasks each, expert 2 none at all."""
    # No ReLU: at its kink, rounding becomes a difference.
    smooth = {"feed_forward_proj": "gated-gelu"} if family == "t5" else {}
    backbone = models.SEQ2SEQ[family](**smooth)
    torch.manual_seed(1)
    made = TaskMoE.from_backbone(backbone, models.TASKS, 3, task_dim=16, noise=0.1)
    with torch.no_grad():  # decided routes that differ between tasks and layers
        made.task_vectors.mul_(4)
    if family == "bart":
        routes = torch.zeros(len(models.TASKS), len(made.layer_names), 3)
        for task in range(len(models.TASKS)):
            routes[task, :, task // 2] = 1.0
        made.fix_routes(routes)
    return made


def trainer(
    made: MultiTaskModel,
    engine: EngineMaker,
    folder: Path | None = None,
    rows: int = 3,
    **changes: Any,
) -> Trainer:
    sampler = UniformSampling(2, rows).build(tiny.pools(), 3)
    batches = TrainBatches(sampler, tiny.RandomTokens(), models.TASKS, pad_token_id=1)
    # Where a gradient comes near zero AdamW turns rounding into a step: started from weights that
    # differ in their last bit, one process ends 2e-5 apart at 1e-6, but 5e-6 at this ``eps``.
    values = {"accumulation": 2, "clip": 0.5, "eps": 1e-4, "evaluate": None, **changes}
    callbacks = values.pop("callbacks", [])
    evaluate = values.pop("evaluate")
    return Trainer(
        made, tiny.config(**values), batches, folder, system="tiny", evaluate=evaluate,
        callbacks=callbacks, seed=7, engine=engine,
    )  # fmt: skip


def weights(trained: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trained.named_parameters()}


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of a tensor.

    Attention does not depend on the biases of BART's keys: their gradients are rounding alone.
    """
    assert left.keys() == right.keys()
    return max(
        float((left[k].double() - right[k].double()).norm() / right[k].double().norm())
        for k in right
        if not ("k_proj" in k and "bias" in k)
    )


def equality(worker: Worker, family: str, stage: int, **changes: Any) -> dict[str, Any]:
    """20 steps of all processes against 20 steps of one."""
    started = weights(model(family))
    together = trainer(model(family), worker.maker(stage), **changes)
    together.fit()
    states = together._engine.tensors()

    def compare() -> dict[str, Any]:
        single = trainer(model(family), LocalEngine, **changes)
        single.fit()
        expected = single._engine.tensors()
        ours = weights(together.model)
        keys = [k for k in expected if k.startswith("optimizer/") and k.endswith("exp_avg_sq")]
        return {
            "weights": difference(ours, weights(single.model)),
            "moved": sum(not torch.equal(ours[k], started[k]) for k in ours) / len(ours),
            "same states": sorted(states.keys() - {"random/processes"}) == sorted(expected),
            "states": difference({k: states[k] for k in keys}, {k: expected[k] for k in keys}),
            "unused moved": [
                k for k in ours if UNUSED in k and not torch.equal(ours[k], started[k])
            ],
            "unused states": [k for k in states if UNUSED in k],
            "splits": together._engine.splits,
        }

    return worker.alone(compare)


def continuing(worker: Worker, before: int | None, after: int | None) -> dict[str, Any]:
    """Stopped at step 7 of 20 and continued elsewhere (None: one process without DeepSpeed)."""
    folder = worker.folder / f"{before}-{after}"

    def part(stage: int | None, **changes: Any) -> Trainer | None:
        if stage is None and not worker.processes.is_main:
            return None
        engine = LocalEngine if stage is None else worker.maker(stage)
        made = trainer(model("t5"), engine, folder, **changes)
        with suppress(Interrupted):
            made.fit(resume=True)
        return made

    stopped = part(before, callbacks=[tiny.StopAt(7)])
    worker.alone(dict)
    assert stopped is None or stopped.state.step == 7
    part(after)

    def compare() -> dict[str, Any]:
        whole = trainer(model("t5"), LocalEngine)
        whole.fit()
        last = model("t5")
        last.load_weights(folder / "checkpoints" / "tiny" / "step-000020")
        return {"weights": difference(weights(last), weights(whole.model))}

    return worker.alone(compare)


class Pieces:
    """An evaluation that notes which pieces this process made."""

    pieces = 6

    def __init__(self) -> None:
        self.made: list[int] = []

    def piece(self, model: Any, number: int) -> float:
        self.made.append(number)
        time.sleep(0.05)  # time for the others
        batch = tiny.batches(seed=number).next()
        return float(model(**batch.inputs).loss) + float(torch.rand(()))

    def figures(self, results: Sequence[float]) -> dict[str, float]:
        return {"loss": sum(results) / len(results), "last": results[-1]}


def evaluation(worker: Worker, stage: int) -> dict[str, Any]:
    """Every piece is made once, and all know what one process finds for the same weights."""
    pieces = Pieces()
    made = trainer(model("bart"), worker.maker(stage), evaluate=pieces, steps=6)
    result = made.fit()
    found = made.state.history[-1]
    own = torch.tensor([result.best_step or 0, found["loss"]], dtype=torch.float64)
    agree = torch.equal(worker.processes.sum(own.clone()), own * worker.processes.world)
    made_by = worker.processes.gather(pieces.made)

    def compare() -> dict[str, Any]:
        single = trainer(model("bart"), LocalEngine)
        single.model.load_state_dict(made.model.state_dict())  # type: ignore[attr-defined]
        expected = evaluate_together(Pieces(), single._engine, made.seed, StopSignals())
        return {
            "same": found == {"step": 6, **(expected or {})},
            "made": sorted(number for of_rank in made_by for number in of_rank),
            "shared": all(made_by),
            "agree": agree,
        }

    return worker.alone(compare)


def evaluation_stopped(worker: Worker) -> dict[str, Any]:
    """Process 1 alone is told to stop while all evaluate; the run continues with that."""

    class Stopped(Pieces):
        def piece(self, model: Any, number: int) -> float:
            if worker.processes.rank == 1:
                signal.raise_signal(signal.SIGTERM)
            return super().piece(model, number)

    folder, stops = worker.folder / "evaluation-stopped", []
    try:
        trainer(model("bart"), worker.maker(1), folder, evaluate=Stopped(), steps=6).fit()
    except Interrupted as stop:
        stops = [stop.signal, stop.step]
    stopped = worker.processes.gather(stops)
    made = trainer(model("bart"), worker.maker(1), folder, evaluate=Pieces(), steps=6)
    made.fit(resume=True)
    return {"stopped": stopped, "evaluated": [entry["step"] for entry in made.state.history]}


def out_of_memory(worker: Worker) -> dict[str, Any]:
    """The last process has room for two rows at a time; all cut their batches."""

    def limited(trained: Any, config: Any) -> Any:
        def check(module: Any, args: Any, kwargs: Any) -> None:
            if worker.processes.rank == worker.processes.world - 1 and len(kwargs["labels"]) > 2:
                raise torch.OutOfMemoryError("no room")

        trained.backbone.register_forward_pre_hook(check, with_kwargs=True)
        return worker.maker(1)(trained, config)

    together = trainer(model("bart"), limited, rows=4)
    together.fit()

    def compare() -> dict[str, Any]:
        splits = together._engine.splits
        single = trainer(model("bart"), LocalEngine, rows=4)
        single._engine.splits = splits
        single.fit()
        return {
            "weights": difference(weights(together.model), weights(single.model)),
            "splits": splits,
        }

    return worker.alone(compare)


def hang(worker: Worker) -> dict[str, Any]:
    """Process 1 never comes."""
    if worker.processes.rank == 1:
        time.sleep(60)
    worker.processes.largest(0)
    raise AssertionError("it came")


def killed(worker: Worker) -> dict[str, Any]:
    """Process 1 dies in the middle of training."""

    class Die(tiny.Callback):
        def on_step(self, step: int, loss: float | None) -> None:
            raise AssertionError("callbacks are the main process's")

    made = trainer(model("bart"), worker.maker(1), steps=200)
    if worker.processes.rank == 1:
        train_step = made._train_step

        def dying() -> None:
            if made.state.step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            train_step()

        made._train_step = dying
    made.fit()
    raise AssertionError("training went on alone")


CASES: dict[str, Callable[[Worker], dict[str, Any]]] = {
    "bart-0": lambda w: equality(w, "bart", 0),
    "bart-1": lambda w: equality(w, "bart", 1),
    "bart-2": lambda w: equality(w, "bart", 2),
    "t5-1": lambda w: equality(w, "t5", 1),
    "t5-2": lambda w: equality(w, "t5", 2, alternate_every=3, length_groups=2),
    "fewer-rows": lambda w: equality(w, "bart", 1, rows=1, accumulation=1),
    "sum": lambda w: equality(w, "bart", 2, loss="sum", expert_regularization=0.01),
    "frozen": lambda w: equality(w, "bart", 1, freeze=("backbone.model.shared.*",)),
    "2-to-1": lambda w: continuing(w, 2, None),
    "1-to-2": lambda w: continuing(w, None, 1),
    "stage-0-to-2": lambda w: continuing(w, 0, 2),
    "evaluation-1": lambda w: evaluation(w, 1),
    "evaluation-3": lambda w: evaluation(w, 3),
    "evaluation-stopped": evaluation_stopped,
    "out-of-memory": out_of_memory,
    "hang": hang,
    "killed": killed,
}


def main() -> None:
    torch.set_num_threads(1)
    names, out = sys.argv[1].split(","), Path(sys.argv[2])
    config = EngineConfig("deepspeed", timeout=float(os.environ.get("TIMEOUT", "60")))
    with config.start("cpu") as processes:
        worker = Worker(processes, out.parent)
        results = {name: CASES[name](worker) for name in names}
        if processes.is_main:
            out.write_text(json.dumps(results))
        processes.on_main(lambda: None)


if __name__ == "__main__":
    main()
