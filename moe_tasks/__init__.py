"""Task-level mixture-of-experts on Hugging Face models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_tasks.model import TaskMoE

__version__ = "0.1.0"
__all__ = ["TaskMoE", "__version__"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: only those who ask for the model pay for it.
    if name == "TaskMoE":
        from moe_tasks.model import TaskMoE

        return TaskMoE
    raise AttributeError(f"module 'moe_tasks' has no attribute {name!r}")
