"""Heads of three kinds in one batch, and what is wrong with labels in words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.heads import Head, HeadConfig
from moe_tasks.conditional.model import CAMTL
from moe_tasks.errors import UserError
from tests.conditional.encoders import HEADS, LENGTH, WIDTH, batch, conditional, encoder, error


def test_each_kind_has_its_loss() -> None:
    model, rows = conditional(), batch()
    output = model(**rows)
    labels, places = rows["labels"], output.rows
    assert {task: p.tolist() for task, p in places.items()} == {
        "grammar": [1, 5],
        "likeness": [3],
        "inference": [0, 4],
        "names": [2],
    }
    names = output.logits["names"]
    assert names.shape == (1, LENGTH, 4)
    expected = {
        "grammar": F.cross_entropy(output.logits["grammar"], labels[[1, 5], 0].long()),
        "likeness": (output.logits["likeness"][0, 0] - labels[3, 0]) ** 2,
        "inference": F.cross_entropy(output.logits["inference"], labels[[0, 4], 0].long()),
        "names": F.cross_entropy(names[0, : LENGTH - 1], labels[2, : LENGTH - 1].long()),
    }
    for task, loss in expected.items():
        assert error(output.losses[task], loss) < 1e-6, task
    assert error(output.loss, torch.stack(list(expected.values())).mean()) < 1e-6
    assert model(rows["input_ids"], task_ids=rows["task_ids"]).loss is None


def test_a_number_is_learned_in_its_own_unit() -> None:
    """The loss is that of a head of plain numbers which learns (label - center) / scale."""
    model, rows = conditional(), batch()
    plain, center, scale = model.head("likeness"), 2.5, 1.5
    logits, labels = torch.randn(4, 1), torch.tensor([[0.0], [5.0], [2.5], [torch.nan]])
    own = Head("likeness", HeadConfig("regression", 1, center, scale), WIDTH, 0.1)
    expected, _ = plain.losses((logits - center) / scale, (labels - center) / scale)
    losses, known = own.losses(logits, labels)
    assert error(losses, expected) < 1e-6
    assert known.tolist() == [True, True, True, False]
    own.load_state_dict(plain.state_dict())
    pooled = model(**rows).pooler_output
    number, standard = (head.eval()(pooled[:, None], pooled) for head in (own, plain))
    assert error(number, center + scale * standard) < 1e-6


def test_units_are_checked() -> None:
    for unit in ((0.0, 0.0), (float("nan"), 1.0), (0.0, -1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="unit"):
            HeadConfig("regression", 1, *unit)


def test_rows_without_a_label_do_not_count() -> None:
    model, rows = conditional(), batch()
    whole = model(**rows)
    rows["labels"][1, 0] = -100
    part = model(**rows)
    own = F.cross_entropy(whole.logits["grammar"][1:], rows["labels"][5:, 0].long())
    assert error(part.losses["grammar"], own) < 1e-6


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_pooling_reads_real_tokens(pooling: str) -> None:
    parts = ConditionalConfig.none()
    model = CAMTL(encoder(), list(HEADS), HEADS, parts, pooling=pooling).eval()  # type: ignore[arg-type]
    rows = batch()
    output = model(**rows)
    for row, length in enumerate(rows["attention_mask"].sum(1).tolist()):
        states = output.last_hidden_state[row, :length]
        expected = states[0] if pooling == "first" else states.mean(0)
        assert error(output.pooler_output[row], expected) < 1e-5


def labels(**cells: float) -> dict[str, Tensor]:
    rows = batch()
    for place, value in cells.items():
        rows["labels"][int(place[1:]), 0] = value
    return rows


MISTAKES = {
    "outside the list": (labels(r0=3), "'inference': label 3 is not one of its 3 labels 0 to 2"),
    "negative": (labels(r5=-1), "'grammar': label -1 is not one of its 2 labels"),
    "no labels": (labels(r1=-100, r5=-100), "'grammar': none of its rows in the batch has a label"),
    "no number": (labels(r3=float("nan")), "'likeness': none of its rows"),
    "infinite": (labels(r3=float("inf")), "'likeness': label inf is no finite number"),
    "no task": ({**batch(), "task_ids": torch.tensor([0, 0, 0, 0, 0, 4])}, r"must be in 0\.\.3"),
    "one column": ({**batch(), "labels": torch.zeros(6)}, r"'names': labels of shape \[1, 1\]"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_labels_are_one_message(name: str) -> None:
    rows, message = MISTAKES[name]
    with pytest.raises(UserError, match=message):
        conditional()(**rows)


def test_a_model_is_refused_in_words() -> None:
    some = {"a": HeadConfig(), "bee": HeadConfig()}
    parts = ConditionalConfig.base(max_length=LENGTH)
    for tasks, config, message in (
        (["a", "b"], parts, "no head for task 'b'; did you mean 'bee'"),
        (["a"], parts, "a head for 'bee', which is no task"),
        (["a", "a"], parts, "task names must be unique"),
        (["a", "bee"], ConditionalConfig(max_length=13), "nearest that is: 12"),
    ):
        with pytest.raises(UserError, match=message):
            CAMTL(encoder(), tasks, some, config)
    with pytest.raises(UserError, match="ElectraModel has no pooler; choose pooling: mean"):
        CAMTL(encoder("electra"), ["a", "bee"], some, parts)
    with pytest.raises(UserError, match="no plain Hugging Face model per task"):
        conditional().squeeze("grammar")
    for wrong in (("regression", 2), ("classification", 1), ("tokens", 1)):
        with pytest.raises(ValueError, match="'num_labels' is"):
            HeadConfig(*wrong)  # type: ignore[arg-type]


def test_other_layer_plans_are_refused() -> None:
    import transformers as hf

    sizes = dict(dim=24, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=20)
    with pytest.raises(UserError, match="DistilBertModel has not the layer plan of BERT"):
        CAMTL(hf.DistilBertModel(hf.DistilBertConfig(**sizes)), ["a"], {"a": HeadConfig()},
              pooling="first")  # fmt: skip
