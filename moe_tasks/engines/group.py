"""Joining the processes that a launcher started, with DeepSpeed on top."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from moe_tasks.engines.processes import ProcessGroup
from moe_tasks.errors import UserError

_MARGIN_SECONDS = 60.0  # our own watch, which names the call, comes first


def join(timeout: float, device: str) -> ProcessGroup:
    """Connect with the other processes; alone where no launcher started this one.

    Args:
        timeout: seconds after which a collective call counts as hung.
        device: ``cpu`` or ``cuda``; of several GPUs, each process takes its own.
    """
    limit = timedelta(seconds=timeout + _MARGIN_SECONDS)
    store, rank, world = _meet(limit)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    _start_deepspeed(device, limit)
    return ProcessGroup(PrefixStore("moe_tasks", store), rank, world, timeout, device)


def _meet(limit: timedelta) -> tuple[Any, int, int]:
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
        return dist.HashStore(), 0, 1  # type: ignore[attr-defined]
    try:
        return next(rendezvous("env://", timeout=limit))
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(f"cannot meet the other processes at {where}: {error}") from error


def _start_deepspeed(device: str, limit: timedelta) -> None:
    os.environ["DS_ACCELERATOR"] = device
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise UserError(f"engine=deepspeed needs the package deepspeed: {error}") from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls torch by an older name.
    warnings.filterwarnings("ignore", "`torch.distributed.", FutureWarning)
    # An extension for inference only, whose build takes a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(timeout=limit)
