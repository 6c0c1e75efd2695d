"""One of several processes that share experts.

``python -m tests.engines.experts_worker CASES OUT``. A case is a function here and its arguments:
``equality:bart-exact-2-1`` is 20 steps of BART with the ``exact`` gradient, experts spread over 2
processes, ZeRO 1; the main process trains the same alone.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from moe_tasks.engines.base import backbone_of
from moe_tasks.engines.config import EngineConfig, EngineMaker
from moe_tasks.engines.local import LocalEngine
from moe_tasks.errors import UserError
from moe_tasks.experts import leaf_banks
from moe_tasks.experts.bank import ExpertBank
from moe_tasks.experts.convert import named_layers
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.training.callbacks import Callback
from moe_tasks.training.signals import Interrupted
from tests import models
from tests.engines.worker import Worker, difference, trainer, weights
from tests.training import tiny

EXPERTS = 4
UNUSED = ".experts.3."


def model(family: str, routes: str) -> MultiTaskModel:
    """Routes ``one``: all tasks on one expert; ``unused``: expert 3 serves none; else learned.

    ``merge`` and ``mix`` are soft, with learned routes; ``dense`` has no experts.
    """
    smooth = {"feed_forward_proj": "gated-gelu"} if family == "t5" else {}
    torch.manual_seed(1)
    if routes == "dense":
        return DenseModel(models.SEQ2SEQ[family](**smooth), models.TASKS)
    noise = "row" if routes == "row" else "task"
    part = routes if routes in ("ffn", "attention") else "layer"
    gradient = routes if routes in ("exact", "probe") else "merge_st"
    selection: dict[str, Any] = {"name": "gumbel_st", "gradient": gradient, "noise": noise}
    if routes in ("merge", "mix"):
        selection = {"name": "softmax", "mode": routes}
    made = _from_backbone(routes == "generic")(
        models.SEQ2SEQ[family](**smooth), models.TASKS, EXPERTS, part, task_dim=16, noise=0.1,
        selection=selection,
    )  # fmt: skip
    with torch.no_grad():  # decided routes that differ between tasks and layers
        made.task_vectors.mul_(4)
    chosen = {"one": [1, 1, 1, 1], "unused": [0, 1, 2, 2]}.get(routes)
    if chosen is not None:
        fixed = torch.nn.functional.one_hot(torch.tensor(chosen), EXPERTS).float()
        made.fix_routes(fixed[:, None].expand(-1, len(made.layer_names), -1).clone())
    return made


def _from_backbone(generic: bool) -> Callable[..., TaskMoE]:
    """``generic``: norms are taken for leaves that nothing is known of."""
    if not generic:
        return TaskMoE.from_backbone
    return patch.object(leaf_banks, "is_affine_norm", lambda _: False)(TaskMoE.from_backbone)


CHANGES: dict[str, dict[str, Any]] = {
    "checkpointing": {"gradient_checkpointing": True},
    "groups": {"length_groups": 2, "alternate_every": 3, "loss": "sum"},
    "few": {"rows": 1, "accumulation": 1},
    "frozen": {"freeze": ("backbone.model.shared.*", "backbone.model.*embed_positions*")},
    "bf16": {"precision": "bf16"},
    "apart": {"expert_regularization": 0.01},
    "experts": {"freeze": ("*.experts.*",)},
}


def maker(worker: Worker, size: int, stage: int) -> EngineMaker:
    return EngineConfig("deepspeed", stage, size).maker(worker.processes)


@functools.cache
def alone(family: str, routes: str, change: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and optimizer state after 20 steps of one process."""
    single = trainer(model(family, routes), LocalEngine, **CHANGES.get(change, {}))
    single.fit()
    states = {k: v.clone() for k, v in single._engine.tensors().items()}
    return weights(single.model), states


