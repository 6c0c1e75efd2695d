"""Tiny models and data to train, and a program that trains them: ``python -m tests.training.tiny``.

Dropout is on, so that every step depends on the random state.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import BartConfig, BartForConditionalGeneration

from moe_tasks.errors import UserError
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.tasks.sampling import (
    ProportionalSampling,
    TemperatureSampling,
    UniformSampling,
)
from moe_tasks.training.callbacks import Callback, JsonLines
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import TrainBatches
from moe_tasks.training.randomness import random_state
from moe_tasks.training.signals import Interrupted
from moe_tasks.training.trainer import Trainer

TASKS = ("add", "colour", "shape", "taste")
SIZES = (5, 9, 14, 20)
VOCAB = 40
SAMPLINGS = {
    "uniform": UniformSampling(2, 3),
    "proportional": ProportionalSampling(2, 3),
    "temperature": TemperatureSampling(2, 3, temperature=3.0),
}


class RandomTokens:
    """Token ids of random rows; a target is its source reversed."""

    def __init__(self) -> None:
        generator = numpy.random.default_rng(0)
        lengths = generator.integers(3, 9, sum(SIZES))
        self._rows = [generator.integers(4, VOCAB, length) for length in lengths]

    def sources(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        return [self._rows[row] for row in rows]

    def targets(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        return [numpy.append(self._rows[row][::-1], 2) for row in rows]


def pools() -> dict[str, range]:
    ends = numpy.cumsum(SIZES).tolist()
    return {t: range(e - s, e) for t, s, e in zip(TASKS, SIZES, ends, strict=True)}


def model(selection: str = "dense", experts: str = "layer", dropout: float = 0.1) -> MultiTaskModel:
    """``dense``, or a routed model with that selection."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCAB, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24,
        decoder_ffn_dim=24, encoder_attention_heads=2, decoder_attention_heads=2, dropout=dropout,
        max_position_embeddings=32, init_std=0.1,
    )  # fmt: skip
    backbone = BartForConditionalGeneration(config)
    if selection == "dense":
        return DenseModel(backbone, TASKS)
    return TaskMoE.from_backbone(
        backbone, TASKS, 3, experts, selection=selection, task_dim=8, hidden_dim=8, noise=0.1
    )


def batches(sampling: str = "uniform", seed: int = 3) -> TrainBatches:
    sampler = SAMPLINGS[sampling].build(pools(), seed)
    return TrainBatches(sampler, RandomTokens(), TASKS, pad_token_id=1)


def dev_loss(trained: Any) -> dict[str, float]:
    """Mean loss on a fixed batch; draws random numbers, which must not reach training."""
    batch = batches(seed=99).next()
    torch.rand(3)
    return {"loss": float(trained(**batch.inputs).loss), "draw": float(torch.rand(()))}


def config(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "steps": 20, "learning_rate": 2e-3, "router_learning_rate": 1e-2, "accumulation": 2,
        "label_smoothing": 0.1, "eval_every": 6, "save_every": 4, "log_every": 3, "keep": 3,
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})


def trainer(
    folder: Path | None,
    *,
    trained: MultiTaskModel | None = None,
    sampling: str = "uniform",
    callbacks: Sequence[Callback] = (),
    evaluate: Callable[[Any], Mapping[str, float]] | None = dev_loss,
    seed: int = 7,
    system: str = "tiny",
    **changes: Any,
) -> Trainer:
    log = [JsonLines(folder / "train.jsonl")] if folder else []
    return Trainer(
        trained or model(),
        config(**changes),
        batches(sampling),
        folder,
        system=system,
        evaluate=evaluate,
        callbacks=[*log, *callbacks],
        seed=seed,
    )


class StopAt(Callback):
    """Sends this process a signal in the middle of the given steps."""

    def __init__(self, *steps: int, number: int = signal.SIGTERM) -> None:
        self.steps, self.number = steps, number

    def on_step(self, step: int, loss: float | None) -> None:
        if step in self.steps:
            signal.raise_signal(self.number)


class Losses(Callback):
    """Keeps every step's loss."""

    def __init__(self) -> None:
        self.by_step: dict[int, float | None] = {}

    def on_step(self, step: int, loss: float | None) -> None:
        assert step not in self.by_step
        self.by_step[step] = loss


def everything(trained: Trainer) -> dict[str, Any]:
    """All that a continued run must have in common with an uninterrupted one."""
    weights = {f"weights/{k}": v for k, v in trained.model.state_dict().items()}  # type: ignore[attr-defined]
    state = trained.state.to_dict()
    state["meter"].pop("seconds")
    return {
        **{k: v.clone() for k, v in weights.items()},
        **{k: v.clone() for k, v in trained._engine.tensors().items()},
        **random_state(torch.device("cpu")),
        "state": state,
        "batches": trained.batches.state_dict(),
        "monitor": trained.model.monitor(),
    }


def assert_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Equal bit for bit."""
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if torch.is_tensor(value) else value == right[key]
        assert same, key


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """``train.jsonl`` without the measured speeds."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_per_s")} for line in lines]


class Report(Callback):
    """Tells another process about every step."""

    def __init__(self, tell: Callable[[int], Any]) -> None:
        self.tell = tell

    def on_step(self, step: int, loss: float | None) -> None:
        self.tell(step)


def live(folder: Path, steps: int, connection: Any) -> None:
    """Train with a checkpoint after every step, reporting steps, until done or killed."""
    torch.set_num_threads(1)
    trainer(folder, steps=steps, save_every=1, callbacks=[Report(connection.send)]).fit(resume=True)


def main() -> int:
    """Arguments: folder, steps. Prints every step."""
    torch.set_num_threads(1)
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    report = Report(lambda step: print(step, flush=True))
    try:
        trainer(folder, steps=steps, save_every=1000, callbacks=[report]).fit(resume=True)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
