"""Arithmetic of a training step of the dense model."""

from __future__ import annotations

from analysis.bench.setting import Setting


def training_flops(setting: Setting) -> int:
    """Floating-point operations of a batch's matrix products, forward and backward.

    Those of the dense model: what a routed one computes beyond them is no use to anyone. Causal
    attention counts in full, as usual for model FLOP utilisation.
    """
    d, source, target = setting.width, setting.source, setting.target
    attention, ffn = 4 * d * d, 2 * d * (setting.ffn or 4 * d)
    encoder = source * (attention + ffn) + 2 * source * source * d
    itself = target * (attention + ffn) + 2 * target * target * d
    across = (target + source) * attention // 2 + 2 * target * source * d
    layers = setting.layers * (encoder + itself + across)
    # two operations per multiplication; backward has twice as many as forward
    return 6 * setting.rows * (layers + target * d * setting.vocab)
