"""The token cache: what is in it, when it is made again, how rows come out."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import Task, TaskCollection
from moe_tasks.tasks.tokens import TokenTable, collate, format_source, tokenize
from tests.tasks.gym_files import entry, files_and_times, gym, write_gym

TEXTS = [
    f"{split} {n} input {i}" for split in ("train", "dev", "test") for n in (13, 21) for i in "0123"
]


def make_tokenizer(
    template: str = "<s> $A </s>", texts: list[str] | None = None
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or TEXTS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in special if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def collection(tmp_path: Path) -> TaskCollection:
    tasks = {
        "alpha": entry(instruction="Say it."),
        "beta": entry(labels=["yes", "no"], instruction="Yes or no?"),
    }
    root = write_gym(tmp_path / "gym", tasks)
    (root / "alpha" / "alpha_16_13_train.tsv").write_text("train 13 input 0\tone\ttwo\tthree\n")
    return gym(root).build()


@pytest.fixture
def make(collection: TaskCollection, tokenizer: Any, tmp_path: Path) -> Any:
    def table(**keys: Any) -> TokenTable:
        defaults = {"max_source": 64, "max_target": 16, "cache_dir": str(tmp_path / "tokens")}
        keys = {"collection": collection, "tokenizer": tokenizer, **defaults, **keys}
        return tokenize(keys.pop("collection"), keys.pop("tokenizer"), **keys)

    return table


def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "tokens"
    return sorted(folder.iterdir()) if folder.exists() else []


def lists(arrays: list[np.ndarray]) -> list[list[int]]:
    return [array.tolist() for array in arrays]


@pytest.mark.parametrize("prompt", ["content", "name", "instruction"])
def test_every_row_has_the_ids_of_the_tokenizer(
    prompt: Any, make: Any, collection: TaskCollection, tokenizer: Any
) -> None:
    table = make(prompt=prompt)
    assert len(table) == len(collection.rows)
    sources, targets = table.sources(range(len(table))), table.targets(range(len(table)))
    for row, source, target in zip(collection.rows, sources, targets, strict=True):
        text = format_source(collection.task(row["task"]), row["input"], prompt)
        assert source.tolist() == tokenizer(text)["input_ids"]
        assert target.tolist() == tokenizer(" " + row["outputs"][0])["input_ids"]
        assert source[-1] == target[-1] == tokenizer.eos_token_id
    assert table.truncated == 0


def test_rows_come_in_the_order_asked_for(make: Any) -> None:
    table = make()
    every = lists(table.sources(range(len(table))))
    assert lists(table.sources([7, 0, 7])) == [every[7], every[0], every[7]]
    assert lists(table.sources(np.array([3, -1]))) == [every[3], every[-1]]
    assert table.sources([]) == table.targets([]) == []
    with pytest.raises(IndexError):
        table.sources([len(table)])


@pytest.mark.parametrize("template", ["<s> $A </s>", "$A </s>", "$A </s> </s>", "$A"])
@pytest.mark.parametrize("max_source", [4, 7, 8, 9, 12])
def test_long_rows_are_cut_like_the_tokenizer_cuts_them(
    template: str, max_source: int, make: Any, collection: TaskCollection
) -> None:
    tokenizer = make_tokenizer(template)
    table = make(tokenizer=tokenizer, max_source=max_source)
    adds_end = template == "$A"  # a tokenizer that forgets the end of the sequence
    lengths = []
    for row, source in zip(collection.rows, table.sources(range(len(table))), strict=True):
        whole = tokenizer(row["input"])["input_ids"]
        lengths.append(len(whole) + adds_end)
        length = max_source - adds_end
        cut = tokenizer(row["input"], truncation=True, max_length=length)["input_ids"]
        assert source.tolist() == cut + [tokenizer.eos_token_id] * adds_end
        assert len(source) <= max_source
    assert table.truncated == sum(length > max_source for length in lengths)


def test_a_row_is_counted_once_when_both_sides_are_cut(make: Any) -> None:
    table = make(max_source=4, max_target=3)
    assert table.truncated == len(table)


def test_the_tokenizers_own_truncation_does_not_matter(make: Any, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    expected = lists(make(tokenizer=tokenizer).sources(range(5)))
    tokenizer(TEXTS[:2], truncation=True, max_length=3, padding="max_length")
    assert lists(make(tokenizer=tokenizer).sources(range(5))) == expected
    assert len(files(tmp_path)) == 1


def test_the_second_time_comes_from_the_file(make: Any, tmp_path: Path) -> None:
    first = make()
    (file,) = files(tmp_path)
    stat = file.stat()
    second = make()
    assert file.stat().st_mtime_ns == stat.st_mtime_ns
    assert lists(second.sources(range(9))) == lists(first.sources(range(9)))
    assert not second.sources([0])[0].flags.writeable
    assert make(max_source=4).truncated == make(max_source=4).truncated > 0


def test_the_name_of_the_file_covers_all_that_changes_its_content(
    make: Any, tmp_path: Path
) -> None:
    make()
    other = make_tokenizer(texts=["something else entirely"])
    variants = [
        {"max_source": 63},
        {"max_target": 15},
        {"prompt": "name"},
        {"prompt": "instruction"},
        {"tokenizer": other},
        {"collection": _changed(tmp_path / "0", "", "")},
        {"collection": _changed(tmp_path / "1", "train 21 input 3", "train 21 input x")},
        {"collection": _changed(tmp_path / "2", "\tone", "\tones")},
    ]
    for number, keys in enumerate(variants, 2):
        make(**keys)
        assert len(files(tmp_path)) == number, keys


def _changed(folder: Path, old: str, new: str) -> TaskCollection:
    folder.mkdir()
    root = write_gym(folder / "gym", {"alpha": entry(), "beta": entry()})
    path = root / "alpha" / "alpha_16_21_train.tsv"
    path.write_text(path.read_text().replace(old, new))
    return gym(root).build()


def test_another_instruction_is_another_file_only_where_it_is_used(
    make: Any, tmp_path: Path
) -> None:
    root = tmp_path / "gym"
    known = json.loads((root / "tasks.json").read_text())
    known["alpha"]["instruction"] = "Say it again."
    make(prompt="content")
    make(prompt="instruction")
    (root / "tasks.json").write_text(json.dumps(known))
    changed = gym(root).build()
    make(prompt="content", collection=changed)
    assert len(files(tmp_path)) == 2
    make(prompt="instruction", collection=changed)
    assert len(files(tmp_path)) == 3


def test_selected_rows_are_those_of_the_selection(make: Any, collection: TaskCollection) -> None:
    rows = collection.rows.select(range(4, 12))
    part = TaskCollection(collection.tasks, {}, collection.samples, rows)
    table = make(collection=part)
    assert len(table) == 8
    assert lists(table.sources(range(8))) == lists(make().sources(range(4, 12)))


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_damaged_file_is_made_again(keep: float, make: Any, tmp_path: Path) -> None:
    expected = lists(make().sources(range(9)))
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[: int(len(whole) * keep) if keep == 0.5 else int(keep)])
    assert lists(make().sources(range(9))) == expected
    assert file.read_bytes() == whole


def test_a_table_travels_to_data_workers_as_a_path(make: Any, collection: TaskCollection) -> None:
    table = make(max_source=9)
    sent = pickle.dumps(table)
    again = pickle.loads(sent)
    assert lists(again.sources(range(5))) == lists(table.sources(range(5)))
    assert again.truncated == table.truncated
    assert len(again.collection.rows) == len(collection.rows)


def test_formats_of_a_source() -> None:
    task = Task("nli", "ACC", instruction="Does it follow?")
    assert format_source(task, "x", "content") == "x"
    assert format_source(task, "x", "name") == " [nli] x"
    assert format_source(task, "x", "instruction") == "Does it follow? x"
    with pytest.raises(UserError, match="task 'b' has no instruction"):
        format_source(Task("b", "ACC"), "x", "instruction")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_source": 2}, "'max_source' is 2; expected more than 2"),
        ({"max_target": 0}, "'max_target' is 0"),
        ({"tokenizer": object()}, "not of the fast kind"),
        ({"cache_dir": "/dev/null/x"}, "cannot be written"),
    ],
)
def test_mistakes_are_one_message(keys: dict[str, Any], message: str, make: Any) -> None:
    with pytest.raises(UserError, match=message):
        make(**keys)


def test_a_missing_instruction_leaves_no_file(tokenizer: Any, tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"alpha": entry()})
    with pytest.raises(UserError, match="task 'alpha' has no instruction"):
        tokenize(
            gym(root).build(),
            tokenizer,
            max_source=9,
            max_target=9,
            prompt="instruction",
            cache_dir=str(tmp_path / "tokens"),
        )
    assert files(tmp_path) == []


def test_a_tokenizer_without_end_of_sequence_is_refused(make: Any) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        make(tokenizer=bare)


def _arrays(*rows: list[int]) -> Iterator[np.ndarray]:
    return (np.array(row, np.int32) for row in rows)


def test_collate_pads_on_the_right() -> None:
    batch = collate([*_arrays([5, 6, 2], [7, 2])], [*_arrays([8, 2], [2])], pad_token_id=1)
    assert batch["input_ids"].tolist() == [[5, 6, 2], [7, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[8, 2], [2, -100]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_collate_masks_padding_even_where_a_text_holds_the_pad_token() -> None:
    batch = collate([*_arrays([1, 1], [1])], [*_arrays([1], [1])], pad_token_id=1)
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    with pytest.raises(ValueError, match="without rows"):
        collate([], [], pad_token_id=1)


def test_the_real_gym_is_tokenised_once(shared: Path, tokenizer: Any, tmp_path: Path) -> None:
    cache = str(tmp_path)
    tasks = ["stsb", "glue-cola", "fv-english-french", "aeslc"]
    source = gym(shared / "data" / "gym", tasks=tasks, cache_dir=cache)
    collection = source.build()
    lengths = {"max_source": 64, "max_target": 16, "cache_dir": cache}
    table = tokenize(collection, tokenizer, **lengths)
    rows = collection.slice("stsb", "test", "87")
    example = collection.examples("stsb", "test", "87")[3]
    assert table.targets([rows[3]])[0].tolist() == tokenizer(f" {example.outputs[0]}")["input_ids"]
    before = files_and_times(tmp_path)
    assert before
    again = tokenize(source.build(), tokenizer, **lengths)
    assert files_and_times(tmp_path) == before
    assert again.truncated == table.truncated > 0
