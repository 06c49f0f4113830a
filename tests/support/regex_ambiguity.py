"""Whether any input exists on which a regular expression takes more than linear time, decided without an input."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from regex_steps import Counter


def ambiguity(expression: re.Pattern[Any], *, searched: bool) -> str:
    """Why some input needs more than linear time; empty where none does.

    Backtracking follows every path of the automaton at worst, and the number of paths for one input is bounded unless
    a text v leads from a state p to itself and to another state q, and from q to q (or to p, or from p to p on two
    paths): the criteria IDA and EDA of A. Weber and H. Seidl, "On the degree of ambiguity of finite automata" (1991).
    What is ``searched`` for may begin anywhere: p is then also the state before the beginning. Assertions and
    possessive quantifiers only take paths away; without them more is refused, never less.
    """
    automaton = _Automaton(Counter(expression), searched=searched)
    return automaton.twice() or automaton.in_parallel()


class _Automaton:
    """States are the instructions that take a character (and, where it is searched, one before the beginning)."""

    def __init__(self, counter: Counter, *, searched: bool) -> None:
        self._program = counter.program
        tests = {at: step[1] for at, step in enumerate(self._program) if step[0] == "char"}
        if searched:
            tests[-1] = lambda _code: True
        codes = sorted({*range(0x300), 0x660, 0x2028, 0x3000, 0x4E00, *counter.bounds} - {sys.maxunicode + 1})
        signatures: dict[tuple[bool, ...], int] = {}
        for code in codes if not counter.of_bytes else range(256):
            signatures.setdefault(tuple(test(code) for test in tests.values()), code)
        letters = list(signatures.values())
        self.takes = {at: {code for code in letters if test(code)} for at, test in tests.items()}
        self._ends: set[int] = set()  # after which the expression may have matched, whatever follows
        self.next: dict[int, list[int]] = {at: self._after(at) for at in tests if at >= 0}
        if searched:
            self.next[-1] = [-1, *self._ways(0, -1)]
        self.reached = {at: self._reached(at) for at in tests}
        loops = {at: {each for each in self.reached[at] if at in self.reached[each]} for at in tests}
        self.loops = {at: loop for at, loop in loops.items() if loop}

    def _after(self, at: int) -> list[int]:
        return self._ways(at + 1, at)

    def _ways(self, begin: int, after: int) -> list[int]:
        """The states that follow ``after``, each as often as there are ways to it without taking a character."""
        found: list[int] = []
        stack: list[tuple[int, frozenset[int], bool]] = [(begin, frozenset(), True)]
        while stack:
            at, noted, free = stack.pop()
            match self._program[at]:
                case ("char", _):
                    found.append(at)
                case ("match",):
                    if free:
                        self._ends.add(after)
                case ("split", first, second):
                    stack += [(first, noted, free), (second, noted, free)]
                case ("jump", target):
                    stack.append((target, noted, free))
                case ("assert", behind, _, _):
                    stack.append((behind, noted, False))
                case ("at", _):
                    stack.append((at + 1, noted, False))
                case ("note", register):
                    stack.append((at + 1, noted | {register}, free))
                case ("moved", register):  # as the machine does: a loop whose body matched nothing ends
                    stack.append((at + 1 + (register in noted), noted, free))
                case _:
                    stack.append((at + 1, noted, free))
        return found

    def _reached(self, begin: int) -> set[int]:
        reached: set[int] = set()
        queue = deque([begin])
        while queue:
            for each in self.next[queue.popleft()]:
                if each not in reached:
                    reached.add(each)
                    queue.append(each)
        return reached

    def twice(self) -> str:
        """EDA: two paths from a state back to itself for one text, which is exponential."""
        for at, loop in self.loops.items():
            if any(self.next[each].count(other) > 1 for each in loop for other in loop):
                return f"instruction {at} is reached on two ways without a character (exponential)"
            pairs = partial(self._pairs, loop)
            for one, other in _walk([(at, at)], pairs):
                if one != other and (at, at) in _walk([(one, other)], pairs):
                    return f"two paths lead from instruction {at} back to it (exponential)"
        return ""

    def _pairs(self, loop: set[int], pair: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for one in self.next[pair[0]]:
            for other in self.next[pair[1]]:
                if one in loop and other in loop and self.takes[one] & self.takes[other]:
                    yield one, other

    def in_parallel(self) -> str:
        """IDA: a text that stays at p, leads from p to q and stays at q, which is quadratic or worse."""
        for p, around_p in self.loops.items():
            for q in self.loops.keys() & self.reached[p] - {p}:
                if p < 0 and q in self._ends:
                    continue  # this attempt succeeds, and what it took is not searched again
                around_q = self.loops[q]

                def steps(triple: tuple[int, int, int], around_p=around_p, around_q=around_q) -> Iterator[Any]:
                    for first in set(self.next[triple[0]]) & around_p:
                        for third in set(self.next[triple[2]]) & around_q:
                            both = self.takes[first] & self.takes[third]
                            for second in self.next[triple[1]] if both else ():
                                if both & self.takes[second]:
                                    yield first, second, third

                if (p, q, q) in _walk([(p, p, q)], steps):
                    return f"the same text is taken at instruction {p}, at {q}, and between them (quadratic)"
        return ""


def _walk(begin: list[Any], steps: Callable[[Any], Iterable[Any]]) -> set[Any]:
    reached: set[Any] = set()
    queue = deque(begin)
    while queue:
        for each in steps(queue.popleft()):
            if each not in reached:
                reached.add(each)
                queue.append(each)
    return reached
