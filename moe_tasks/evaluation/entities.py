"""Entity-level F1 of tag sequences, as CoNLL's ``conlleval`` counts (Tjong Kim Sang 2003)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moe_tasks.evaluation.metrics import Metric, References
from moe_tasks.registry import register

OUTSIDE = "O"
Entity = tuple[str, int, int]  # type, first word, last word + 1


def as_bio(tags: Iterable[str]) -> list[str]:
    """Tags whose every entity begins with ``B-``, from BIO or from IOB1, where few do."""
    fixed, before = [], OUTSIDE
    for tag in tags:
        begins = tag.startswith("I-") and before[2:] != tag[2:]
        fixed.append(f"B-{tag[2:]}" if begins else tag)
        before = tag
    return fixed


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities that tags mark; an ``I-`` that continues nothing begins one."""
    found: set[Entity] = set()
    kind, first = "", 0
    for place, tag in enumerate([*as_bio(tags), OUTSIDE]):
        if kind and not tag.startswith("I-"):
            found.add((kind, first, place))
            kind = ""
        if tag.startswith("B-"):
            kind, first = tag[2:], place
    return found


def entity_f1(predictions: Sequence[str], references: References) -> float:
    """F1 over the entities of all rows together: same type, same words; 0 where there are none.

    Args:
        predictions: a row's tags with blanks between them; missing ones count as ``O``.
        references: the first accepted output of each row, likewise.
    """
    hits = sizes = 0
    for prediction, accepted in zip(predictions, references, strict=True):
        given, wanted = entities(prediction.split()), entities(accepted[0].split())
        hits += len(given & wanted)
        sizes += len(given) + len(wanted)
    return 2 * hits / sizes if sizes else 0.0


register("metric", "Entity-F1")(Metric(entity_f1))
