"""The engine of one process, under the name it had before there were others."""

from moe_tasks.engines.base import OutOfMemory
from moe_tasks.engines.local import LocalEngine

__all__ = ["LocalEngine", "OutOfMemory"]
