"""The settings of the APNs simulator: strictness, delays and power saving."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from agent.errors import OperatorError
from agent.fleet.durations import parse_duration
from agent.push.delays import Delay, no_delay
from agent.push.requests import PushPolicy
from agent.settings import Seconds, key


class PushSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How APNs behaves."""

    strict: Annotated[bool, key("Refuse pushes without `apns-topic` or without `apns-push-type: mdm`.")] = False
    delay: Annotated[
        str | None,
        key(
            "How long a push takes: `constant:N`, `uniform:SHORTEST,LONGEST`, `lognormal:MEDIAN,SIGMA`; none: no "
            "delay.",
            "s",
            example="lognormal:0.3,0.5",
        ),
    ] = None
    power_saving: Annotated[
        Seconds,
        key(
            "Deliver pushes of priority 5 only in windows this far apart, and of priority 1 in every fourth window; "
            "0: no windows.",
            "s",
        ),
    ] = 0.0


class PushBehaviour(PushSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How APNs behaves, as plain data: every process makes its part of the simulator from it.

    Raises OperatorError for a delay or a time that cannot be used.
    """

    def __post_init__(self) -> None:
        parse_delay(self.delay)
        if not 0.0 <= self.power_saving < float("inf"):
            raise OperatorError(
                f"Expected power saving in seconds, 0 or more, found {self.power_saving!r}. Give a number of seconds."
            )

    @classmethod
    def of(cls, settings: PushSettings) -> PushBehaviour:
        """The behaviour that the settings describe, of which a scenario's table has more. Raises OperatorError."""
        return cls(**{name: getattr(settings, name) for name in PushSettings.__struct_fields__})

    def policy(self) -> PushPolicy:
        """What the gateway refuses."""
        return PushPolicy(strict=self.strict)


def parse_delay(text: str | None) -> Delay:
    """The delay of a push, from the text of its distribution; None is no delay. Raises OperatorError."""
    if text is None:
        return no_delay
    duration = parse_duration(text)
    return lambda chance: duration.draw(lambda: chance)
