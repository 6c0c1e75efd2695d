"""Checkpoints in the published layout with random weights, and a slow model that reads them.

Written from the description of the published format and of BART, in plain torch: it runs every
expert of every layer on the whole batch and shares no code with the package.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

ROUTERS = [
    kind + end
    for kind in ("linear", "rnn", "lstm", "gru", "transformer")
    for end in ("", "_layer_specific")
]
D, HEADS, FFN, VOCAB, POSITIONS, DEPTH = 8, 2, 12, 20, 16, 2
TASK_DIM, HIDDEN = 12, 8
TASKS = ["glue-mrpc", "ag_news", "boolq"]


def config(router: str = "linear", m: int = 3, vanilla: str = "", **changes: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": VOCAB, "d_model": D, "encoder_layers": DEPTH, "decoder_layers": DEPTH,
        "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": FFN, "decoder_ffn_dim": FFN, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    routing = {
        "router_nn_type": router, "router_block_num": m, "router_input_dim": TASK_DIM,
        "router_hidden_dim": HIDDEN, "router_mode": "softmax", "router_rnn_layers": 1,
        "router_pos_emb_concat": False, "exploration_epsilon": 0.0,
        "encoder_vanilla_layers": vanilla, "decoder_vanilla_layers": vanilla,
    }  # fmt: skip
    ids = {
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
        "forced_eos_token_id": 2, "model_type": "bart", "is_encoder_decoder": True, "dropout": 0.1,
        "activation_function": "gelu", "scale_embedding": False, "gradient_checkpointing": False,
        "transformers_version": "4.24.0", "num_beams": 4, "no_repeat_ngram_size": 3,
    }  # fmt: skip
    return {**sizes, **routing, **ids, **changes}


def layer_shapes(stack: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    attentions = ["self_attn"] if stack == "encoder" else ["self_attn", "encoder_attn"]
    for attention in attentions:
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= {f"{attention}.{part}.weight": (D, D), f"{attention}.{part}.bias": (D,)}
        norm = f"{attention}_layer_norm"
        shapes |= {f"{norm}.weight": (D,), f"{norm}.bias": (D,)}
    shapes |= {"fc1.weight": (FFN, D), "fc1.bias": (FFN,), "fc2.weight": (D, FFN)}
    return shapes | {
        "fc2.bias": (D,), "final_layer_norm.weight": (D,), "final_layer_norm.bias": (D,)
    }  # fmt: skip


def router_modules(values: dict[str, Any]) -> nn.ModuleDict:
    """The router's torch modules under their published names."""
    kind, m = values["router_nn_type"], values["router_block_num"]
    layers = values["encoder_layers"] + values["decoder_layers"]
    if kind.startswith("linear"):
        outputs = m if kind == "linear_layer_specific" else m * layers

        def unit() -> nn.ModuleDict:
            linears = nn.Linear(TASK_DIM, HIDDEN), nn.Linear(HIDDEN, outputs)
            return nn.ModuleDict({"linear1": linears[0], "linear2": linears[1]})

        if kind == "linear":
            return unit()
        return nn.ModuleDict({"router_units": nn.ModuleList(unit() for _ in range(layers))})
    specific = kind.endswith("_layer_specific")
    width = HIDDEN if specific else TASK_DIM
    modules: dict[str, nn.Module] = (
        {"layer_specific_proj": nn.Linear(TASK_DIM, width * layers)}
        if specific
        else {"pos_embed": nn.Embedding(layers, width)}
    )
    if kind.startswith("transformer"):
        modules["transformer"] = nn.TransformerEncoderLayer(width, 4, 64)
        modules["proj"] = nn.Linear(width, m)
    else:
        cell = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind.split("_")[0]]
        modules["rnn"] = cell(width, HIDDEN, bidirectional=True, batch_first=True)
        modules["proj"] = nn.Linear(2 * HIDDEN, m)
    return nn.ModuleDict(modules)


