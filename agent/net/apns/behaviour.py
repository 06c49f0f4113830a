"""How the APNs simulator behaves: delays, power saving, rules, strictness."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import OperatorError
from agent.fleet.durations import parse_duration
from agent.push.delays import Delay, no_delay
from agent.push.requests import PushPolicy
from agent.push.rules import Rule, parse_rule

AT_ONCE = "constant:0"


@dataclass(frozen=True, slots=True)
class PushBehaviour:
    """How APNs behaves, as plain data: every process makes its half from it. Raises OperatorError for nonsense.

    ``delay`` is a duration's text, or AT_ONCE; ``power_saving`` is in seconds, 0 for none; ``rules`` are lines as
    ``agent.push.rules`` has them.
    """

    strict: bool = False
    delay: str = AT_ONCE
    power_saving: float = 0.0
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_delay(self.delay)
        if not 0.0 <= self.power_saving < float("inf"):
            raise OperatorError(f"power saving should be a number of seconds from 0, but is {self.power_saving!r}")
        self.parsed_rules()

    def policy(self) -> PushPolicy:
        """What is refused."""
        return PushPolicy(strict=self.strict)

    def parsed_rules(self) -> tuple[Rule, ...]:
        """What goes wrong on purpose."""
        return tuple(parse_rule(text) for text in self.rules)


def parse_delay(text: str) -> Delay:
    """How long a push takes, from its text. Raises OperatorError."""
    if text == AT_ONCE:
        return no_delay
    duration = parse_duration(text)
    return lambda chance: duration.draw(lambda: chance)
