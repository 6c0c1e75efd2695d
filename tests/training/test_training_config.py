"""Every field is checked and named."""

from __future__ import annotations

import pytest

from moe_tasks.config import from_mapping
from moe_tasks.errors import UserError
from moe_tasks.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("accumulation", 0), ("keep", 0), ("log_every", 0), ("max_bad_steps", 0),
        ("eval_every", 0), ("save_every", -1), ("num_threads", 0), ("learning_rate", -1.0),
        ("router_learning_rate", float("nan")), ("task_vectors_learning_rate", float("inf")),
        ("weight_decay", -0.1), ("eps", 0.0), ("betas", [0.9]), ("betas", [0.9, 1.0]),
        ("clip", 0.0), ("clip", float("nan")), ("warmup", 1.1), ("label_smoothing", 1.0),
        ("schedule", "cosine"), ("precision", "fp16"),
    ],
)  # fmt: skip
def test_value_out_of_range_names_its_key(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"training.*{field}"):
        from_mapping(TrainingConfig, {field: value}, "training")


def test_values_from_a_file() -> None:
    values = {"steps": 5, "clip": None, "betas": [0.8, 0.9], "eval_every": None, "learning_rate": 1}
    config = from_mapping(TrainingConfig, values, "training")
    assert (config.clip, config.betas, config.eval_every) == (None, (0.8, 0.9), None)
    assert config.rates["model"] == 1.0
