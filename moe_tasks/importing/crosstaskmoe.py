"""Checkpoints of the published code of 2205.12701 (github.com/INK-USC/CrossTaskMoE).

A folder holds ``config.json``, ``best/model.pt`` (weights), ``best/id2task.json`` (task names) and
``best/task_vecs.npy``: ``[tasks, router_input_dim]``, or, for the baseline of random routes per
task, the routes themselves, ``[tasks, layers * experts]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moe_tasks import registry
from moe_tasks.errors import UserError
from moe_tasks.importing.crosstaskmoe_config import PublishedConfig, plain_bart, read_config
from moe_tasks.importing.files import check_state, read_state_dict, read_table, some
from moe_tasks.model import TaskMoE
from moe_tasks.tasks.reading import check_task_name, existing_folder, read_json
from moe_tasks.training.files import new_folder

_LAYER = re.compile(r"model\.(?P<layer>(?:en|de)coder\.layers\.\d+)\.(?P<leaf>.+)\.(?P<name>\w+)")
_SHARED = "model.shared.weight"
_TIED = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")


def import_crosstaskmoe(
    folder: str | Path, out: str | Path, router_mode: str | None = None
) -> Path:
    """Write our saved model, which ``TaskMoE.load`` reads, of a published checkpoint folder.

    The temperature at which training stopped is not in the folder: gumbel modes get the published
    end, 0.1, and softmax 1.0, both constant; ``TaskMoE.use_selection`` sets another. Routes of the
    random-per-task baseline become fixed routes.

    Args:
        folder: holds ``config.json`` and ``best/``.
        out: a new or empty folder, which appears whole or not at all.
        router_mode: ``softmax``, ``gumbel_softmax`` or ``gumbel_softmax_st`` instead of what
            ``config.json`` says. The published training reads it from its command line, and the
            file mostly has the default, softmax.

    Returns:
        ``out``.

    Raises:
        UserError: a file is missing or damaged, or names, shapes or numbers do not fit together;
            names the file and the keys.
    """
    root = existing_folder(folder)
    config, values, shapes = read_config(root / "config.json", router_mode)
    tasks = _read_tasks(root / "best" / "id2task.json")
    vectors, routes = _read_vectors(root / "best" / "task_vecs.npy", len(tasks), config)
    state = _read_weights(root / "best" / "model.pt", config, shapes)
    with new_folder(out) as aside:
        model = TaskMoE(plain_bart(values), tasks, config.spec(), task_vectors=vectors)
        own = {"task_vectors": model.task_vectors, "step": model.step}
        model.load_state_dict({**state, **own}, strict=True)
        if routes is not None:
            routed = [config.layers().index(name) for name in model.layer_names]
            model.fix_routes(routes[:, routed])
        model.save(aside)
    return Path(out)


def _read_tasks(path: Path) -> list[str]:
    names = read_json(path)
    if not isinstance(names, dict) or not names:
        raise UserError(f'{path}: expected {{"0": "<task>", "1": "<task>", ...}}')
    ids = [str(number) for number in range(len(names))]
    odd = [key for key in names if key not in set(ids)]
    if odd:
        raise UserError(
            f"{path}: {len(names)} tasks need the ids 0 to {len(names) - 1}; unknown {some(odd)}, "
            f"missing {some(key for key in ids if key not in names)}"
        )
    tasks = [names[key] for key in ids]
    for key, task in zip(ids, tasks, strict=True):
        if not isinstance(task, str):
            raise UserError(f"{path}: id {key}: {task!r} is no task name")
        check_task_name(task, path)
    twice = [task for task in dict.fromkeys(tasks) if tasks.count(task) > 1]
    if twice:
        raise UserError(f"{path}: more than one id for {some(twice)}")
    return tasks


def _read_vectors(
    path: Path, num_tasks: int, config: PublishedConfig
) -> tuple[Tensor, Tensor | None]:
    """Task vectors ``[tasks, task_dim]``, and routes ``[tasks, layers, experts]`` if fixed."""
    table = read_table(path)
    num_rows, width = table.shape
    if num_rows != num_tasks:
        raise UserError(f"{path}: {num_rows} rows, but id2task.json names {num_tasks} tasks")
    routes = _as_routes(table, config)
    if width == config.router_input_dim and routes is None:
        return table, None
    if width == config.router_input_dim:
        raise UserError(
            f"{path}: holds routes, and rows as wide as 'router_input_dim' ({width}) in "
            "config.json: task vectors of a router cannot be told from fixed random routes"
        )
    if routes is None:
        raise UserError(
            f"{path}: task vectors of width {width}, but 'router_input_dim' in config.json is "
            f"{config.router_input_dim} (and they are no routes, {len(config.layers())} layers x "
            f"{config.router_block_num} experts)"
        )
    return table.new_zeros(num_tasks, config.router_input_dim), routes


def _as_routes(table: Tensor, config: PublishedConfig) -> Tensor | None:
    """Routes ``[tasks, layers, experts]``, equal parts of n experts, if that is what they are."""
    sizes = (len(config.layers()), config.router_block_num)
    if table.shape[1] != sizes[0] * sizes[1]:
        return None
    routes = table.unflatten(-1, sizes)
    used = routes > 0
    equal = used / used.sum(-1, keepdim=True).clamp_min(1)
    return equal if used.any(-1).all() and torch.allclose(routes, equal, atol=1e-6) else None


def _read_weights(
    path: Path, config: PublishedConfig, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """The weights under our names, float32.

    Args:
        shapes: of the plain model's weights.
    """
    state = read_state_dict(path)
    ours, expected = {}, {}
    for published, name, shape in [*_backbone_names(config, shapes), *_router_names(config)]:
        ours[published], expected[published] = name, shape
    check_state(path, state, expected)
    untied = [name for name in _TIED if not torch.equal(state[name], state[_SHARED])]
    if untied:
        raise UserError(f"{path}: {some(untied)} should equal {_SHARED}: they are one matrix")
    return {ours[name]: tensor.float() for name, tensor in state.items()}


def _backbone_names(
    config: PublishedConfig, shapes: Mapping[str, torch.Size]
) -> list[tuple[str, str, torch.Size]]:
    """Published name, our name and shape of every weight outside the router."""
    whole = {name.replace(".", ".layers.") for name in config.layers_without_experts()}
    names = []
    for plain, shape in shapes.items():
        match = _LAYER.fullmatch(plain)
        if match is None or match["layer"] in whole:
            names.append((plain, f"backbone.{plain}", shape))
            continue
        layer, leaf, name = match["layer"], match["leaf"], match["name"]
        for e in range(config.router_block_num):
            published = f"model.{layer}.blocks.{e}.{leaf}.{name}"
            names.append((published, f"backbone.model.{layer}.{leaf}.experts.{e}.{name}", shape))
    return names


def _router_names(config: PublishedConfig) -> list[tuple[str, str, torch.Size]]:
    """Published name, our name and shape of every weight of the router."""
    cls = registry.lookup("router", config.router_nn_type)
    sizes = (config.router_input_dim, len(config.layers()), config.router_block_num)
    with torch.device("meta"):
        router = cls(*sizes, config.router_hidden_dim)
    return [
        (f"router.model.{_router_name(name, config.router_nn_type)}", f"router.{name}", w.shape)
        for name, w in router.state_dict().items()
    ]


def _router_name(ours: str, router: str) -> str:
    part, rest = ours.split(".", 1)
    if part in ("mlp", "mlps"):
        *unit, place, name = rest.split(".")
        linear = f"linear{1 + int(place) // 2}.{name}"  # an activation lies between the two
        return ".".join(["router_units", *unit, linear] if unit else [linear])
    sequence = "transformer" if router.startswith("transformer") else "rnn"
    names = {"projections": "layer_specific_proj", "places": "pos_embed", "head": "proj"}
    return f"{names.get(part, sequence)}.{rest}"
