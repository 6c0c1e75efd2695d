"""The one checkpoint format, safe against a kill at any moment and against damaged files.

A checkpoint is a folder ``step-000600`` with what the model's ``save`` writes and

* ``trainer.safetensors``: optimizer state by parameter name, state of the random generators;
* ``trainer.json``: everything else that continues a run (step, sampler, best metric, ...);
* ``manifest.json``: SHA-256 and size of every file, and of itself.

It is written under another name, brought to the disk, then renamed. ``last.json`` and
``best.json`` point to checkpoints for readers; resuming trusts only what the checksums confirm.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from moe_tasks.errors import UserError
from moe_tasks.training.files import digest, sync, write_text

logger = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "trainer.safetensors", "trainer.json", "manifest.json"
_FOLDER = re.compile(r"step-(\d{6,})")
_ASIDE = (".tmp-", ".damaged-")
_REPLACED = ".replaced-"


class Damaged(Exception):
    """A checkpoint does not hold what was written; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder."""

    path: Path
    step: int

    def state(self) -> dict[str, Any]:
        """Contents of ``trainer.json``."""
        return json.loads((self.path / STATE).read_text(encoding="utf-8"))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Contents of ``trainer.safetensors``, on the CPU."""
        return load_file(self.path / TENSORS)


class CheckpointStore:
    """The checkpoints of one system in one folder.

    Args:
        folder: usually ``<run>/checkpoints/<system>``; made by the first ``save``.
        keep: how many of the newest stay, beside the best one.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies or would lie."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, whole or damaged, in order."""
        if not self.folder.is_dir():
            return []
        matches = (_FOLDER.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save(
        self,
        step: int,
        write_model: Callable[[Path], None],
        tensors: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
        *,
        best_step: int | None,
    ) -> Path:
        """Write the checkpoint of ``step``, point to it, and remove old ones.

        Args:
            write_model: writes the model's files into an existing empty folder.
            best_step: checkpoint that ``best.json`` points to and that is never removed.

        Raises:
            UserError: it could not be written; the earlier checkpoints are as they were.
        """
        path = self.path(step)
        aside = self.folder / f".tmp-{path.name}-{os.getpid()}"
        try:
            self._remove_leftovers()
            aside.mkdir(parents=True)
            write_model(aside)
            save_file({name: t.contiguous().cpu() for name, t in tensors.items()}, aside / TENSORS)
            (aside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
            (aside / MANIFEST).write_text(_manifest(aside), encoding="utf-8")
            self._publish(aside, path)
            self._point("last", step)
            if best_step is not None:
                self._point("best", best_step)
            self._prune(best_step)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise UserError(self._failure(path, error)) from error
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return path

    def verify(self, step: int) -> Checkpoint:
        """The checkpoint of ``step`` after comparing every byte with its manifest.

        Raises:
            Damaged: naming the first file that is missing, cut or changed.
        """
        path = self.path(step)
        for name, expected in _read_manifest(path / MANIFEST).items():
            file = path / name
            if not file.is_file():
                raise Damaged(f"{file} is missing")
            if file.stat().st_size != expected["size"]:
                raise Damaged(f"{file} has {file.stat().st_size} bytes, not {expected['size']}")
            if digest(file) != expected["sha256"]:
                raise Damaged(f"{file} has changed since it was written (checksum differs)")
        return Checkpoint(path, step)

    def find_resumable(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None when there is none at all.

        Damaged newer ones are named in a warning and put aside; remains of interrupted saves are
        removed.

        Raises:
            UserError: there are checkpoints, but all are damaged.
        """
        damage: list[tuple[int, str]] = []
        try:
            self._remove_leftovers()
            for step in reversed(self.steps()):
                try:
                    found = self.verify(step)
                except Damaged as error:
                    damage.append((step, str(error)))
                    continue
                self._put_aside(damage, found)
                return found
        except OSError as error:
            raise UserError(f"cannot read checkpoints in {self.folder}: {error}") from error
        if damage:
            raise UserError(
                f"no intact checkpoint: {'; '.join(text for _, text in damage)}. "
                f"Remove {self.folder} to train from the start"
            )
        return None

    def best(self) -> Checkpoint | None:
        """The verified checkpoint that ``best.json`` points to, or None when there is none.

        Raises:
            UserError: the pointer or the checkpoint is damaged.
        """
        pointer = self.folder / "best.json"
        try:
            step = int(json.loads(pointer.read_text(encoding="utf-8"))["step"])
            return self.verify(step)
        except FileNotFoundError:
            return None
        except Damaged as error:
            raise UserError(f"the best checkpoint is damaged: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{pointer} is damaged: {error}") from error

    def _publish(self, aside: Path, path: Path) -> None:
        for entry in sorted(aside.rglob("*")):
            sync(entry)
        sync(aside)
        if path.exists():
            # The same step saved again, with more work done at it; see _remove_leftovers.
            os.replace(path, self.folder / f"{_REPLACED}{path.name}")
        os.replace(aside, path)
        sync(self.folder)

    def _point(self, name: str, step: int) -> None:
        text = json.dumps({"checkpoint": self.path(step).name, "step": step}) + "\n"
        write_text(self.folder / f"{name}.json", text)

    def _prune(self, best_step: int | None) -> None:
        steps = self.steps()
        for step in steps[: -self.keep]:
            if step != best_step:
                # Renamed first, so that a kill half-way leaves no half checkpoint behind.
                os.replace(self.path(step), self.folder / f".tmp-old-{self.path(step).name}")
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        if not self.folder.is_dir():
            return
        for entry in self.folder.iterdir():
            replaced = entry.name.removeprefix(_REPLACED)
            if replaced != entry.name and not (self.folder / replaced).exists():
                # Killed between the two renames: the older of the two is still whole.
                os.replace(entry, self.folder / replaced)
            elif entry.name.startswith((_REPLACED, *_ASIDE)):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    def _put_aside(self, damage: list[tuple[int, str]], found: Checkpoint) -> None:
        for step, text in damage:
            logger.warning("%s; continuing from %s instead", text, found.path.name)
            # Kept until the next save for whoever wants to look at it.
            with contextlib.suppress(OSError):
                os.replace(self.path(step), self.folder / f".damaged-{self.path(step).name}")

    def _failure(self, path: Path, error: Exception) -> str:
        kept = [self.path(step).name for step in self.steps() if self.path(step) != path]
        kept_text = f"{kept[-1]} is intact" if kept else "there is no earlier one"
        reason = getattr(error, "strerror", None) or str(error)
        return f"cannot write checkpoint {path}: {reason}; {kept_text}"


def _manifest(folder: Path) -> str:
    files = {
        file.relative_to(folder).as_posix(): {
            "sha256": digest(file),
            "size": file.stat().st_size,
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    return _manifest_text(files)


def _manifest_text(files: Mapping[str, Any]) -> str:
    listing = json.dumps(files, sort_keys=True)
    own = sha256(listing.encode()).hexdigest()
    return json.dumps({"files": files, "sha256": own}, sort_keys=True, indent=1) + "\n"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
        files = json.loads(text)["files"]
        if text == _manifest_text(files) and {TENSORS, STATE} <= set(files):
            return files
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise Damaged(f"{path} is cut or has changed")
