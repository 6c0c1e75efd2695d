"""The metrics: published values, slow oracles, edges."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr

from moe_tasks.errors import UserError
from moe_tasks.evaluation.metrics import check, misfits, normalize, score
from moe_tasks.registry import lookup, names

ALL = {
    "ACC",
    "EM",
    "QA-F1",
    "Classification-F1",
    "Matthew-Correlation",
    "Pearson-Correlation",
    "Rouge-L",
}


def test_published_values(shared: Path) -> None:
    cases = json.loads((shared / "parity/metrics/crossfit.json").read_text())
    assert len(cases) == 24
    assert {case["metric"] for case in cases} == ALL - {"Rouge-L"}
    for case in cases:
        value = score(case["metric"], case["predictions"], case["references"])
        assert value == pytest.approx(case["expected"], abs=1e-9), case["metric"]


def test_all_seven_are_registered_with_their_range() -> None:
    assert set(names("metric")) >= ALL
    for name in ALL:
        lowest = -1.0 if "Correlation" in name else 0.0
        assert (lookup("metric", name).lowest, lookup("metric", name).highest) == (lowest, 1.0)


# --- an independent, slow oracle for EM and QA-F1 -------------------------------------------

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def _slow_words(text: str) -> list[str]:
    words, word = [], ""
    for character in text.lower() + " ":
        if character in PUNCTUATION:
            continue
        if character.isspace():
            if word and word not in ("a", "an", "the"):
                words.append(word)
            word = ""
        else:
            word += character
    return words


def _slow_em(prediction: str, accepted: list[str]) -> float:
    return 1.0 if any(_slow_words(prediction) == _slow_words(one) for one in accepted) else 0.0


def _slow_f1(prediction: str, accepted: list[str]) -> float:
    best = 0.0
    for one in accepted:
        left, right = _slow_words(prediction), _slow_words(one)
        remaining, same = list(right), 0
        for word in left:
            if word in remaining:
                remaining.remove(word)
                same += 1
        if same:
            precision, recall = same / len(left), same / len(right)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


# Letters, digits, white space and ASCII punctuation: elsewhere "a" may stand beside a character
# that is neither part of a word nor white space, and the published rule takes it for an article.
_TEXT = st.lists(
    st.sampled_from(
        ["the", "a", "An", "cat", "Café", "U.S.", "42", "don't", "...", "-", "_", "THE,"]
    ),
    max_size=6,
).map(" ".join) | st.text(st.sampled_from("aAtThHeEnNéßx01 \t\u00a0.,'_-"), max_size=12)
_CASES = st.lists(st.tuples(_TEXT, st.lists(_TEXT, min_size=1, max_size=3)), min_size=1, max_size=6)


@settings(max_examples=500, deadline=None)
@given(_CASES)
def test_exact_match_and_f1_equal_a_slow_oracle(cases: list[tuple[str, list[str]]]) -> None:
    predictions, references = [p for p, _ in cases], [r for _, r in cases]
    em = sum(_slow_em(*case) for case in cases) / len(cases)
    f1 = sum(_slow_f1(*case) for case in cases) / len(cases)
    assert score("EM", predictions, references) == pytest.approx(em, abs=1e-12)
    assert score("QA-F1", predictions, references) == pytest.approx(f1, abs=1e-12)


def test_normalize() -> None:
    assert normalize(" The  cat's, an \tEND. ") == "cats end"
    assert normalize("a-an") == "aan"
    assert normalize("theatre") == "theatre"


def test_accuracy_ignores_case_but_not_white_space() -> None:
    assert score("ACC", ["YES", "yes ", "no"], [["yes"], ["yes"], ["maybe", "No"]]) == 2 / 3


# --- labels ------------------------------------------------------------------------------------


def _slow_macro_f1(predictions: list[str], wanted: list[str]) -> float:
    values = []
    for label in set(predictions) | set(wanted):
        pairs = list(zip(predictions, wanted, strict=True))
        hits = sum(p == w == label for p, w in pairs)
        wrong = sum((p == label) != (w == label) for p, w in pairs)
        values.append(2 * hits / (2 * hits + wrong))
    return sum(values) / len(values)


def _slow_matthews(predictions: list[bool], wanted: list[bool]) -> float:
    pairs = list(zip(predictions, wanted, strict=True))
    count = {(p, w): pairs.count((p, w)) for p in (True, False) for w in (True, False)}
    tp, tn, fp, fn = (
        count[k] for k in ((True, True), (False, False), (True, False), (False, True))
    )
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(below) if below else 0.0


def test_label_metrics_equal_slow_oracles_on_random_cases() -> None:
    draw = random.Random(0)
    for _ in range(300):
        size = draw.randint(1, 20)
        wanted = [draw.choice("xy") for _ in range(size)]
        predictions = [draw.choice(["x", "y", "?"]) for _ in range(size)]
        references = [[label, "ignored"] for label in wanted]
        f1 = score("Classification-F1", predictions, references)
        assert f1 == pytest.approx(_slow_macro_f1(predictions, wanted), abs=1e-12)
        positive = min(wanted)
        matthews = _slow_matthews(
            [p == positive for p in predictions], [w == positive for w in wanted]
        )
        assert score("Matthew-Correlation", predictions, references) == pytest.approx(
            matthews, abs=1e-12
        )


def test_matthews_takes_any_two_labels() -> None:
    wanted = [["acceptable"], ["unacceptable"], ["unacceptable"], ["acceptable"], ["acceptable"]]
    predictions = ["acceptable ", "unacceptable", "acceptable", "garbage", "acceptable"]
    rename = {"acceptable": "entailment", "unacceptable": "not_entailment", "garbage": "garbage"}
    renamed = score(
        "Matthew-Correlation",
        [rename[p.strip()] for p in predictions],
        [[rename[w] for w in accepted] for accepted in wanted],
    )
    value = score("Matthew-Correlation", predictions, wanted)
    assert value == renamed == pytest.approx(1 / 6)


@pytest.mark.parametrize("predictions", [["acceptable"] * 3, ["?"] * 3])
def test_constant_answers_score_zero_in_matthews(predictions: list[str]) -> None:
    references = [["acceptable"], ["unacceptable"], ["acceptable"]]
    assert score("Matthew-Correlation", predictions, references) == 0.0


# --- numbers -----------------------------------------------------------------------------------


def test_pearson_equals_scipy_on_1000_random_cases() -> None:
    generator = np.random.default_rng(0)
    for _ in range(1000):
        size, scale = generator.integers(2, 30), 10.0 ** generator.integers(-6, 7)
        left = (generator.normal(size=size) * scale + generator.normal() * 10).tolist()
        right = generator.normal(size=size).tolist()
        value = score("Pearson-Correlation", [repr(x) for x in left], [[repr(x)] for x in right])
        assert value == pytest.approx(float(pearsonr(right, left)[0]), abs=1e-9)


def test_what_is_no_number_counts_as_three() -> None:
    references = [["1"], ["2"], ["4"], ["5"]]
    for text in ("", "three", "nan", "inf", "-Infinity", "3.0.0"):
        value = score("Pearson-Correlation", ["1", text, "4", "5"], references)
        assert value == pytest.approx(
            score("Pearson-Correlation", ["1", "3", "4", "5"], references)
        )


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        (["0.1"] * 3, [["1"], ["2"], ["3"]]),
        (["x", "y", "3"], [["1"], ["2"], ["3"]]),
        (["1", "2", "3"], [["0.1"]] * 3),
        (["1"], [["1"]]),
    ],
)
def test_undefined_correlation_is_zero(predictions: list[str], references: list[list[str]]) -> None:
    assert score("Pearson-Correlation", predictions, references) == 0.0


def test_huge_and_tiny_numbers_do_not_break_the_correlation() -> None:
    references = [["1"], ["2"], ["3"]]
    assert score("Pearson-Correlation", ["0", "0", "1e308"], references) == pytest.approx(0.8660254)
    assert score(
        "Pearson-Correlation", ["1e-300", "2e-300", "3e-300"], references
    ) == pytest.approx(1)
    assert score("Pearson-Correlation", ["-1e308", "0", "1e308"], references) == pytest.approx(1)


# --- Rouge-L -----------------------------------------------------------------------------------


def test_rouge_equals_the_package_on_ascii_text() -> None:
    draw = random.Random(1)
    scorer = RougeScorer(["rougeL"])
    words = ["the", "Cat,", "sat.", "on", "a", "mat's", "(42)", "--", "dog"]
    for _ in range(300):
        left, right = (" ".join(draw.choices(words, k=draw.randint(0, 8))) for _ in range(2))
        expected = scorer.score(right, left)["rougeL"].fmeasure
        assert score("Rouge-L", [left], [[right]]) == pytest.approx(expected, abs=1e-12)


def test_rouge_takes_the_best_reference_and_any_script() -> None:
    assert score("Rouge-L", ["the cat sat"], [["dogs ran", "the cat sat down"]]) == pytest.approx(
        6 / 7
    )
    assert score("Rouge-L", ["кот сидел"], [["Кот сидел!"]]) == 1.0
    assert score("Rouge-L", ["...", ""], [["word"], ["word"]]) == 0.0


# --- any input, wrong input --------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(ALL - {"Pearson-Correlation", "Matthew-Correlation"})),
    st.lists(
        st.tuples(st.text(max_size=10), st.lists(st.text(max_size=10), min_size=1, max_size=3)),
        min_size=1,
        max_size=5,
    ),
)
def test_any_text_has_a_score_in_range(metric: str, cases: list[tuple[str, list[str]]]) -> None:
    assert 0 <= score(metric, [p for p, _ in cases], [r for _, r in cases]) <= 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=8) | st.floats().map(repr), st.floats(-1e9, 1e9)), min_size=1
    )
)
def test_any_prediction_has_a_correlation_in_range(cases: list[tuple[str, float]]) -> None:
    value = score("Pearson-Correlation", [p for p, _ in cases], [[repr(r)] for _, r in cases])
    assert -1 <= value <= 1


@pytest.mark.parametrize(
    ("metric", "references", "message"),
    [
        ("Rouge", [["a"]], "unknown metric 'Rouge'; did you mean 'Rouge-L'"),
        (
            "Pearson-Correlation",
            [["1"], ["high"]],
            "does not fit row 2: output 'high' is not a number",
        ),
        ("Pearson-Correlation", [["nan"]], "does not fit row 1"),
        ("Matthew-Correlation", [["a"], ["b"], ["a"], ["c"]], "row 4: 'c' is a third label"),
        ("EM", [["a"], []], "row 2: no accepted output"),
    ],
)
def test_a_metric_that_does_not_fit_is_one_message(
    metric: str, references: list[list[str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(metric, references)
    with pytest.raises(UserError, match=message):
        score(metric, ["1"] * len(references), references)


def test_all_rows_that_do_not_fit_are_named() -> None:
    found = dict(misfits("Pearson-Correlation", [["1"], ["a"], ["2"], ["b"]]))
    assert list(found) == [1, 3]


def test_as_many_predictions_as_references_are_needed() -> None:
    for predictions, references in ((["a"], [["a"], ["b"]]), ([], [])):
        with pytest.raises(ValueError, match="predictions for"):
            score("EM", predictions, references)
