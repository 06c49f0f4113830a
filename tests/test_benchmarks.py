"""The benchmarks still fit the program that they measure: each can be loaded. What they measure, only they say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_benchmark_is_importable_and_has_a_docstring(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    try:
        module = importlib.import_module(name)
        assert module.__doc__
    finally:
        for added in {each for each in sys.modules if each in PROGRAMS} - before:
            del sys.modules[added]
