"""Fisher vectors against a slow loop, and what they say about tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from moe_tasks.representations.finetuning import FineTuning
from moe_tasks.representations.fisher import FisherVectors, fisher_information
from moe_tasks.representations.lora import LoraLinear, add_lora
from tests.models import SEQ2SEQ, bart
from tests.representations.contexts import PAD, TASKS, context, texts

SMALL = FineTuning(steps=20, learning_rate=3e-3, clip=1.0)


def examples(count: int = 7) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs and outputs of unequal lengths."""
    rng = np.random.default_rng(0)
    inputs = [rng.integers(4, 60, length) for length in rng.integers(2, 12, count)]
    return inputs, [rng.integers(4, 60, length) for length in rng.integers(1, 7, count)]


def with_lora(family: str, dtype: torch.dtype) -> tuple:
    model = SEQ2SEQ[family]()
    layers = add_lora(model, 3, seed=0)
    generator = torch.Generator().manual_seed(5)
    for layer in layers:  # B starts at zero, where A has no gradient
        with torch.no_grad():
            layer.lora_b.normal_(0, 0.1, generator=generator)
    return model.to(dtype).eval(), layers


def slow_fisher(model, layers: list[LoraLinear], inputs, outputs) -> torch.Tensor:
    """One example at a time, without padding, by autograd alone."""
    parameters = [p for layer in layers for p in (layer.lora_a, layer.lora_b)]
    total = 0.0
    for source, target in zip(inputs, outputs, strict=True):
        labels = torch.tensor(target[None])
        logits = model(input_ids=torch.tensor(source[None]), labels=labels).logits
        likelihood = -functional.cross_entropy(logits[0], labels[0], reduction="sum")
        gradients = torch.autograd.grad(likelihood, parameters)
        total = total + torch.cat([g.flatten() ** 2 for g in gradients])
    return total / len(inputs)  # type: ignore[return-value]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("family", SEQ2SEQ)
def test_a_batch_gives_what_a_slow_loop_gives(family: str, batch_size: int) -> None:
    model, layers = with_lora(family, torch.float64)
    inputs, outputs = examples()
    fast = fisher_information(model, layers, inputs, outputs, PAD, batch_size)
    slow = slow_fisher(model, layers, inputs, outputs)
    assert (slow > 0).float().mean() > 0.9
    floor = 1e-9 * slow.max().item()
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=floor)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_in_single_precision_too(family: str) -> None:
    model, layers = with_lora(family, torch.float32)
    inputs, outputs = examples()
    fast = fisher_information(model, layers, inputs, outputs, PAD, 4)
    slow = slow_fisher(model, layers, inputs, outputs)
    assert (fast - slow).norm() < 1e-5 * slow.norm()


def test_fisher_vectors_of_a_whole_task_equal_the_slow_loop() -> None:
    representation = FisherVectors(rank=2, floor=1e-8, finetuning=SMALL)
    raw = representation.build(context()).raw(("low a", None))
    from moe_tasks.representations.finetuning import fine_tune

    model = bart()
    layers = add_lora(model, 2, seed=0)
    inputs, outputs = texts("low a", None)
    fine_tune(model, (inputs, outputs), SMALL, PAD, seed=0)
    slow = slow_fisher(model.double(), layers, inputs, outputs)
    torch.testing.assert_close(raw, torch.log(slow + 1e-8).float(), rtol=1e-5, atol=1e-5)


def test_lora_starts_as_the_model_it_is_put_on_and_trains_alone() -> None:
    model, plain = bart(), bart()
    layers = add_lora(model, 4, seed=0)
    ids = torch.tensor([[4, 5, 6, 7]])
    torch.testing.assert_close(
        model(input_ids=ids, labels=ids).logits, plain(input_ids=ids, labels=ids).logits
    )
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if "lora_" in n}
    assert len(layers) == 2 * 6 + 2 * 10  # attention and feed-forward, not the output embedding
    again = add_lora(bart(), 4, seed=0)
    assert all(torch.equal(a.lora_a, b.lora_a) for a, b in zip(layers, again, strict=True))


def disjoint(task: str, sample: str | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A task is a rule on an alphabet; a sample is its own half of the task's inputs."""
    rule, letters = task.split()
    low = {"left": 4, "right": 20}[letters]
    order = np.random.default_rng(0).permutation(64).reshape(2, 32)[int(sample == "b")]
    inputs = [low + np.array([n // 8, n % 8, n // 8 * (n % 8) % 16]) for n in order]
    outputs = {
        "first": lambda row: row[:1],
        "reversed": lambda row: row[::-1].copy(),
        "parity": lambda row: np.array([50 + row[1] % 2, 52]),
    }[rule]
    return inputs, [outputs(row) for row in inputs]


def test_a_task_sampled_twice_lies_closest_to_itself() -> None:
    rules = ("first", "reversed", "parity")
    tasks = [f"{rule} {letters}" for rule in rules for letters in ("left", "right")]
    halves = [{tuple(row) for row in disjoint(tasks[0], s)[0]} for s in (None, "b")]
    assert not halves[0] & halves[1]
    used = replace(context(), texts=disjoint)
    source = FisherVectors(rank=2, finetuning=SMALL).build(used)
    vectors = source.fit(tasks)
    again = torch.stack([source.place(task, "b") for task in tasks])
    distances = torch.cdist(again, vectors)
    assert distances.argmin(1).tolist() == list(range(len(tasks)))


def test_at_most_dim_components_and_no_more_than_tasks_allow() -> None:
    def dim(wanted: int) -> int:
        return (
            FisherVectors(dim=wanted, rank=1, finetuning=replace(SMALL, steps=0))
            .build(used)
            .fit(TASKS)
            .shape[1]
        )

    used = context()
    assert dim(3) == 3
    assert dim(128) == len(TASKS) - 1


def test_components_keep_the_distances_of_raw_vectors() -> None:
    source = FisherVectors(rank=1, finetuning=replace(SMALL, steps=0)).build(context())
    vectors = source.fit(TASKS)
    raw = torch.stack([source.raw((task, None)) for task in TASKS])
    ratio = torch.pdist(raw) / torch.pdist(vectors)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)


def test_vectors_can_be_computed_where_gradients_are_off() -> None:
    source = FisherVectors(rank=1, finetuning=replace(SMALL, steps=2)).build(context())
    source.fit(TASKS[:3])
    with torch.no_grad():
        placed = source.place("low d", "13")
    assert not placed.requires_grad


@pytest.mark.parametrize("changes", [{"dim": 0}, {"rank": 0}, {"floor": 0.0}, {"examples": 0}])
def test_settings_out_of_range(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        FisherVectors(**changes)
