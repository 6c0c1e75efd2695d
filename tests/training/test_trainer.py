"""One step's arithmetic, bad steps, memory, best weights, signals."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_tasks.errors import UserError
from moe_tasks.training.checkpoint import CheckpointStore
from moe_tasks.training.data import Batch
from moe_tasks.training.signals import Interrupted, StopSignals
from tests.training import tiny

ROOT = Path(__file__).parents[2]


class FixedBatches:
    """Hands out the given batches one after the other."""

    def __init__(self, *batches: Batch) -> None:
        self._left = list(batches)

    def next(self) -> Batch:
        return self._left.pop(0)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        raise AssertionError("not in these tests")

    def fingerprint(self) -> dict[str, Any]:
        return {}


def _one_step(parts: list[Batch], model=None, **changes) -> dict[str, torch.Tensor]:
    runner = tiny.trainer(
        None, trained=model or tiny.model(dropout=0.0), steps=1, warmup=0.0, evaluate=None,
        accumulation=len(parts), **changes,
    )  # fmt: skip
    runner.batches = FixedBatches(*parts)
    runner.fit()
    return {name: p.detach().clone() for name, p in runner.model.named_parameters()}


def _cut(batch: Batch, cuts: list[int]) -> list[Batch]:
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, batch.rows], strict=True)]
    parts = {key: value.split(sizes) for key, value in batch.inputs.items()}
    return [Batch.of({k: v[i] for k, v in parts.items()}, batch.tasks) for i in range(len(sizes))]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulation_equals_one_big_batch(smoothing: float) -> None:
    whole = tiny.batches().next()
    # SGD-like: a large eps keeps Adam from magnifying rounding in gradients near zero.
    changes = {"label_smoothing": smoothing, "eps": 0.1, "learning_rate": 1.0}
    expected = _one_step([whole], **changes)
    unequal = _cut(whole, [1, 4])
    assert len({part.targets for part in unequal}) == 3  # unequal parts weigh by their tokens
    for name, weight in _one_step(unequal, **changes).items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0, msg=name)


def test_one_step_equals_plain_pytorch() -> None:
    batch = tiny.batches().next()
    weights = _one_step([batch], label_smoothing=0.0, clip=0.5, weight_decay=0.1, betas=(0.8, 0.9))
    model = tiny.model(dropout=0.0).train()
    model(**batch.inputs).loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    assert norm > 0.5
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=2e-3, betas=(0.8, 0.9)).step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), atol=1e-6, rtol=0, msg=name)


def test_expert_without_rows_stays_as_it_is() -> None:
    model = tiny.model("gumbel_st")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after = _one_step([_cut(tiny.batches().next(), [1])[0]], model)  # one row, one expert each
    experts = [name for name in before if "expert" in name and before[name].ndim > 1]
    kept = [name for name in experts if torch.equal(before[name], after[name])]
    assert experts
    assert len(kept) == len(experts) * 2 // 3


class _Poisoned:
    """Makes something not finite at the given updates (counted from 0)."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.step = steps, 0

    def follow(self, model: Any) -> None:
        original = model.set_step

        def set_step(step: int) -> None:
            self.step = step
            original(step)

        model.set_step = set_step

    def __call__(self, value: torch.Tensor | None) -> torch.Tensor | None:
        if value is None or self.step not in self.steps:
            return value
        return value * float("nan")


def _poison_loss(model: Any, poison: _Poisoned) -> None:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        output.logits = poison(output.logits)
        return output

    model.register_forward_hook(hook)


def _poison_one_gradient(model: Any, poison: _Poisoned) -> None:
    parameter = next(p for p in model.parameters() if p.ndim == 1)
    parameter.register_hook(poison)


def _poison_one_expert(model: Any, poison: _Poisoned) -> None:
    parameters = [p for name, p in model.named_parameters() if "expert" in name and p.ndim == 2]
    for parameter in parameters[:3]:  # the versions of one matrix: some task of the step has it
        parameter.register_hook(poison)


def _poison_router(model: Any, poison: _Poisoned) -> None:
    model.router.register_forward_hook(lambda module, inputs, output: poison(output))