def equality(
    worker: Worker, family: str, routes: str, size: str, stage: str, change: str = ""
) -> dict[str, Any]:
    """20 steps of all processes against 20 steps of one."""
    changes = CHANGES.get(change, {})
    together = trainer(model(family, routes), maker(worker, int(size), int(stage)), **changes)
    together.fit()
    engine: Any = together._engine
    states = engine.tensors()
    own = [n for n, p in together.model.named_parameters() if "experts" in n and p.requires_grad]

    def compare() -> dict[str, Any]:
        started = weights(model(family, routes))
        expected, expected_states = alone(family, routes, change)
        ours = weights(together.model)
        keys = [k for k in expected_states if k.endswith("exp_avg_sq")]
        return {
            "weights": difference(ours, expected),
            "states": difference(
                {k: states[k] for k in keys}, {k: expected_states[k] for k in keys}
            ),
            "same states": sorted(states.keys() - {"random/processes"}) == sorted(expected_states),
            "moved": sum(not torch.equal(ours[k], started[k]) for k in ours) / len(ours),
            "unused moved": sum(UNUSED in k and not torch.equal(ours[k], started[k]) for k in ours),
            "own experts": len({n.split(".experts.")[1].split(".")[0] for n in own}),
            "sent": engine.peers.sent if engine.peers else 0,
        }

    return worker.alone(compare)


def stopped(worker: Worker, family: str, size: str, stage: str) -> dict[str, Any]:
    """Stopped at step 8 of 20, with a checkpoint."""
    folder = worker.folder / f"{family}-stopped"
    found = _part(worker, family, size, stage, folder, tiny.StopAt(8))
    return worker.alone(lambda: {"step": found})


def continued(worker: Worker, family: str, size: str, stage: str) -> dict[str, Any]:
    """From there to the end in another layout."""
    folder = worker.folder / f"{family}-{size}-{stage}"
    worker.alone(lambda: {"at": str(shutil.copytree(worker.folder / f"{family}-stopped", folder))})
    losses = tiny.Losses()
    _part(worker, family, size, stage, folder, losses)

    def compare() -> dict[str, Any]:
        expected = tiny.Losses()
        whole = trainer(model(family, "merge_st"), LocalEngine, callbacks=[expected])
        whole.fit()
        last = model(family, "merge_st")
        last.load_weights(folder / "checkpoints" / "tiny" / "step-000020")
        pairs = [(losses.by_step[step] or 0, expected.by_step[step] or 0) for step in range(9, 21)]
        return {
            "losses": max(abs(found - wanted) / wanted for found, wanted in pairs),
            "weights": difference(weights(last), weights(whole.model)),
        }

    return worker.alone(compare)


def _part(
    worker: Worker, family: str, size: str, stage: str, folder: Path, callback: Callback
) -> int | None:
    """Train as far as it goes (size 0: one process without DeepSpeed); the last step."""
    if size == "0" and not worker.processes.is_main:
        return None
    engine = LocalEngine if size == "0" else maker(worker, int(size), int(stage))
    made = trainer(model(family, "merge_st"), engine, folder, callbacks=[callback])
    with suppress(Interrupted):
        made.fit(resume=True)
    return made.state.step


def probing(worker: Worker, family: str) -> dict[str, Any]:
    """``probe`` takes a task's first row in each process, with spread experts as without."""
    found = []
    for size in (1, 2):
        made = trainer(model(family, "probe"), maker(worker, size, 1))
        made.fit()
        found.append(weights(made.model))
    return worker.alone(lambda: {"weights": difference(found[1], found[0])})


