"""How a service is started: options of ``lom-agent serve``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal, TypedDict

from agent.fleet.models import OSChoice, os_text

POLL_SECONDS = 0.2  # how often a Mac asks for commands where no gateway can push to it
# Of a real Mac they are up to a minute. A test that is about them sets them, or uses the manual clock.
BOOT = "constant:0.2"
SHUTDOWN = "constant:0.1"
NOT_NOW_RETRY_SECONDS = 0.5

File = str | PathLike[str]


class Start(TypedDict, total=False):
    """The arguments of ``Fleet.start``, and what the fixture ``lom_options`` returns. All are optional."""

    lab: bool
    """The embedded MDM server, which pushes through the gateway."""
    apns: bool
    """The APNs gateway. Without it the Macs ask for commands every ``poll`` seconds."""
    apns_listen: str
    """The address of the gateway, such as ``127.0.0.1:2197``; a free port on loopback where it is missing."""
    apns_provider_ca: Sequence[File]
    """PEM files of CAs: the gateway accepts only push certificates of theirs."""
    clock: Literal["real", "manual"]
    seed: str
    devices: int
    """Macs that are there from the start and after each reset."""
    segment_size: int
    """Of the Macs of the start, in each segment."""
    workers: int
    """The processes that have the Macs; one for every 10,000 of ``devices`` where it is missing."""
    os: OSChoice
    """Their macOS: a release, a major version, several of them, or several with weights."""
    model: str
    """Their model identifier."""
    enroll: File
    """The enrollment profile, or its URL. They enroll with it, and so does ``mac.enroll()``."""
    enrollment: Literal["profile", "ade"]
    """How they enroll: with the profile, or as in Setup Assistant."""
    device_ca: File
    """The test CA of the identities that sign MachineInfo; a new one is written where the file does not exist."""
    users: float
    """The share of Macs with a logged-in user."""
    network_users: float
    """The share of these users with an account of a directory service."""
    supervised: float
    """The share of Macs that an enrollment with a profile supervises; all where it is missing."""
    ca: Sequence[File]
    """PEM files of CAs that issued certificates of servers."""
    insecure: bool
    """Accept any server certificate."""
    http: str
    """``1.1``: always HTTP/1.1; HTTP/2 where the server chooses it by ALPN where it is missing."""
    boot: str
    """How long a boot takes, such as ``uniform:20,40``; BOOT where it is missing."""
    shutdown: str
    """How long an orderly shutdown takes; SHUTDOWN where it is missing."""
    not_now_retry: float
    """Seconds after NotNow until a Mac opens a session by itself; NOT_NOW_RETRY_SECONDS where it is missing."""
    tls_floor: Literal["apple-2026", "warn", "off"]
    """What those with macOS 27 or later do about a server below the TLS that Apple asks for."""
    per_user_connections: Literal["required", "optional"]
    """Whether they refuse an enrollment profile without the server capability com.apple.mdm.per-user-connections."""
    state: File
    """The file that keeps the Macs: a service that is started with it again goes on with them."""
    poll: float
    """Seconds; without a gateway POLL_SECONDS where it is missing."""


def arguments_of(options: Mapping[str, Any]) -> list[str]:
    """The command line of a Start. Raises TypeError for an unknown option."""
    unknown = sorted(set(options) - set(Start.__annotations__))
    if unknown:
        known = ", ".join(Start.__annotations__)
        raise TypeError(f"Expected options of a service, found {', '.join(unknown)}. Use {known}.")
    chosen = {"boot": BOOT, "shutdown": SHUTDOWN, "not_now_retry": NOT_NOW_RETRY_SECONDS, **options}
    if "os" in options:
        chosen["os"] = os_text(options["os"])
    if not (chosen.get("apns") or chosen.get("lab")):
        chosen.setdefault("poll", POLL_SECONDS)
    return [argument for name, value in chosen.items() for argument in _arguments(name.replace("_", "-"), value)]


def _arguments(option: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{option}"] if value else []
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{option}={fspath(one) if isinstance(one, PathLike) else one}" for one in values]
