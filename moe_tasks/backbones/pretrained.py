"""A pretrained sequence-to-sequence model from a local folder or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_tasks.backbones import Backbone, BackboneContext, load_dense, load_tokenizer
from moe_tasks.errors import UserError
from moe_tasks.registry import register


@register("backbone", "pretrained")
@dataclass
class PretrainedBackbone:
    """Attributes:
    path: folder, or name on the hub (``facebook/bart-base``).
    """

    path: str

    def prepare(self, folder: Path, context: BackboneContext) -> None:
        """Load and write a copy, so that a run does not depend on where the weights came from.

        Raises:
            UserError: the folder or name cannot be loaded.
        """
        load_tokenizer(self.path).save_pretrained(folder)
        load_dense(self.path).save_pretrained(folder)

    def widened(self, factor: int) -> Backbone:
        raise UserError(
            "a pretrained backbone cannot be widened: leave out systems with width other than 1"
        )
