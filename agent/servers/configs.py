"""Which server, and how to reach it: plain data that may go to another process. No secret shows in a ``repr``."""

from __future__ import annotations

from dataclasses import dataclass, field

CONNECTIONS = 32  # ours: as many as one tool of a server's operator may well hold


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose certificates are good: those of the CAs in ``anchors_pem``, of the system's where ``system`` says so.

    ``insecure`` takes any.
    """

    anchors_pem: str = field(default="", repr=False)
    system: bool = True
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class LabConfig:
    """A lab: its base URL, and the token of its API. ``push`` has it push when a command is queued."""

    url: str
    token: str = field(repr=False)
    trust: Trust = Trust(system=False)
    push: bool = True
    connections: int = CONNECTIONS


@dataclass(frozen=True, slots=True)
class NanoMDMConfig:
    """A NanoMDM: its base URL, and the key of its API. ``push`` has it push when a command is queued.

    http is for loopback, unless ``plain`` allows it anywhere.
    """

    url: str
    api_key: str = field(repr=False)
    user: str = "nanomdm"
    trust: Trust = Trust()
    push: bool = True
    plain: bool = False
    connections: int = CONNECTIONS


@dataclass(frozen=True, slots=True)
class MicroMDMConfig:
    """A MicroMDM: its base URL, and the key of its API. It pushes when a command is queued, whoever asks.

    http is for loopback, unless ``plain`` allows it anywhere.
    """

    url: str
    api_key: str = field(repr=False)
    user: str = "micromdm"
    trust: Trust = Trust()
    plain: bool = False
    connections: int = CONNECTIONS


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A request with placeholders; ``agent.servers.templates`` says which. Headers are (name, value)."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """Any server's API, by what is to be sent. Without ``push`` the server is taken to push by itself.

    http is for loopback, unless ``plain`` allows it anywhere.
    """

    enqueue: RequestTemplate
    push: RequestTemplate | None = None
    trust: Trust = Trust()
    plain: bool = False
    connections: int = CONNECTIONS


ServerConfig = LabConfig | NanoMDMConfig | MicroMDMConfig | WebhookConfig
