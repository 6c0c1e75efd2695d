"""Linear layers of one input: one product for all of them, forward and back."""

from __future__ import annotations

from torch import nn

from moe_tasks.experts.leaf_banks import LinearBank

# What model families call linear layers of one module that get the same tensor, in the order of
# their calls. Queries of cross-attention get another one than its keys and values. A family with
# other names is only slower; so is one whose layers of these names get different tensors.
_ATTENTION = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
)
_GATED = (("gate_proj", "up_proj"), ("wi_0", "wi_1"))


def join(layer: nn.Module) -> None:
    """Let the banks inside ``layer`` that get the same tensor be computed together."""
    for path, module in layer.named_modules():
        crosses = any(part in path.lower() for part in ("cross", "enc"))
        for names in (*((a[1:] if crosses else a) for a in _ATTENTION), *_GATED):
            leaves = [getattr(module, name, None) for name in names]
            banks = [leaf for leaf in leaves if isinstance(leaf, LinearBank)]
            if len(banks) == len(names):
                lying = list(module.children())
                banks[0].lead(sorted(banks, key=lying.index))
