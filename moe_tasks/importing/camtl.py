"""Checkpoints of the published code of 2009.09139 (github.com/CAMTL/CA-MTL).

A folder holds ``config.json`` (sizes, ``architecture``, ``tasks`` and ``num_labels`` of each) and
``pytorch_model.bin`` (weights).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moe_tasks.errors import UserError
from moe_tasks.importing.camtl_config import PublishedConfig, read_config
from moe_tasks.importing.files import check_state, read_state_dict
from moe_tasks.tasks.reading import existing_folder
from moe_tasks.training.files import new_folder

_WEIGHTS = "pytorch_model.bin"
_POSITIONS = "bert.embeddings.position_ids"  # a constant that older versions of BERT stored

# Our names as published, each pattern applied once, in this order.
_NAMES = (
    (r"^task_embedding\.", "bert.task_type_embeddings."),
    (r"^task_projection\.", "bert.encoder.task_transformation."),
    (r"^heads\.(\d+)\.linear\.", r"decoders.\1.model."),
    (r"^backbone\.encoder\.alignment\.linear\.", "bert.conditional_alignment.gb_weights."),
    (r"^backbone\.encoder\.bottlenecks\.", "bert.encoder.adapter_layer."),
    (r"^backbone\.", "bert."),
    (r"\.task_bias\.matrix$", ".random_weight_matrix"),
    (r"\.task_bias\.film\.linear\.", ".cond_block_diag_attn.gb_weights."),
    (r"\.adapter\.norm\.", ".adapter.condlayernorm."),
    (r"(norm|Norm)\.film\.linear\.", r"\1.ln_weight_modulation.gb_weights."),
    (r"\.film\.linear\.", ".hidden_modulation.gb_weights."),
    (r"(\.bottleneck|\.adapter_layer\.\d+)\.task_projection\.", r"\1.emb_transf."),
    (r"(\.bottleneck|\.adapter_layer\.\d+)\.(down|up)\.", r"\1.\2_proj_layer."),
)


def published_name(ours: str, top_layer: str | None = None) -> str:
    """The name that the published code gives to a parameter of :class:`CAMTL`.

    Args:
        top_layer: number of the layer whose parts are called new, if there is one.
    """
    for pattern, replacement in _NAMES:
        ours = re.sub(pattern, replacement, ours)
    if top_layer is None:
        return ours
    start = re.escape(f"bert.encoder.layer.{top_layer}.")
    return re.sub(f"^({start})(attention|intermediate|output)\\.", r"\1new_\2.", ours)


def import_camtl(folder: str | Path, out: str | Path) -> Path:
    """Write our saved model, which ``CAMTL.load`` reads, of a published checkpoint folder.

    It takes inputs of any length up to ``max_seq_length`` (and beyond, see
    :class:`~moe_tasks.conditional.config.ConditionalConfig`) and gives for them what the published
    code gives for them padded to that length.

    Args:
        folder: holds ``config.json`` and ``pytorch_model.bin``.
        out: a new or empty folder, which appears whole or not at all.

    Returns:
        ``out``.

    Raises:
        UserError: a file is missing or damaged, or names, shapes or numbers do not fit together;
            names the file and the keys.
    """
    root = existing_folder(folder)
    config = read_config(root / "config.json")
    with torch.device("meta"):  # sizes are not to be trusted with memory before the file agrees
        shapes = {name: t.shape for name, t in config.model().state_dict().items()}
    state = _read_weights(root / _WEIGHTS, config, shapes)
    with new_folder(out) as aside:
        model = config.model()
        model.load_state_dict(state, strict=True)
        model.save(aside)
    return Path(out)


def _read_weights(
    path: Path, config: PublishedConfig, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """The weights under our names, float32."""
    state = read_state_dict(path, integers=(_POSITIONS,))
    _check_positions(path, state.pop(_POSITIONS, None), config.max_position_embeddings)
    top = str(config.num_hidden_layers - 1) if config.is_base else None
    ours = {published_name(name, top): name for name in shapes}
    check_state(path, state, {published: shapes[name] for published, name in ours.items()})
    return {ours[name]: tensor.float() for name, tensor in state.items()}


def _check_positions(path: Path, positions: Tensor | None, count: int) -> None:
    if positions is not None and not torch.equal(positions.long(), torch.arange(count)[None]):
        raise UserError(f"{path}: {_POSITIONS} is not 0 to {count - 1}")
