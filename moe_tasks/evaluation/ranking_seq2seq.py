"""Log-probabilities of options under a sequence-to-sequence model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from moe_tasks.evaluation.ranking_tensors import padded, summed_log_probs
from moe_tasks.training.loss import IGNORED


def seq2seq_log_probs(
    model: PreTrainedModel,
    sources: Sequence[numpy.ndarray],
    options: Sequence[numpy.ndarray],
    owners: Tensor,
    pad_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Summed log-probability of each option given its source, ``[N]``, and whether greedy decoding
    would give it.

    Args:
        sources: ids of B inputs, encoded once each.
        options: ids of N targets.
        owners: ``[N]``, the source of each.
    """
    runnable: Any = model
    input_ids = padded(sources, pad_token_id).to(model.device)
    lengths = [len(source) for source in sources]
    mask = padded([numpy.ones(n, numpy.int64) for n in lengths], 0).to(model.device)
    states = runnable.get_encoder()(input_ids=input_ids, attention_mask=mask).last_hidden_state
    labels = padded(options, IGNORED).to(model.device)
    owners = owners.to(model.device)
    logits = runnable(
        encoder_outputs=BaseModelOutput(last_hidden_state=states[owners]),  # type: ignore[arg-type]
        attention_mask=mask[owners],
        decoder_input_ids=runnable.prepare_decoder_input_ids_from_labels(labels),
        use_cache=False,
    ).logits
    return summed_log_probs(logits, labels)
