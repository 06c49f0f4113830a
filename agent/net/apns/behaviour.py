"""Settings of the APNs simulator: delays, power saving, rules, strictness."""

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
    """Plain data that the router and every push endpoint get. Raises OperatorError for values that are not valid."""

    strict: bool = False
    """Refuse what Apple's documentation refuses and real servers do; see ``agent.push.requests.PushPolicy``."""
    delay: str = AT_ONCE
    """How long a push takes: a duration in seconds (``agent.fleet.durations``), or AT_ONCE."""
    power_saving: float = 0.0
    """The interval in seconds at which pushes of low priority are delivered; 0 delivers them immediately."""
    rules: tuple[str, ...] = ()
    """Injected faults, in the form that ``agent.push.rules`` documents."""

    def __post_init__(self) -> None:
        parse_delay(self.delay)
        if not 0.0 <= self.power_saving < float("inf"):
            raise OperatorError(f"power saving should be a number of seconds from 0, but is {self.power_saving!r}")
        self.parsed_rules()

    def policy(self) -> PushPolicy:
        """Which requests are refused."""
        return PushPolicy(strict=self.strict)

    def parsed_rules(self) -> tuple[Rule, ...]:
        """The injected faults."""
        return tuple(parse_rule(text) for text in self.rules)


def parse_delay(text: str) -> Delay:
    """Parse ``delay``. Raises OperatorError."""
    if text == AT_ONCE:
        return no_delay
    duration = parse_duration(text)
    return lambda chance: duration.draw(lambda: chance)
