"""Which ways to spread experts over processes cannot work, known before any process group."""

from __future__ import annotations

from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.routing.selection import Selection


def check_world(expert_parallel: int, world: int) -> None:
    """Raises ``UserError`` where the processes are no whole number of groups."""
    if world % expert_parallel:
        more = (world // expert_parallel + 1) * expert_parallel
        fitting = [n for n in range(2, world + 1) if world % n == 0]
        other = f", or set engine.expert_parallel={fitting[0]}" if fitting else ""
        raise UserError(
            f"engine.expert_parallel={expert_parallel} does not divide the {world} "
            f"process{'es' if world > 1 else ''} that were started, which form groups of so many: "
            f"start {more} (launch/local.sh {more}){other}, or set engine.expert_parallel=1"
        )


def check_stage(expert_parallel: int, stage: int) -> None:
    """Raises ``ValueError`` where DeepSpeed's ZeRO stage does not go with spread experts."""
    if stage == 0:
        raise ValueError(
            f"'expert_parallel' is {expert_parallel} with 'zero_stage' 0, whose reduction and "
            "clipping take all parameters for replicated ones, so that each process would clip by "
            "another norm; set zero_stage=1"
        )
    if stage == 3:
        raise ValueError(
            f"'expert_parallel' is {expert_parallel} with 'zero_stage' 3, which would divide the "
            "experts' weights a second time and take them away from their owners; set "
            "zero_stage=2, or expert_parallel=1"
        )


def check_experts(expert_parallel: int, num_experts: int, selection: Selection) -> None:
    """Raises ``UserError`` where a routed system's experts cannot be spread."""
    if expert_parallel == 1:
        return
    if num_experts % expert_parallel:
        up = -(-num_experts // expert_parallel) * expert_parallel
        fitting = [n for n in range(2, num_experts + 1) if num_experts % n == 0]
        other = f" or engine.expert_parallel={fitting[0]}" if fitting else ""
        raise UserError(
            f"engine.expert_parallel={expert_parallel} does not divide the {num_experts} experts, "
            f"of which each process has equally many: set router.num_experts={up}{other}, or "
            "engine.expert_parallel=1"
        )
    check_selection(expert_parallel, selection)


def check_selection(expert_parallel: int, selection: Selection) -> None:
    """Raises ``UserError`` where routes need more than one expert per row."""
    if selection.mode == "select":
        return
    why = {
        "merge": "merges all experts' weights before any row is computed, so every process would "
        "need all of them",
        "mix": "computes every row with every expert, so all rows would go to all processes",
    }[selection.mode]
    raise UserError(
        f"engine.expert_parallel={expert_parallel} sends each row to the one expert that its task "
        f"selected, but selection.mode={selection.mode} {why}: choose selection=gumbel_st (with "
        "gradient=merge_st, exact or probe), or set engine.expert_parallel=1, where zero_stage=2 "
        "divides optimizer state and gradients"
    )


def check_regularization(expert_parallel: int, strength: float) -> None:
    """Raises ``UserError`` where the loss compares experts that no process has both."""
    if expert_parallel > 1 and strength:
        raise UserError(
            "training.expert_regularization compares all experts of a layer, which no process has "
            f"with engine.expert_parallel={expert_parallel}: set one of them to its default (0, 1)"
        )


def check_layers(key: str, config: Any) -> None:
    """Raises ``UserError`` where not all processes would meet in every layer.

    Args:
        key: with its value, what makes them meet.
        config: the backbone's.
    """
    for drop in ("encoder_layerdrop", "decoder_layerdrop", "layerdrop"):
        if getattr(config, drop, 0.0):
            raise UserError(
                f"the backbone drops whole layers ({drop}={getattr(config, drop)}), each process "
                f"others, but all must meet in every layer: set {drop} to 0 in its config.json, "
                f"or {key.partition('=')[0]}=1"
            )
