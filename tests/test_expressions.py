"""Every regular expression takes time in proportion to its input, which may come from an untrusted peer.

The expressions are found in the source, so a new one fails here until its worst cases are listed. Two independent
judgements for each: none of all possible inputs needs more than linear time (``ambiguity``), and eight times a worst
case needs eight times the steps (``Counter``).
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from collections_off import without_collections
from hypothesis import given
from hypothesis import strategies as st
from regex_ambiguity import ambiguity
from regex_steps import Counter, Text

FOLDER = Path(__file__).parent.parent / "agent"
SIZE, TIMES = 100, 8
BUDGET = 1_000_000  # steps
SMALL_SIZE, SMALL_BUDGET = 20, 50_000  # for what is bad: the steps grow with the square of the size, or exponentially
WHERE_IT_BEGINS = ("match", "fullmatch")
ANYWHERE = ("search", "sub", "subn", "findall", "finditer", "split")
OF_MODULE = ("compile", "Match", "Pattern", "error", "escape", "ASCII", "I", "IGNORECASE", "DOTALL", "VERBOSE")
MAY_MATTER = re.compile(r"\b(?:re|regex|sre_\w+|pattern)\b")  # other modules need no look, and no import
XML = ('<?xml version="1.0"?>', '<!DOCTYPE plist PUBLIC "', '" "', '">', "<plist>")

WorstCase = Callable[[int], Text]


def pumped(before: str, repeated: str, after: str = "") -> WorstCase:
    return lambda count: before + repeated * count + after


def octets(before: bytes, repeated: bytes, after: bytes = b"") -> WorstCase:
    return lambda count: before + repeated * count + after


# By the last part of the module's name, so that a module may move. The worst cases are long where two parts of an
# expression meet, and end in what does not match.
WORST_CASES: dict[str, tuple[WorstCase, ...]] = {
    "addresses._MAC": (pumped("", "00:", "x"),),
    "complaints._LACKS": (pumped("Object missing required field `", "a"), pumped("", "Object missing required ")),
    "complaints._STEP": (pumped("[", "1"), pumped(".", "a", "["), pumped("", "[1"), pumped("", "["), pumped("", ".")),
    "ddm._RFC_3339": (pumped("2026-11-28T12:00:00.", "1", "x"), pumped("2026-11-28T12:00:00+", "0"), pumped("", "0")),
    "digest._PART": (
        pumped("", "a", "?"),
        pumped("a", " ", "?"),
        pumped('a="', "b"),
        pumped("a=", "b", '"'),
        pumped('a="b"', " ", "?"),
    ),
    "exchanges._XML_DATA": (pumped("<data>", "a"), pumped("", "<data>"), pumped("", "<data")),
    "exchanges._XML_SECRET": (
        pumped("<key>", "a"),
        pumped("<key>a</key>", " ", "x"),
        pumped("<key>a</key><string>", "b"),
        pumped("", "<key>"),
        pumped("", "<key>a</key>"),
        pumped("", "<key>a</key> "),
    ),
    "files._DESCRIPTOR": (pumped("/dev/fd/", "1"), pumped("", "/dev/fd/")),
    "rules._INDEXES": (pumped("", "1"), pumped("1-", "1"), pumped("", "1-")),
    "rules._UDID": (pumped("01234567", "-0123"), pumped("", "0")),
    "rules.Meta": (pumped("", "a"), pumped("a", "a", "!"), pumped("", "\n")),
    "http1._CHUNK_SIZE": (octets(b"1", b" ", b"x"), octets(b"1;", b" ", b"\n"), octets(b"", b"1", b" ")),
    "http1._FIELD": (
        pumped("a:", " ", "\0"),
        pumped("a:", "\t ", "\r"),
        pumped("", "a"),
        pumped("a:", ":", "\n"),
        pumped("", "a: b\r\n", "malformed"),
    ),
    "http1._FOLD": (pumped("\r\n", " "), pumped("", "\r\n \t"), pumped("", "\r"), pumped("", "\r\n")),
    "http2_fields._NAME": (octets(b"", b"a", b" "),),
    "http2_fields._NOT_OF_VALUES": (octets(b"", b"a"),),
    "http2_fields._STATUS": (octets(b"", b"1"),),
    "http2_requests._NAME": (octets(b"", b"a", b" "),),
    "http2_requests._NOT_OF_VALUES": (octets(b"", b"a"),),
    "http1._LENGTH": (octets(b"", b"1"), octets(b"", b"1", b" ")),
    "http1._STATUS_LINE": (octets(b"HTTP/1.1 200 ", b" ", b"\0"), octets(b"HTTP/1.1 200 ", b"a", b"\n")),
    "http1._VISIBLE": (pumped("", "a", " "),),
    "junit._NOT_XML": (pumped("", "a"), pumped("", "\0")),
    "request._FIELD_NAME": (pumped("", "a", " "),),
    "request._FIELD_VALUE": (pumped("", "\t ", "\0"),),
    "limits._FORM": (
        pumped("", "a"),
        pumped("a.", "a"),
        pumped("a.p", "9."),
        pumped("a.p", " "),
        pumped("a.p<", " "),
        pumped("a.p<1", " ", "1"),
        pumped("a.p<1", "x", "1"),
    ),
    "xml_reading._DATE": (pumped("", " "), pumped("2026-01-01T00:00:00Z", " ", "x"), pumped("", "1")),
    "lenient_xml._DECLARATION": (
        octets(b"", b"<"),
        octets(b"", b"<!"),
        octets(b"", b"<!ENTIT"),
        octets(b"", b"<!ATTLIS"),
    ),
    "xml_reading._INTEGER": (
        pumped("", " "),
        pumped("1", " ", "x"),
        pumped("", "1"),
        pumped("0x", "f"),
        pumped(" ", "0x"),
    ),
    "values._NOT_IN_XML": (pumped("", "a"),),
    "writing._SPECIAL": (pumped("", "a"), pumped("", "&")),
    "lenient_xml._PLAIN_PROLOG": tuple(
        octets(before.encode(), repeated, after)
        for before, repeated, after in (
            ("<?xml ", b"?", b"<"),
            ("<?xml ", b" ", b""),
            (XML[0], b" \n", b"<plis"),
            (XML[0] + XML[1], b"a", b""),
            ("".join(XML[:3]), b"a", b"<"),
            ("".join(XML[:4]), b" ", b"<plist!"),
            ('<!DOCTYPE plist SYSTEM "', b"a", b'"!'),
        )
    ),
    "report._FAIL_ON": (pumped("regression:", "1", "x"), pumped("regression:1.", "1", "x"), pumped("", "regression")),
    "requests._HEX_TOKEN": (pumped("", "a"), pumped("", "a", "x")),
    "requests._SECONDS": (pumped("", "1"),),
    "requests._TOPIC": (pumped("", "."), pumped("", "a", " ")),
    "push._SECONDS": (pumped("", "1"),),
    "push._UUID": (pumped("01234567", "-0123"), pumped("", "0")),
    "requests._UUID": (pumped("01234567", "-0123"), pumped("", "0")),
    "redacted._IN_BODY": (
        pumped('"', "a"),
        pumped('"a"', " ", ";"),
        pumped('"a":', " ", ";"),
        pumped('"a":"', "b"),
        pumped('"a":"', "\\b"),
        pumped('"a":"', '\\"'),
        pumped("", '"'),
        pumped("", '"a" '),
        pumped("", '"a":'),
    ),
    "redacted._QUERY": (pumped("=", "a"), pumped("", "="), pumped("", "=&")),
    "redacted._SECRET": (pumped("", "authorizatio"), pumped("", "pi"), pumped("", "kpin"), pumped("", "passwor")),
    "redacted._TEMPLATES": (
        pumped("", "Bearer", "x"),
        pumped("", "{env:a}", "x"),
        pumped("", " ", "x"),
        pumped("{", "a"),
        pumped("{env:", "a"),
        pumped("", "{env"),
    ),
    "addresses._TYPED": (pumped("[", "a"), pumped("[a%", "a"), pumped("[a]:", "1")),
    "options._CODE": (pumped("", "`"), pumped("`", "a"), pumped("", "`a"), pumped("", "a")),
    "templates._HEADER_NAME": (pumped("", "a", ":"),),
    "templates._HEADER_VALUE": (pumped("", " ", "\0"),),
    "templates._PLACEHOLDER": (
        pumped("{", "a"),
        pumped("{env:", "a"),
        pumped("", "{"),
        pumped("", "{a"),
        pumped("", "{env:"),
    ),
    "trace._TROUBLESOME": (pumped("", "a"),),
    "types.Meta": (pumped("", "a"), pumped("a", "a", "!"), pumped("", "\n")),
    "variables._VARIABLE": (
        pumped("%", "a"),
        pumped("", "%"),
        pumped("", "%a"),
        pumped("", "%a1"),
        pumped("%", "a", "1"),
    ),
    "wire.msgspec.Meta": (pumped("", "-"), pumped("", "a", "x")),
}


@dataclass
class Expression:
    """An expression of a module and the methods that are called on it."""

    compiled: re.Pattern[Any]
    methods: set[str] = field(default_factory=set)


class _Finder(ast.NodeVisitor):
    """Finds the expressions of one module; ``complaints`` names each use of ``re`` that would escape the tests."""

    def __init__(self, module: Any, tree: ast.Module) -> None:
        self.module = module
        self.found: dict[str, Expression] = {}
        self.complaints: list[str] = []
        for statement in tree.body:
            match statement:
                case ast.Assign(targets=[ast.Name(name)], value=ast.Call(func=function)) if _is_compile(function):
                    self.found[name] = Expression(getattr(module, name))
        self._compiled = len(self.found)
        self.visit(tree)
        if self._compiled:
            self.complaints.append(f"{self._compiled} more calls of re.compile than names of a module")

    def visit_Import(self, node: ast.Import) -> None:
        if any(each.name in ("re", "regex", "sre_parse") and (each.asname or each.name) != "re" for each in node.names):
            self.complaints.append("re under another name")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module in ("re", "regex", "sre_compile"):
            self.complaints.append("a part of re by itself")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            if node.value.id == "re" and node.attr not in OF_MODULE:
                self.complaints.append(f"re.{node.attr}, whose expression has no name")
            if node.value.id == "re" and node.attr == "compile":
                self._compiled -= 1
            if node.value.id in self.found:
                self.found[node.value.id].methods.add(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg == "pattern":  # of msgspec, which searches with re
                text = eval(ast.unparse(keyword.value), dict(vars(self.module)))
                name = ast.unparse(node.func)
                if name in self.found:
                    self.complaints.append(f"more than one {name} with a pattern")
                self.found[name] = Expression(re.compile(text), {"search"})
        self.generic_visit(node)


def _is_compile(function: ast.expr) -> bool:
    return ast.unparse(function) == "re.compile"


@cache
def finders() -> dict[str, _Finder]:
    """Each module of the package by its full name."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        text = path.read_text(encoding="utf-8")
        if MAY_MATTER.search(text) and parts[-1] != "__main__":
            module = importlib.import_module(name)
            with without_collections():
                found[name] = _Finder(module, ast.parse(text))
    return found