def weights(values: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"final_logits_bias": (1, VOCAB)}
    shapes["model.shared.weight"] = (VOCAB, D)
    for stack in ("encoder", "decoder"):
        shapes[f"model.{stack}.embed_positions.weight"] = (POSITIONS + 2, D)
        shapes[f"model.{stack}.layernorm_embedding.weight"] = (D,)
        shapes[f"model.{stack}.layernorm_embedding.bias"] = (D,)
        vanilla = values[f"{stack}_vanilla_layers"]
        for layer in range(values["encoder_layers"]):
            once = str(layer) in str(vanilla)
            for name, shape in layer_shapes(stack).items():
                blocks = (
                    [""] if once else [f"blocks.{e}." for e in range(values["router_block_num"])]
                )
                shapes |= {f"model.{stack}.layers.{layer}.{b}{name}": shape for b in blocks}
    for name, tensor in router_modules(values).state_dict().items():
        shapes[f"router.model.{name}"] = tuple(tensor.shape)
    state = {
        name: torch.randn(shape, generator=generator) * 0.4 + 1.0 * _is_norm_weight(name)
        for name, shape in shapes.items()
    }
    for tied in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        state[f"{tied}.weight"] = state["model.shared.weight"]
    return state


def _is_norm_weight(name: str) -> bool:
    return bool(re.search(r"(norm\w*)\.weight$", name))


def write(folder: Path, values: dict[str, Any], state: dict[str, Tensor] | None = None) -> Path:
    (folder / "best").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    torch.save(weights(values) if state is None else state, folder / "best" / "model.pt")
    names = {str(number): task for number, task in enumerate(TASKS)}
    (folder / "best" / "id2task.json").write_text(json.dumps(names))
    table = torch.randn(len(TASKS), TASK_DIM, generator=torch.Generator().manual_seed(1))
    numpy.save(folder / "best" / "task_vecs.npy", table.numpy())
    return folder


def our_name(published: str) -> str:
    """Name in ``TaskMoE`` of a published parameter."""
    if published.startswith("router.model."):
        name = published.removeprefix("router.model.")
        name = re.sub(r"^router_units\.(\d+)\.linear(\d)", _mlps, name)
        name = re.sub(r"^linear(\d)", lambda n: f"mlp.{2 * int(n[1]) - 2}", name)
        ours = {"layer_specific_proj": "projections", "pos_embed": "places", "proj": "head"}
        ours |= {"rnn": "sequence", "transformer": "sequence"}
        first, rest = name.split(".", 1)
        return f"router.{ours.get(first, first)}.{rest}"
    if published == "task_vecs":
        return "task_vectors"
    return "backbone." + re.sub(r"blocks\.(\d+)\.(.+)\.(\w+)$", r"\2.experts.\1.\3", published)


def _mlps(match: re.Match[str]) -> str:
    return f"mlps.{match[1]}.{2 * int(match[2]) - 2}"


