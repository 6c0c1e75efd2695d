"""Writes small folders for ``tasks=prompted``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from moe_tasks.tasks.prompted import PromptedTasks
from moe_tasks.tasks.prompted_task import PromptedCollection

Rows = list[dict[str, Any]]

# As promptsource writes its files, tags and all.
PROMPTSOURCE = """\
dataset: super_glue
subset: cb
templates:
  2e76cd0f-68ca-4f03-83ed-11cf15b25a84: !Template
    answer_choices: Yes ||| No ||| Maybe
    id: 2e76cd0f-68ca-4f03-83ed-11cf15b25a84
    jinja: '{{premise}} Does it follow that "{{hypothesis}}"? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      languages: [en]
      metrics: [Accuracy]
      original_task: true
    name: does it follow?
    reference: someone
  8798b8a4-1f59-4c72-9c1b-3e3044a7462a: !Template
    answer_choices: true ||| false ||| neither
    id: 8798b8a4-1f59-4c72-9c1b-3e3044a7462a
    jinja: 'Given {{premise}}, is "{{hypothesis}}" true? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      metrics: [Accuracy]
    name: true or false
    reference: ''
    task_template: false
"""


def nli(count: int = 30) -> Rows:
    return [
        {"premise": f"fact {n} holds", "hypothesis": f"claim {n}", "label": n % 3, "idx": n}
        for n in range(count)
    ]


def write_rows(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return path


def write_task(
    root: Path, name: str, rows: dict[str, Rows], templates: Any = PROMPTSOURCE, ext: str = "jsonl"
) -> None:
    """One task; ``templates`` is the file's text, or name -> keys."""
    (root / name).mkdir(parents=True, exist_ok=True)
    text = (
        templates
        if isinstance(templates, str)
        else yaml.safe_dump({"templates": templates}, sort_keys=False)
    )
    (root / name / "templates.yaml").write_text(text)
    for split, own in rows.items():
        write_rows(root / name / f"{split}.{ext}", own)


def write_settings(root: Path, settings: dict[str, Any]) -> None:
    (root / "tasks.yaml").write_text(yaml.safe_dump(settings))


def build(root: Path, **keys: Any) -> PromptedCollection:
    return PromptedTasks(str(root), cache_dir=str(root.parent / "cache"), **keys).build()
