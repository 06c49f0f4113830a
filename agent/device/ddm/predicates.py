"""Predicates of activations: a parser and an evaluator of the part of NSPredicate that Apple documents for them.

``@status(NAME)``, ``@property(NAME)``, ``.@key(NAME)``, ``.@count`` and ``SUBQUERY`` are Apple's extensions
(ActivationSimple; "Processing status for managed apps"). Regular expressions (MATCHES), arithmetic and functions are
not supported: such a predicate cannot be parsed here. Parser and evaluator take time in proportion to their input: a
predicate has at most MAX_TOKENS tokens, and all predicates of a Mac together take at most MAX_STEPS steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from agent.device.ddm.predicate_values import Facts, Unevaluable, Value, comparison, items_of, value_of_key

MAX_CHARACTERS = 8192  # of a predicate; our limits
MAX_TOKENS = 1024
MAX_DEPTH = 32


class Unparsable(Exception):
    """A text that is not a predicate, or is outside of the supported part."""


Evaluate = Callable[[Facts], Value]


class Node(msgspec.Struct, frozen=True):
    """A part of a predicate. ``is_test``: it is true or false, and not a value to compare."""

    evaluate: Evaluate
    is_test: bool


class _Token(msgspec.Struct, frozen=True):
    kind: str
    """``word``, ``string``, ``number``, ``mark`` or ``end``."""
    text: str


_MARKS = (
    "&&",
    "||",
    "==",
    "!=",
    "<>",
    "<=",
    "=<",
    ">=",
    "=>",
    "=",
    "<",
    ">",
    "!",
    "(",
    ")",
    "{",
    "}",
    ",",
    ".",
    "[",
    "]",
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}
_COMPARISONS = {"=": "==", "<>": "!=", "=<": "<=", "=>": ">="}
_OPERATORS = ("==", "!=", "<", ">", "<=", ">=", "BETWEEN", "IN", "CONTAINS", "BEGINSWITH", "ENDSWITH", "LIKE")
_QUANTIFIERS: Mapping[str, Callable[[list[bool]], bool]] = {
    "ANY": any,
    "SOME": any,
    "ALL": all,
    "NONE": lambda found: not any(found),
}
_CONSTANTS = {"TRUE": True, "YES": True, "FALSE": False, "NO": False, "NULL": None, "NIL": None}


def parsing_steps(text: str) -> int:
    """The steps that it takes to parse a predicate."""
    return len(text) // 8


def parse(text: str) -> Callable[[Facts], bool]:
    """The predicate, ready for evaluation. Raises Unparsable."""
    node = _Parser(_tokens(text)).whole()
    return lambda facts: bool(node.evaluate(facts))


def _tokens(text: str) -> list[_Token]:
    if len(text) > MAX_CHARACTERS:
        raise Unparsable(f"the predicate has more than {MAX_CHARACTERS} characters")
    tokens: list[_Token] = []
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        token, place = _token(text, place)
        tokens.append(token)
        if len(tokens) > MAX_TOKENS:
            raise Unparsable(f"the predicate has more than {MAX_TOKENS} parts")
    return [*tokens, _Token("end", "")]


def _token(text: str, place: int) -> tuple[_Token, int]:
    """The token at ``place``, and where the next one may begin."""
    first = text[place]
    if first in "'\"":
        return _string(text, place)
    if first.isascii() and (first.isdigit() or (first == "-" and text[place + 1 : place + 2].isdigit())):
        return _run(text, place, "number", "0123456789.eE+-")
    if first in "@$_" or (first.isascii() and first.isalpha()):
        return _run(text, place, "word", "_-")
    mark = next((mark for mark in _MARKS if text.startswith(mark, place)), None)
    if mark is None:
        raise Unparsable(f"unexpected {first!r} at character {place + 1}")
    return _Token("mark", mark), place + len(mark)


def _run(text: str, place: int, kind: str, others: str) -> tuple[_Token, int]:
    end = place + 1
    letters = kind == "word"
    while end < len(text) and (text[end] in others or (letters and text[end].isascii() and text[end].isalnum())):
        end += 1
    return _Token(kind, text[place:end]), end


def _string(text: str, place: int) -> tuple[_Token, int]:
    quote, parts = text[place], []
    place += 1
    while place < len(text) and text[place] != quote:
        if text[place] == "\\":
            place += 1
            parts.append(_ESCAPES.get(text[place : place + 1], text[place : place + 1]))
        else:
            parts.append(text[place])
        place += 1
    if place >= len(text):
        raise Unparsable("a string has no end")
    return _Token("string", "".join(parts)), place + 1


class _Parser:
    """A recursive descent over the tokens, without backtracking."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0
        self._variable = ""

    def whole(self) -> Node:
        """The predicate of all tokens."""
        node = self._test(self._any_of())
        if self._next.kind != "end":
            raise Unparsable(f"unexpected {self._next.text!r} after the predicate")
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        token = self._next
        self._place += token.kind != "end"
        return token

    def _taken(self, *texts: str) -> str:
        """The next mark or word if it is one of ``texts``, which it then takes; empty otherwise."""
        token = self._next
        text = token.text.upper()
        if token.kind not in ("mark", "word") or text not in texts:
            return ""
        self._place += 1
        return text

    def _expect(self, text: str) -> None:
        if not self._taken(text):
            raise Unparsable(f"expected {text!r}, found {self._next.text[:80]!r}")

    def _test(self, node: Node) -> Node:
        if not node.is_test:
            raise Unparsable("expected a comparison, found a value")
        return node

    def _value(self, node: Node) -> Node:
        if node.is_test:
            raise Unparsable("expected a value, found a comparison")
        return node

    def _any_of(self) -> Node:
        nodes = [self._all_of()]
        while self._taken("OR", "||"):
            nodes.append(self._test(self._all_of()))
        return nodes[0] if len(nodes) == 1 else _joined(any, [self._test(node) for node in nodes])

    def _all_of(self) -> Node:
        nodes = [self._negated()]
        while self._taken("AND", "&&"):
            nodes.append(self._test(self._negated()))
        return nodes[0] if len(nodes) == 1 else _joined(all, [self._test(node) for node in nodes])

    def _negated(self) -> Node:
        negations = 0
        while self._taken("NOT", "!"):
            negations += 1
        node = self._comparison()
        if negations:
            self._test(node)
        inner = node.evaluate
        return Node(lambda facts: not inner(facts), True) if negations % 2 else node

    def _comparison(self) -> Node:
        quantifier = self._taken(*_QUANTIFIERS)
        left = self._operand()
        found = self._taken(*_OPERATORS, *_COMPARISONS)
        if not found:
            if quantifier:
                raise Unparsable(f"expected a comparison after {quantifier}")
            return left
        operator = _COMPARISONS.get(found, found)
        fold = self._options()
        right = self._value(self._operand()).evaluate
        compare, value = comparison(operator, fold), self._value(left).evaluate
        if quantifier:
            over = _QUANTIFIERS[quantifier]
            return Node(
                lambda facts: over([compare(facts, each, right(facts)) for each in items_of(value(facts))]), True
            )
        return Node(lambda facts: compare(facts, value(facts), right(facts)), True)

    def _options(self) -> str:
        """The letters in brackets after an operator: c without case, d without diacritics, n literally."""
        if not self._taken("["):
            return ""
        options = self._take().text.lower()
        self._expect("]")
        if not options or not set(options) <= set("cdn"):
            raise Unparsable(f"unknown options [{options[:20]}]")
        return options

    def _operand(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unparsable(f"the predicate is nested deeper than {MAX_DEPTH} levels")
        node = self._primary()
        self._depth -= 1
        while self._taken("."):
            node = self._member(self._value(node).evaluate)
        return node

    def _primary(self) -> Node:
        if self._taken("("):
            node = self._any_of()
            self._expect(")")
            return node
        if self._taken("{"):
            return self._aggregate()
        token = self._take()
        if token.kind == "string":
            return _constant(token.text)
        if token.kind == "number":
            return _constant(_number(token.text))
        if token.kind == "word":
            return self._word(token.text)
        raise Unparsable(f"expected a value, found {token.text[:80] or 'the end'!r}")

    def _aggregate(self) -> Node:
        if self._taken("}"):
            return _constant([])
        parts = [self._value(self._operand()).evaluate]
        while self._taken(","):
            parts.append(self._value(self._operand()).evaluate)
        self._expect("}")
        return Node(lambda facts: [part(facts) for part in parts], False)

    def _word(self, word: str) -> Node:
        name = word.upper()
        if name in ("TRUEPREDICATE", "FALSEPREDICATE"):
            return Node(lambda _facts: name == "TRUEPREDICATE", True)
        if name in _CONSTANTS:
            return _constant(_CONSTANTS[name])
        if word == "@status":
            return _status(self._name())
        if word == "@property":
            key = self._name()
            return Node(lambda facts: facts.properties.get(key), False)
        if name == "SUBQUERY":
            return self._subquery()
        if word.startswith("$"):
            if word != self._variable:
                raise Unparsable(f"there is no variable {word[:80]}")
            return Node(lambda facts: facts.variables[word], False)
        raise Unparsable(f"{word[:80]!r} is not supported")

    def _member(self, of: Evaluate) -> Node:
        word = self._take().text
        if word == "@count":
            return Node(lambda facts: len(items_of(of(facts))), False)
        if word == "@key":
            key = self._name()
            return Node(lambda facts: value_of_key(of(facts), key, facts), False)
        raise Unparsable(f"expected @key(…) or @count, found {word[:80]!r}")

    def _name(self) -> str:
        """The name in parentheses after @status, @property or @key."""
        self._expect("(")
        if self._next.kind == "string":
            name = self._take().text
        else:
            parts = []
            while self._next.kind in ("word", "number") or self._next.text == ".":
                parts.append(self._take().text)
            name = "".join(parts)
        self._expect(")")
        if not name:
            raise Unparsable("expected a name in parentheses")
        return name

    def _subquery(self) -> Node:
        if self._variable:
            raise Unparsable("a SUBQUERY within another one is not supported")
        self._expect("(")
        collection = self._value(self._operand()).evaluate
        self._expect(",")
        variable = self._take().text
        if not variable.startswith("$"):
            raise Unparsable(f"expected a variable, found {variable[:80]!r}")
        self._expect(",")
        self._variable = variable
        test = self._test(self._any_of()).evaluate
        self._variable = ""
        self._expect(")")
        return Node(
            lambda facts: [each for each in items_of(collection(facts)) if _holds(test, facts, variable, each)], False
        )


def _holds(test: Evaluate, facts: Facts, variable: str, value: Value) -> bool:
    facts.step()
    facts.variables[variable] = value
    return bool(test(facts))


def _joined(over: Callable[..., bool], nodes: list[Node]) -> Node:
    tests = [node.evaluate for node in nodes]
    return Node(lambda facts: over(test(facts) for test in tests), True)


def _constant(value: Value) -> Node:
    return Node(lambda _facts: value, False)


def _status(name: str) -> Node:
    def evaluate(facts: Facts) -> Value:
        try:
            return facts.status(name)
        except KeyError:
            raise Unevaluable(f"this Mac has no status item {name[:200]}") from None

    return Node(evaluate, False)


def _number(text: str) -> Value:
    try:
        return float(text) if any(mark in text for mark in ".eE") else int(text)
    except ValueError:
        raise Unparsable(f"{text[:80]!r} is not a number") from None
