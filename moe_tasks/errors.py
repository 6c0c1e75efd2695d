"""The one kind of error a user's mistake becomes: a single message, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in configuration, data or arguments, worded for the person who made it.

    Entry points print the message behind ``error:`` and exit with status 2.
    """


def nearest(name: str, options: Iterable[str], count: int = 3) -> str:
    """A hint naming the valid values nearest to ``name``, or all of them when few are valid."""
    known = sorted({str(option) for option in options})
    close = difflib.get_close_matches(str(name), known, n=count, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    known = [option if option.isprintable() else repr(option) for option in known]
    if len(known) <= 12:
        return f"valid: {', '.join(known) or '(none)'}"
    return f"valid: {', '.join(known[:12])}, ... ({len(known)} in all)"
