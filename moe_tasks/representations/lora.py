"""Low-rank deltas on linear layers, and their gradients example by example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from moe_tasks.errors import UserError


class LoraLinear(nn.Linear):
    """``x W' + b + x A' B'`` with W and b of another layer, frozen (Hu et al. 2021, section 4.1,
    with a scale of 1).

    Attributes:
        lora_a: A ``[rank, in]``, drawn at random.
        lora_b: B ``[out, rank]``, zero at the start.
        example_gradients: while recording, the gradients of both ``[examples, parameters]`` of
            each row of the batch apart, A's before B's; summed where a layer is used twice.
    """

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        start = torch.randn(rank, linear.in_features, generator=generator)
        self.lora_a = nn.Parameter(start.to(linear.weight) * linear.in_features**-0.5)
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        self.recording = False
        self.example_gradients: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        low = functional.linear(input, self.lora_a)
        output = functional.linear(input, self.weight, self.bias)
        output = output + functional.linear(low, self.lora_b)
        if self.recording:
            x, h = input.detach(), low.detach()
            output.register_hook(lambda gradient: self._record(x, h, gradient))
        return output

    def _record(self, x: Tensor, low: Tensor, gradient: Tensor) -> None:
        """Args: input, input times A' and gradient of the output, all ``[examples, ..., .]``."""
        x, low, gradient = (t.reshape(len(t), -1, t.shape[-1]) for t in (x, low, gradient))
        of_a = torch.einsum("ntr,nti->nri", gradient @ self.lora_b, x)
        of_b = torch.einsum("nto,ntr->nor", gradient, low)
        both = torch.cat([of_a.flatten(1), of_b.flatten(1)], 1).detach()
        known = self.example_gradients
        self.example_gradients = both if known is None else known + both


def add_lora(model: PreTrainedModel, rank: int, seed: int) -> list[LoraLinear]:
    """Give every linear layer of ``model`` but the output embedding a delta, in place, and freeze
    everything else.

    Returns:
        The layers, in the order of the model's modules. The same seed draws the same deltas.

    Raises:
        UserError: the model has no linear layer.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    head = model.get_output_embeddings()
    layers = []
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child is not head:
                layer = LoraLinear(child, rank, generator)
                setattr(parent, name, layer)
                layers.append(layer)
    if not layers:
        raise UserError(f"{type(model).__name__} has no torch.nn.Linear to put LoRA weights on")
    return layers


@contextlib.contextmanager
def recording(layers: list[LoraLinear]) -> Iterator[None]:
    """Within, a backward pass leaves ``example_gradients`` in every layer."""
    for layer in layers:
        layer.recording, layer.example_gradients = True, None
    try:
        yield
    finally:
        for layer in layers:
            layer.recording, layer.example_gradients = False, None