def evaluated(worker: Worker, family: str, size: str, stage: str) -> dict[str, Any]:
    """The main process evaluates, between steps, the weights that one process would have.

    It evaluates a copy, as whoever squeezes a task's model does.
    """
    held = []

    class Held(Callback):
        def on_step(self, step: int, loss: float | None) -> None:
            parameters = [p for n, p in made.model.named_parameters() if ".experts." in n]
            held.append(sum(p.numel() for p in parameters))

    def run(engine: EngineMaker) -> Any:
        return trainer(
            model(family, "merge_st"), engine, eval_every=3, callbacks=[Held()],
            evaluate=lambda trained: tiny.dev_loss(copy.deepcopy(trained)),
        )  # fmt: skip

    made = run(maker(worker, int(size), int(stage)))
    made.fit()
    every = sum(p.numel() for n, p in made.model.named_parameters() if ".experts." in n)

    def compare() -> dict[str, Any]:
        single = run(LocalEngine)
        shares = [count / every for count in held]
        single.fit()
        pairs = zip(made.state.history, single.state.history, strict=True)
        return {
            "evaluations": len(made.state.history),
            "losses": max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in pairs),
            "held": max(shares),
        }

    return worker.alone(compare)


def held(worker: Worker, family: str, change: str = "") -> dict[str, Any]:
    """How many layers have their weights while one computes, forward and backward, ZeRO 3."""
    made = trainer(model(family, "exact"), maker(worker, 1, 3), steps=3, **CHANGES.get(change, {}))
    layers = named_layers(backbone_of(made.model)).values()
    counts: dict[str, list[int]] = {"forward": [], "backward": []}

    def count(when: str) -> None:
        present = [all(p.numel() for p in layer.parameters()) for layer in layers]
        counts[when].append(sum(present))

    def after(layer: Any, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: count("backward"))

    for layer in layers:
        first = next(m for m in layer.modules() if isinstance(m, ExpertBank))
        first.register_forward_pre_hook(lambda *_: count("forward"))
        layer.register_forward_hook(after)
    made.fit()
    return {when: sorted(set(found)) for when, found in counts.items()}


def exhausted(worker: Worker, family: str) -> dict[str, Any]:
    """Process 1 has no memory left in the middle of a step."""
    made = trainer(model(family, "merge_st"), maker(worker, 1, 3), steps=2000)

    def check(*_: Any) -> None:
        if made.state.step == 3 and worker.processes.rank == 1:
            raise torch.OutOfMemoryError("no room")

    list(named_layers(backbone_of(made.model)).values())[-1].register_forward_pre_hook(check)
    made.fit()
    raise AssertionError("training went on")


def killed(worker: Worker, family: str) -> dict[str, Any]:
    """Process 1 dies in the middle of training."""
    made = trainer(model(family, "merge_st"), maker(worker, 2, 1), steps=2000)
    train_step = made._train_step

    def dying() -> None:
        if made.state.step == 3 and worker.processes.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        train_step()

    made._train_step = dying
    made.fit()
    raise AssertionError("training went on alone")


def refused(worker: Worker) -> dict[str, Any]:
    """What only the model shows."""
    found = {}
    for name in ("layerdrop", "freeze", "soft", "divided layerdrop"):
        made: Any = model("bart", "merge_st")
        if "layerdrop" in name:
            made.backbone.config.encoder_layerdrop = 0.1
        if name == "soft":
            made.use_selection({"name": "softmax", "mode": "mix"})
        freeze = ("*.experts.1.*",) if name == "freeze" else ()
        try:
            trainer(made, maker(worker, *((1, 3) if "divided" in name else (2, 1))), freeze=freeze)
        except UserError as error:
            found[name] = str(error)
    return found


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "equality": equality,
    "stopped": stopped,
    "continued": continued,
    "probing": probing,
    "evaluated": evaluated,
    "held": held,
    "exhausted": exhausted,
    "killed": killed,
    "refused": refused,
}


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[2])
    config = EngineConfig("deepspeed", timeout=float(os.environ.get("TIMEOUT", "60")))
    with config.start("cpu") as processes:
        worker = Worker(processes, out.parent)
        results = {}
        for name in sys.argv[1].split(","):
            case, _, options = name.partition(":")
            results[name] = CASES[case](worker, *filter(None, options.split("-")))
            if processes.is_main and os.environ.get("SHOW"):
                print(name, results[name], flush=True)
        if processes.is_main:
            out.write_text(json.dumps(results))
        processes.on_main(lambda: None)


if __name__ == "__main__":
    main()