@cache
def expressions() -> dict[str, Expression]:
    return {
        f"{module.rpartition('.')[2]}.{name}": expression
        for module, finder in finders().items()
        for name, expression in finder.found.items()
    }


def used(expression: Expression, counter: Counter, text: Text) -> None:
    """Match as the source does; what searches does it to the end of the text."""
    for method in sorted(expression.methods):
        if method == "match":
            counter.match(text)
        elif method == "fullmatch":
            counter.fullmatch(text)
        else:
            counter.every(text)


def steps(expression: Expression, text: Text, budget: int) -> int:
    counter = Counter(expression.compiled, budget)
    used(expression, counter, text)
    return counter.steps


def assert_linear(expression: Expression, worst_case: WorstCase, size: int = SIZE, budget: int = BUDGET) -> None:
    """One part in eight more for what is saved once, at the end of a text; quadratic are 64 times the steps."""
    most = (TIMES + 1) * steps(expression, worst_case(size), budget)
    assert steps(expression, worst_case(TIMES * size), budget) <= most


# What there is


def test_every_regex_has_worst_case_inputs() -> None:
    assert sorted(expressions()) == sorted(WORST_CASES)
    assert len(expressions()) == sum(len(finder.found) for finder in finders().values()), "two of the same name"


def test_every_regex_is_a_module_constant() -> None:
    assert {name: finder.complaints for name, finder in finders().items() if finder.complaints} == {}


