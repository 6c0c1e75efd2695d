"""Task vectors and experts from a run's last checkpoint, read without torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

_EXPERT = re.compile(r"(?P<place>.*)\.experts\.(?P<expert>\d+)\.(?P<leaf>.*)")
_LAYER = re.compile(r"\.(?:(?P<stack>encoder|decoder)\.)?(?:layers?|blocks?|h)\.(?P<layer>\d+)\.")
# The routes themselves stand in for vectors where routes are fixed.
_FIXED = "identity"


@dataclass(frozen=True)
class Checkpoint:
    """Attributes:
    vectors: task -> ``[dim]``; empty where routes are fixed.
    inner_products: ``encoder.0`` -> inner products ``[m, m]`` of the experts' parameters, each
        expert minus the layer's mean.
    """

    vectors: dict[str, np.ndarray]
    inner_products: dict[str, np.ndarray]


def read_checkpoint(run: Path, system: str) -> Checkpoint:
    """The last checkpoint of a routed system.

    Raises:
        ValueError: there is none that can be read; the message says why.
    """
    folder = run / "checkpoints" / system
    try:
        last = json.loads((folder / "last.json").read_text(encoding="utf-8"))["checkpoint"]
        meta = json.loads((folder / last / "task_moe.json").read_text(encoding="utf-8"))
        with safe_open(str(folder / last / "model.safetensors"), "np") as file:
            return Checkpoint(_vectors(file, meta), _inner_products(file))
    except FileNotFoundError as error:
        raise ValueError(f"no checkpoint of {system}") from error
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"checkpoint of {system} cannot be read: {error}") from error


def _vectors(file: Any, meta: dict[str, Any]) -> dict[str, np.ndarray]:
    if meta.get("config", {}).get("router") == _FIXED or "task_vectors" not in file.keys():  # noqa: SIM118
        return {}
    table = file.get_tensor("task_vectors").astype(float)
    return dict(zip(meta["tasks"], table, strict=True))


def _inner_products(file: Any) -> dict[str, np.ndarray]:
    leaves: dict[tuple[str, str], dict[int, str]] = {}
    for name in file.keys():  # noqa: SIM118
        found = _EXPERT.fullmatch(name)
        if found:
            key = (found["place"], found["leaf"])
            leaves.setdefault(key, {})[int(found["expert"])] = name
    products: dict[str, np.ndarray] = {}
    for (place, _), names in leaves.items():
        layer = _LAYER.search(f"{place}.")
        if layer is None:
            continue
        values = [file.get_tensor(names[e]).ravel().astype(np.float64) for e in sorted(names)]
        block = np.stack(values)
        block -= block.mean(axis=0)
        key = f"{layer['stack'] or 'decoder'}.{layer['layer']}"
        products[key] = products.get(key, 0) + block @ block.T
    return products
