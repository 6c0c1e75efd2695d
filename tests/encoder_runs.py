"""Small complete runs of encoders with heads: GLUE's folders, a tiny BERT, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

NOUNS = ["apple", "house", "river", "stone", "cloud", "bread", "horse", "table", "night", "field"]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def write_glue(folder: Path) -> Path:
    """CoLA, STS-B and MNLI with both dev sets; labels follow from the words."""
    pair = "index\tsentence1\tsentence2\t"
    nli = ["contradiction", "entailment", "neutral"]
    files = {"CoLA/train": 40, "CoLA/dev": 12, "STS-B/train": 24, "STS-B/dev": 12,
             "MNLI/train": 30, "MNLI/dev_matched": 12, "MNLI/dev_mismatched": 12}  # fmt: skip
    for name, count in files.items():
        words = [(NOUNS[i % 10], NOUNS[(i // 3) % 10], i) for i in range(count)]
        if name.startswith("CoLA"):
            text = "".join(f"x\t{i % 2}\t\tthe {a} is {'red' * (i % 2)} {b}\n" for a, b, i in words)
        elif name.startswith("STS-B"):
            text = pair + "score\n"
            text += "".join(f"{i}\t{a} {b}\t{b} {a}\t{i % 6}.0\n" for a, b, i in words)
        else:
            text = pair + "gold_label\n"
            text += "".join(f"{i}\tthe {a}\tno {b}\t{nli[i % 3]}\n" for a, b, i in words)
        file = folder / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def write_encoder(folder: Path) -> Path:
    """A BERT of two layers with a word tokenizer."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=list(SPECIAL.values()))
    tokenizer.train_from_iterator([*NOUNS, "the is red no"], trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ids)  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=24, max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def values(glue: Path, encoder: Path, **changes: Any) -> dict[str, Any]:
    """The configuration of a run that takes seconds."""
    base: dict[str, Any] = {
        "name": "test",
        "seed": 0,
        "tasks": {"name": "glue", "path": str(glue), "cache_dir": str(encoder / ".cache")},
        "backbone": {"name": "pretrained", "path": str(encoder)},
        "selection": {"name": "gumbel_st"},
        "task_vectors": {"name": "text", "examples": 4},
        "sampling": {"name": "mixed", "rows_per_batch": 8},
        "systems": {"multitask": {"model": "dense"}, "taken-out": None},
        "data": {"max_source": 16, "max_target": 8, "cache_dir": str(encoder / ".cache")},
        "training": {
            "epochs": 1.0, "learning_rate": 1e-3, "eval_every": 4, "save_every": 2, "log_every": 2,
            "loss": "task_mean",
        },
        "adaptation": {"samples": 0},
        "logging": {"progress": False, "wandb": "disabled", "report": False},
    }  # fmt: skip
    return {**base, **changes}
