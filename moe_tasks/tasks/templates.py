"""Prompt templates: Jinja over the columns of a row, as promptsource (arXiv 2202.01279) has them.

A template's text gives an input, ``|||`` and the target; ``answer_choices``, itself a template,
gives the answer options, separated by ``|||``. Templates come from others: they run in Jinja's
sandbox, and YAML files that hold them are read as data.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moe_tasks.errors import nearest
from moe_tasks.tasks.base import Example
from moe_tasks.tasks.reading import MAX_TEXT, make_example

SEPARATOR = "|||"
_HIDDEN = "\ue000\ue001\ue000"  # stands for a separator that is part of a column's text
_MAX_REPEAT = 100_000
_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_REST = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_WORD = re.compile(r"'[^']*'|\"[^\"]*\"|\|\s*\w+|[A-Za-z]\w*")
_MISSING = re.compile(r"'(\w+)' is undefined")

Row = Mapping[str, Any]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also refuses the products and powers that would fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = any(hasattr(side, "__len__") for side in (left, right))
        if operator == "**" or (sized and _size(left) * _size(right) > _MAX_REPEAT):
            raise SecurityError(f"operator {operator} with so large a result")
        return super().call_binop(context, operator, left, right)


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else abs(int(value))


def _environment() -> _Sandbox:
    environment = _Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    environment.globals["zip"] = zip  # promptsource's additions
    environment.filters["choice"] = environment.filters["random"] = _choice
    del environment.globals["lipsum"]  # drawn anew at every call, as jinja's own random is
    environment.filters["most_frequent"] = _most_frequent
    return environment


def _choice(items: Sequence[Any]) -> Any:
    """One of ``items``, the same for the same items (promptsource draws anew at every call)."""
    if not items:
        raise ValueError("nothing to choose from")
    digest = hashlib.sha256(repr(list(items)).encode()).digest()
    return items[int.from_bytes(digest[:8], "little") % len(items)]


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    counts = Counter(items).most_common()
    return [item for item, count in counts if count == counts[0][1]]


_ENVIRONMENT = _environment()


@lru_cache(maxsize=4096)
def _compiled(source: str) -> jinja2.Template:
    try:
        return _ENVIRONMENT.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"not a Jinja template: {error.message} (line {error.lineno})") from None


@dataclass(frozen=True)
class Template:
    """One wording of a task.

    Attributes:
        name: unique within its task.
        source: Jinja text of input, ``|||`` and target.
        answer_choices: Jinja text of the options, separated by ``|||``; ``None`` where answers
            are open.
        metric: what its author scores it by, if known.

    Raises:
        ValueError: not Jinja, or no target.
    """

    name: str
    source: str
    answer_choices: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        _compiled(self.source)
        if SEPARATOR not in self.source:
            raise ValueError(f"no {SEPARATOR} between input and target")
        if self.answer_choices is not None:
            _compiled(self.answer_choices)

    def example(self, row: Row) -> Example | None:
        """The row in this wording; ``None`` where the template passes the row over (it renders
        to nothing, or without a target, as conditional templates do).

        Raises:
            ValueError: a missing column, an option twice, no options although the template has
                them, a target outside the options, or forbidden code; says which.
        """
        columns = {str(key): _hidden(value) for key, value in row.items()}
        options = self._options(columns)
        text, *targets = self._parts(self.source, {**columns, "answer_choices": options})
        targets = [target for target in targets if target]
        if not text or not targets:
            return None
        return make_example(text, targets, options)

    @cached_property
    def words(self) -> str:
        """What the template says without a row: its text with the columns' names in their places,
        and the options that do not depend on the row. For task vectors."""
        texts = [self.source.partition(SEPARATOR)[0]]
        if self.answer_choices and "{" not in self.answer_choices:
            texts.append(self.answer_choices.replace(SEPARATOR, ", "))
        return " ".join(" ".join(_plain(text) for text in texts).split())

    def _options(self, columns: Row) -> tuple[str, ...]:
        if self.answer_choices is None:
            return ()
        options = tuple(self._parts(self.answer_choices, columns))
        if not any(options):
            raise ValueError("no answer options")
        if not all(options):
            raise ValueError(f"an empty answer option among {options!r:.200}")
        if len(set(options)) < len(options):
            twice = next(option for option in options if options.count(option) > 1)
            raise ValueError(f"answer option {twice[:200]!r} twice")
        return options

    def _parts(self, source: str, columns: Row) -> list[str]:
        rendered = _rendered(source, columns)
        return [part.replace(_HIDDEN, SEPARATOR).strip() for part in rendered.split(SEPARATOR)]


def _rendered(source: str, columns: Row) -> str:
    try:
        pieces, length = [], 0
        for piece in _compiled(source).generate(columns):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_TEXT:
                raise ValueError(f"more than {MAX_TEXT} characters")
        return "".join(pieces)
    except SecurityError as error:
        raise ValueError(f"forbidden in a template: {error}") from None
    except jinja2.UndefinedError as error:
        raise ValueError(_undefined(str(error), columns)) from None
    except ValueError:
        raise
    except Exception as error:  # whatever an expression does with a value of another type
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _undefined(message: str, columns: Row) -> str:
    missing = _MISSING.search(message)
    if missing is None:
        return message
    return f"no column {missing[1]!r}; {nearest(missing[1], set(columns) - {'answer_choices'})}"


def _hidden(value: Any) -> Any:
    """``value`` with separators in its texts replaced, all the way down."""
    if isinstance(value, str):
        return value.replace(SEPARATOR, _HIDDEN)
    if isinstance(value, Mapping):
        return {str(key): _hidden(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(item) for item in value]
    return value


def literal(text: str) -> str:
    """Text that Jinja leaves as it is."""
    return f"{{% raw %}}{text}{{% endraw %}}" if "{" in text else text


def _plain(text: str) -> str:
    """Jinja text without its code; an expression is replaced by the names it uses."""
    return _REST.sub(" ", _EXPRESSION.sub(lambda match: _names(match[1]), text))


def _names(expression: str) -> str:
    words = [word for word in _WORD.findall(expression) if word[0].isalpha()]
    return " ".join(dict.fromkeys(" ".join(words).replace("_", " ").split()))
