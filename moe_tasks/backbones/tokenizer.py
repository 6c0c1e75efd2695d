"""A byte-level BPE tokenizer learned from the training text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

Family = Literal["bart", "t5"]

# The order fixes the ids that each family's configuration expects.
_SPECIAL: dict[Family, list[str]] = {
    "bart": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "t5": ["<pad>", "</s>", "<unk>", "<mask>"],
}


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, family: Family
) -> PreTrainedTokenizerFast:
    """A tokenizer with at most ``vocab_size`` tokens, special tokens as ``family`` has them.

    It covers any text (all bytes are in the vocabulary) and is the same for the same text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL[family],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = {token: tokenizer.token_to_id(token) for token in _SPECIAL[family]}
    template = "<s> $A </s>" if family == "bart" else "$A </s>"
    used = [(t, i) for t, i in ends.items() if t in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)  # type: ignore[assignment]
    bos = {"bos_token": "<s>"} if family == "bart" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
        **bos,
    )
