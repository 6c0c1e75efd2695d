"""Where words and answers lie among tokens, with tokenizers of three kinds."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from moe_tasks.errors import UserError
from moe_tasks.tasks.token_places import windows, word_tokens
from tests.tasks.test_tokens import make_tokenizer

WORDS = ["Ångström", "met", "José", "(the", "poet)", "in", "New", "York", ",", "1994", "!"]
SENTENCE = " ".join(WORDS)
CONTEXT = "José, who lived in New York from 1994, met Ångström there; New York was his home. " * 3
PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "met", "Jos", "##é", "(", "the", "po", "##et", ")", "in",
    "New", "York", ",", "19", "##94", "!", "Å", "##ng", "##str", "##öm", "who", "li", "##ved",
    "from", "there", ";", "was", "his", "home", ".", "where", "?", "did", "he", "live",
]  # fmt: skip


def wordpiece() -> Any:
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(PIECES))}
    return BertTokenizer(vocab=vocab, do_lower_case=False)


def byte_level() -> Any:
    return make_tokenizer(texts=[SENTENCE, CONTEXT])


def metaspace() -> Any:
    """Sentencepiece's kind: the blank before a word belongs to its token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment]
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<s>", "</s>", "<pad>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([SENTENCE, CONTEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


KINDS = {"wordpiece": wordpiece, "byte_level": byte_level, "metaspace": metaspace}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TAGS = ["B-PER", "O", "B-PER", "O", "O", "O", "B-LOC", "I-LOC", "O", "O", "O"]


def test_the_first_token_of_each_word_has_its_label(tokenizer: Any) -> None:
    found = word_tokens(tokenizer, SENTENCE, 100)
    assert found.ids == tokenizer(SENTENCE)["input_ids"]
    assert len(found.ids) > len(WORDS) + 2  # some word has several tokens
    assert [word for word in found.words if word >= 0] == list(range(len(WORDS)))
    labels = found.labels(TAGS, NAMES)
    assert [NAMES[label] for label in labels if label != -100] == TAGS
    assert labels[0] == labels[-1] == -100
    york = tokenizer.convert_ids_to_tokens(found.ids[found.words.index(7)]).strip("Ġ▁")
    assert york
    assert "York".startswith(york)
    guesses = [max(label, 0) for label in labels]
    assert found.tags(guesses, NAMES, len(WORDS)) == TAGS


def test_a_cut_sentence_keeps_its_end(tokenizer: Any) -> None:
    whole = word_tokens(tokenizer, SENTENCE, 100)
    cut = word_tokens(tokenizer, SENTENCE, 8)
    assert cut.ids == [*whole.ids[:7], whole.ids[-1]]
    assert cut.words == [*whole.words[:7], -1]
    tags = cut.tags([1] * 8, NAMES, len(WORDS))
    seen = 1 + max(cut.words)
    assert tags == ["B-PER"] * seen + ["O"] * (len(WORDS) - seen)
    with pytest.raises(UserError, match="tag 'B-ORG' is not among the labels O, B-PER"):
        whole.labels(["B-ORG"] * len(WORDS), NAMES)


QUESTION = "where did he live ?"
TEXT = f"{QUESTION} [SEP] {CONTEXT.strip()}"
BEGIN = len(QUESTION) + len(" [SEP] ")


@pytest.mark.parametrize(("length", "overlap"), [(400, 8), (48, 8), (40, 100), (33, 0)])
def test_windows_cover_the_context(tokenizer: Any, length: int, overlap: int) -> None:
    whole = tokenizer(TEXT, return_offsets_mapping=True)
    found = windows(tokenizer, TEXT, BEGIN, length, overlap)
    assert (len(found) == 1) == (length == 400)
    question = len(found[0].answerable()) - len([1 for x in found[0].answerable() if x]) - 1
    seen = []
    for window in found:
        assert len(window.ids) == len(window.places) <= length
        assert window.ids[:question] == found[0].ids[:question]
        assert window.ids[-1] == whole["input_ids"][-1]
        own = [place for place in window.places if place[1] > place[0]]
        assert own
        assert all(first >= BEGIN - 1 for first, _ in own)  # a blank may belong to a token
        if seen and overlap:
            assert own[0] in seen
        seen += [place for place in own if place not in seen]
    offsets = [tuple(place) for place in whole["offset_mapping"][:-1]]
    assert seen == [place for place in dict.fromkeys(offsets) if place[1] > BEGIN]


def test_an_answer_in_a_window(tokenizer: Any) -> None:
    start = TEXT.rindex("New York")
    end = start + len("New York")
    found = windows(tokenizer, TEXT, BEGIN, 48, 8)
    holding = [window for window in found if window.labels(start, end) != (-100, -100)]
    assert 1 <= len(holding) < len(found)
    for window in holding:
        first, last = window.labels(start, end)
        assert window.text(TEXT, first, last) == "New York"
        assert all(window.answerable()[first : last + 1])
    for window in found:
        inside = [place for place in window.places if place[1] > place[0]]
        whole = inside[0][0] <= start and inside[-1][1] >= end
        assert (window in holding) == whole
        assert window.labels(None, None) == (-100, -100)
    cut = next(w for w in found if w not in holding)
    assert cut.labels(0, 5) == (-100, -100)  # in the question


def test_a_long_question_leaves_room_for_its_context(tokenizer: Any) -> None:
    question = "where did he live " * 20 + "?"
    found = windows(tokenizer, f"{question} [SEP] {CONTEXT}", len(question) + 7, 40, 8)
    assert all(len(window.ids) <= 40 for window in found)
    assert sum(found[0].answerable()) >= 19


def test_what_cannot_be_done_is_one_message() -> None:
    with pytest.raises(UserError, match="'max_source' is 4; questions with contexts need"):
        windows(wordpiece(), TEXT, BEGIN, 4)

    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="tokenizer Slow is not of the fast kind"):
        word_tokens(Slow(), SENTENCE, 8)