class Oracle:
    """The published function of a checkpoint folder, slowly; every weight is a leaf tensor.

    Args:
        dtype: of all computations.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float64) -> None:
        self.values = json.loads((folder / "config.json").read_text())
        state = torch.load(folder / "best" / "model.pt", weights_only=True)
        state["task_vecs"] = torch.from_numpy(numpy.load(folder / "best" / "task_vecs.npy"))
        self.weights = {k: v.clone().to(dtype).requires_grad_() for k, v in state.items()}
        self.m = self.values["router_block_num"]

    def router_logits(self, task_ids: Tensor) -> Tensor:
        """``[layers, B, m]``."""
        modules = router_modules(self.values).eval()
        vectors = self.weights["task_vecs"][task_ids]
        layers = self.values["encoder_layers"] + self.values["decoder_layers"]
        if "linear1" in modules:
            return self._mlp("", vectors).view(-1, layers, self.m).transpose(0, 1)
        if "router_units" in modules:
            return torch.stack([self._mlp(f"router_units.{i}.", vectors) for i in range(layers)])
        if "pos_embed" in modules:
            steps = vectors[:, None] + self.weights["router.model.pos_embed.weight"]
        else:
            steps = self._linear("router.model.layer_specific_proj", vectors)
            steps = steps.view(len(vectors), layers, -1)
        if "rnn" in modules:
            states = self._call("rnn", modules["rnn"], steps)[0]
        else:
            states = self._call("transformer", modules["transformer"], steps.transpose(0, 1))
            states = states.transpose(0, 1)
        return self._linear("router.model.proj", states).transpose(0, 1)

    def _call(self, name: str, module: nn.Module, x: Tensor) -> Any:
        prefix = f"router.model.{name}."
        own = {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}
        return functional_call(module, own, (x,))

    def _mlp(self, unit: str, x: Tensor) -> Tensor:
        inner = F.gelu(self._linear(f"router.model.{unit}linear1", x))
        return self._linear(f"router.model.{unit}linear2", inner)

    def forward(self, batch: dict[str, Tensor], routes: Tensor) -> Tensor:
        """Logits ``[B, T, V]`` under ``routes [layers, B, m]``."""
        keys = batch["attention_mask"][:, None, None].bool()
        states = self._embed("encoder", batch["input_ids"])
        for layer in range(DEPTH):
            states = self._layer("encoder", layer, states, routes[layer], keys)
        labels = batch["labels"].masked_fill(batch["labels"] < 0, 1)
        start = labels.new_full((len(labels), 1), self.values["decoder_start_token_id"])
        tokens = torch.cat([start, labels[:, :-1]], 1)
        past = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        x = self._embed("decoder", tokens)
        for layer in range(DEPTH):
            x = self._layer("decoder", layer, x, routes[DEPTH + layer], past, states, keys)
        return x @ self.weights["model.shared.weight"].T + self.weights["final_logits_bias"]

    def _embed(self, stack: str, tokens: Tensor) -> Tensor:
        places = self.weights[f"model.{stack}.embed_positions.weight"][2 : 2 + tokens.shape[1]]
        x = self.weights["model.shared.weight"][tokens] + places
        return self._norm(f"model.{stack}.layernorm_embedding", x)

    def _layer(self, stack: str, layer: int, x: Tensor, route: Tensor, *rest: Tensor) -> Tensor:
        prefix = f"model.{stack}.layers.{layer}."
        if f"{prefix}fc1.weight" in self.weights:  # without experts
            return self._plain(prefix, x, *rest)
        outputs = [self._plain(f"{prefix}blocks.{e}.", x, *rest) for e in range(self.m)]
        return torch.einsum("blde,be->bld", torch.stack(outputs, -1), route)

    def _plain(self, prefix: str, x: Tensor, mask: Tensor, *encoded: Tensor) -> Tensor:
        def add(name: str, change: Tensor) -> Tensor:
            return self._norm(f"{prefix}{name}", x + change)

        x = add("self_attn_layer_norm", self._attend(f"{prefix}self_attn.", x, x, mask))
        if encoded:
            states, keys = encoded
            change = self._attend(f"{prefix}encoder_attn.", x, states, keys)
            x = add("encoder_attn_layer_norm", change)
        inner = F.gelu(self._linear(f"{prefix}fc1", x))
        return add("final_layer_norm", self._linear(f"{prefix}fc2", inner))

    def _attend(self, prefix: str, x: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        def heads(name: str, of: Tensor) -> Tensor:
            return self._linear(prefix + name, of).unflatten(-1, (HEADS, -1)).transpose(1, 2)

        q, k, v = heads("q_proj", x), heads("k_proj", states), heads("v_proj", states)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        mixed = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
        return self._linear(f"{prefix}out_proj", mixed.transpose(1, 2).flatten(2))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias)

    def expert_distance(self) -> Tensor:
        """Expert regularisation, scalar; zero with one expert."""
        pairs = [(a, b) for a in range(self.m) for b in range(a)]
        total = torch.zeros((), dtype=torch.float64)
        for name in [n for n in self.weights if ".blocks.0." in n]:
            stack = [
                self.weights[name.replace(".blocks.0.", f".blocks.{e}.")] for e in range(self.m)
            ]
            total = total + sum(((stack[a] - stack[b]) ** 2).sum().sqrt() for a, b in pairs) / max(
                len(pairs), 1
            )
        return total


def smoothed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Label-smoothed (0.1) negative log-likelihood, summed over targets."""
    log_p = logits.log_softmax(-1)[labels >= 0]
    nll = -log_p.gather(-1, labels[labels >= 0][:, None])[:, 0]
    return (0.9 * nll - 0.1 * log_p.mean(-1)).sum()
