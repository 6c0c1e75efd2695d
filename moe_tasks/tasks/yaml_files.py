"""YAML files that users write, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from moe_tasks.errors import UserError
from moe_tasks.tasks.cache import reading


def read_yaml(path: Path) -> Any:
    """Content of a YAML file as plain data, promptsource's tagged mappings among it.

    Raises:
        UserError: it cannot be read, is not YAML, has a key twice, or asks for Python objects.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        return yaml.load(data, _Strict)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


class _Strict(yaml.SafeLoader):
    """Refuses a mapping with a key twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"key {key.value!r} twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        mapping = super().construct_mapping(node, deep)
        if len({type(key) for key in mapping}) > 1:  # cannot be sorted, and is hardly meant so
            problem = "keys of different kinds; put them in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return mapping


def _tagged(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Strict.add_constructor(_tag, _tagged)
