"""Log-probabilities of options under a decoder-only model, and its answers to open questions."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from moe_tasks.evaluation.ranking_tensors import lengths_of, padded, summed_log_probs
from moe_tasks.training.loss import IGNORED


def causal_log_probs(
    model: PreTrainedModel,
    sources: Sequence[numpy.ndarray],
    options: Sequence[numpy.ndarray],
    owners: Tensor,
    pad_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Summed log-probability of each option after its source, ``[N]``, and whether greedy decoding
    would give it.

    Sources are padded on the left and run once; their keys and values are then repeated for their
    options, of which all but the last token are run.

    Args:
        sources: ids of B inputs, without an end-of-sequence token.
        options: ids of N continuations.
        owners: ``[N]``, the source of each.
    """
    device = model.device
    owners = owners.to(device)
    cache, first, mask = _prefix(model, sources, pad_token_id)
    labels = padded(options, IGNORED).to(device)
    sums, greedy = summed_log_probs(first[owners][:, None], labels[:, :1])
    if labels.shape[1] == 1:
        return sums, greedy
    cache.batch_select_indices(owners)
    inputs = padded([option[:-1] for option in options], pad_token_id).to(device)
    own = torch.arange(inputs.shape[1], device=device)
    inside = (own < lengths_of(options)[:, None].to(device) - 1).to(mask)
    positions = lengths_of(sources).to(device)[owners][:, None] + own
    logits = _run(
        model, inputs, torch.cat([mask[owners], inside], 1), positions, past_key_values=cache
    )
    more, also = summed_log_probs(logits, labels[:, 1:])
    return sums + more, greedy & also


def _prefix(
    model: PreTrainedModel, sources: Sequence[numpy.ndarray], pad_token_id: int
) -> tuple[DynamicCache, Tensor, Tensor]:
    """Cache of the sources, logits ``[B, vocabulary]`` of what follows, mask ``[B, S]``."""
    ids = padded(sources, pad_token_id, left=True).to(model.device)
    ones = [numpy.ones(len(source), numpy.int64) for source in sources]
    mask = padded(ones, 0, left=True).to(model.device)
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    logits = _run(model, ids, mask, positions, past_key_values=cache, logits_to_keep=1)
    return cache, logits[:, -1], mask


def _run(model: Any, ids: Tensor, mask: Tensor, positions: Tensor, **kwargs: Any) -> Tensor:
    known = inspect.signature(model.forward).parameters
    if "position_ids" in known:  # models with relative biases only have none
        kwargs["position_ids"] = positions
    if "logits_to_keep" not in known:
        kwargs.pop("logits_to_keep", None)
    return model(input_ids=ids, attention_mask=mask, use_cache=True, **kwargs).logits


@torch.inference_mode()
def continuations(
    model: PreTrainedModel,
    tokenizer: Any,
    sources: Sequence[numpy.ndarray],
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
) -> list[str]:
    """What a decoder-only model writes after each source, up to the first line break."""
    answers = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        chosen = [sources[row] for row in rows]
        ids = padded(chosen, tokenizer.pad_token_id, left=True).to(model.device)
        ones = [numpy.ones(len(source), numpy.int64) for source in chosen]
        tokens: Any = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=padded(ones, 0, left=True).to(model.device),
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        texts = tokenizer.batch_decode(tokens[:, ids.shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text.strip().split("\n")[0].strip()
    return answers
