"""The settings of a Mac's behaviour where macOS or Apple's documentation leaves it open."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct, field

from agent.lom.power import PowerChoices
from agent.mdm.session import REFUSED_RETRIES
from agent.mdm.timing import NOT_NOW_RETRY_SECONDS
from agent.profiles.policy import PerUserConnections
from agent.settings import Retries, Seconds, Share, SomeSeconds, key

TLSFloor = Literal["apple-2026", "warn", "off"]
"""What a Mac with macOS 27 or later does about a server below the TLS that Apple asks for from 2026 on."""
DEFAULT_TLS_FLOOR: TLSFloor = "warn"


class MacSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How Macs behave where macOS leaves it open."""

    # A real Mac boots in half a minute; a first look at the tool should not take that long.
    boot: Annotated[
        str, key("How long a boot takes: `constant:N`, `uniform:SHORTEST,LONGEST`, `lognormal:MEDIAN,SIGMA`.", "s")
    ] = "uniform:1,3"
    shutdown: Annotated[str, key("How long an orderly shutdown takes, in the same forms.", "s")] = "uniform:0.2,1"
    update: Annotated[
        str, key("How long the download of a macOS update takes, and then its installation, in the same forms.", "s")
    ] = "uniform:5,15"
    not_now: Annotated[Share, key("The probability that a Mac answers a command with NotNow.")] = 0.0
    not_now_for: Annotated[
        Seconds, key("Answer every command that allows it with NotNow for this long from the start of the run.", "s")
    ] = 0.0
    not_now_retry: Annotated[SomeSeconds, key("How long after NotNow a Mac opens a session by itself.", "s")] = (
        NOT_NOW_RETRY_SECONDS
    )
    refused_retries: Annotated[
        Retries,
        key("How often a result that the server refuses (4xx) is sent again before it is dropped as an error."),
    ] = REFUSED_RETRIES
    users: Annotated[
        Share,
        key(
            "The share of Macs with a logged-in user and so with a user channel: TokenUpdate, pushes, sessions and "
            "commands of this user."
        ),
    ] = 0.0
    network_users: Annotated[
        Share,
        key(
            "The share of these users with an account of a directory service; the others are local. The server "
            "authenticates them with UserAuthenticate; their password is `lom-agent`."
        ),
    ] = 0.0
    supervised: Annotated[
        Share,
        key(
            "The share of Macs that an enrollment with a profile supervises, as it does from macOS 11 on. The others "
            "refuse what Apple has for supervised Macs only. Automated Device Enrollment supervises every Mac."
        ),
    ] = 1.0
    per_user_connections: Annotated[
        PerUserConnections,
        key(
            "Whether Macs with macOS 15.1 or later refuse an enrollment profile that lacks the server capability "
            "`com.apple.mdm.per-user-connections`, as Apple asks: `required`, or `optional` with a warning."
        ),
    ] = "required"
    power: Annotated[PowerChoices, key("What a LOM request does where Apple does not say.")] = field(
        default_factory=PowerChoices
    )
