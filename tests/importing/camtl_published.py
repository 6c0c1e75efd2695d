"""Conditional encoders in the published layout with random weights, and a slow model of them.

Written from the description of the published format and of BERT, in plain torch: it works row by
row, builds every attention bias block by block, and shares no code with the package.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

VOCAB, POSITIONS, INNER = 20, 30, 20


def config(
    size: str = "base", depth: int = 4, d: int = 24, length: int = 8, **changes: Any
) -> dict[str, Any]:
    own = {
        "architecture": f"CA-MTL-{size}", "tasks": ["cola", "sts-b", "mnli", "rte"],
        "num_labels": [2, 1, 3, 2], "max_seq_length": length, "hidden_size": d,
        "num_hidden_layers": depth, "num_attention_heads": 2, "intermediate_size": INNER,
        "vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu", "model_type": "bert",
    }  # fmt: skip
    return {**own, **changes}


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, d: int, conditional: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    if conditional:
        shapes |= linear(f"{name}.ln_weight_modulation.gb_weights", d, 2 * d)
    return shapes


def bottleneck(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {
        **linear(f"{name}.emb_transf", d, d),
        **linear(f"{name}.hidden_modulation.gb_weights", d, 2 * d),
        **linear(f"{name}.down_proj_layer", d, d // 3),
        **linear(f"{name}.up_proj_layer", d // 3, d),
    }


def block_width(values: dict[str, Any]) -> int:
    return math.ceil(values["max_seq_length"] / (values["hidden_size"] // values["max_seq_length"]))


def layer_shapes(values: dict[str, Any], number: int) -> dict[str, tuple[int, ...]]:
    d, depth = values["hidden_size"], values["num_hidden_layers"]
    base = values["architecture"].endswith("base")
    new = "new_" if base and number == depth - 1 else ""
    conditional = number >= math.ceil(depth / 2)
    start, width = f"bert.encoder.layer.{number}", block_width(values)
    attention = f"{start}.{new}attention"
    shapes = {f"{attention}.self.random_weight_matrix": (values["max_seq_length"], width)}
    for part in ("query", "key", "value"):
        shapes |= linear(f"{attention}.self.{part}", d, d)
    shapes |= linear(f"{attention}.self.cond_block_diag_attn.gb_weights", d, 2 * width)
    shapes |= linear(f"{attention}.output.dense", d, d)
    shapes |= norm(f"{attention}.output.LayerNorm", d, conditional)
    shapes |= linear(f"{start}.{new}intermediate.dense", d, INNER)
    shapes |= linear(f"{start}.{new}output.dense", INNER, d)
    shapes |= norm(f"{start}.{new}output.LayerNorm", d, conditional)
    if new:
        shapes |= bottleneck(f"{start}.adapter.bottleneck", d)
        shapes |= norm(f"{start}.adapter.condlayernorm", d, True)
    return shapes


def weights(values: dict[str, Any]) -> dict[str, Tensor]:
    d = values["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "bert.task_type_embeddings.weight": (len(values["tasks"]), d),
        **linear("bert.conditional_alignment.gb_weights", d, 2 * d),
        **norm("bert.embeddings.LayerNorm", d, False),
        **linear("bert.encoder.task_transformation", d, d),
        **linear("bert.pooler.dense", d, d),
    }
    for table, rows in (("word", VOCAB), ("position", POSITIONS), ("token_type", 2)):
        shapes[f"bert.embeddings.{table}_embeddings.weight"] = (rows, d)
    for number in range(values["num_hidden_layers"]):
        shapes |= layer_shapes(values, number)
        if values["architecture"].endswith("large"):
            shapes |= bottleneck(f"bert.encoder.adapter_layer.{number}", d)
    for number, labels in enumerate(values["num_labels"]):
        shapes |= linear(f"decoders.{number}.model", d, labels)
    generator = torch.Generator().manual_seed(7)
    state = {name: torch.randn(s, generator=generator) * 0.2 for name, s in shapes.items()}
    return {**state, "bert.embeddings.position_ids": torch.arange(POSITIONS)[None]}


def write(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    torch.save(weights(values), folder / "pytorch_model.bin")
    return folder


class Oracle:
    """The published function of one folder, in double precision, for rows padded to its length."""

    def __init__(self, folder: Path) -> None:
        self.values = json.loads((folder / "config.json").read_text())
        state = torch.load(folder / "pytorch_model.bin", weights_only=True)
        self.w = {k: v.double().requires_grad_() for k, v in state.items() if "_ids" not in k}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def film(self, name: str, z: Tensor, x: Tensor) -> Tensor:
        values = self.linear(f"{name}.gb_weights", z)
        half = len(values) // 2
        return (1 + values[:half]) * x + values[half:]

    def norm(self, name: str, x: Tensor, z: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        if f"{name}.ln_weight_modulation.gb_weights.weight" in self.w:
            weight = self.film(f"{name}.ln_weight_modulation", z, weight)
        return F.layer_norm(x, x.shape[-1:], weight, self.w[f"{name}.bias"], 1e-12)

    def bottleneck(self, name: str, z: Tensor, x: Tensor) -> Tensor:
        z = self.linear(f"{name}.emb_transf", z)
        x = self.film(f"{name}.hidden_modulation", z, x)
        return self.linear(f"{name}.up_proj_layer", self.linear(f"{name}.down_proj_layer", x))

    def bias(self, name: str, z: Tensor) -> Tensor:
        length, width = self.values["max_seq_length"], block_width(self.values)
        matrix = self.film(
            f"{name}.cond_block_diag_attn", z, self.w[f"{name}.random_weight_matrix"]
        )
        rows = []
        for i in range(length):
            first = i // width * width
            row = [
                matrix[i, j - first] if first <= j < first + width else None for j in range(length)
            ]
            rows.append(torch.stack([torch.zeros(()).double() if v is None else v for v in row]))
        return torch.stack(rows)

    def attention(self, name: str, x: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        heads = self.values["num_attention_heads"]
        q, k, v = (
            self.linear(f"{name}.self.{part}", x).unflatten(-1, (heads, -1)).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + self.bias(f"{name}.self", z)
        scores = scores.masked_fill(mask == 0, -math.inf)
        states = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        return self.norm(
            f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", states) + x, z
        )

    def layer(self, number: int, x: Tensor, mask: Tensor, z: Tensor) -> Tensor:
        start = f"bert.encoder.layer.{number}"
        new = "new_" if f"{start}.new_output.dense.weight" in self.w else ""
        attended = self.attention(f"{start}.{new}attention", x, mask, z)
        inner = F.gelu(self.linear(f"{start}.{new}intermediate.dense", attended))
        out = self.linear(f"{start}.{new}output.dense", inner) + attended
        out = self.norm(f"{start}.{new}output.LayerNorm", out, z)
        if not new:
            return out
        changed = self.bottleneck(f"{start}.adapter.bottleneck", z, out)
        return self.norm(f"{start}.adapter.condlayernorm", changed + attended, z)

    def states(self, ids: Tensor, types: Tensor, mask: Tensor, task: int) -> Tensor:
        """One row: ``[S]`` to ``[S, d]``."""
        tables = [
            self.w[f"bert.embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "position", "token_type")
        ]
        x = tables[0][ids] + tables[1][torch.arange(len(ids))] + tables[2][types]
        z = self.w["bert.task_type_embeddings.weight"][task]
        x = self.film("bert.conditional_alignment", z, self.norm("bert.embeddings.LayerNorm", x, z))
        z = self.linear("bert.encoder.task_transformation", z)
        chained = torch.zeros_like(x)
        chain = "bert.encoder.adapter_layer"
        for number in range(self.values["num_hidden_layers"]):
            x = self.layer(number, x, mask, z)
            if f"{chain}.{number}.emb_transf.weight" in self.w:
                chained = self.bottleneck(f"{chain}.{number}", z, x + chained)
        return chained if f"{chain}.0.emb_transf.weight" in self.w else x

    def loss(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """States ``[B, S, d]``, pooled states ``[B, d]`` and the mean of the tasks' losses."""
        parts = (rows["input_ids"], rows["token_type_ids"], rows["attention_mask"])
        ids = rows["task_ids"].tolist()
        states = torch.stack([self.states(*row) for row in zip(*parts, ids, strict=True)])
        pooled = self.linear("bert.pooler.dense", states[:, 0]).tanh()
        losses = []
        for task in sorted(set(ids)):
            own = rows["task_ids"] == task
            logits = self.linear(f"decoders.{task}.model", pooled[own])
            labels = rows["labels"][own]
            if logits.shape[1] == 1:
                losses.append((logits[:, 0] - labels).square().mean())
            else:
                log_p = logits.log_softmax(-1)
                losses.append(-log_p[torch.arange(len(labels)), labels.long()].mean())
        return states, pooled, torch.stack(losses).mean()


def batch(positions: int) -> dict[str, Tensor]:
    """Six rows of four tasks, out of order, some padded."""
    generator = torch.Generator().manual_seed(8)
    mask = torch.ones(6, positions, dtype=torch.int64)
    for row, cut in enumerate((0, 1, 3, 0, 2, 4)):
        mask[row, max(1, positions - cut) :] = 0
    return {
        "input_ids": torch.randint(1, VOCAB, (6, positions), generator=generator) * mask,
        "token_type_ids": torch.randint(0, 2, (6, positions), generator=generator),
        "attention_mask": mask,
        "labels": torch.tensor([1.0, 0.0, 2.5, 1.0, 2.0, 0.0]),
        "task_ids": torch.tensor([0, 3, 1, 0, 2, 3]),
    }
