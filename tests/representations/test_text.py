"""Task vectors from text, and learned ones."""

from __future__ import annotations

import pytest
import torch

from moe_tasks.errors import UserError
from moe_tasks.representations.finetuning import FineTuning
from moe_tasks.representations.ft_text import FineTunedTextVectors
from moe_tasks.representations.learned import LearnedVectors
from moe_tasks.representations.text import TextVectors, mean_encoder_states
from tests.models import SEQ2SEQ
from tests.representations.contexts import PAD, TASKS, context, texts


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_padding_changes_nothing(family: str) -> None:
    """The published code averages over padding; a slow loop without any is the oracle."""
    model = SEQ2SEQ[family]()
    rows, _ = texts("low", None)
    alone = [mean_encoder_states(model, [row], PAD) for row in rows]
    together = mean_encoder_states(model, rows, PAD)
    torch.testing.assert_close(together, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whiten", [0.0, 0.5, 1.0])
def test_unseen_tasks_are_placed_beside_those_they_resemble(whiten: float) -> None:
    source = TextVectors(examples=6, whiten=whiten).build(context())
    vectors = source.fit(TASKS)
    torch.testing.assert_close(vectors.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors.std(correction=0), torch.tensor(1.0))
    distances = (vectors - source.place("low d", "13")).norm(dim=-1)
    assert distances[:3].mean() < distances[3:].mean()


def test_whitening_makes_training_tasks_equally_far_apart() -> None:
    plain, white = (
        TextVectors(examples=6, whiten=w).build(context()).fit(TASKS) for w in (0.0, 1.0)
    )
    spread = [torch.pdist(v).max() / torch.pdist(v).min() for v in (plain, white)]
    assert spread[0] > 1.1
    torch.testing.assert_close(spread[1], torch.tensor(1.0), rtol=1e-3, atol=0)


def test_without_whitening_distances_are_those_of_standardised_vectors() -> None:
    source = TextVectors(examples=6, whiten=0.0).build(context())
    vectors = source.fit(TASKS)
    raw = torch.stack([source.raw((task, None)) for task in TASKS])
    standard = (raw - raw.mean(0)) / raw.std(0, correction=0)
    ratio = torch.pdist(standard) / torch.pdist(vectors)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)


def test_the_raw_vector_is_inputs_beside_outputs_of_the_first_examples() -> None:
    used = context()
    inputs, outputs = texts("low a", None)
    halves = [mean_encoder_states(used.model, half[:3], PAD) for half in (inputs, outputs)]
    raw = TextVectors(examples=3).build(used).raw(("low a", None))
    assert torch.equal(raw, torch.cat(halves))


def test_a_placed_training_task_lies_where_it_was() -> None:
    source = TextVectors(examples=6).build(context())
    vectors = source.fit(TASKS)
    torch.testing.assert_close(source.place("high b", None), vectors[4], rtol=1e-4, atol=1e-5)


def test_equal_tasks_are_refused() -> None:
    with pytest.raises(UserError, match="the same examples"):
        TextVectors().build(context()).fit(["low a", "low a"])


def test_fine_tuning_changes_text_vectors_but_not_the_initial_model() -> None:
    used = context()
    before = used.fingerprint
    tuned = FineTunedTextVectors(finetuning=FineTuning(steps=5, learning_rate=1e-3))
    state = torch.get_rng_state()
    vector = tuned.build(used).raw(("low a", None))
    assert torch.equal(torch.get_rng_state(), state)
    plain = TextVectors().build(used).raw(("low a", None))
    assert (vector - plain).abs().max() > 1e-3
    assert context(model=used.model).fingerprint == before
    untuned = FineTunedTextVectors(finetuning=FineTuning(steps=0)).build(used)
    assert torch.equal(untuned.raw(("low a", None)), plain)


def test_fine_tuning_that_diverges_is_an_error() -> None:
    tuned = FineTunedTextVectors(
        finetuning=FineTuning(steps=40, learning_rate=1e30, clip=None, warmup=0)
    )
    with pytest.raises(UserError, match="finite"):
        tuned.build(context()).raw(("low a", None))


def test_learned_vectors_cannot_place_an_unseen_task() -> None:
    source = LearnedVectors(dim=7).build(context())
    assert source.fit(["a", "b"]).shape == (2, 7)
    assert torch.equal(source.fit(["a", "b"]), source.fit(["a", "b"]))
    assert source.place("c", "13") is None
    assert source.learn