@pytest.mark.parametrize(
    ("selection", "inject"),
    [
        ("dense", _poison_loss),
        ("dense", _poison_one_gradient),
        ("gumbel_st", _poison_one_expert),
        ("gumbel_st", _poison_router),
        ("softmax", _poison_router),
    ],
)
def test_bad_step_changes_nothing(tmp_path: Path, caplog, selection: str, inject: Callable) -> None:
    model, poison = tiny.model(selection), _Poisoned(2)
    poison.follow(model)
    inject(model, poison)
    losses, snapshots = tiny.Losses(), []
    runner = tiny.trainer(None, trained=model, steps=4, callbacks=[losses])

    def look(step: int, loss: float | None) -> None:
        optimizer = runner._engine.tensors()
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        state = {k: v.clone() for k, v in optimizer.items() if k.startswith("optimizer/")}
        snapshots.append({**weights, **state})

    losses.on_step = lambda step, loss: (look(step, loss), losses.by_step.update({step: loss}))  # type: ignore[method-assign]
    result = runner.fit()
    assert result.skipped == 1
    assert [losses.by_step[step] is None for step in (1, 2, 3, 4)] == [False, False, True, False]
    tiny.assert_same(snapshots[1], snapshots[2])
    assert any(not torch.equal(snapshots[2][k], snapshots[3][k]) for k in snapshots[2])
    assert "step 3 of tiny" in caplog.text
    assert "is not finite; tasks: " in caplog.text
    assert any(task in caplog.text for task in tiny.TASKS)


def test_too_many_bad_steps_in_a_row_stop(tmp_path: Path) -> None:
    model, poison = tiny.model(), _Poisoned(1, 2, 5, 6, 7)
    poison.follow(model)
    _poison_loss(model, poison)
    runner = tiny.trainer(tmp_path, trained=model, max_bad_steps=3, save_every=1, evaluate=None)
    with pytest.raises(UserError, match=r"step 8 of tiny: loss \(nan\).*3 steps in a row") as error:
        runner.fit()
    assert "Last checkpoint: step 5" in str(error.value)
    assert runner.state.skipped == 5


def test_no_regular_checkpoint_while_steps_are_bad(tmp_path: Path) -> None:
    model, poison = tiny.model(), _Poisoned(3)
    poison.follow(model)
    _poison_loss(model, poison)
    tiny.trainer(tmp_path, trained=model, steps=6, save_every=4, evaluate=None).fit()
    assert CheckpointStore(tmp_path / "checkpoints/tiny").steps() == [6]


class _SmallMemory:
    """Fails as CUDA does when a forward or backward pass has more than ``rows`` rows."""

    def __init__(self, model: Any, rows: int, where: str) -> None:
        self.rows, self.where, self.sizes = rows, where, []
        model.register_forward_pre_hook(self.forward, with_kwargs=True)
        next(model.parameters()).register_hook(self.backward)

    def forward(self, module: Any, arguments: Any, inputs: dict[str, torch.Tensor]) -> None:
        self.size = len(inputs["input_ids"])
        self.sizes.append(self.size)
        self._check("forward")

    def backward(self, gradient: torch.Tensor) -> None:
        self._check("backward")

    def _check(self, where: str) -> None:
        if where == self.where and self.size > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_memory_runs_out_and_the_step_is_the_same(where: str, caplog) -> None:
    batches = [tiny.batches(seed=seed).next() for seed in (1, 2)]
    changes = {"eps": 0.1, "learning_rate": 1.0}
    expected = _one_step(batches, **changes)
    model = tiny.model(dropout=0.0)
    memory = _SmallMemory(model, 2, where)
    weights = _one_step(batches, model, **changes)
    assert memory.sizes[-8:] == [2, 2, 1, 1, 2, 2, 1, 1]
    assert "computed in 4 parts" in caplog.text
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0, msg=name)


def test_memory_too_small_for_one_row() -> None:
    model = tiny.model()
    _SmallMemory(model, 0, "forward")
    with pytest.raises(UserError, match=r"not even single rows fit.*gradient_checkpointing=true"):
        _one_step([tiny.batches().next()], model)


def test_other_runtime_errors_are_not_hidden() -> None:
    model = tiny.model()

    def fail(*_):
        raise RuntimeError("shapes do not match")

    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        _one_step([tiny.batches().next()], model)


