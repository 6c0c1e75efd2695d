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
        """The world of a seed: every answer is true of equally many subjects."""
        table = {
            relation: _deal(f"{seed}/{relation}", words.PEOPLE, answers)
            for relation, answers in OF_PEOPLE.items()
        }
        for relation, (kind, answers) in OF_THINGS.items():
            table[relation] = _deal(f"{seed}/{relation}", OF_PEOPLE[kind], answers)
        return cls(table)

    def groups(self, relation: str) -> list[list[str]]:
        """The subjects of a relation, those with one answer together."""
        groups: dict[str, list[str]] = {}
        for subject, answer in self.table[relation].items():
            groups.setdefault(answer, []).append(subject)
        return list(groups.values())


def _deal(key: str, subjects: Sequence[str], answers: Sequence[str]) -> dict[str, str]:
    shuffled = list(subjects)
    random.Random(f"facts/{key}").shuffle(shuffled)
    dealt = {subject: answers[i % len(answers)] for i, subject in enumerate(shuffled)}
    return {subject: dealt[subject] for subject in subjects}
