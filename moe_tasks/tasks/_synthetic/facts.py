"""An invented world: who lives where, and what that place, guild or ship is like."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_tasks.tasks._synthetic import words

# relation -> (whom it is about, possible answers)
OF_PEOPLE: Mapping[str, Sequence[str]] = {"town": words.TOWNS, "guild": words.GUILDS}
OF_THINGS: Mapping[str, tuple[str, Sequence[str]]] = {
    "country": ("town", words.COUNTRIES),
    "river": ("town", words.RIVERS),
    "tongue": ("town", words.TONGUES),
    "material": ("guild", words.MATERIALS),
    "feast": ("guild", words.SEASONS),
    "drink": ("guild", words.DRINKS),
}


@dataclass(frozen=True)
class World:
    """Facts as tables: relation -> subject -> answer."""

    table: Mapping[str, Mapping[str, str]]

    @classmethod
    def invent(cls, seed: int) -> World:
        """The world of a seed.

        Every answer is true of equally many subjects, and no relation of a town (or guild) says
        anything about another: towns stand in a square, and their relations are its rows,
        columns and diagonals.
        """
        table = {
            relation: _dealt(f"{seed}/{relation}", words.PEOPLE, answers)
            for relation, answers in OF_PEOPLE.items()
        }
        for kind, subjects in OF_PEOPLE.items():
            square = _shuffled(f"{seed}/{kind} square", subjects)
            relations = [relation for relation, (of, _) in OF_THINGS.items() if of == kind]
            for number, relation in enumerate(relations):
                answers = _shuffled(f"{seed}/{relation}", OF_THINGS[relation][1])
                table[relation] = _of_square(square, number, answers)
        return cls(table)

    def groups(self, relation: str) -> list[list[str]]:
        """The subjects of a relation, those with one answer together."""
        groups: dict[str, list[str]] = {}
        for subject, answer in self.table[relation].items():
            groups.setdefault(answer, []).append(subject)
        return list(groups.values())


def _shuffled(key: str, items: Sequence[str]) -> list[str]:
    return random.Random(f"facts/{key}").sample(items, len(items))


def _dealt(key: str, subjects: Sequence[str], answers: Sequence[str]) -> dict[str, str]:
    return {s: answers[i % len(answers)] for i, s in enumerate(_shuffled(key, subjects))}


def _of_square(square: Sequence[str], number: int, answers: Sequence[str]) -> dict[str, str]:
    side = len(answers)
    lines = [(row, column, row + column) for row in range(side) for column in range(side)]
    return {s: answers[at[number] % side] for s, at in zip(square, lines, strict=True)}
