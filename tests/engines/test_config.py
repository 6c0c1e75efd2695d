"""What cannot work is refused before any process waits for another."""

from __future__ import annotations

from typing import Any

import pytest

from moe_tasks.config import from_mapping
from moe_tasks.engines.config import EngineConfig, check_launch
from moe_tasks.engines.local import LocalEngine
from moe_tasks.errors import UserError
from moe_tasks.run_config import RunConfig

LAUNCHED = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero_stage": 4}, "engine: 'zero_stage' is 4; it must be 0, 1, 2 or 3"),
        ({"zero_stage": -1}, "'zero_stage' is -1"),
        ({"expert_parallel": 0}, "'expert_parallel' is 0; it must be at least 1"),
        ({"expert_parallel": 2, "name": "local"}, "needs several processes: set engine=deepspeed"),
        ({"expert_parallel": 2, "zero_stage": 3}, "'zero_stage' 3.*set zero_stage=2, or exp"),
        ({"expert_parallel": 2, "zero_stage": 0}, "clip by another norm; set zero_stage=1"),
        ({"timeout": 0.0}, "'timeout' is 0.0"),
        ({"name": "deepsped"}, "did you mean 'deepspeed'"),
        ({"zero_stagee": 1}, "unknown key 'engine.zero_stagee'.*zero_stage"),
        ({"config": {"gradient_clipping": 1.0}}, "config.gradient_clipping.*training.clip"),
        ({"config": {"optimizer": {"type": "Adam"}}}, "optimizer.type.*training.learning_rate"),
        ({"config": {"zero_optimization": {"stage": 2}}}, "engine.zero_stage"),
        (
            {"config": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}},
            "offload_optimizer.device' is not supported",
        ),
    ],
)
def test_mistakes_in_the_keys(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_mapping(EngineConfig, {"name": "deepspeed", **values}, "engine")


def test_further_keys_of_deepspeed_pass() -> None:
    extra = {"zero_optimization": {"reduce_bucket_size": 1000}}
    assert from_mapping(EngineConfig, {"name": "deepspeed", "config": extra}).config == extra


@pytest.mark.parametrize(
    ("environment", "devices", "message"),
    [
        ({}, 8, "one process was started, but this machine has 8 GPUs: .*launch/local.sh 8"),
        ({**LAUNCHED, "LOCAL_RANK": "3"}, 2, r"process 3 .* no GPU of its own \(2 in all\)"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 0, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
    ],
)
def test_launches_that_do_not_fit(environment: dict, devices: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_launch(environment, devices)


@pytest.mark.parametrize(
    ("environment", "devices"), [({}, 0), ({}, 1), (LAUNCHED, 0), (LAUNCHED, 4)]
)
def test_launches_that_fit(environment: dict[str, str], devices: int) -> None:
    check_launch(environment, devices)


def test_several_processes_need_an_engine_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"started 2 processes.*add engine=deepspeed"):
        EngineConfig().start("cpu")


@pytest.mark.parametrize(
    ("expert_parallel", "world", "message"),
    [
        (
            2,
            3,
            r"2 does not divide the 3 processes .* start 4 .*, or set engine.expert_parallel=3,",
        ),
        (
            4,
            2,
            r"4 does not divide the 2 processes .* start 4 .*, or set engine.expert_parallel=2,",
        ),
        (2, 1, r"2 does not divide the 1 process that .* start 2 \(launch/local.sh 2\), or set "),
    ],
)
def test_groups_that_do_not_fit_the_processes(
    expert_parallel: int, world: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join(*_: Any) -> None:
        raise AssertionError("a process group was made")

    monkeypatch.setattr("moe_tasks.engines.group.join", join)
    for key, value in {**LAUNCHED, "WORLD_SIZE": str(world), "RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    config = EngineConfig("deepspeed", expert_parallel=expert_parallel)
    with pytest.raises(UserError, match=message):
        config.start("cpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"router": {"num_experts": 3}},
            "2 does not divide the 3 experts.*router.num_experts=4 or engine.expert_parallel=3",
        ),
        ({"systems": {"moe": {"router": {"num_experts": 5}}}}, "systems.moe: .*the 5 experts"),
        ({"selection": {"name": "softmax"}}, "selection.mode=merge merges all experts' weights"),
        ({"selection": {"name": "softmax", "mode": "mix"}}, "mode=mix computes every row with"),
        ({"training": {"expert_regularization": 0.1}}, "expert_regularization compares all"),
    ],
)
def test_systems_whose_experts_cannot_be_spread(overrides: dict[str, Any], message: str) -> None:
    values = {
        "name": "x", "seed": 1, "tasks": {"name": "synthetic"},
        "backbone": {"name": "pretrained", "path": "x"},
        "selection": {"name": "gumbel_st"}, "task_vectors": {"name": "learned"},
        "sampling": {"name": "uniform"}, "systems": {"moe": {}, "multitask": {"model": "dense"}},
        "router": {"num_experts": 4}, "engine": {"name": "deepspeed", "expert_parallel": 2},
    }  # fmt: skip
    RunConfig.parse(values)
    with pytest.raises(UserError, match=message):
        RunConfig.parse({**values, **overrides})


def test_one_process_is_the_default() -> None:
    config = EngineConfig()
    with config.start("cpu") as processes:
        assert processes.is_main
        assert processes.on_main(lambda: 3) == 3
        assert config.maker(processes) is LocalEngine
