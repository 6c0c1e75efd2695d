"""Vectors from a sentence encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf

from moe_tasks.backbones.tokenizer import train_tokenizer
from moe_tasks.errors import UserError
from moe_tasks.representations.sentence import SentenceVectors
from tests.models import bart
from tests.representations.contexts import TASKS, context, raw_texts


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), seed=0)


def write_encoder(folder: Path, seed: int) -> Path:
    words = [text for task in TASKS for half in raw_texts(task, None) for text in half]
    tokenizer = train_tokenizer(words, 300, "bart")
    torch.manual_seed(seed)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = hf.BertModel(hf.BertConfig(vocab_size=len(tokenizer), pad_token_id=1, **sizes))  # type: ignore[arg-type]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_means_leave_padding_out(encoder: Path) -> None:
    raw = SentenceVectors(path=str(encoder)).build(context()).raw(("low a", None))
    tokenizer = hf.AutoTokenizer.from_pretrained(encoder)
    model = hf.AutoModel.from_pretrained(encoder).eval()
    halves = []
    for half in raw_texts("low a", None):
        ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in half]
        assert len({i.shape[1] for i in ids}) > 1 or half is not raw_texts("low a", None)[0]
        with torch.no_grad():
            halves.append(torch.stack([model(i).last_hidden_state[0].mean(0) for i in ids]).mean(0))
    torch.testing.assert_close(raw, torch.cat(halves), rtol=1e-4, atol=1e-5)


def test_unseen_tasks_are_placed_beside_those_they_resemble(encoder: Path) -> None:
    source = SentenceVectors(path=str(encoder)).build(context())
    distances = (source.fit(TASKS) - source.place("low d", "13")).norm(dim=-1)
    assert distances[:3].mean() < distances[3:].mean()


def test_the_encoder_counts_by_its_weights_not_by_its_place(encoder: Path, tmp_path: Path) -> None:
    other = write_encoder(tmp_path / "other", seed=1)
    copy = write_encoder(tmp_path / "copy", seed=0)
    raw = tmp_path / "raw"
    for number, folder in ((1, encoder), (1, copy), (2, other)):
        SentenceVectors(path=str(folder)).build(context(raw)).prepare([("low a", None)])
        assert len(list(raw.iterdir())) == number
    with_another_backbone = replace(context(raw), model=bart(d_model=16))
    SentenceVectors(path=str(copy)).build(with_another_backbone).prepare([("low a", None)])
    assert len(list(raw.iterdir())) == 2


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (str(tmp_path / "empty"), str(tmp_path / "none"), "nobody/no-such-encoder"):
        with pytest.raises(UserError, match=r"task_vectors\.path: no sentence encoder in"):
            SentenceVectors(path=path).build(context()).fit(TASKS)
    with pytest.raises(ValueError, match="'path' is empty"):
        SentenceVectors()
