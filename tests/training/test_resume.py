"""A run that was stopped and continued equals one that was not, bit for bit."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_tasks.errors import UserError
from moe_tasks.training.callbacks import Callback
from moe_tasks.training.signals import Interrupted
from tests.training import tiny

# Before any checkpoint is due, at one, at an evaluation, just before the end.
CUTS = (1, 8, 12, 19)


def _uninterrupted(folder: Path, **options) -> tuple[tiny.Trainer, dict]:
    losses = tiny.Losses()
    whole = tiny.trainer(folder, callbacks=[losses], **options)
    whole.fit()
    return whole, losses.by_step


def _interrupted(folder: Path, cuts, make_model=tiny.model, **options):
    """Stops at every cut; returns the trainer that reached the end and all losses."""
    losses = tiny.Losses()
    for cut in cuts:
        stopped = tiny.trainer(
            folder, trained=make_model(), callbacks=[losses, tiny.StopAt(cut)], **options
        )
        with pytest.raises(Interrupted) as caught:
            stopped.fit(resume=True)
        assert (caught.value.step, caught.value.exit_code) == (cut, 143)
    last = tiny.trainer(folder, trained=make_model(), callbacks=[losses], **options)
    last.fit(resume=True)
    return last, losses.by_step


def _assert_equal(folder: Path, cuts, make_model=tiny.model, **options) -> None:
    whole, losses = _uninterrupted(folder / "whole", trained=make_model(), **options)
    expected = tiny.everything(whole)
    pieces, continued = _interrupted(folder / "pieces", cuts, make_model, **options)
    tiny.assert_same(expected, tiny.everything(pieces))
    assert losses == continued
    assert tiny.log_lines(folder / "whole") == tiny.log_lines(folder / "pieces")
    assert [line["step"] for line in tiny.log_lines(folder / "pieces")] == [3, 6, 9, 12, 15, 18, 20]


@pytest.mark.parametrize("cut", CUTS)
def test_dense_model_continues_exactly(tmp_path: Path, cut: int) -> None:
    _assert_equal(tmp_path, [cut])


@pytest.mark.parametrize("selection", ["gumbel_st", "softmax"])
def test_routed_model_continues_exactly(tmp_path: Path, selection: str) -> None:
    _assert_equal(tmp_path, [7, 12], lambda: tiny.model(selection), sampling="temperature")


def test_five_stops_within_one_epoch(tmp_path: Path) -> None:
    # The largest task has 20 rows; 6 rows per batch in all, so its first epoch is still open.
    _assert_equal(tmp_path, [1, 2, 3, 4, 5], accumulation=1)


@pytest.mark.stress
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("selection", "experts", "sampling", "accumulation"),
    itertools.product(
        ["average", "softmax", "gumbel_st"],
        ["layer", "ffn", "attention"],
        ["uniform", "proportional", "temperature"],
        [1, 3],
    ),
)
def test_every_combination(tmp_path, cut, selection, experts, sampling, accumulation) -> None:
    make = lambda: tiny.model(selection, experts)  # noqa: E731
    _assert_equal(tmp_path, [cut], make, sampling=sampling, accumulation=accumulation)


def test_evaluation_that_a_signal_ended_is_made_up_for(tmp_path: Path) -> None:
    def ended_half_way(trained):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal ends the evaluation")

    stopped = tiny.trainer(tmp_path / "pieces", evaluate=ended_half_way)
    with pytest.raises(Interrupted) as caught:
        stopped.fit()
    assert (caught.value.step, caught.value.exit_code) == (6, 130)
    assert caught.value.checkpoint == tmp_path / "pieces/checkpoints/tiny/step-000006"
    assert stopped.model.training
    pieces = tiny.trainer(tmp_path / "pieces")
    pieces.fit(resume=True)
    whole, _ = _uninterrupted(tmp_path / "whole")
    assert pieces.state.history == whole.state.history
    assert tiny.log_lines(tmp_path / "whole") == tiny.log_lines(tmp_path / "pieces")
    assert torch.equal(_flat(pieces), _flat(whole))


def test_evaluation_leaves_training_alone(tmp_path: Path) -> None:
    often, losses = _uninterrupted(tmp_path / "often", eval_every=1)
    never, others = _uninterrupted(tmp_path / "never", evaluate=None)
    assert losses == others
    assert torch.equal(_flat(often), _flat(never))
    draws = {entry["draw"] for entry in often.state.history}
    assert len(draws) == 1  # evaluation is repeatable itself


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole, _ = _uninterrupted(tmp_path)
    again = tiny.trainer(tmp_path, callbacks=[_NoStep()])
    result = again.fit(resume=True)
    assert result.step == 20
    assert result.history == whole.state.history
    assert result.best_step == whole.state.best_step
    assert torch.equal(_flat(again), _flat(whole))


def test_resume_without_checkpoint_starts(tmp_path: Path) -> None:
    assert tiny.trainer(tmp_path, steps=2).fit(resume=True).step == 2


def test_training_over_checkpoints_is_refused(tmp_path: Path) -> None:
    _uninterrupted(tmp_path, steps=2)
    with pytest.raises(UserError, match=r"already holds checkpoints.*resume=auto"):
        tiny.trainer(tmp_path, steps=2).fit()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 30}, r"training\.steps was 2 and is 30"),
        ({"learning_rate": 1e-4}, r"training\.learning_rate was 0\.002 and is 0\.0001"),
        ({"seed": 8}, "seed was 7 and is 8"),
        ({"sampling": "proportional"}, "training rows was"),
    ],
)
def test_other_configuration_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    _uninterrupted(tmp_path, steps=2)
    changes = {"steps": 2, **changes}
    with pytest.raises(UserError, match=message):
        tiny.trainer(tmp_path, **changes).fit(resume=True)


def test_how_often_to_save_and_log_may_change(tmp_path: Path) -> None:
    whole, _ = _uninterrupted(tmp_path / "whole", evaluate=None)
    stopped = tiny.trainer(tmp_path / "pieces", evaluate=None, callbacks=[tiny.StopAt(5)])
    with pytest.raises(Interrupted):
        stopped.fit()
    options: dict[str, Any] = {"save_every": 2, "log_every": 1, "keep": 1, "max_bad_steps": 3}
    pieces = tiny.trainer(tmp_path / "pieces", evaluate=None, **options)
    pieces.fit(resume=True)
    assert torch.equal(_flat(pieces), _flat(whole))


def test_checkpoint_of_other_tasks_is_refused(tmp_path: Path) -> None:
    _uninterrupted(tmp_path, steps=2)
    other = tiny.trainer(tmp_path, steps=2, trained=tiny.model("softmax"))
    with pytest.raises(UserError, match="do not fit this model"):
        other.fit(resume=True)


def test_systems_of_a_run_share_the_log(tmp_path: Path) -> None:
    _uninterrupted(tmp_path, steps=6, system="first")
    stopped = tiny.trainer(tmp_path, steps=6, system="second", callbacks=[tiny.StopAt(4)])
    with pytest.raises(Interrupted):
        stopped.fit(resume=True)
    tiny.trainer(tmp_path, steps=6, system="second").fit(resume=True)
    lines = [(line["system"], line["step"]) for line in tiny.log_lines(tmp_path)]
    assert lines == [("first", 3), ("first", 6), ("second", 3), ("second", 6)]


class _NoStep(Callback):
    def on_step(self, step: int, loss: float | None) -> None:
        raise AssertionError("there is nothing left to train")


def _flat(trained: tiny.Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for _, p in trained.model.named_parameters()])
