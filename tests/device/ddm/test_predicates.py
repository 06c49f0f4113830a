"""Predicates of activations: what is understood, what each operator does, and the limits."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.device.ddm.predicate_values import MAX_STEPS, EvaluationFailed, Facts, Unevaluable
from agent.device.ddm.predicates import MAX_CHARACTERS, Unparsable, parse

STATUS: dict[str, Any] = {
    "device.model.family": "Mac",
    "device.operating-system.version": "26.4",
    "mdm.is-awaiting-configuration": False,
    "test.integer-value": 3,
    "app.managed.list": [
        {"identifier": "com.example.one", "state": "managed"},
        {"identifier": "com.example.two", "state": "failed"},
    ],
}
PROPERTIES = {"age": 20, "name": "Zoë", "tags": ["a", "b"], "none": None, "ratio": 0.5}


def holds(text: str) -> bool:
    return parse(text)(Facts(STATUS.__getitem__, PROPERTIES))


TRUE = [
    "TRUEPREDICATE",
    "NOT FALSEPREDICATE",
    "!(@property(age) < 18)",
    "@status(device.model.family) == 'Mac'",
    '@status(device.model.family) = "Mac"',
    "@status('device.model.family') == 'Mac'",
    "(@status(device.model.family)) == ('Mac')",
    "(@status(device.model.family) == 'Mac') && (@property(age) >= 18)",
    "@status(device.model.family) == 'iPad' OR @property(age) != 18",
    "@status(device.model.family) == 'iPad' || TRUEPREDICATE AND @property(age) <> 18",
    "@status(device.operating-system.version) >= '26.0'",
    "@status(mdm.is-awaiting-configuration) == NO",
    "@status(mdm.is-awaiting-configuration) == false",
    "@property(age) BETWEEN {18, 21}",
    "@property(age) IN {1, 20}",
    "'o' IN @property(name)",
    "@property(tags) CONTAINS 'b'",
    "@property(name) CONTAINS[cd] 'OE'",
    "@property(name) BEGINSWITH 'Z'",
    "@property(name) ENDSWITH[c] 'Ë'",
    "@property(name) LIKE 'Z?ë'",
    "@property(name) LIKE 'Z*'",
    "@property(ratio) =< 5e-1",
    "-1 < @property(ratio)",
    "@property(absent) == nil",
    "@property(none) == NULL",
    "NOT @property(absent) > 3",  # nil compares with nothing
    r"'it\'s' == \"it's\"".replace('\\"', '"'),
    "ANY @status(app.managed.list).@key(state) == 'failed'",
    "NONE @status(app.managed.list).@key(state) == 'queued'",
    "ALL @status(app.managed.list).@key(identifier) BEGINSWITH 'com.example.'",
    "@status(app.managed.list).@count == 2",
    # From Apple's documentation.
    (
        'SUBQUERY(@status(app.managed.list), $app, ($app.@key(identifier) == "com.example.one") AND '
        '($app.@key(state) == "managed")).@count != 0'
    ),
]
FALSE = [
    "FALSEPREDICATE",
    "NOT NOT FALSEPREDICATE",
    "@status(device.model.family) == 'mac'",
    "@property(age) == '20'",
    "@property(absent) != nil",
    "@property(name) LIKE 'Z'",
    "@property(name) LIKE '*Z'",
    "SOME @property(tags) == 'c'",
    "SUBQUERY(@status(app.managed.list), $app, $app.@key(state) == 'queued').@count > 0",
]
NOT_PARSED = [
    "",
    "()",
    "@status(device.model.family)",
    "@status(device.model.family) ==",
    "@status() == 1",
    "@status(device.model.family == 'Mac'",
    "'Mac",
    "1 == 1 1 == 1",
    "device.model.family == 'Mac'",
    "@property(name) MATCHES '(a+)+'",
    "@property(age) + 1 == 21",
    "CAST(1, 'NSNumber') == 1",
    "FUNCTION(1, 'description') == 1",
    "$app.@key(state) == 1",
    "SUBQUERY(@property(tags), $a, SUBQUERY(@property(tags), $b, $b == $a).@count == 1).@count == 1",
    "@property(name) CONTAINS[xyz] 'a'",
    "ANY @property(tags)",
    "1.2.3 == 1",
    "(1 == 1) == 1",
    "1 == 1 AND 1",
    "@property(tags).description == 1",
    "#",
    "(" * 40 + "1 == 1" + ")" * 40,
    "1 == 1 AND " * 600 + "1 == 1",
    "'" + "a" * MAX_CHARACTERS + "' == 1",
]


@pytest.mark.parametrize("text", TRUE)
def test_predicate_holds(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize("text", FALSE)
def test_predicate_does_not_hold(text: str) -> None:
    assert not holds(text)


@pytest.mark.parametrize("text", NOT_PARSED)
def test_what_is_outside_of_the_supported_part_is_not_parsed(text: str) -> None:
    with pytest.raises(Unparsable):
        parse(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("@status(no.such.item) == 1", Unevaluable),
        ("@property(age) < 'a'", EvaluationFailed),
        ("@property(tags) < 1", EvaluationFailed),
        ("@property(age) BEGINSWITH 'a'", EvaluationFailed),
        ("@property(age) BETWEEN {1}", EvaluationFailed),
        ("@property(age).@count == 1", EvaluationFailed),
        ("1 IN 2", EvaluationFailed),
    ],
)
def test_predicate_that_cannot_be_evaluated(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        holds(text)


def test_evaluation_is_bounded() -> None:
    """A pattern goes back to its last star only, and the steps are counted."""
    facts = Facts(STATUS.__getitem__, {"text": "a" * 3000})
    with pytest.raises(EvaluationFailed, match="steps"):
        parse(f"@property(text) LIKE '*{'a' * 1000}b'")(facts)
    assert facts.steps == MAX_STEPS + 1


PARTS = [
    "(",
    ")",
    "{",
    "}",
    ",",
    ".",
    "==",
    "<",
    "!",
    "AND",
    "OR",
    "NOT",
    "ANY",
    "IN",
    "LIKE",
    "BETWEEN",
    "'a'",
    "1",
    "nil",
]
PARTS += [
    "@status(device.model.family)",
    "@property(tags)",
    ".@count",
    ".@key(state)",
    "SUBQUERY",
    "$x",
    "[cd]",
    "'*a*'",
]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PARTS), max_size=25).map(" ".join)))
@examples(100)
def test_any_text_is_a_predicate_or_one_of_our_errors(text: str) -> None:
    with suppress(Unparsable, Unevaluable, EvaluationFailed):
        assert holds(text) in (True, False)
