"""How rows of SuperGLUE's data sets become examples.

The official files nest passages, questions and answers; the hub's tables are flat. Files are
flattened into the hub's columns first, so that both are read by the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moe_tasks.errors import nearest
from moe_tasks.tasks.base import Example
from moe_tasks.tasks.detailed import (
    Details,
    Made,
    cell,
    label_cell,
    labelled,
    list_cell,
    number_cell,
    text_cell,
)
from moe_tasks.tasks.reading import make_example

Columns = Mapping[str, Any]
PLACEHOLDER = "@placeholder"  # in ReCoRD's queries
NO_YES = ("0", "1")  # labels of pairs of a question and one of its options
_QUESTIONS = {"cause": "What was the cause?", "effect": "What happened as a result?"}


def copa(columns: Columns, separator: str) -> Example:
    """COPA: the two alternatives are answer options."""
    question, choices, right = _copa(columns)
    return make_example(separator.join([text_cell(columns, "premise"), question]), [right], choices)


def copa_pairs(columns: Columns, separator: str) -> list[Made]:
    """COPA: premise and question with either alternative."""
    question, choices, right = _copa(columns)
    premise = text_cell(columns, "premise")
    texts = [separator.join([premise, f"{question} {choice}"]) for choice in choices]
    return _pairs(str(number_cell(columns, "idx")), texts, choices, [right])


def _copa(columns: Columns) -> tuple[str, list[str], str]:
    """Question, alternatives, and the right one."""
    choices = [text_cell(columns, "choice1"), text_cell(columns, "choice2")]
    kind = text_cell(columns, "question")
    if kind not in _QUESTIONS:
        raise ValueError(f"'question' is {kind!r:.60}; {nearest(kind[:60], _QUESTIONS)}")
    return _QUESTIONS[kind], choices, choices[int(label_cell(cell(columns, "label"), ("0", "1")))]


def record(columns: Columns, separator: str) -> Example:
    """ReCoRD: the passage's entities are answer options, one of which fills the placeholder."""
    passage, query, entities, answers = _record(columns)
    # Official scores accept answers that are no entity's text; options must be able to be right.
    options = dict.fromkeys([*entities, *answers])
    return make_example(separator.join([passage, query]), answers, list(options))


def record_pairs(columns: Columns, separator: str) -> list[Made]:
    """ReCoRD: the passage, and the query with each of its entities filled in."""
    passage, query, entities, answers = _record(columns)
    index = cell(columns, "idx")
    group = f"{number_cell(index, 'passage')}/{number_cell(index, 'query')}"
    texts = [separator.join([passage, query.replace(PLACEHOLDER, e)]) for e in entities]
    return _pairs(group, texts, entities, answers)


def _record(columns: Columns) -> tuple[str, str, list[str], list[str]]:
    """Passage, query, entities and answers."""
    query = text_cell(columns, "query")
    if PLACEHOLDER not in query:
        raise ValueError(f"'query' {query!r:.60} has no {PLACEHOLDER}")
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", text_cell(columns, "passage"))
    passage = passage.replace("\n@highlight\n", ". ")  # as T5's authors word it
    entities = list(dict.fromkeys(str(e).strip() for e in list_cell(columns, "entities")))
    answers = [str(answer).strip() for answer in list_cell(columns, "answers")]
    if not answers:
        raise ValueError("'answers' is empty: a row without a label")
    return passage, query, entities, answers


def _pairs(
    group: str, texts: Sequence[str], options: Sequence[str], answers: Sequence[str]
) -> list[Made]:
    """A question's options as rows that are right (``1``) or not, with what decides its score."""
    if not options:
        raise ValueError("no options to choose among")
    facts = {"group": group, "answers": list(answers)}
    return [
        (
            make_example(text, [NO_YES[option in answers]], NO_YES),
            {**facts, "option": option},
        )
        for text, option in zip(texts, options, strict=True)
    ]


def multirc(columns: Columns, separator: str) -> tuple[Example, Details]:
    """MultiRC: one row per answer; ``group`` says which belong to one question."""
    index = cell(columns, "idx")
    group = f"{number_cell(index, 'paragraph')}/{number_cell(index, 'question')}"
    passage = re.sub(r"</?b>", "", text_cell(columns, "paragraph").replace("<br>", " "))
    clean = {**columns, "paragraph": passage}
    example = labelled(clean, ("paragraph", "question", "answer"), ("0", "1"), separator)
    return example, {"group": group}


def wsc(columns: Columns, separator: str) -> Example:
    """WSC: the noun phrase stands between ``*``, the pronoun between ``#`` (Raffel et al. 2020)."""
    words = text_cell(columns, "text").split()
    spans = [(mark, *_span(columns, number, len(words))) for number, mark in ((1, "*"), (2, "#"))]
    marked: list[str] = []
    for place, word in enumerate(words):
        marked += [mark for mark, first, _ in spans if first == place]
        marked.append(word)
        marked += [mark for mark, _, last in spans if last == place]
    return labelled({**columns, "text": " ".join(marked)}, ("text",), ("false", "true"), separator)


def _span(columns: Columns, number: int, num_words: int) -> tuple[int, int]:
    """First and last word, by its place: the texts of published spans differ in small ways."""
    first = number_cell(columns, f"span{number}_index")
    last = first + len(text_cell(columns, f"span{number}_text").split()) - 1
    if last >= num_words:
        raise ValueError(f"'span{number}_index' is {first}; the text has {num_words} words")
    return first, last


def flat_wsc(columns: Columns) -> Iterator[Columns]:
    """An official line as the hub's row."""
    yield {**columns, **cell(columns, "target")} if "target" in columns else columns


def flat_multirc(columns: Columns) -> Iterator[Columns]:
    """An official line, a paragraph, as the hub's rows: one per answer."""
    passage = cell(columns, "passage")
    for question in list_cell(passage, "questions"):
        for answer in list_cell(question, "answers"):
            index = {"paragraph": cell(columns, "idx"), "question": cell(question, "idx")}
            yield {
                "paragraph": cell(passage, "text"),
                "question": cell(question, "question"),
                "answer": cell(answer, "text"),
                "label": cell(answer, "label"),
                "idx": {**index, "answer": cell(answer, "idx")},
            }


def flat_record(columns: Columns) -> Iterator[Columns]:
    """An official line, a passage, as the hub's rows: one per query."""
    passage = cell(columns, "passage")
    text = cell(passage, "text")
    places = [
        (number_cell(entity, "start"), number_cell(entity, "end"))
        for entity in list_cell(passage, "entities")
    ]
    for question in list_cell(columns, "qas"):
        yield {
            "passage": text,
            "query": cell(question, "query"),
            "entities": [text[start : end + 1] for start, end in places],
            "answers": [cell(answer, "text") for answer in list_cell(question, "answers")],
            "idx": {"passage": columns.get("idx"), "query": question.get("idx")},
        }
