"""Configurations of server APIs: plain data that can be sent to another process. No ``repr`` shows a secret."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

CONNECTIONS = 32  # maximum per worker and API; our default


@dataclass(frozen=True, slots=True)
class Trust:
    """Which server certificates are accepted."""

    anchors_pem: str = field(default="", repr=False)
    """Trusted CAs, in PEM."""
    system: bool = True
    """Whether the system's CAs are trusted, too."""
    insecure: bool = False
    """Accept any server certificate. For experiments only."""


@dataclass(frozen=True, slots=True)
class LabConfig:
    """The API of a lab."""

    url: str
    """Base URL."""
    token: str = field(repr=False)
    trust: Trust = Trust(system=False)
    push: bool = True
    """Whether the lab pushes when it queues a command."""
    connections: int = CONNECTIONS
    """Maximum number of connections."""


@dataclass(frozen=True, slots=True)
class NanoMDMConfig:
    """The API of a NanoMDM server."""

    url: str
    """Base URL."""
    api_key: str = field(repr=False)
    user: str = "nanomdm"
    trust: Trust = Trust()
    push: bool = True
    """Whether NanoMDM pushes when it queues a command."""
    plain: bool = False
    """Allow http to hosts other than loopback."""
    connections: int = CONNECTIONS
    """Maximum number of connections."""


@dataclass(frozen=True, slots=True)
class MicroMDMConfig:
    """The API of a MicroMDM server. MicroMDM always pushes when it queues a command."""

    url: str
    """Base URL."""
    api_key: str = field(repr=False)
    user: str = "micromdm"
    trust: Trust = Trust()
    plain: bool = False
    """Allow http to hosts other than loopback."""
    connections: int = CONNECTIONS
    """Maximum number of connections."""


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A request with placeholders; ``agent.servers.templates`` documents them."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Pairs of name and value."""
    body: str = field(default="", repr=False)


class LOMTemplates(msgspec.Struct, frozen=True):
    """The requests by which a server composes LOM commands itself."""

    profile: RequestTemplate
    setup: RequestTemplate
    request: RequestTemplate


class WebhookConfig(msgspec.Struct, frozen=True):
    """The API of any server, described by request templates."""

    enqueue: RequestTemplate
    push: RequestTemplate | None = None
    """None if the server pushes when it queues a command."""
    trust: Trust = Trust()
    plain: bool = False
    """Allow http to hosts other than loopback."""
    connections: int = CONNECTIONS
    """Maximum number of connections per origin."""
    lom: LOMTemplates | None = None
    """None if the server has no LOM actions."""


ServerConfig = LabConfig | NanoMDMConfig | MicroMDMConfig | WebhookConfig
