"""All randomness of training is torch's global generator: seeded, saved, kept from evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from moe_tasks.training.model import Trainable
from moe_tasks.training.signals import StopSignals

_Result = TypeVar("_Result")


def seed_training(seed: int, system: str) -> None:
    """Seed torch for one system of a run, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{system}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the generators that training on ``device`` draws from, by name."""
    state = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["random/cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Set the generators to what ``random_state`` returned; other names are passed over."""
    torch.set_rng_state(state["random/cpu"])
    if device.type == "cuda" and "random/cuda" in state:
        torch.cuda.set_rng_state(state["random/cuda"], device)


def evaluate_apart(
    model: Trainable,
    evaluate: Callable[[Trainable], _Result],
    device: torch.device,
    seed: int,
    signals: StopSignals,
) -> _Result | None:
    """Evaluate such that training goes on as if it had not happened.

    The model is in evaluation mode, without gradients, and draws the same random numbers each
    time.

    Returns:
        What ``evaluate`` returned, or None when a signal came first or ended it.
    """
    before = random_state(device)
    torch.manual_seed(seed)
    model.train(False)
    try:
        with torch.no_grad():
            return signals.attempt(lambda: evaluate(model))
    finally:
        model.train(True)
        set_random_state(before, device)