def test_every_use_of_a_regex_is_found() -> None:
    for name, expression in expressions().items():
        assert expression.methods, f"{name} is used in no way that is seen"
        assert expression.methods <= {*WHERE_IT_BEGINS, *ANYWHERE}, name


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("import re\ndef f(t): return re.match('a', t)", "re.match"),
        ("import re\ndef f(t): return re.compile('a').match(t)", "more calls"),
        ("import re\nX = [re.compile('a')]", "more calls"),
        ("import re as r", "another name"),
        ("from re import compile", "by itself"),
    ],
)
def test_unknown_regex_is_reported_by_name(text: str, wording: str) -> None:
    assert any(wording in each for each in _Finder(re, ast.parse(text)).complaints)


# What it costs


@pytest.mark.parametrize("name", sorted(WORST_CASES))
def test_every_regex_is_unambiguous_so_its_time_is_linear(name: str) -> None:
    expression = expressions()[name]
    assert ambiguity(expression.compiled, searched=bool(expression.methods & {*ANYWHERE})) == ""


@pytest.mark.parametrize("name", sorted(WORST_CASES))
def test_worst_case_steps_are_linear_in_the_input(name: str) -> None:
    for worst_case in WORST_CASES[name]:
        assert_linear(expressions()[name], worst_case)


