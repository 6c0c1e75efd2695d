"""What cannot work is refused before any process waits for another."""

from __future__ import annotations

from typing import Any

import pytest

from moe_tasks.config import from_mapping
from moe_tasks.engines.config import EngineConfig, check_launch
from moe_tasks.engines.local import LocalEngine
from moe_tasks.errors import UserError

LAUNCHED = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero_stage": 3}, "engine: 'zero_stage' is 3; it must be 0, 1 or 2 .*experts' weights"),
        ({"zero_stage": -1}, "'zero_stage' is -1"),
        ({"expert_parallel": 2}, "'expert_parallel' is 2.*leave it at 1"),
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


def test_one_process_is_the_default() -> None:
    config = EngineConfig()
    with config.start("cpu") as processes:
        assert processes.is_main
        assert processes.on_main(lambda: 3) == 3
        assert config.maker(processes) is LocalEngine
