"""Small SuperGLUE files in the official layout: one train and one dev line, by task folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PASSAGE = "Ann met Bob Ray.\n@highlight\nThey ate"
MULTIRC = {
    "idx": 4,
    "version": 1.1,
    "passage": {
        "text": "<b>Sent 1: </b>Ann ate.<br>Bob slept.",
        "questions": [
            {
                "question": "Who ate?",
                "idx": 7,
                "answers": [
                    {"text": "Ann", "idx": 30, "label": 1},
                    {"text": "Bob", "idx": 31, "label": 0},
                ],
            },
            {
                "question": "Who slept?",
                "idx": 8,
                "answers": [{"text": "Bob", "idx": 32, "label": 1}],
            },
        ],
    },
}
RECORD = {
    "source": "Daily mail",
    "passage": {
        "text": PASSAGE,
        "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 14}],
    },
    "qas": [
        {
            "query": "@placeholder was hungry",
            "answers": [{"start": 8, "end": 14, "text": "Bob Ray"}],
            "idx": 0,
        },
        {
            "query": "so was @placeholder",
            "answers": [{"start": 0, "end": 2, "text": "Ann"}],
            "idx": 1,
        },
    ],
    "idx": 0,
}
LINES: dict[str, dict[str, Any]] = {
    "BoolQ": {"question": "is it so", "passage": "So it is.", "idx": 0, "label": True},
    "CB": {"premise": "It is so.", "hypothesis": "so", "label": "neutral", "idx": 0},
    "COPA": {
        "premise": "It fell.", "choice1": "Wind blew.", "choice2": "It broke.",
        "question": "effect", "label": 1, "idx": 0,
    },
    "MultiRC": MULTIRC,
    "ReCoRD": RECORD,
    "RTE": {"premise": "All is so.", "hypothesis": "It is.", "label": "entailment", "idx": 0},
    "WiC": {
        "word": "place", "sentence1": "A place.", "sentence2": "Place it.", "idx": 0,
        "label": False, "start1": 2, "start2": 0, "end1": 7, "end2": 5, "version": 1.1,
    },
    "WSC": {
        "text": "Mark told Pete lies which he believed.", "idx": 0, "label": True,
        "target": {
            "span1_index": 0, "span1_text": "Mark", "span2_index": 5, "span2_text": "he",
        },
    },
}  # fmt: skip


def write(root: Path, task: str, *lines: Any, split: str = "train") -> None:
    """A file of the official layout."""
    file = root / task / f"{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join([*texts, ""]), encoding="utf-8")


def write_all(root: Path) -> Path:
    """All eight tasks."""
    for task, line in LINES.items():
        write(root, task, line)
        write(root, task, line, split="val")
    return root


# The same rows with the columns and types of the hub's tables (integers for labels).
HUB: dict[str, list[dict[str, Any]]] = {
    "boolq": [{"question": "is it so", "passage": "So it is.", "idx": 0, "label": 1}],
    "cb": [{"premise": "It is so.", "hypothesis": "so", "idx": 0, "label": 2}],
    "copa": [LINES["COPA"]],
    "multirc": [
        {
            "paragraph": MULTIRC["passage"]["text"], "question": question["question"],
            "answer": answer["text"], "label": answer["label"],
            "idx": {"paragraph": 4, "question": question["idx"], "answer": answer["idx"]},
        }
        for question in MULTIRC["passage"]["questions"]
        for answer in question["answers"]
    ],
    "record": [
        {
            "passage": PASSAGE, "query": query["query"], "entities": ["Ann", "Bob Ray"],
            "entity_spans": {"text": ["Ann", "Bob Ray"], "start": [0, 8], "end": [3, 15]},
            "answers": [query["answers"][0]["text"]], "idx": {"passage": 0, "query": number},
        }
        for number, query in enumerate(RECORD["qas"])
    ],
    "rte": [{"premise": "All is so.", "hypothesis": "It is.", "label": 0, "idx": 0}],
    "wic": [{**LINES["WiC"], "label": 0}],
    "wsc": [
        {
            "text": LINES["WSC"]["text"], "span1_index": 0, "span2_index": 5,
            "span1_text": "Mark", "span2_text": "he", "idx": 0, "label": 1,
        }
    ],
}  # fmt: skip
