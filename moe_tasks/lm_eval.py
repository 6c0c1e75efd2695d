"""A run's systems in EleutherAI's lm-evaluation-harness: ``python -m moe_tasks.lm_eval`` takes the
arguments of ``lm_eval`` and knows one more model::

    python -m moe_tasks.lm_eval --model moe_tasks --model_args run=DIR,system=moe,task=NAME \\
        --tasks mine --include_path DIR

The harness finds models in a list of its own and offers no entry point for others, so that this
module has to be imported first; ``import moe_tasks.lm_eval`` registers the model for Python too.
Needs the extra ``lm-eval``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy

from moe_tasks.errors import UserError
from moe_tasks.evaluation.generation import GenerationConfig, predict
from moe_tasks.evaluation.ranking import Question, rank
from moe_tasks.evaluation.ranking_causal import continuations
from moe_tasks.evaluation.unseen_routes import Placer
from moe_tasks.evaluation.views import template_names, view
from moe_tasks.tasks.tokens import encode_texts
from moe_tasks.workspace import Workspace

try:
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise UserError(
        "lm-evaluation-harness is not installed; give pip install 'moe_tasks[lm-eval]'"
    ) from error


@register_model("moe_tasks")
class RunModel(LM):
    """One system of a run as the harness's model; scores are those of ``moe_tasks.evaluate``.

    Args:
        run: folder of the run.
        system: one of its systems.
        task: a task of the run's collection, whose route is taken: its own if it was trained on,
            else one for ``template`` (the first, if empty).
        text: instead of a task of the collection, what the task's prompt says.
        route: as for ``moe_tasks.evaluate``.
        batch_size: answer options, or open questions, computed together.
        device, max_batch_size: given by the harness; the run's configuration decides the device.

    Raises:
        UserError: no such run, system, task or route.
    """

    def __init__(
        self,
        run: str,
        system: str = "moe",
        task: str = "",
        text: str = "",
        template: str = "",
        route: Any = "auto",
        batch_size: int | str = 64,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.workspace = Workspace.open(run)
        self.tokenizer = self.workspace.data.tokenizer
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 64
        placer = Placer(self.workspace, system, self.workspace.model(system).eval())
        inputs: Sequence[numpy.ndarray] = ()
        if task:
            template = template or template_names(self.workspace.collection, task)[0]
            asked = view(self.workspace.collection, task, template)
            text = text or asked.text
            inputs = self._encode(example.input for example in asked.examples)
        self.model = placer.place(task, text, inputs, route).model
        self.is_seq2seq = bool(self.model.config.is_encoder_decoder)

    @property
    def tokenizer_name(self) -> str:
        return str(self.workspace.initial_folder(1))

    def loglikelihood(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        """(log-probability, would it be decoded greedily) of each continuation of its context.

        Continuations of one context share its encoder pass.
        """
        pairs = [request.args for request in requests]
        rows: dict[str, list[int]] = {}
        for number, (context, _) in enumerate(pairs):
            rows.setdefault(context, []).append(number)
        sources = self._sources(rows)
        limit = self.workspace.config.data.max_target
        options = encode_texts(self.tokenizer, [text for _, text in pairs], limit)
        questions = [
            Question(source, tuple(options[number] for number in own))
            for source, own in zip(sources, rows.values(), strict=True)
        ]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        ranked = rank(self.model, questions, self.tokenizer.pad_token_id, self.batch_size)
        for own, one in zip(rows.values(), ranked, strict=True):
            for number, total, greedy in zip(own, one.sums, one.greedy, strict=True):
                found[number] = (total, greedy)
        return found

    def loglikelihood_rolling(self, requests: list[Any], **kwargs: Any) -> list[float]:
        """Log-probability of whole texts, which only decoder-only systems have."""
        if self.is_seq2seq:
            raise UserError("a sequence-to-sequence system gives no probability to a text alone")
        from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
            get_rolling_token_windows,
            make_disjoint_window,
        )

        longest = self.workspace.config.data.max_source
        totals = []
        for request in requests:
            (ids,) = self._encode([request.args[0]], 10**9)
            ids = ids[:-1].tolist()
            windows = get_rolling_token_windows(ids, self._prefix, longest, 1)
            pairs = [make_disjoint_window(window) for window in windows]
            questions = [Question(numpy.array(a), (numpy.array(b),)) for a, b in pairs]
            ranked = rank(self.model, questions, self.tokenizer.pad_token_id, self.batch_size)
            totals.append(sum(one.sums[0] for one in ranked))
        return totals

    def generate_until(self, requests: list[Any], **kwargs: Any) -> list[str]:
        """Greedy answers, cut at the first of each request's stop texts."""
        answers = [""] * len(requests)
        groups: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            options = request.args[1]
            if options.get("do_sample"):
                raise UserError("answers are decoded greedily: set do_sample to false in the task")
            own = self.workspace.config.data.max_target
            groups.setdefault(int(options.get("max_gen_toks", own)), []).append(number)
        for length, numbers in groups.items():
            sources = self._sources(requests[number].args[0] for number in numbers)
            for number, text in zip(numbers, self._generate(sources, length), strict=True):
                answers[number] = _cut(text, requests[number].args[1].get("until") or ())
        return answers

    def _generate(self, sources: Sequence[numpy.ndarray], length: int) -> list[str]:
        if self.is_seq2seq:
            config = GenerationConfig(self.batch_size)
            return predict(self.model, self.tokenizer, sources, config, length)
        return continuations(self.model, self.tokenizer, sources, self.batch_size, length)

    def _encode(self, texts: Iterable[str], limit: int | None = None) -> list[numpy.ndarray]:
        limit = limit or self.workspace.config.data.max_source
        return encode_texts(self.tokenizer, list(texts), limit)

    def _sources(self, texts: Iterable[str]) -> list[numpy.ndarray]:
        ids = self._encode(texts)
        if self.is_seq2seq:
            return ids
        eos = self.tokenizer.eos_token_id
        cut = [row[:-1] if len(row) and row[-1] == eos else row for row in ids]
        return [row if len(row) else numpy.array([self._prefix]) for row in cut]

    @property
    def _prefix(self) -> int:
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)


def _cut(text: str, until: str | Sequence[str]) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()
