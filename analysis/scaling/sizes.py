"""Backbones by their sizes: parameters and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """A Transformer.

    Attributes:
        width, ffn, heads, kv_heads, vocab: d, inner width, attention heads, heads of keys and
            values, entries of the embedding.
        encoder_layers, decoder_layers: of which decoder layers of an encoder-decoder also attend
            to the encoder.
        gated: whether the feed-forward part has three matrices instead of two.
        inner: width of all heads together; ``width`` if ``None``.
    """

    name: str
    width: int
    ffn: int
    heads: int
    vocab: int
    encoder_layers: int
    decoder_layers: int
    kv_heads: int | None = None
    gated: bool = False
    inner: int | None = None

    @property
    def layers(self) -> int:
        """L, of both stacks."""
        return self.encoder_layers + self.decoder_layers

    @property
    def crosses(self) -> bool:
        """Whether decoder layers attend to an encoder."""
        return self.encoder_layers > 0

    def _attention(self) -> int:
        inner = self.inner or self.width
        return 2 * self.width * inner + 2 * self.width * inner * self._kv_heads // self.heads

    @property
    def _kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def _feed_forward(self) -> int:
        return (3 if self.gated else 2) * self.width * self.ffn

    @property
    def encoder_layer(self) -> int:
        """Parameters in the matrices of one encoder layer."""
        return self._attention() + self._feed_forward

    @property
    def decoder_layer(self) -> int:
        """Parameters in the matrices of one decoder layer."""
        return (2 if self.crosses else 1) * self._attention() + self._feed_forward

    @property
    def layer_parameters(self) -> int:
        """Of all layers together: what exists m times."""
        return self.encoder_layers * self.encoder_layer + self.decoder_layers * self.decoder_layer

    @property
    def shared_parameters(self) -> int:
        """The embedding, tied to the output."""
        return self.vocab * self.width

    def forward_flops(self, source: int, target: int) -> float:
        """Of one row: two per parameter and position, and attention between positions.

        A decoder alone reads source and target as one sequence. Keys and values of cross attention
        are made of the source.
        """
        inner = self.inner or self.width
        if not self.crosses:
            length = source + target
            attention = 2 * self.decoder_layers * length**2 * inner  # causal: half of the pairs
            return 2.0 * length * (self.layer_parameters + self.shared_parameters) + attention
        keys_values = 2 * self.width * inner * self._kv_heads // self.heads
        decoder = (self.decoder_layer - keys_values) * target + keys_values * source
        products = self.encoder_layers * self.encoder_layer * source + self.decoder_layers * decoder
        pairs = self.encoder_layers * source**2 + self.decoder_layers * target * (
            target / 2 + source
        )
        return 2.0 * (products + self.shared_parameters * target) + 4.0 * pairs * inner


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("bart-base", 768, 3072, 12, 50265, 6, 6),
        Backbone("bart-large", 1024, 4096, 16, 50265, 12, 12),
        Backbone("t5-3b", 1024, 16384, 32, 32128, 24, 24, inner=4096),
        Backbone("t5-11b", 1024, 65536, 128, 32128, 24, 24, inner=16384),
        Backbone("llama-8b", 4096, 14336, 32, 128256, 0, 32, kv_heads=8, gated=True),
        Backbone("llama-70b", 8192, 28672, 64, 128256, 0, 80, kv_heads=8, gated=True),
    )
}
