"""What the runs of a study differ in besides their seeds: the settings that rows stand for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from moe_tasks.config import override

Config = Mapping[str, Any]
Setting = tuple[tuple[str, str], ...]  # (key in short words, value), as config.yaml orders them
_Values = dict[str, str]  # dotted key -> value, without null and empty ones

# Keys that say where, how fast and with which seed: never what is compared.
_NO_SETTING = re.compile(
    r"^(name|resume|device|tasks\.split|logging\..*)$"
    r"|(^|\.)(seed|run_dir|num_threads|workers|cache_dir|log_every|save_every|keep)$"
)
# Keys that a model without experts does not read.
_OF_EXPERTS = re.compile(r"route|expert|selection|task_vectors|alternate_every")
# Groups that a system with these routes does not read (but for the number of experts).
_UNUSED = {
    **dict.fromkeys(("random", "category", "average"), ("router.", "selection.", "task_vectors.")),
    "untrained": ("selection.",),
}


def flattened(config: Config, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, dict)
        flat |= flattened(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def value_text(config: Config, key: str) -> str:
    """The value of a dotted key, ``?`` where there is none."""
    value = flattened(config).get(key)
    return "?" if value is None else str(value)


def group_text(config: Config, by: Collection[str]) -> str:
    """``key=value`` of the keys whose values go to separate tables."""
    return ", ".join(f"{key.removesuffix('.name')}={value_text(config, key)}" for key in by)


def whole_setting(config: Config) -> frozenset[tuple[str, str]]:
    """Everything that a run's results can depend on, but for seed and split."""
    return frozenset(_compared(flattened(config)).items())


def find_settings(
    configs: Mapping[str, Config],
    systems: Mapping[str, Collection[str]],
    base: str | None,
    by: Collection[str] = (),
) -> tuple[dict[tuple[str, str], Setting], dict[str, frozenset[tuple[str, str]]]]:
    """The settings of all systems, and what of each run its base depends on.

    A system's setting has the keys that it depends on and in which its runs differ; likewise
    those of ``base``, so that each setting has one base. Left out are keys of ``by`` and those
    that follow from the name of their group (a schedule that only one selection has).

    Args:
        configs: run -> configuration.
        systems: system -> runs that have its scores.
        base: a system, or None where all settings are compared with one row.

    Returns:
        (run, system) -> setting, and run -> values of the keys in which the base's runs differ.
        Runs that agree in the latter (and in seed and split) share a base.
    """
    of_base: dict[str, _Values] = {run: {} for run in configs}
    if base is not None:
        values = {run: _relevant(config, base) for run, config in configs.items()}
        differing = _differing({run: values[run] for run in systems[base]})
        of_base = {run: {k: v[k] for k in differing if k in v} for run, v in values.items()}
    known = {k for c in configs.values() for k in flattened(c) if not k.startswith("systems.")}
    found: dict[tuple[str, str], Setting] = {}
    for system, runs in systems.items():
        values = {run: _relevant(configs[run], system) for run in runs}
        for run, mine in values.items():
            mine |= _unlike(mine, of_base[run], str(base))
        keys = [key for key in _differing(values) if key not in by]
        words = {key: _words(key, system, known) for key in keys}
        for run in runs:
            chosen = ((words[key], values[run].get(key)) for key in keys)
            found[run, system] = tuple((word, v) for word, v in chosen if v is not None)
    return found, {run: frozenset(values.items()) for run, values in of_base.items()}


def _relevant(config: Config, system: str) -> _Values:
    """What the results of ``system`` can depend on, with its own choices instead of the run's."""
    shared = {key: value for key, value in config.items() if key != "systems"}
    systems = _mapping(config.get("systems"))
    own = _mapping(systems.get(system))
    for group in [g for g in own if isinstance(own[g], dict) and isinstance(shared.get(g), dict)]:
        changes = own.pop(group)
        # All routers have the same keys; those of another selection mean nothing to this one.
        either = {**shared[group], **changes}
        shared[group] = either if group == "router" else override(shared[group], changes)
    flat = flattened(shared)
    if own.get("model") == "dense":
        flat = {key: value for key, value in flat.items() if not _OF_EXPERTS.search(key)}
    unused = _UNUSED.get(str(own.get("routes")), ())
    flat = {k: v for k, v in flat.items() if not k.startswith(unused) or k == "router.num_experts"}
    mine = _compared(flat | flattened(own, f"systems.{system}."))
    source = own.get("routes_from")
    if source is None:
        return mine
    earlier = {name: values for name, values in systems.items() if name != system}
    return _of_second_stage(mine, _relevant({**config, "systems": earlier}, source), source)


def _of_second_stage(mine: _Values, first: _Values, source: str) -> _Values:
    """It has the router and task vectors of its first stage, and depends on all of that."""
    taken = ("router.", "task_vectors.")
    mine = {key: value for key, value in mine.items() if not key.startswith(taken)}
    mine |= {key: value for key, value in first.items() if key.startswith(taken)}
    return mine | _unlike(mine, first, source)


def _unlike(mine: _Values, others: _Values, owner: str) -> _Values:
    """What the system ``owner`` has otherwise, under keys of its own."""
    return {
        key if key.startswith("systems.") else f"systems.{owner}.{key}": value
        for key, value in others.items()
        if mine.get(key) != value
    }


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _compared(flat: Mapping[str, Any]) -> _Values:
    unset = (None, [])
    kept = {k: v for k, v in flat.items() if v not in unset and not _NO_SETTING.search(k)}
    # 2 and 2.0 are one value.
    return {k: str(v).removesuffix(".0") if type(v) is float else str(v) for k, v in kept.items()}


def _differing(runs: Mapping[str, _Values]) -> list[str]:
    """Keys in which the runs differ, without those that follow from their group's name."""
    keys = dict.fromkeys(key for values in runs.values() for key in values)
    found = [key for key in keys if len({values.get(key) for values in runs.values()}) > 1]
    return [key for key in found if not _follows(key, found, runs)]


def _follows(key: str, differing: Collection[str], runs: Mapping[str, _Values]) -> bool:
    """Whether the name of the part that ``key`` belongs to says its value, too."""
    for name in differing:
        if name.endswith(".name") and name != key and key.startswith(name.removesuffix("name")):
            pairs = {(values.get(name), values.get(key)) for values in runs.values()}
            if len(pairs) == len({values.get(name) for values in runs.values()}):
                return True
    return False


def _words(key: str, system: str, known: Collection[str]) -> str:
    """A key as short as is clear: ``router`` for its name, ``num_experts``, ``training.steps``."""
    key = key.removeprefix(f"systems.{system}.")
    if key.startswith("systems.") or key.endswith(".name"):
        return key.removeprefix("systems.").removesuffix(".name")
    parts = key.split(".")
    for start in reversed(range(len(parts))):
        short = ".".join(parts[start:])
        same = sum(other == short or other.endswith(f".{short}") for other in known)
        if same <= 1 and ("_" in short or "." in short):
            return short
    return key