@pytest.mark.parametrize("in_memory", [False, True])
def test_best_weights_come_back(tmp_path: Path, in_memory: bool) -> None:
    losses = iter([3.0, 1.0, float("nan"), 2.0])
    weights = {}

    def evaluate(model: Any) -> dict[str, float]:
        loss = next(losses)
        weights[loss] = next(model.parameters()).detach().clone()
        return {"loss": loss}

    runner = tiny.trainer(None if in_memory else tmp_path, evaluate=evaluate, eval_every=5)
    result = runner.fit()
    assert (result.best_step, result.best_metric) == (10, 1.0)
    assert [entry["step"] for entry in result.history] == [5, 10, 15, 20]
    last = next(iter(runner.model.named_parameters()))[1]
    assert torch.equal(last, weights[2.0])
    assert runner.restore_best()
    assert torch.equal(last, weights[1.0])
    assert (result.checkpoint is None) == in_memory


def test_without_evaluation_there_is_no_best() -> None:
    runner = tiny.trainer(None, steps=1, evaluate=None)
    assert runner.fit().best_step is None
    assert not runner.restore_best()


def test_damaged_best_is_refused(tmp_path: Path) -> None:
    runner = tiny.trainer(tmp_path, steps=6)
    runner.fit()
    (tmp_path / "checkpoints/tiny/step-000006/model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"best checkpoint is damaged.*model\.safetensors"):
        runner.restore_best()


@pytest.mark.parametrize("name", ["../x", "/abs", "a/b", "", ".hidden", "a\0b", "x" * 300])
def test_system_name_stays_inside_the_run_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a system"):
        tiny.trainer(tmp_path, system=name)
    assert list(tmp_path.iterdir()) == []


def test_gradient_checkpointing_computes_the_same() -> None:
    batch = tiny.batches().next()
    plain = _one_step([batch])
    model = tiny.model(dropout=0.0)
    again = _one_step([batch], model, gradient_checkpointing=True)
    assert model.backbone.is_gradient_checkpointing
    for name, weight in again.items():
        torch.testing.assert_close(weight, plain[name], atol=1e-6, rtol=0, msg=name)


def test_bf16_keeps_float32_weights(tmp_path: Path) -> None:
    dtypes = set()
    model = tiny.model()
    model.backbone.lm_head.register_forward_hook(lambda m, i, output: dtypes.add(output.dtype))
    losses = tiny.Losses()
    runner = tiny.trainer(
        None, trained=model, precision="bf16", evaluate=None, callbacks=[losses], steps=30,
        learning_rate=1e-2,
    )  # fmt: skip
    runner.fit()
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses.by_step[30] < losses.by_step[1]  # type: ignore[operator]


def test_same_seed_same_training_other_seed_other() -> None:
    losses = []
    for seed, system in ((1, "a"), (1, "a"), (2, "a"), (1, "b")):
        seen = tiny.Losses()
        torch.manual_seed(len(losses))  # what was drawn before does not matter
        trained = tiny.trainer(None, steps=2, seed=seed, system=system, callbacks=[seen])
        trained.fit()
        losses.append(seen.by_step)
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert losses[0] != losses[3]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_a_process_with_checkpoint_and_code(
    tmp_path: Path, number: int, code: int
) -> None:
    command = [sys.executable, "-m", "tests.training.tiny", str(tmp_path), "100000"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code
    step = int(output.split()[-1]) if output.split() else 1
    assert f"stopped by {signal.Signals(number).name} after step {step} of 100000" in errors
    assert "Traceback" not in errors
    store = CheckpointStore(tmp_path / "checkpoints/tiny")
    assert store.verify(step).state()["run"]["step"] == step


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    tiny.trainer(None, steps=1, evaluate=None).fit()
    assert signal.getsignal(signal.SIGTERM) is before


def test_second_ctrl_c_stops_at_once(monkeypatch) -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same key press, delivered twice
        assert signals.received == signal.SIGINT
        monkeypatch.setattr("moe_tasks.training.signals._SECOND_STOP_SECONDS", 0.0)
        signal.raise_signal(signal.SIGTERM)  # a launcher's second notice is no hurry
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_interruption_travels_between_processes() -> None:
    stop = Interrupted(signal.SIGTERM, "moe", 3, 9, Path("x"))
    again = pickle.loads(pickle.dumps(stop))
    assert (str(again), again.exit_code, again.step) == (str(stop), 143, 3)
