"""How many steps a regular expression takes, counted on the tree that Python's own parser makes of it.

Python's ``re`` matches by backtracking and counts nothing. ``Counter`` compiles the same parse tree to a program for a
backtracking machine with an explicit stack (R. Cox, "Regular Expression Matching: the Virtual Machine Approach") and
counts the instructions that it executes. ``re`` skips some of these by its optimisations and adds none, so a count
that grows linearly means that ``re``'s time does.
"""

from __future__ import annotations

import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

Text = str | bytes
Codes = Sequence[int]
_MANY_COPIES = 300  # of a part that is repeated a bounded number of times


class TooManySteps(AssertionError):
    """The budget is used up."""


class Counter:
    """The program of one expression. ``steps`` counts the instructions that were executed since it was made."""

    def __init__(self, expression: re.Pattern[Any], budget: int = 1_000_000) -> None:
        self.steps = 0
        self._budget = budget
        self._flags = expression.flags
        self.of_bytes = isinstance(expression.pattern, bytes)
        self.bounds: set[int] = set()  # the characters at which what it takes may change
        self.program: list[tuple[Any, ...]] = []
        self._registers = 0
        self._compile(parser.parse(expression.pattern, expression.flags))
        self.program.append(("match",))

    # What ``re`` offers. A match is given by its end.

    def match(self, text: Text, at: int = 0) -> int | None:
        return self._run(_codes(text), at, 0)

    def fullmatch(self, text: Text) -> int | None:
        return self._run(_codes(text), 0, 0, whole=True)

    def search(self, text: Text) -> tuple[int, int] | None:
        return self._search(_codes(text), 0)

    def _search(self, codes: Codes, at: int) -> tuple[int, int] | None:
        for start in range(at, len(codes) + 1):
            end = self._run(codes, start, 0)
            if end is not None:
                return start, end
        return None

    def every(self, text: Text) -> list[tuple[int, int]]:
        """As ``finditer``, ``findall``, ``sub`` and ``split`` look for matches."""
        codes = _codes(text)
        found, at = [], 0
        while (span := self._search(codes, at)) is not None:
            found.append(span)
            at = span[1] + (span[0] == span[1])
        return found

    # The compiler.

    def _emit(self, *instruction: Any) -> int:
        self.program.append(instruction)
        return len(self.program) - 1

    def _register(self) -> int:
        self._registers += 1
        return self._registers - 1

    def _compile(self, tree: Iterable[tuple[Any, Any]]) -> None:
        for operator, argument in tree:
            match operator:
                case sre.LITERAL | sre.NOT_LITERAL | sre.IN | sre.ANY:
                    self._emit("char", self._predicate(operator, argument))
                case sre.AT:
                    self._emit("at", argument)
                case sre.SUBPATTERN:
                    _group, add, remove, inner = argument
                    if add or remove:
                        raise NotImplementedError("flags of a group")
                    self._compile(inner)
                case sre.ATOMIC_GROUP:
                    self._atomic(lambda inner=argument: self._compile(inner))
                case sre.BRANCH:
                    self._branch(argument[1])
                case sre.MAX_REPEAT | sre.MIN_REPEAT:
                    self._repeat(*argument, greedy=operator is sre.MAX_REPEAT)
                case sre.POSSESSIVE_REPEAT:
                    self._atomic(lambda argument=argument: self._repeat(*argument, greedy=True))
                case sre.ASSERT | sre.ASSERT_NOT:
                    self._assertion(argument, negated=operator is sre.ASSERT_NOT)
                case _:
                    raise NotImplementedError(str(operator))

    def _atomic(self, inside: Callable[[], None]) -> None:
        register = self._register()
        self._emit("mark", register)
        inside()
        self._emit("cut", register)

    def _branch(self, ways: list[Any]) -> None:
        jumps = []
        for way in ways[:-1]:
            split = self._emit("split", 0, 0)
            self._compile(way)
            jumps.append(self._emit("jump", 0))
            self.program[split] = ("split", split + 1, len(self.program))
        self._compile(ways[-1])
        for jump in jumps:
            self.program[jump] = ("jump", len(self.program))

    def _repeat(self, least: int, most: int, inner: Any, *, greedy: bool) -> None:
        for _ in range(_bounded(least)):
            self._compile(inner)
        if most == sre.MAXREPEAT:
            register = self._register()
            split = self._emit("split", 0, 0)
            self._emit("note", register)
            self._compile(inner)
            self._emit("moved", register)
            self._emit("jump", split)
            self.program[split] = _split(split + 1, len(self.program), greedy)
            return
        splits = []
        for _ in range(_bounded(most - least)):
            splits.append(self._emit("split", 0, 0))
            self._compile(inner)
        for split in splits:
            self.program[split] = _split(split + 1, len(self.program), greedy)

    def _assertion(self, argument: Any, *, negated: bool) -> None:
        direction, inner = argument
        if inner.getwidth()[1] > _MANY_COPIES:
            raise NotImplementedError("an assertion without a bound")
        width = inner.getwidth()[0] if direction < 0 else 0
        instruction = self._emit("assert", 0, width, negated)
        self._compile(inner)
        self._emit("match")
        self.program[instruction] = ("assert", len(self.program), width, negated)

    def _predicate(self, operator: Any, argument: Any) -> Callable[[int], bool]:
        """A test of one character, given by its number."""
        fold = bool(self._flags & re.IGNORECASE)
        match operator:
            case sre.ANY:
                return (lambda _code: True) if self._flags & re.DOTALL else (lambda code: code != 10)
            case sre.LITERAL:
                items, negated = [(sre.LITERAL, argument)], False
            case sre.NOT_LITERAL:
                items, negated = [(sre.LITERAL, argument)], True
            case _:
                negated = argument[0][0] is sre.NEGATE
                items = argument[negated:]
        tests = [self._item(*item) for item in items]

        @cache
        def holds(code: int) -> bool:
            cases = (chr(code).lower(), chr(code).upper()) if fold else ()
            same = {code, *(ord(each) for each in cases if len(each) == 1)}
            return any(test(each) for test in tests for each in same) is not negated

        return holds

    def _item(self, operator: Any, argument: Any) -> Callable[[int], bool]:
        match operator:
            case sre.LITERAL:
                self.bounds |= {argument, argument + 1}
                return lambda code: code == argument
            case sre.RANGE:
                low, high = argument
                self.bounds |= {low, high + 1}
                return lambda code: low <= code <= high
            case sre.CATEGORY:
                letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[str(argument).rpartition("_")[2]]
                letter = letter.upper() if "_NOT_" in str(argument) else letter
                one = re.compile(f"\\{letter}", re.ASCII if self.of_bytes else self._flags & re.ASCII)
                return lambda code: one.match(chr(code)) is not None
        raise NotImplementedError(str(operator))

    # The machine.

    def _run(self, codes: Codes, at: int, begin: int, *, whole: bool = False) -> int | None:  # noqa: C901  # one case for each instruction
        stack: list[tuple[int, int, tuple[int, ...]]] = [(begin, at, (0,) * self._registers)]
        program, size = self.program, len(codes)
        while stack:
            counter, position, registers = stack.pop()
            while True:
                self.steps += 1
                if self.steps > self._budget:
                    raise TooManySteps(f"more than {self._budget} steps for {size} characters")
                match program[counter]:
                    case ("char", holds):
                        if position >= size or not holds(codes[position]):
                            break
                        position += 1
                        counter += 1
                    case ("split", first, second):
                        stack.append((second, position, registers))
                        counter = first
                    case ("jump", target):
                        counter = target
                    case ("at", where):
                        if not _is_at(where, codes, position):
                            break
                        counter += 1
                    case ("note", register):
                        registers = (*registers[:register], position, *registers[register + 1 :])
                        counter += 1
                    case ("moved", register):
                        if registers[register] == position:  # a loop whose body matched nothing ends
                            counter += 1
                        counter += 1
                    case ("mark", register):
                        registers = (*registers[:register], len(stack), *registers[register + 1 :])
                        counter += 1
                    case ("cut", register):
                        del stack[registers[register] :]
                        counter += 1
                    case ("assert", behind, width, negated):
                        found = position >= width and self._run(codes, position - width, counter + 1) is not None
                        if found is negated:
                            break
                        counter = behind
                    case _:
                        if whole and position < size:
                            break
                        return position
        return None


def _codes(text: Text) -> Codes:
    return text if isinstance(text, bytes) else [ord(letter) for letter in text]


def _bounded(times: int) -> int:
    if times > _MANY_COPIES:
        raise NotImplementedError(f"a part that is repeated {times} times")
    return times


def _split(inside: int, behind: int, greedy: bool) -> tuple[str, int, int]:
    return ("split", inside, behind) if greedy else ("split", behind, inside)


def _is_at(where: Any, codes: Codes, position: int) -> bool:
    size = len(codes)
    match where:
        case sre.AT_BEGINNING | sre.AT_BEGINNING_STRING:
            return position == 0
        case sre.AT_END:
            return position == size or (position == size - 1 and codes[position] == 10)
        case sre.AT_END_STRING:
            return position == size
    raise NotImplementedError(str(where))
