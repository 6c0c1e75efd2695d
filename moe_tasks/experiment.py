"""One run from configuration to answer: initial weights, training, adaptation, results."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from moe_tasks import config as configuration
from moe_tasks import encoder_results, results
from moe_tasks.adaptation import Cell, PointResult
from moe_tasks.backbones import BackboneContext, load_dense
from moe_tasks.conditional.batches import UncertainBatches
from moe_tasks.conditional.build import (
    arrangement,
    build_conditional,
    build_encoder,
    check_conditional,
)
from moe_tasks.conditional.labels import head_configs, is_choice
from moe_tasks.conditional.model import CAMTL
from moe_tasks.data import training_rows, training_texts
from moe_tasks.engines.processes import Processes
from moe_tasks.errors import UserError
from moe_tasks.evaluation.cells import evaluate_unseen
from moe_tasks.grid import run_grid
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.run_config import RunConfig
from moe_tasks.systems import SystemConfig, build_system
from moe_tasks.tasks.uncertainty_sampling import UncertaintySampling
from moe_tasks.training.callbacks import Callback, CollapseWarning, JsonLines
from moe_tasks.training.data import Batches, TrainBatches
from moe_tasks.training.files import write_text
from moe_tasks.training.lock import RunLock
from moe_tasks.training.loss import target_tokens
from moe_tasks.training.progress import GridProgress, ProgressDisplay
from moe_tasks.training.snapshots import RouteSnapshots
from moe_tasks.training.trainer import Trainer
from moe_tasks.training.wandb_log import WandbLog
from moe_tasks.workspace import Workspace


def run(folder: Path, values: Mapping[str, Any], *, resume: bool) -> None:
    """Everything that ``python -m moe_tasks.train`` does, in ``folder``.

    Args:
        values: the resolved configuration, without ``run_dir`` and ``resume``.
        resume: whether to go on with what the folder holds.

    Raises:
        UserError: any mistake of the user's.
        Interrupted: a signal came; what was done is kept.
    """
    workspace = Workspace(folder, RunConfig.parse(values))
    _ = workspace.collection  # mistakes in the tasks show before anything is written
    with workspace.config.engine.start(workspace.device.type) as processes:
        processes.require_same("run_dir", str(folder.resolve()))
        with RunLock(folder) if processes.is_main else nullcontext():
            processes.on_main(lambda: _prepare(workspace, values, resume))
            for name, system in workspace.config.systems.items():
                if system.train:
                    _train(workspace, name, system, resume, processes)
            _conclude(workspace, processes)


def _prepare(workspace: Workspace, values: Mapping[str, Any], resume: bool) -> None:
    workspace.claim(values, resume)
    _report_skipped(workspace)
    if workspace.config.num_threads is not None:
        torch.set_num_threads(workspace.config.num_threads)
    prepare_backbones(workspace, resume)
    if workspace.is_encoder and workspace.config.adapts:
        raise UserError(
            "encoders with heads know no unseen tasks: set adaptation.samples=0 and zeroshot=null"
        )
    chosen = [t for t in workspace.collection.tasks if is_choice(workspace.collection, t)]
    if chosen and not workspace.is_encoder:
        raise UserError(
            f"tasks.pairs=true cuts {', '.join(chosen)} into rows for encoders with heads; set it "
            "to false for a sequence-to-sequence backbone"
        )
    _report_truncated(workspace)
    for name, system in workspace.config.systems.items():
        _check_conditional(workspace, name, system)
        if system.model == "moe":
            workspace.vectors(name)  # what is wrong with any shows before the first training


def _check_conditional(workspace: Workspace, name: str, system: SystemConfig) -> None:
    if not system.conditional and system.freeze_layers is None:
        return
    try:
        dense = load_dense(workspace.initial_folder(system.width))
        check_conditional(system, dense, workspace.is_encoder)
    except UserError as error:
        raise UserError(f"systems.{name}: {error}") from error


def _conclude(workspace: Workspace, processes: Processes) -> None:
    if workspace.is_encoder:
        processes.on_main(lambda: encoder_results.write(workspace))
        return
    results.write_training(workspace, processes)
    if workspace.config.zeroshot is not None:
        evaluate_unseen(workspace, workspace.config.zeroshot, processes)
    if workspace.config.adaptation.samples != 0:
        points = _adapt(workspace, processes)
        processes.on_main(lambda: results.write(workspace, points))


def _report_skipped(workspace: Workspace) -> None:
    """Say what reading the tasks left out; the whole list goes into ``skipped.txt``."""
    remarks = workspace.collection.skipped
    if remarks:
        file = workspace.folder / "skipped.txt"
        write_text(file, "".join(f"{line}\n" for line in remarks))
        bad = [line for line in remarks if not line.startswith("note: ")]
        shown = "".join(f"  {line}\n" for line in remarks[:5])
        print(
            f"{len(bad)} bad rows skipped, {len(remarks) - len(bad)} notes ({file}):\n{shown}",
            file=sys.stderr,
        )


def _report_truncated(workspace: Workspace) -> None:
    data = workspace.data
    if data.tokens.truncated:
        print(
            f"{data.tokens.truncated} of {len(data.tokens)} rows are longer than data.max_source="
            f"{data.config.max_source} or data.max_target={data.config.max_target} and were cut",
            file=sys.stderr,
        )


def prepare_backbones(workspace: Workspace, resume: bool) -> None:
    """Make the initial dense models of all widths that the run's systems need."""
    texts = training_texts(workspace.collection)
    for width in sorted({1, *(s.width for s in workspace.config.systems.values())}):
        folder = workspace.initial_folder(width)
        if (folder / "config.json").exists():
            continue
        backbone = workspace.backbone if width == 1 else workspace.backbone.widened(width)
        context = BackboneContext(
            texts=texts,
            seed=workspace.config.seed,
            device=workspace.device,
            folder=workspace.folder,
            system=folder.name.replace("initial", "pretraining"),
            callbacks=_callbacks(workspace, None),
            resume=resume,
        )
        aside = folder.with_name(f".tmp-{folder.name}")
        backbone.prepare(aside, context)
        aside.rename(folder)