# The judges themselves

_WITH_BLANKS = r"([a-z]+):[ \t]*([^\r\n\0]*)"
BAD = {
    rf"{_WITH_BLANKS}(?:\r\n{_WITH_BLANKS})*\Z": ("match", pumped("", "a: b\r\n", "malformed")),
    _WITH_BLANKS: ("fullmatch", pumped("a:", " ", "\0")),
    r"(a*)*b": ("match", pumped("", "a")),
    r"(a|a)*b": ("match", pumped("", "a")),
    r"(?:aa|aaa)*b": ("match", pumped("", "a")),
    r"a*a*b": ("match", pumped("", "a")),
    r"\s+$": ("search", pumped("", " ", "x")),
    r"a+b|a": ("findall", pumped("", "a")),
    r"(?<=a)a*b": ("search", pumped("", "a")),
}
GOOD = (r"a*b", r"(a|b)*?c.*", r"%([A-Za-z]+)%", r"=[^&#]+", r"(?:a|ba)*c", r"a{2,5}b*", r"(?>a*)b", r"(?!ab)a*+c?$")


@pytest.mark.parametrize("pattern", BAD)
def test_bad_regex_is_found_by_both_checks(pattern: str) -> None:
    method, worst_case = BAD[pattern]
    expression = Expression(re.compile(pattern), {method})
    with pytest.raises(AssertionError):
        assert_linear(expression, worst_case, SMALL_SIZE, SMALL_BUDGET)
    assert ambiguity(expression.compiled, searched=method in ANYWHERE)


@pytest.mark.parametrize("pattern", GOOD)
def test_good_regex_passes_both_checks(pattern: str) -> None:
    assert ambiguity(re.compile(pattern), searched=False) == ""


SMALL = (*GOOD, *BAD, r"(ab|a)(c|bcd)*$", r"\d+(?:\.\d+)?\Z", r"[^ab]+b?", r"(?<!a)b", r"^(?:a??b?){1,3}c")


@given(st.sampled_from(SMALL), st.text("abc:% \r\n.=&1\0", max_size=12))
def test_step_counter_matches_like_re(pattern: str, text: str) -> None:
    expression = re.compile(pattern)
    counter = Counter(expression)
    assert counter.match(text) == _end(expression.match(text))
    assert counter.fullmatch(text) == _end(expression.fullmatch(text))
    found = expression.search(text)
    assert counter.search(text) == (None if found is None else found.span())


def test_step_counter_matches_like_re_for_our_regexes() -> None:
    for name, expression in expressions().items():
        counter = Counter(expression.compiled)
        for worst_case in WORST_CASES[name]:
            for text in _prefixes(worst_case(3)):
                assert counter.match(text) == _end(expression.compiled.match(text)), name
                assert counter.fullmatch(text) == _end(expression.compiled.fullmatch(text)), name
                found = expression.compiled.search(text)
                assert counter.search(text) == (None if found is None else found.span()), name


def _prefixes(text: Text) -> Iterator[Text]:
    for end in range(len(text) + 1):
        yield text[:end]


def _end(found: re.Match[Any] | None) -> int | None:
    return None if found is None else found.end()
