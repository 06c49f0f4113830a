"""Conversion of values: numbers for booleans, reals for integers, and values that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from agent.mdm.values import WrongType, converted


@pytest.mark.parametrize(
    ("value", "kind", "worth"),
    [
        (1, bool, True),
        (0, bool, False),
        (-2, bool, True),
        (0.0, bool, False),
        (0.5, bool, True),
        (True, int, 1),
        (False, int, 0),
        (2048.0, int, 2048),
        (-0.0, int, 0),
    ],
)
def test_number_is_converted_with_a_warning(value: Any, kind: type, worth: Any) -> None:
    warnings: list[str] = []
    found: Any = converted(value, kind, "Key", warnings.append)
    assert found == worth
    assert type(found) is kind
    (warning,) = warnings
    assert warning.startswith("Key is ")


@pytest.mark.parametrize(("value", "kind"), [(True, bool), (5, int), ("a", str), (b"a", bytes), ([], list), ({}, dict)])
def test_value_with_its_type_is_unchanged(value: Any, kind: type) -> None:
    warnings: list[str] = []
    assert converted(value, kind, "Key", warnings.append) is value
    assert warnings == []


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", bool),
        ("true", bool),
        (b"1", int),
        ([1], int),
        (2048.5, int),
        (float("nan"), int),
        (float("nan"), bool),
        (float("inf"), int),
        (1e300, int),
        (None, bool),
        (1, str),
        (1, list),
    ],
)
def test_unconvertible_value_is_refused(value: Any, kind: type) -> None:
    warnings: list[str] = []
    with pytest.raises(WrongType, match="Key has the wrong type: it is "):
        converted(value, kind, "Key", warnings.append)
    assert warnings == []