def _train(
    workspace: Workspace, name: str, system: SystemConfig, resume: bool, processes: Processes
) -> None:
    config = workspace.config
    model = _build(workspace, name, system).to(workspace.device)
    Trainer(
        model,
        workspace.training(name),
        _batches(workspace, name, model),
        workspace.folder,
        system=name,
        evaluate=HeldOutLoss(workspace, name),
        callbacks=_callbacks(workspace, name),
        seed=config.seed,
        engine=config.engine.maker(processes),
    ).fit(resume=resume)


def _build(workspace: Workspace, name: str, system: SystemConfig) -> MultiTaskModel:
    dense = load_dense(workspace.initial_folder(system.width))
    tasks, seed = workspace.tasks_of(name), workspace.config.seed
    categories = workspace.data.categories(tasks)
    parts = workspace.routing_parts(name) if system.model == "moe" else None
    if not workspace.is_encoder:
        conditional = arrangement(system.conditional).conditional
        build = build_conditional if conditional else build_system
        return build(system, dense, tasks, categories, parts, seed)
    config = workspace.config.heads
    pools = workspace.training_pools(name) if config.standardize else None
    heads = head_configs(workspace.collection, tasks, pools)
    return build_encoder(system, dense, heads, categories, parts, config, seed)


def _batches(workspace: Workspace, name: str, model: MultiTaskModel) -> Batches:
    data, seed = workspace.data, workspace.config.seed
    pools = workspace.training_pools(name)
    sampling = configuration.part("sampling", workspace.config.sampling_of(name))
    special = (data.pad_token_id, data.sep_token_id)
    if not (isinstance(sampling, UncertaintySampling) and isinstance(model, CAMTL)):
        return TrainBatches(sampling.build(pools, seed), data.rows, model.task_names, *special)
    candidates = sampling.candidates(pools, seed)
    batches = TrainBatches(candidates, data.rows, model.task_names, *special)
    cast = workspace.training(name).precision == "bf16"
    return UncertainBatches(batches, model, sampling, cast=cast)


class HeldOutLoss:
    """What training is watched by: losses in nats per token, mean over tasks of the mean over rows.

    ``loss`` is that of dev rows of the training tasks; ``dev_tasks`` that of tasks never trained
    on, each with the route that adaptation would start from. A piece per task.
    """

    def __init__(self, workspace: Workspace, system: str) -> None:
        self.workspace, self.system, self.data = workspace, system, workspace.data
        collection, count = self.data.collection, workspace.config.dev_rows
        self.rows = {
            task: training_rows(collection, task, "dev")[:count]
            for task in workspace.tasks_of(system)
        }
        cells = [Cell("", *pair) for pair in self.data.unseen_cells("dev", 1)]
        self.unseen = {
            cell: list(collection.slice(cell.task, "dev", cell.sample))[:count] for cell in cells
        }

        self.pieces = len(self.rows) + len(self.unseen)

    def piece(self, model: Any, number: int) -> float:
        """Loss of one training task, or of one unseen sample after those."""
        if number < len(self.rows):
            return self._loss(model, list(self.rows.values())[number], number)
        cell, rows = list(self.unseen.items())[number - len(self.rows)]
        adapter = self.workspace.adapter(self.system, model)
        return self._loss(adapter.place(cell)[0], rows, 0)

    def figures(self, results: Sequence[float]) -> dict[str, float]:
        seen, unseen = results[: len(self.rows)], results[len(self.rows) :]
        figures = {"loss": sum(seen) / len(seen)}
        return {**figures, "dev_tasks": sum(unseen) / len(unseen)} if unseen else figures

    def _loss(self, model: Any, rows: list[int], task_id: int) -> float:
        batch = self.data.collate(rows, self.workspace.device)
        ids = torch.full((len(rows),), task_id)
        total = model.eval().loss({**batch, "task_ids": ids})
        return float(total) / target_tokens(batch["labels"])


def _callbacks(workspace: Workspace, system: str | None) -> list[Callback]:
    logging_config = workspace.config.logging
    callbacks: list[Callback] = [JsonLines(workspace.folder / "train.jsonl")]
    if logging_config.progress:
        callbacks.append(ProgressDisplay())
    if system is None:
        return callbacks
    path = workspace.folder / ("routes.parquet" if system == "moe" else f"routes/{system}.parquet")
    callbacks += [CollapseWarning(), RouteSnapshots(path, workspace.collection.tasks)]
    if logging_config.wandb != "disabled":
        callbacks.append(WandbLog(workspace.folder, logging_config.wandb, logging_config.project))
    return callbacks


def _adapt(workspace: Workspace, processes: Processes) -> Sequence[PointResult]:
    shown = workspace.config.logging.progress and processes.is_main
    with GridProgress(shown) as progress:
        return run_grid(workspace, progress.update, processes)
