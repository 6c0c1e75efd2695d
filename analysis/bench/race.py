"""One process per scheme, asked in turn for one repetition each."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from analysis.bench.setting import Setting

Measures = dict[str, float]
Repeat = Callable[[], Measures]

_PATIENCE = 30.0  # seconds a process gets to end by itself


@dataclass(frozen=True)
class Contender:
    """Attributes:
    name: of the scheme.
    prepare: a function of a module; builds everything in its own process and warms it up. What
        it returns does one repetition and gives its figures by name, ``""`` for the main one.
    setting: its argument.
    """

    name: str
    prepare: Callable[[Setting], Repeat]
    setting: Setting


@dataclass
class Race:
    """Attributes:
    results: by contender, its figures of each round.
    failed: by contender, why it has none.
    hidden: contenders that are only compared with, and need no rows of their own.
    """

    results: dict[str, list[Measures]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


def race(contenders: Sequence[Contender], rounds: int) -> Race:
    """Measure ``contenders`` in ``rounds`` rounds; each starts with another one.

    All processes are ready before the first round and only one works at a time. A contender that
    fails (out of memory, say) is left out of the results.
    """
    outcome = Race()
    runners: dict[str, _Runner] = {}
    try:
        for (
            contender
        ) in contenders:  # one after the other: side by side they would take far longer to warm up
            runner = runners[contender.name] = _Runner(contender)
            _keep(outcome, runners, contender.name, runner.ready())
        outcome.results = {name: [] for name in runners}
        for number in range(rounds):
            names = list(runners)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                figures = _keep(outcome, runners, name, runners[name].repeat())
                outcome.results.get(name, []).append(figures)
    finally:
        for runner in runners.values():
            runner.end()
    return outcome


def _keep(outcome: Race, runners: dict[str, _Runner], name: str, answer: _Answer) -> Measures:
    if answer.error:
        outcome.failed[name] = answer.error
        outcome.results.pop(name, None)
        runners.pop(name).end()
        print(f"{name}: left out: {answer.error}", file=sys.stderr, flush=True)
    return answer.figures


@dataclass(frozen=True)
class _Answer:
    figures: Measures
    error: str = ""


class _Runner:
    """The process of one contender."""

    def __init__(self, contender: Contender) -> None:
        # Forked from a server that has imported torch and run nothing: quick, and each is fresh.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["analysis.bench.training"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender), daemon=False)
        self._process.start()
        theirs.close()

    def ready(self) -> _Answer:
        return self._answer()

    def repeat(self) -> _Answer:
        with suppress(OSError):
            self._pipe.send(True)
        return self._answer()

    def end(self) -> None:
        with suppress(OSError):
            self._pipe.send(False)
        self._pipe.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _answer(self) -> _Answer:
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            return _Answer({}, f"its process ended (exit code {self._process.exitcode})")


def _serve(pipe: Connection[Any, Any], contender: Contender) -> None:
    try:
        repeat = contender.prepare(contender.setting)
        pipe.send(_Answer({}))
        while pipe.recv():
            pipe.send(_Answer(repeat()))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:  # whatever it is, the others go on
        lines = str(error).strip().splitlines() or [""]
        pipe.send(_Answer({}, f"{type(error).__name__}: {lines[0]}"))
