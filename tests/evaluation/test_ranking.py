"""Rank classification against an oracle that scores one option at a time, without padding."""

from __future__ import annotations

import numpy
import pytest
import torch
import transformers as hf

from moe_tasks.evaluation.ranking import Question, Ranked, rank
from moe_tasks.evaluation.ranking_causal import continuations
from tests.models import FAMILIES, SEQ2SEQ, TASKS, VOCAB, routed

CAUSAL = ("llama", "qwen3", "gpt2")
PAD = 0


def gpt2() -> hf.PreTrainedModel:
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    ).eval()


def build(family: str) -> hf.PreTrainedModel:
    return gpt2() if family == "gpt2" else FAMILIES[family]()


def questions(count: int, seed: int = 0) -> list[Question]:
    """Inputs of 1 to 12 tokens with 1 to 6 options of 1 to 7 tokens."""
    rng = numpy.random.default_rng(seed)

    def ids(longest: int) -> numpy.ndarray:
        return rng.integers(4, VOCAB, rng.integers(1, longest + 1)).astype(numpy.int32)

    return [
        Question(ids(12), tuple(ids(7) for _ in range(rng.integers(1, 7)))) for _ in range(count)
    ]


@torch.no_grad()
def oracle(model: hf.PreTrainedModel, question: Question) -> list[float]:
    """Each option alone: a full forward pass, nothing shared, nothing padded."""
    sums = []
    source = torch.tensor(question.source.tolist())[None]
    for option in question.options:
        target = torch.tensor(option.tolist())[None]
        if model.config.is_encoder_decoder:
            logits = model(input_ids=source, labels=target, use_cache=False).logits
        else:
            whole = torch.cat([source, target], 1)
            logits = model(input_ids=whole, use_cache=False).logits[:, source.shape[1] - 1 : -1]
        log_p = logits.log_softmax(-1).gather(-1, target[..., None])
        sums.append(float(log_p.sum()))
    return sums


@pytest.mark.parametrize("family", [*SEQ2SEQ, *CAUSAL])
def test_equals_one_option_at_a_time_on_500_items(family: str) -> None:
    model = build(family)
    asked = questions(500)
    ranked = rank(model, asked, PAD, batch_size=48)
    for question, found in zip(asked, ranked, strict=True):
        expected = oracle(model, question)
        assert found.sums == pytest.approx(expected, abs=1e-4)
        assert found.lengths == tuple(map(len, question.options))
        assert found.best_by_sum == expected.index(max(expected))
        per_token = [s / len(o) for s, o in zip(expected, question.options, strict=True)]
        assert found.best_by_mean == per_token.index(max(per_token))


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_a_row_does_not_depend_on_its_batch(family: str) -> None:
    model = build(family)
    asked = questions(40, seed=1)
    alone = [rank(model, [question], PAD)[0] for question in asked]
    for size in (1, 7, 1000):
        together = rank(model, asked, PAD, batch_size=size)
        for one, other in zip(alone, together, strict=True):
            assert one.sums == pytest.approx(other.sums, abs=1e-4)


def test_options_of_one_input_share_its_encoder_pass() -> None:
    model = build("bart")
    rows: list[int] = []
    model.get_encoder().register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    rank(model, questions(30), PAD, batch_size=16)
    assert sum(rows) == 30


@pytest.mark.parametrize("family", ["t5", "qwen3"])
def test_the_squeezed_model_of_a_route(family: str) -> None:
    model = routed(family)
    asked = questions(20, seed=2)
    found = {task: rank(model.squeeze(task), asked, PAD) for task in TASKS}
    assert any(found[TASKS[0]][0].sums != pytest.approx(found[t][0].sums) for t in TASKS[1:])
    plain = model.squeeze(TASKS[1])
    for question, ranked in zip(asked, found[TASKS[1]], strict=True):
        assert ranked.sums == pytest.approx(oracle(plain, question), abs=1e-4)


def test_dropout_is_off_and_the_mode_is_restored() -> None:
    model = FAMILIES["bart"]()
    model.train()
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    asked = questions(5)
    assert rank(model, asked, PAD) == rank(model, asked, PAD)
    assert model.training


def test_length_normalisation_can_change_the_answer() -> None:
    ranked = Ranked(sums=(-4.0, -5.0), lengths=(1, 5))
    assert ranked.best_by_sum == 0
    assert ranked.best_by_mean == 1
    assert ranked.means == (-4.0, -1.0)


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_what_greedy_decoding_gives_is_marked(family: str) -> None:
    model = build(family)
    source = numpy.array([7, 8, 9])
    ids, target = torch.tensor([source.tolist()]), []
    for _ in range(3):
        with torch.no_grad():
            if family == "bart":
                start = torch.tensor([[model.config.decoder_start_token_id, *target]])
                logits = model(input_ids=ids, decoder_input_ids=start, use_cache=False).logits
            else:
                logits = model(input_ids=ids, use_cache=False).logits
        target.append(int(logits[0, -1].argmax()))
        ids = ids if family == "bart" else torch.cat([ids, torch.tensor([target[-1:]])], 1)
    other = [*target[:2], target[2] + 1 if target[2] < VOCAB - 1 else 4]
    options = tuple(numpy.array(option) for option in (target, other, target[:1]))
    (ranked,) = rank(model, [Question(source, options)], PAD)
    assert ranked.greedy == (True, False, True)


@pytest.mark.parametrize("options", [(), (numpy.array([5]), numpy.array([], int))])
def test_a_question_needs_options(options: tuple[numpy.ndarray, ...]) -> None:
    with pytest.raises(ValueError, match="options"):
        Question(numpy.array([4]), options)


def test_continuations_are_greedy_and_do_not_depend_on_padding() -> None:
    class Numbers:
        pad_token_id = PAD

        def batch_decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> list[str]:
            return [" ".join(map(str, row)) for row in tokens.tolist()]

    model = build("llama")
    model.generation_config.eos_token_id = None
    sources = [question.source for question in questions(9)]
    together = continuations(model, Numbers(), sources, 4, 3)
    for source, text in zip(sources, together, strict=True):
        ids = torch.tensor(source.tolist())[None]
        for token in text.split():
            best = int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax())
            assert int(token) == best
            ids = torch.cat([ids, torch.tensor([[best]])], 1)
