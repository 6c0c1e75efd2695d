"""Figures of a model during training, out of pieces that processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moe_tasks.engines.base import Engine
from moe_tasks.engines.processes import Processes
from moe_tasks.training.model import Trainable
from moe_tasks.training.randomness import evaluate_apart
from moe_tasks.training.signals import StopSignals


class Evaluation(Protocol):
    """Attributes:
    pieces: how many there are; each depends on the model and its own number only.
    """

    pieces: int

    def piece(self, model: Trainable, number: int) -> Any:
        """The JSON-able result of one piece; of a model in evaluation mode, without gradients."""
        ...

    def figures(self, results: Sequence[Any]) -> Mapping[str, float]:
        """Figures out of the results of all pieces, in order; ``loss`` among them."""
        ...


@dataclass(frozen=True)
class Undivided:
    """An evaluation that one process makes as a whole."""

    evaluate: Callable[[Trainable], Mapping[str, float]]
    pieces = 1

    def piece(self, model: Trainable, number: int) -> dict[str, float]:
        return {name: float(value) for name, value in self.evaluate(model).items()}

    def figures(self, results: Sequence[Any]) -> Mapping[str, float]:
        return results[0]


def evaluate_together(
    evaluation: Evaluation, engine: Engine, seed: int, signals: StopSignals
) -> dict[str, float] | None:
    """Figures of an engine's model, known to all processes, or None when any got a signal.

    Processes that have the weights take pieces; else the main process does them all.
    """

    def work(number: int) -> Any:
        def piece(model: Trainable) -> Any:
            return evaluation.piece(model, number)

        return evaluate_apart(engine.model, piece, engine.device, seed, signals)

    def all_of(processes: Processes) -> dict[int, Any]:
        return dict(processes.spread(evaluation.pieces, work, signals))

    def figures(results: Mapping[int, Any]) -> dict[str, float] | None:
        done = [results[number] for number in sorted(results)]
        if len(done) < evaluation.pieces or None in done:
            return None
        return {name: float(value) for name, value in evaluation.figures(done).items()}

    if engine.complete():
        found = all_of(engine.processes)
        return engine.processes.on_main(lambda: figures(found))
    return engine.processes.on_main(lambda: figures(all_of(Processes())))
