"""Files of prompt templates: promptsource's YAML, and a plainer form of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.templates import SEPARATOR, Template
from moe_tasks.tasks.yaml_files import read_yaml

_KEYS = ("name", "jinja", "input", "target", "answer_choices", "metric", "metadata", "id")
_IGNORED = ("reference", "task_template")
METRICS = {  # promptsource's names
    "accuracy": "ACC",
    "squad": "QA-F1",
    "trivia qa": "QA-F1",
    "rouge": "Rouge-L",
    "bleu": "Rouge-L",
    "pearson correlation": "Pearson-Correlation",
}


def read_templates(path: Path) -> tuple[Template, ...]:
    """The templates of a file: mapping ``templates``, from names (or ids) to their keys.

    A template has ``jinja`` (input, ``|||``, target) or ``input`` and ``target``;
    ``answer_choices`` is text separated by ``|||`` or a list; promptsource's ``metadata.metrics``
    say the metric.

    Raises:
        UserError: not such a file, or a template that cannot be used; names file and template.
    """
    content = read_yaml(path)
    entries = content.get("templates") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise UserError(f"{path}: expected 'templates', a mapping from names to templates")
    return make_templates(entries, path)


def make_templates(entries: Mapping[Any, Any], path: Path) -> tuple[Template, ...]:
    """Templates from their keys; ``UserError`` as for ``read_templates``."""
    templates: dict[str, Template] = {}
    for key, values in entries.items():
        name = str(values.get("name", key)) if isinstance(values, Mapping) else str(key)
        try:
            template = _template(name.strip(), values)
        except ValueError as error:
            raise UserError(f"{path}: template {name!r}: {error}") from error
        if template.name in templates:
            raise UserError(f"{path}: two templates are named {template.name!r}")
        templates[template.name] = template
    return tuple(templates.values())


def _template(name: str, values: Any) -> Template:
    if not isinstance(values, Mapping):
        raise ValueError(f"expected keys and values, got {values!r:.80}")
    for key in values:
        if key not in (*_KEYS, *_IGNORED):
            raise ValueError(f"unknown key {key!r}; {nearest(str(key), _KEYS)}")
    if not name:
        raise ValueError("an empty name")
    return Template(name, _source(values), _choices(values), _metric(values))


def _source(values: Mapping[str, Any]) -> str:
    if "jinja" in values:
        if "input" in values or "target" in values:
            raise ValueError("both 'jinja' and 'input' or 'target'")
        return _text(values, "jinja")
    return f"{_text(values, 'input')} {SEPARATOR} {_text(values, 'target')}"


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {value!r:.80}; expected text")
    return value


def _choices(values: Mapping[str, Any]) -> str | None:
    choices = values.get("answer_choices")
    if choices is None:
        return None
    if isinstance(choices, list):
        if not all(isinstance(choice, str) for choice in choices):
            raise ValueError(f"'answer_choices' is {choices!r:.80}; put words like yes in quotes")
        choices = f" {SEPARATOR} ".join(choices)
    if not isinstance(choices, str):
        raise ValueError(f"'answer_choices' is {choices!r:.80}; expected text or a list")
    if not choices.strip():
        raise ValueError("'answer_choices' is empty; leave it out where answers are open")
    return choices


def _metric(values: Mapping[str, Any]) -> str | None:
    if "metric" in values:
        return str(values["metric"])
    metadata = values.get("metadata")
    metrics = metadata.get("metrics") if isinstance(metadata, Mapping) else None
    known = [METRICS.get(str(metric).lower()) for metric in metrics or ()]
    return next((metric for metric in known if metric), None)
