"""torchrun whose processes speak for themselves: ``python -m moe_tasks.engines.torchrun ...``.

Takes torchrun's arguments. A process that fails has said why in one line; torchrun's own report and
traceback would bury it. Only a process that could not say anything is reported here.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import parse_args, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of the first process that failed; 128 and more: ended by a signal."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        return _code(error)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except (RendezvousError, ValueError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


def _code(error: ChildFailedError) -> int:
    rank, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return failure.exitcode
    number = -failure.exitcode
    hint = " (was memory short?)" if number == signal.SIGKILL else ""
    print(
        f"error: rank {rank} (process {failure.pid}) was ended by {signal.Signals(number).name}"
        f"{hint}; the others were stopped, resume=auto goes on",
        file=sys.stderr,
    )
    return 128 + number


if __name__ == "__main__":
    sys.exit(main())
