"""One cell of a zero-shot evaluation: a system on an unseen task in one wording."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from moe_tasks.errors import UserError
from moe_tasks.evaluation.generation import predict
from moe_tasks.evaluation.metrics import score
from moe_tasks.evaluation.ranking import Question, Ranked, rank
from moe_tasks.evaluation.ranking_causal import continuations
from moe_tasks.evaluation.unseen_routes import Placed, Placer
from moe_tasks.evaluation.views import View, view
from moe_tasks.evaluation.zeroshot_config import RouteSource, ZeroshotConfig
from moe_tasks.model import TaskMoE
from moe_tasks.tasks.base import Example, TaskCollection
from moe_tasks.tasks.tokens import encode_texts, format_source
from moe_tasks.workspace import Workspace


@dataclass(frozen=True)
class CellKey:
    """What is evaluated.

    Attributes:
        selection: instead of the trained one; ``None`` for dense systems.
    """

    system: str
    task: str
    template: str
    route: RouteSource
    selection: dict[str, Any] | None = None


@dataclass(frozen=True)
class CellResult:
    """Attributes:
    predictions: JSON-able, one per row.
    result: JSON-able facts and scores of the cell.
    """

    predictions: list[dict[str, Any]]
    result: dict[str, Any]


@dataclass
class ZeroShot:
    """Evaluates cells of one run; keeps the last system's model between them."""

    workspace: Workspace
    collection: TaskCollection
    config: ZeroshotConfig = field(default_factory=ZeroshotConfig)
    _placers: dict[str, Placer] = field(default_factory=dict, init=False)
    _asked: View | None = field(default=None, init=False)

    def asked(self, key: CellKey) -> View:
        """The rows of a cell; ``UserError`` as for ``view``."""
        kept = self._asked
        if kept is None or (kept.task.name, kept.template) != (key.task, key.template):
            kept = self._asked = view(self.collection, key.task, key.template)
        return kept

    def cell(self, key: CellKey) -> CellResult:
        """Evaluate one cell.

        Raises:
            UserError: unknown system, task or template; a row that cannot be worded; or a route
                that the system cannot give.
        """
        began = time.perf_counter()
        asked = self.asked(key)
        examples = asked.examples[: self.config.limit]
        placer = self._placer(key.system)
        sources = self._sources(asked, examples, placer)
        placed = placer.place(key.task, asked.text, sources, key.route)
        with_options = [bool(example.options) for example in examples]
        if any(with_options) and not all(with_options):
            row = with_options.index(False) + 1
            raise UserError(f"task {key.task!r}, template {key.template!r}, row {row}: no options")
        if all(with_options):
            lines, scores = self._ranked(asked, examples, sources, placed)
        else:
            lines, scores = self._generated(asked, examples, sources, placed)
        result = {
            **_facts(asked, examples),
            "cut": self._num_cut(asked, examples),
            "source": placed.source,
            "placed_on": placed.placed_on,
            "experts": list(placed.route),
            "scores": scores,
            "seconds": round(time.perf_counter() - began, 3),
        }
        return CellResult(lines, result)

    def _placer(self, system: str) -> Placer:
        if system not in self._placers:
            self._placers.clear()  # one system's weights at a time
            model = self.workspace.model(system).eval()
            if not model.backbone.can_generate():
                kind = type(model.backbone).__name__
                raise UserError(f"system {system!r}: a {kind} only reads and can give no answer")
            if isinstance(model, TaskMoE) and self.config.selection is not None:
                selection = self.workspace.annealed(system, self.config.selection)
                model.use_selection(selection)
            self._placers[system] = Placer(self.workspace, system, model)
        return self._placers[system]

    def _sources(
        self, asked: View, examples: Sequence[Example], placer: Placer
    ) -> list[numpy.ndarray]:
        tokenizer, limit = self.workspace.data.tokenizer, self.workspace.config.data.max_source
        ids = encode_texts(tokenizer, self._inputs(asked, examples), limit)
        if placer.model.backbone.config.is_encoder_decoder:
            return ids
        eos = tokenizer.eos_token_id  # a continuation is asked for: the input has not ended
        return [row[:-1] if len(row) > 1 and row[-1] == eos else row for row in ids]

    def _inputs(self, asked: View, examples: Sequence[Example]) -> list[str]:
        prompt = self.workspace.config.data.prompt
        return [format_source(asked.task, example.input, prompt) for example in examples]

    def _num_cut(self, asked: View, examples: Sequence[Example]) -> dict[str, int]:
        """How many inputs, and different options, are longer than the model is given."""
        config, tokenizer = self.workspace.config.data, self.workspace.data.tokenizer
        options = sorted({f" {option}" for example in examples for option in example.options})
        sides = {
            "inputs": (self._inputs(asked, examples), config.max_source),
            "options": (options, config.max_target),
        }
        return {
            side: sum(len(ids) > limit for ids in encode_texts(tokenizer, texts, limit + 1))
            for side, (texts, limit) in sides.items()
        }

    def _ranked(
        self,
        asked: View,
        examples: Sequence[Example],
        sources: Sequence[numpy.ndarray],
        placed: Placed,
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        data = self.workspace.data
        texts = dict.fromkeys(option for example in examples for option in example.options)
        encoded = encode_texts(data.tokenizer, [f" {t}" for t in texts], data.config.max_target)
        ids = dict(zip(texts, encoded, strict=True))
        questions = [
            Question(source, tuple(ids[option] for option in example.options))
            for source, example in zip(sources, examples, strict=True)
        ]
        ranked = rank(placed.model, questions, data.pad_token_id, self.config.batch_size)
        references = [example.outputs for example in examples]
        chosen = {
            "sum": [e.options[r.best_by_sum] for e, r in zip(examples, ranked, strict=True)],
            "mean": [e.options[r.best_by_mean] for e, r in zip(examples, ranked, strict=True)],
        }
        scores = {how: score(asked.task.metric, c, references) for how, c in chosen.items()}
        lines = [
            _ranked_line(number, example, r)
            for number, (example, r) in enumerate(zip(examples, ranked, strict=True))
        ]
        return lines, scores

    def _generated(
        self,
        asked: View,
        examples: Sequence[Example],
        sources: Sequence[numpy.ndarray],
        placed: Placed,
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        data, generation = self.workspace.data, self.workspace.config.generation
        longest = generation.max_new_tokens or data.config.max_target
        if placed.model.config.is_encoder_decoder:
            answers = predict(placed.model, data.tokenizer, sources, generation, longest)
        else:
            answers = continuations(
                placed.model, data.tokenizer, sources, generation.batch_size, longest,
                generation.num_beams,
            )  # fmt: skip
        references = [example.outputs for example in examples]
        scores = {"generated": score(asked.task.metric, answers, references)}
        lines = [
            {"row": n, "input": e.input, "outputs": list(e.outputs), "prediction": answer}
            for n, (e, answer) in enumerate(zip(examples, answers, strict=True))
        ]
        return lines, scores


def _ranked_line(number: int, example: Example, ranked: Ranked) -> dict[str, Any]:
    return {
        "row": number,
        "input": example.input,
        "outputs": list(example.outputs),
        "options": list(example.options),
        "log_probs": [round(value, 6) for value in ranked.sums],
        "tokens": list(ranked.lengths),
        "prediction": {
            "sum": example.options[ranked.best_by_sum],
            "mean": example.options[ranked.best_by_mean],
        },
    }


def _facts(asked: View, examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "category": asked.task.category,
        "metric": asked.task.metric,
        "rows": len(examples),
        "chance": _chance(examples),
        "majority": _majority(asked.task.metric, examples),
    }


def _chance(examples: Sequence[Example]) -> float | None:
    """Expected accuracy of an option drawn at random; ``None`` where answers are open."""
    if not examples[0].options:
        return None
    right = (len(set(e.outputs) & set(e.options)) / len(e.options) for e in examples)
    return sum(right) / len(examples)


def _majority(metric: str, examples: Sequence[Example]) -> float:
    """Score of the one constant answer that is right most often: an option's text where all rows
    have the same options or none, else an option's place."""
    lists: Mapping[tuple[str, ...], int] = Counter(e.options for e in examples)
    if len(lists) == 1:
        counts = Counter(output for e in examples for output in e.outputs)
        answers = [counts.most_common(1)[0][0]] * len(examples)
    else:
        places = Counter(e.options.index(output) for e in examples for output in e.outputs)
        place = places.most_common(1)[0][0]
        answers = [e.options[min(place, len(e.options) - 1)] for e in examples]
    return score(metric, answers, [e.outputs for e in examples])
