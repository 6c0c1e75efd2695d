"""What tells the rows of a study apart: only what a system and its base depend on."""

from __future__ import annotations

from pathlib import Path

from analysis.study_runs import gather
from tests.analysis.designs import SCHEDULE, SYSTEMS, by_label, config, ratios
from tests.analysis.tables import write_scored


def test_each_setting_of_the_base_has_its_own_gains(tmp_path: Path) -> None:
    for steps, base in ((600, 0.4), (1200, 0.5)):
        for router in ("linear", "lstm"):
            means = {"multitask": (base,), "moe": (0.6,)}
            keys = config(router, training={"steps": steps, "router_learning_rate": steps / 10})
            write_scored(tmp_path / f"{router}{steps}", means, **keys)
    study = gather(tmp_path)
    assert ratios(study) == {
        "multitask: training.steps=1200": [],
        "multitask: training.steps=600": [],
        **{
            f"moe: router={router}, training.steps={steps}, router_learning_rate={rate}": [gain]
            for router in ("linear", "lstm")
            for steps, rate, gain in ((600, 60, 50), (1200, 120, 20))
        },
    }


def test_the_bases_own_keys(tmp_path: Path) -> None:
    for width, base in ((1, 0.4), (3, 0.5)):
        systems = {"multitask": {"model": "dense", "width": width}, "moe": {}}
        means = {"multitask": (base,), "moe": (0.6,)}
        write_scored(tmp_path / str(width), means, **config(systems=systems))
    assert ratios(gather(tmp_path)) == {
        "multitask: width=3": [],
        "multitask: width=1": [],
        "moe: multitask.width=1": [50],
        "moe: multitask.width=3": [20],
    }


def test_keys_that_follow_from_a_name_are_dropped_and_others_kept(tmp_path: Path) -> None:
    cold = {"name": "gumbel_st", "temperature_schedule": {**SCHEDULE, "start": 1}}
    for name, keys in {
        "a": config(),
        "b": config(selection="average"),
        "c": config(selection="gumbel_st") | {"selection": cold},
        "d": config("lstm"),
        "e": config("lstm") | {"router": {"name": "lstm", "num_experts": 5, "hidden_dim": 32}},
    }.items():
        write_scored(tmp_path / name, {"multitask": (0.5,), "moe": (0.5,)}, **keys)
    start = "temperature_schedule.start"
    assert set(ratios(gather(tmp_path))) == {
        "multitask",
        f"moe: router=linear, num_experts=3, selection=gumbel_st, {start}=2",
        "moe: router=linear, num_experts=3, selection=average",
        f"moe: router=linear, num_experts=3, selection=gumbel_st, {start}=1",
        f"moe: router=lstm, num_experts=3, selection=gumbel_st, {start}=2",
        f"moe: router=lstm, num_experts=5, selection=gumbel_st, {start}=2",
    }


def test_equal_settings_written_differently(tmp_path: Path) -> None:
    for seed, steps in ((1, 40), (2, 40.0)):
        keys = config(adaptation={"steps": steps, "workers": seed})
        write_scored(tmp_path / str(seed), {"multitask": (0.5,), "moe": (0.5,)}, seed=seed, **keys)
    keys = config(device="cpu", adaptation={"steps": 40, "early_stop": None, "freeze": []})
    write_scored(tmp_path / "3", {"multitask": (0.5,), "moe": (0.5,)}, seed=3, **keys)
    study = gather(tmp_path)
    assert {label: len(rows) for label, rows in by_label(study).items()} == {
        "multitask": 3, "moe": 3,
    }  # fmt: skip
    assert study.notes == []


def test_systems_with_their_own_choices(tmp_path: Path) -> None:
    """Many settings as systems of one run; a sweep splits only those that follow the run's."""
    gru = {"name": "gru", "hidden_dim": 16}
    systems = {
        **SYSTEMS,
        "moe_gru": {"router": gru},
        "moe_gru_warm": {"router": gru, "selection": {"exploration": 0.1}},
        "moe_stage2": {"routes_from": "moe_gru"},
        "moe_random": {"routes": "random"},
    }
    scores = {"multitask": (0.4,), "moe": (0.5,), **dict.fromkeys(list(systems)[2:], (0.6,))}
    for router in ("linear", "lstm"):
        write_scored(tmp_path / router, scores, **config(router, systems=systems))
    one = gather(tmp_path / "lstm")
    assert set(ratios(one)) == set(systems)
    assert one.notes == []
    swept = ratios(gather(tmp_path))
    assert swept == {
        "multitask": [], "moe: router=linear": [25], "moe: router=lstm": [25],
        "moe_gru": [50], "moe_gru_warm": [50], "moe_stage2": [50], "moe_random": [50],
    }  # fmt: skip


def test_a_systems_own_key_is_swept(tmp_path: Path) -> None:
    for experts in (3, 5):
        systems = {**SYSTEMS, "moe": {"router": {"num_experts": experts}}}
        scores = {"multitask": (0.4,), "moe": (0.5,)}
        write_scored(tmp_path / str(experts), scores, **config(systems=systems))
    assert set(ratios(gather(tmp_path))) == {
        "multitask",
        "moe: num_experts=3",
        "moe: num_experts=5",
    }


def test_own_choices_take_the_runs_other_keys(tmp_path: Path) -> None:
    """A system with its own router has the run's number of experts, but no other selection's."""
    systems = {
        **SYSTEMS,
        "gru": {"router": {"name": "gru"}},
        "soft": {"selection": {"name": "softmax"}},
    }
    scores = dict.fromkeys(systems, (0.5,))
    for experts, exploration in ((3, 0.0), (5, 0.1)):
        keys = config(systems=systems)
        keys["router"] = {**keys["router"], "num_experts": experts}
        keys["selection"] = {**keys["selection"], "exploration": exploration}
        write_scored(tmp_path / str(experts), scores, **keys)
    assert set(ratios(gather(tmp_path))) == {
        "multitask",
        *(f"{name}: num_experts={m}, selection.exploration={e}"
          for name in ("moe", "gru") for m, e in ((3, "0"), (5, "0.1"))),
        "soft: num_experts=3", "soft: num_experts=5",
    }  # fmt: skip


def test_second_stage_depends_on_the_first(tmp_path: Path) -> None:
    stage2 = {"routes_from": "moe", "selection": {"name": "softmax"}}
    for router in ("linear", "lstm"):
        for selection in ("gumbel_st", "average"):
            keys = config(router, selection, systems={**SYSTEMS, "stage2": stage2})
            scores = {"multitask": (0.5,), "moe": (0.5,), "stage2": (0.6,)}
            write_scored(tmp_path / f"{router}-{selection}", scores, **keys)
    assert {label for label in ratios(gather(tmp_path)) if label.startswith("stage2")} == {
        f"stage2: router={router}, moe.selection={selection}"
        for router in ("linear", "lstm")
        for selection in ("gumbel_st", "average")
    }
