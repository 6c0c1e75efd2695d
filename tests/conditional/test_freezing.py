"""What trains, and how much of it serves a task alone."""

from __future__ import annotations

import pytest
import torch

from moe_tasks.conditional.conditioned import conditioning_parameters
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.freezing import freeze_layers, parameter_counts
from moe_tasks.errors import UserError
from tests.conditional.encoders import LENGTH, WIDTH, batch, conditional, encoder


@pytest.mark.parametrize(("layers", "frozen"), [("lower_half", {0, 1}), ("1-2", {1, 2})])
@pytest.mark.parametrize("arrangement", [ConditionalConfig.base, ConditionalConfig.large])
def test_frozen_layers_keep_their_weights_and_conditioning_learns(
    layers: str, frozen: set[int], arrangement: type[ConditionalConfig]
) -> None:
    model = conditional(config=arrangement(max_length=LENGTH))
    names = freeze_layers(model, layers)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(**batch()).loss.backward()
    optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert not changed & set(names)
    assert changed >= set(conditioning_parameters(model)) - {"task_embedding.weight"}
    numbers = {int(n.split(".")[3]) for n in names if ".layer." in n}
    assert numbers == frozen
    assert any("embeddings" in name for name in names)
    others = {int(n.split(".")[3]) for n in changed if ".layer." in n and "query" in n}
    assert others == {0, 1, 2, 3} - frozen


@pytest.mark.parametrize("layers", ["upper", "0-4", "3-1", "1"])
def test_layers_that_are_not_there_are_refused(layers: str) -> None:
    with pytest.raises(UserError, match=r"'freeze_layers' is .*lower_half or a range .* 0-3"):
        freeze_layers(conditional(), layers)


def test_counts_add_up() -> None:
    model = conditional()
    counts = parameter_counts(model)
    assert counts.plain == encoder().num_parameters()
    assert counts.total == counts.trained == sum(p.numel() for p in model.parameters())
    assert counts.own["inference"] == WIDTH + 3 * WIDTH + 3
    assert counts.shared + sum(counts.own.values()) == counts.trained
    frozen = sum(dict(model.named_parameters())[n].numel() for n in freeze_layers(model, "0-1"))
    after = parameter_counts(model)
    assert after.trained == counts.trained - frozen
    assert (after.own, after.total) == (counts.own, counts.total)
    assert after.trained_per_task == after.trained / 4
    lines = after.table().splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:]] == [
        "encoder", "model", "trained", "trained, shared", "grammar", "likeness", "inference",
        "names", "trained per task",
    ]  # fmt: skip
    assert f"{after.trained:,}" in lines[3]
    plain = parameter_counts(conditional(config=ConditionalConfig.none()))
    assert plain.own["grammar"] == 2 * WIDTH + 2
