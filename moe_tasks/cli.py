"""What all Hydra entry points share: where conf lies, and one clear message for a mistake."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moe_tasks.errors import UserError, nearest
from moe_tasks.runtime import keep_freed_memory

EXIT_MISTAKE = 2
_OTHERS_FIRST_SECONDS = 15.0


def conf_dir() -> Path:
    """The configuration folder: beside the packages in a checkout, inside ours when installed."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def main(
    job: Callable[[Path, dict[str, Any]], None],
    config_name: str = "config",
    after_sweep: Callable[[Path], object] | None = None,
) -> None:
    """Compose the configuration from the command line and call ``job(folder, values)``.

    After a multirun, ``after_sweep`` gets the folder above the jobs' folders. Exits with 2 and one
    message on a user's mistake, with 130 or 143 when stopped by a signal.
    """
    keep_freed_memory()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's printer
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    outcome = _Outcome()
    SweepFolder.path = None

    def task(config: DictConfig) -> None:
        folder = outcome.enter(HydraConfig.get())
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        values.pop("run_dir", None)
        try:
            job(folder, {str(k): v for k, v in values.items()})
        except UserError as error:
            # Hydra would print its own report; the other jobs of a sweep go on.
            _report(str(error))
            outcome.failed.append(folder)
            _remove_if_empty(folder)
            if os.getpid() != outcome.pid:
                raise  # a launcher's other process, which can tell this one nothing else
        except Exception as error:
            if _exit_code(error) is None or outcome.run_dir != outcome.folder:
                raise  # a signal ends a whole sweep
            outcome.stopped = error

    try:
        hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        _report(_explain(error))
        _remove_if_empty(outcome.folder)
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        outcome.stop(130, "stopped")
    except UserError:
        outcome.failed.append(Path())  # in another process, which said why
    except Exception as error:
        if _exit_code(error) is None:
            raise
        outcome.stopped = error
    if outcome.stopped is not None:
        outcome.stop(_exit_code(outcome.stopped) or 1, str(outcome.stopped))
    if after_sweep is not None and SweepFolder.path is not None:
        after_sweep(SweepFolder.path)
    if outcome.failed:
        sys.exit(EXIT_MISTAKE)


def _exit_code(error: Exception) -> int | None:
    """Of ``training.signals.Interrupted``, which would cost the import of torch here."""
    return getattr(error, "exit_code", None)


class SweepFolder(Callback):
    """Hydra's callback (``conf/config.yaml``): which folder a multirun fills, which the process
    that was started learns in no other way when a launcher's processes do the jobs."""

    path: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with contextlib.suppress(OmegaConfBaseException):  # a mistake that Hydra reports itself
            SweepFolder.path = Path(config.hydra.sweep.dir)


@dataclass
class _Outcome:
    pid: int = field(default_factory=os.getpid)
    folder: Path = Path()
    run_dir: Path = Path()  # what to give to continue: in a sweep the folder above the job's
    failed: list[Path] = field(default_factory=list)
    stopped: Exception | None = None

    def enter(self, config: Any) -> Path:
        """The folder of the job that starts now."""
        folder = Path(os.path.relpath(config.runtime.output_dir))
        self.folder = folder if ".." not in folder.parts else folder.resolve()
        self.run_dir = self.folder if config.mode == RunMode.RUN else self.folder.parent
        return self.folder

    def stop(self, code: int, message: str) -> None:
        print(f"\n{message}\ncontinue with: {_continue_command(self.run_dir)}", file=sys.stderr)
        sys.exit(code)


def _report(message: str) -> None:
    """Print an error. Of processes that make the same mistake before they meet, one does.

    The launcher sees it end, and ends the others while they wait.
    """
    distributed = sys.modules.get("torch.distributed")
    met = distributed is not None and distributed.is_initialized()
    if not met and int(os.environ.get("RANK", "0")) > 0:
        time.sleep(_OTHERS_FIRST_SECONDS)
    print(f"error: {message}", file=sys.stderr, flush=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _continue_command(folder: Path) -> str:
    given = [a for a in sys.argv[1:] if not a.startswith(("run_dir=", "resume="))]
    where = f"run_dir={folder}"
    module = f"moe_tasks.{Path(sys.argv[0]).stem}"
    return shlex.join(["python", "-m", module, *given, where, "resume=auto"])


def _explain(error: Exception) -> str:
    """A Hydra or OmegaConf error in one or two lines, with the nearest valid key."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        key = getattr(link, "full_key", None)
        text = str(link)
        if key and "is not in struct" in text:
            return f"unknown key '{key}'; {nearest(key, _known_keys())}"
        if key and "Missing mandatory value" in text:
            return f"missing key '{key}': give it on the command line, {key}=..."
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': {text.splitlines()[0]}"
    missing = re.match(r"In '.*?': Could not find '([^']+)'", text)
    if missing:
        group, _, option = missing.group(1).rpartition("/")
        options = [p.stem for p in (conf_dir() / group).glob("*.yaml")]
        return f"no option {option!r} in group '{group}'; {nearest(option, options)}"
    return text.split("\n\n")[0]


def _known_keys() -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    given = [a for a in sys.argv[1:] if "," not in a]  # no sweeps
    chosen = [a for a in given if a.partition("=")[0].lstrip("+") in groups]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides=chosen))
    return list(_flat(config))


def _flat(values: Any, where: str = "") -> list[str]:
    if not isinstance(values, dict):
        return []
    keys = []
    for key, value in values.items():
        name = f"{where}{key}"
        keys += [name, *_flat(value, f"{name}.")]
    return keys
