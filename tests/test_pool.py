"""Jobs that several processes do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from moe_tasks.errors import UserError
from moe_tasks.pool import pooled


def _adding(offset: int) -> Callable[[int], int]:
    def work(number: int) -> int:
        if number == 7:
            raise UserError("row 7 is bad")
        if number == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return number + offset

    return work


def test_every_job_is_done_once() -> None:
    done = dict(pooled([(n,) for n in range(5)], 2, _adding, (10,)))
    assert done == {(n,): n + 10 for n in range(5)}


@pytest.mark.parametrize(
    ("job", "message"), [(7, "^row 7 is bad$"), (9, "worker process died.*finished is kept")]
)
def test_what_goes_wrong_in_a_process_is_told(job: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(pooled([(job,)], 1, _adding, (0,)))
