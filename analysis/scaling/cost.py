"""Time, exchanged bytes and memory of one training step per device, in three layouts.

Nothing overlaps, so times are upper bounds where a framework hides exchanges behind arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import numpy

from analysis.scaling.cluster import Cluster
from analysis.scaling.sizes import Backbone

# replicated: every device holds every expert, and a share of the optimizer's state (ZeRO 1).
# sharded: also only a share of weights and gradients; weights are gathered for every pass (ZeRO 3).
# dispatch: each of k devices owns m/k experts; rows travel to their expert's owner and back in
# every layer. direct: rows go from one layer's owner straight to the next one's.
Layout = Literal["replicated", "sharded", "dispatch", "direct"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_STATE_BYTES = 12  # per parameter: weight, mean and square of AdamW in float32
UPDATE_BYTES = 28  # per parameter: those read and written, a float32 gradient read
_DRAWS = 16


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        num_experts: m.
        world, owners: devices, and k of them that share one set of experts (1: replicated).
        rows: per device and step; ``source`` and ``target`` positions each.
        tasks: of one device's rows.
    """

    backbone: Backbone
    num_experts: int
    world: int
    owners: int = 1
    rows: int = 32
    source: int = 512
    target: int = 64
    tasks: int = 8


@dataclass(frozen=True)
class Cost:
    """Of one device and step: seconds, and bytes sent or held.

    Attributes:
        imbalance: rows of the busiest owner over the mean, averaged over layers.
    """

    layout: Layout
    owners: int
    compute_s: float
    update_s: float
    gradients_s: float
    dispatch_s: float
    gradient_bytes: float
    dispatch_bytes: float
    memory_bytes: float
    imbalance: float

    @property
    def step_s(self) -> float:
        return self.compute_s + self.update_s + self.gradients_s + self.dispatch_s


def cost(job: Job, cluster: Cluster, layout: Layout) -> Cost:
    """Of ``job`` in ``layout``; those where nobody owns experts pass over ``job.owners``."""
    if layout in ("replicated", "sharded"):
        job = replace(job, owners=1)
    gradient_s, gradient_bytes = _gradients(job, cluster, 3 if layout == "sharded" else 2)
    dispatch_s, dispatch_bytes = _dispatch(job, cluster, layout)
    busiest = imbalance(job.num_experts, job.owners, job.tasks * job.owners)
    overhead = cluster.expert_overhead if job.num_experts > 1 else 1.0
    flops = 3 * job.rows * job.backbone.forward_flops(job.source, job.target)
    return Cost(
        layout=layout,
        owners=job.owners,
        compute_s=flops * overhead * busiest / cluster.flops,
        update_s=updated(job) * UPDATE_BYTES / cluster.memory_bandwidth,
        gradients_s=gradient_s,
        dispatch_s=dispatch_s * busiest,
        gradient_bytes=gradient_bytes,
        dispatch_bytes=dispatch_bytes,
        memory_bytes=_memory(job, cluster, layout),
        imbalance=busiest,
    )


def _local(job: Job) -> tuple[float, float]:
    """Parameters that a device holds: shared ones, and those of its experts."""
    backbone = job.backbone
    return backbone.shared_parameters, backbone.layer_parameters * job.num_experts / job.owners


def updated(job: Job) -> float:
    """Parameters whose optimizer state a device has."""
    shared, experts = _local(job)
    return shared / job.world + experts / (job.world / job.owners)


def _memory(job: Job, cluster: Cluster, layout: Layout) -> float:
    """Weights, gradients, optimizer state, and the inputs of every layer (checkpointed)."""
    shared, experts = _local(job)
    if layout == "sharded":  # and one layer with its experts, gathered
        gathered = experts / job.backbone.layers
        shared, experts = shared / job.world, experts / job.world + gathered
    positions = job.rows * (job.source + job.target)
    activations = positions * job.backbone.width * job.backbone.layers * cluster.word
    return 2 * cluster.word * (shared + experts) + _STATE_BYTES * updated(job) + activations


def _gradients(job: Job, cluster: Cluster, passes: int) -> tuple[float, float]:
    """Summing gradients over all replicas in ``passes`` of a ring, seconds and bytes.

    Two passes sum gradients and spread what was made of them; with sharded weights three gather
    the weights twice and sum the gradients once.
    """
    shared, experts = _local(job)
    seconds = sent = 0.0
    for parameters, replicas in ((shared, job.world), (experts, job.world // job.owners)):
        # Replicas of an expert are ``owners`` apart, so that owners are neighbours.
        bandwidth, latency = cluster.link(job.world if replicas > 1 else 1)
        bytes_sent = passes * (replicas - 1) / replicas * parameters * cluster.word
        seconds += bytes_sent / bandwidth + passes * (replicas - 1) * latency
        sent += bytes_sent
    return seconds, sent


def _dispatch(job: Job, cluster: Cluster, layout: Layout) -> tuple[float, float]:
    """Rows to their experts' owners, forward and backward, seconds and bytes."""
    if job.owners == 1:
        return 0.0, 0.0
    backbone, k = job.backbone, job.owners
    away = (k - 1) / k * job.rows * backbone.width * cluster.word
    if not backbone.crosses:
        encoder, decoder, memory = 0.0, away * (job.source + job.target), 0.0
    else:  # encoder states go with a decoder row, and only there
        encoder, decoder, memory = away * job.source, away * job.target, away * job.source
    hops = [(encoder, 0.0, backbone.encoder_layers), (decoder, memory, backbone.decoder_layers)]
    one_way = exchanges = 0.0
    for row_bytes, memory_bytes, layers in hops:
        if layers:
            times = 2 * layers if layout == "dispatch" else layers + 1
            one_way += times * row_bytes + layers * memory_bytes
            exchanges += times
    bandwidth, latency = cluster.link(k)
    sent = 2 * one_way  # backward sends the gradients the same ways
    return sent / bandwidth + 2 * exchanges * latency * (k - 1), sent


@cache
def imbalance(num_experts: int, owners: int, tasks: int, seed: int = 0) -> float:
    """Rows of the busiest of ``owners`` over the mean, when equal tasks draw experts at random."""
    if owners == 1:
        return 1.0
    generator = numpy.random.default_rng(seed)
    owner = generator.integers(num_experts, size=(_DRAWS, tasks)) * owners // num_experts
    loads = (owner[:, :, None] == numpy.arange(owners)).sum(1)  # [draws, owners]
    return float((loads.max(1) * owners / tasks).mean())
