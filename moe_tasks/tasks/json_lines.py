"""Files with one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moe_tasks.tasks.reading import BadRows, text_lines


def json_objects(
    path: Path, bad: BadRows, number: Callable[[str], Any] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line of a JSONL file that is not empty.

    Args:
        bad: is told about lines that hold no JSON object.
        number: makes a value of a number as it is written; what JSON says when None.

    Raises:
        UserError: the file cannot be read.
    """
    for place, line in text_lines(path, bad):
        if not line.strip():
            continue
        try:
            found = json.loads(line, parse_int=number, parse_float=number, parse_constant=number)
        except (ValueError, RecursionError) as error:
            bad.reject(path, place, f"not JSON: {error}")
            continue
        if isinstance(found, dict):
            yield place, found
        else:
            bad.reject(path, place, f"expected {{...}}, got {line.strip():.60}")
