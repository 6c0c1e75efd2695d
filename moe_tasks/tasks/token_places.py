"""Where words and answers of an input lie among its tokens: labels of token and span heads.

Places of characters come from the tokenizer, so that any fast one serves, in the text form
that collections have: question, separator and context in one; words with a blank between them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.evaluation.entities import OUTSIDE
from moe_tasks.tasks.tokens import IGNORED

_SHORTEST = 8  # window


@dataclass(frozen=True)
class Encoded:
    """Tokens of a text.

    Attributes:
        ids: special tokens included.
        places: first and last + 1 character of each; of special tokens (0, 0).
        suffix: special tokens at the end.
    """

    ids: list[int]
    places: list[tuple[int, int]]
    suffix: int

    def cut(self, length: int) -> Encoded:
        """At most ``length`` tokens, cut before the special ones at the end."""
        keep = len(self.ids) if len(self.ids) <= length else length - self.suffix
        end = len(self.ids) - self.suffix if keep < len(self.ids) else keep
        return Encoded(
            self.ids[:keep] + self.ids[end:], self.places[:keep] + self.places[end:], self.suffix
        )


def encode(tokenizer: Any, text: str) -> Encoded:
    """The tokens of a text and where they lie in it.

    Raises:
        UserError: the tokenizer is not of the fast kind, which alone says where tokens lie.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"tokenizer {type(tokenizer).__name__} is not of the fast kind")
    found = tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, truncation=False,
        padding=False, verbose=False,
    )  # fmt: skip
    special = found["special_tokens_mask"]
    suffix = next((n for n, mark in enumerate(reversed(special)) if not mark), 0)
    places = [(0, 0) if mark else (int(a), int(b))
              for (a, b), mark in zip(found["offset_mapping"], special, strict=True)]  # fmt: skip
    return Encoded(list(found["input_ids"]), places, suffix)


@dataclass(frozen=True)
class WordTokens:
    """Tokens of a text of words.

    Attributes:
        ids: of the tokens.
        words: per token the number of the word that it begins; -1 of special tokens and of a
            word's further tokens.
    """

    ids: list[int]
    words: list[int]

    def labels(self, tags: Sequence[str], names: Sequence[str]) -> list[int]:
        """Each token's label: its word's number in ``names``, -100 where it begins none.

        Raises:
            UserError: a tag that is not among ``names``.
        """
        numbers = {name: number for number, name in enumerate(names)}
        for tag in tags:
            if tag not in numbers:
                raise UserError(f"tag {tag!r} is not among the labels {', '.join(names)}")
        return [numbers[tags[word]] if word >= 0 else IGNORED for word in self.words]

    def tags(self, predicted: Sequence[int], names: Sequence[str], num_words: int) -> list[str]:
        """Each word's tag by the prediction at its first token; ``O`` of words that were cut."""
        tags = [OUTSIDE] * num_words
        for word, number in zip(self.words, predicted, strict=False):
            if word >= 0:
                tags[word] = names[number]
        return tags


def word_tokens(tokenizer: Any, text: str, max_length: int) -> WordTokens:
    """Tokens of a text whose words are parted by single blanks, cut to ``max_length``.

    Only a word's first token has its label (Devlin et al. 2019, section 5.3).
    """
    starts = [0, *accumulate(len(word) + 1 for word in text.split(" "))]
    encoded = encode(tokenizer, text).cut(max_length)
    words, last = [], -1
    for first, end in encoded.places:
        # By its last character: some tokenizers count the blank before a word as its token's.
        word = bisect_right(starts, end - 1) - 1 if end > first else -1
        words.append(word if word > last else -1)
        last = max(last, word)
    return WordTokens(encoded.ids, words)


@dataclass(frozen=True)
class Window:
    """A question with as much of its context as fits.

    Attributes:
        ids: of the tokens.
        places: per token its characters in the whole input; (0, 0) outside of the context.
    """

    ids: list[int]
    places: list[tuple[int, int]]

    def labels(self, start: int | None, end: int | None) -> tuple[int, int]:
        """First and last token of characters ``start`` to ``end`` (exclusive) of the input.

        (-100, -100) where the window does not hold all of them.
        """
        if start is None or end is None:
            return IGNORED, IGNORED
        own = [n for n, (a, b) in enumerate(self.places) if a < end and b > start]
        if not own or self.places[own[0]][0] > start or self.places[own[-1]][1] < end:
            return IGNORED, IGNORED
        return own[0], own[-1]

    def answerable(self) -> list[bool]:
        """Per token whether it is one of the context's."""
        return [end > start for start, end in self.places]

    def text(self, source: str, first: int, last: int) -> str:
        """What tokens ``first`` to ``last`` say, in the words of the input ``source``."""
        return source[self.places[first][0] : self.places[last][1]].strip()


def windows(
    tokenizer: Any, text: str, context: int, max_length: int, overlap: int = 128
) -> list[Window]:
    """A question and its context as overlapping windows of at most ``max_length`` tokens.

    Args:
        text: the input.
        context: its context's first character (``details["context"]``).
        overlap: tokens that a window shares with the one before, at most half of its own.
            A question gets at most half of a window.

    Raises:
        UserError: ``max_length`` leaves no room.
    """
    if max_length < _SHORTEST:
        raise UserError(
            f"'max_source' is {max_length}; questions with contexts need {_SHORTEST} or more"
        )
    encoded = encode(tokenizer, text)
    end = len(encoded.ids) - encoded.suffix
    begin = next((n for n, place in enumerate(encoded.places) if place[1] > context), end)
    question = encoded.ids[:begin]
    room = max_length - encoded.suffix
    if len(question) > room // 2:
        question = question[: room // 2 - 1] + question[-1:]  # the last one parts it from the rest
    room -= len(question)
    found, step = [], room - min(overlap, room // 2)
    for start in range(begin, max(begin + 1, end - room + step), step):
        stop = min(start + room, end)
        places = [(0, 0)] * len(question) + encoded.places[start:stop]
        ids = question + encoded.ids[start:stop] + encoded.ids[end:]
        found.append(Window(ids, places + [(0, 0)] * encoded.suffix))
    return found
