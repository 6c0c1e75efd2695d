"""Devices and the links between them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from moe_tasks.errors import UserError, nearest


@dataclass(frozen=True)
class Cluster:
    """Constants of one kind of device; per second, in bytes and floating-point operations.

    Attributes:
        flops: that training reaches, not what the device's maker names.
        memory_bytes: of one device.
        memory_bandwidth: that an optimizer's update reaches.
        per_node: devices that share the fast link.
        near, far: bandwidth of one device inside a node, and to other nodes.
        near_latency, far_latency: seconds until a message arrives.
        expert_overhead: forward and backward with experts over the dense model's, on one device.
        word: bytes of an activation, a weight in use and a gradient.
    """

    name: str
    flops: float
    memory_bytes: float
    memory_bandwidth: float
    per_node: int
    near: float
    far: float
    near_latency: float
    far_latency: float
    expert_overhead: float = 1.15
    word: int = 2

    def link(self, world: int) -> tuple[float, float]:
        """Bandwidth and latency between ``world`` neighbouring devices; the slowest link counts."""
        if world <= self.per_node:
            return self.near, self.near_latency
        return self.far, self.far_latency


# From data sheets, at 40% and 80% of peak compute and memory bandwidth; not measured here.
H100 = Cluster(
    name="h100", flops=0.4 * 989e12, memory_bytes=80e9, memory_bandwidth=0.8 * 3.35e12,
    per_node=8, near=450e9, far=50e9, near_latency=1e-5, far_latency=2e-5,
)  # fmt: skip
A100 = Cluster(
    name="a100", flops=0.4 * 312e12, memory_bytes=80e9, memory_bandwidth=0.8 * 2.0e12,
    per_node=8, near=300e9, far=25e9, near_latency=1e-5, far_latency=2e-5,
)  # fmt: skip
CLUSTERS = {cluster.name: cluster for cluster in (H100, A100)}


def read_cluster(name_or_file: str) -> Cluster:
    """One of :data:`CLUSTERS`, or a JSON file with the fields of :class:`Cluster`.

    Raises:
        UserError: neither; a field is missing, unknown or no positive number.
    """
    if name_or_file in CLUSTERS:
        return CLUSTERS[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise UserError(f"no cluster or file {name_or_file!r}; {nearest(name_or_file, CLUSTERS)}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        cluster = Cluster(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None
    for field in fields(cluster):
        value = getattr(cluster, field.name)
        if field.name != "name" and not (isinstance(value, int | float) and value > 0):
            raise UserError(f"{path}: {field.name!r} is {value!r}; it must be a positive number")
    return cluster


def as_json(cluster: Cluster) -> str:
    return json.dumps(asdict(cluster), indent=1) + "\n"
