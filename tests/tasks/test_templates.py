"""Templates: what they make of a row, and what they must not do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from moe_tasks.errors import UserError
from moe_tasks.tasks.template_files import read_templates
from moe_tasks.tasks.templates import Template
from tests.tasks.prompted_files import PROMPTSOURCE

ROW = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 1, "options": ["a", "b ||| c"]}


def example(source: str, choices: str | None = None, **row: Any) -> Any:
    return Template("t", source, choices).example({**ROW, **row})


def test_input_target_and_options() -> None:
    made = example("{{premise}} So {{hypothesis}}? ||| {{answer_choices[label]}}", "no ||| yes")
    assert made.input == "It rains. So It is wet.?"
    assert made.outputs == ("yes",)
    assert made.options == ("no", "yes")


def test_options_of_the_row_and_separators_inside_columns() -> None:
    made = example("{{premise}} ||| {{options[1]}}", '{{ options | join("|||") }}')
    assert made.options == ("a", "b ||| c")
    assert made.outputs == ("b ||| c",)


def test_several_targets_are_accepted_outputs() -> None:
    assert example("{{premise}} ||| wet ||| damp").outputs == ("wet", "damp")


@pytest.mark.parametrize(
    "source",
    [
        "{% if label == 0 %}{{premise}} ||| x{% endif %}",
        "{{premise}} ||| {% if label == 0 %}x{% endif %}",
    ],
)
def test_conditional_templates_pass_rows_over(source: str) -> None:
    assert example(source) is None
    assert example(source, label=0).outputs == ("x",)


def test_promptsource_additions() -> None:
    made = example('{{ ["a","b","c"] | choice }} {{ [1,2,2] | most_frequent }} ||| x')
    again = example('{{ ["a","b","c"] | choice }} {{ [1,2,2] | most_frequent }} ||| x')
    assert made == again
    drawn = {example("{{ range(10000) | list | random }} ||| x").input for _ in range(3)}
    assert len(drawn) == 1  # jinja's own draws anew
    assert made.input[0] in "abc"
    assert "[2]" in made.input
    assert example("{% for a, b in zip([1],[2]) %}{{a}}{{b}}{% endfor %} ||| x").input == "12"


@pytest.mark.parametrize(
    ("source", "choices", "message"),
    [
        ("{{premis}} ||| x", None, "no column 'premis'; did you mean 'premise'"),
        ("{{premise}} ||| maybe", "yes ||| no", "output 'maybe' is not among the options"),
        ("{{premise}} ||| yes", "{{ [] | join('|||') }}", "no answer options"),
        ("{{premise}} ||| yes", "yes ||| ", "an empty answer option"),
        ("{{premise}} ||| yes", "yes ||| yes", "answer option 'yes' twice"),
        ("{{premise}} ||| {{answer_choices[5]}}", "yes ||| no", "no element 5"),
        ("{{premise + 1}} ||| x", None, "TypeError"),
    ],
)
def test_mistakes_name_what_is_wrong(source: str, choices: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        example(source, choices)


@pytest.mark.parametrize(
    "code",
    [
        "{{ ''.__class__ }}",
        "{{ premise.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ zip.__self__ }}",
        "{{ (premise|attr('__class__')) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(premise) }}",
        "{{ options.append(1) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 9 ** 999999999 }}",
        "{% for i in range(999999999) %}{% endfor %}",
        "{% for i in range(99999) %}{{ premise * 9 }}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ lipsum.__globals__ }}",
    ],
)
def test_a_template_reaches_nothing_but_its_row(code: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        example(code + " ||| x")


@pytest.mark.parametrize("source", ["{{ premise ||| x", "{% if %} ||| x", "no separator"])
def test_what_is_no_template_shows_at_once(source: str) -> None:
    with pytest.raises(ValueError, match=r"Jinja|\|\|\|"):
        Template("t", source)


def test_words_of_a_template_name_its_columns() -> None:
    source = (
        '{% if a %}{{ premise }}{% endif %} Is "{{ text["hypo_thesis"] | trim }}" so? ||| {{x}}'
    )
    words = Template("t", source, "yes ||| no").words
    assert words == 'premise Is "text" so? yes , no'


def test_promptsource_files_are_read_as_data(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(PROMPTSOURCE)
    first, second = read_templates(path)
    assert (first.name, second.name) == ("does it follow?", "true or false")
    assert first.metric == "ACC"
    assert second.answer_choices == "true ||| false ||| neither"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templates: {a: !!python/object/apply:os.system ['true']}", "templates.yaml:1: not YAML"),
        ("templates: !Other {}", "templates.yaml:1: not YAML"),
        ("templates: [", "not YAML"),
        ("templates: {a: {jinja: x}, a: {jinja: y}}", "templates.yaml:1: not YAML: key 'a' twice"),
        ("templates: {}", "expected 'templates'"),
        ("templates: {a: {input: x}}", "template 'a': 'target' is None"),
        ("templates: {a: {inputs: x, target: y}}", "unknown key 'inputs'; did you mean 'input'"),
        ("templates: {a: {input: '{{', target: y}}", "template 'a': not a Jinja template"),
        (
            "templates: {a: {input: x, target: y, answer_choices: [yes, no]}}",
            "put words like yes in quotes",
        ),
        ("templates: {a: {input: x, target: y, answer_choices: []}}", "'answer_choices' is empty"),
        (
            "templates: {a: {name: n, jinja: 'x ||| y'}, b: {name: n, jinja: 'x ||| y'}}",
            "two templates are named 'n'",
        ),
    ],
)
def test_broken_files_of_templates(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_templates(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
