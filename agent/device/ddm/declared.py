"""The declarations of one Mac, as it stores them: what the server sent, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.json import Encoder, decode

ACTIVATION, ASSET, CONFIGURATION, MANAGEMENT = KINDS = "activation", "asset", "configuration", "management"
PLURALS = {
    ACTIVATION: "activations",
    ASSET: "assets",
    CONFIGURATION: "configurations",
    MANAGEMENT: "management",
}
"""The keys of a StatusReport, by the kind of declaration."""

UNKNOWN, VALID, INVALID = "unknown", "valid", "invalid"

_MAX_NAMES, _MAX_NAME = 50, 1024  # in the details of a reason; ours
Reason = dict[str, Any]

_ENCODER = Encoder(order="sorted")


class Declaration(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One declaration. JSON is stored as bytes, which takes a fraction of the memory."""

    kind: str
    identifier: str
    server_token: str
    type: str = ""
    content: bytes = b""
    """Its Payload, as JSON."""
    faults: bytes = b""
    """The reasons for which it is invalid, as JSON; empty if it is valid."""
    applied: bool = False
    """Of a configuration: it is in effect. Of an asset: its data has been downloaded and verified."""
    failure: bytes = b""
    """The reason for which it could not be applied, or the asset not be downloaded, as JSON."""
    notes: bytes = b""
    """The reasons that a configuration gives while it is in effect, as JSON."""
    profile: str = ""
    """The PayloadIdentifier of the profile that a legacy configuration installed."""
    item: bytes = b""
    """The status item of the app or package that a configuration installs, as JSON."""
    asset_tokens: dict[str, str] = field(default_factory=dict)
    """The ServerToken of each asset with which a configuration was applied, by Identifier."""
    status: bytes = b""
    """``active``, ``valid`` and ``reasons``, as they were computed last, as JSON."""

    @property
    def payload(self) -> Mapping[str, Any]:
        """Its Payload; empty if it is not a dictionary."""
        found: Mapping[str, Any] = decode(self.content) if self.content else {}
        return found

    @property
    def place(self) -> tuple[str, str]:
        """Its key among the declarations."""
        return self.kind, self.identifier

    @property
    def reported(self) -> dict[str, Any]:
        """Its item of the status ``management.declarations``."""
        state = decode(self.status) if self.status else {"active": False, "valid": UNKNOWN}
        return {"identifier": self.identifier, "server-token": self.server_token, **state}


class Declared(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Everything that declarative management has on a Mac."""

    token: str = ""
    """The DeclarationsToken of ``declarations``; empty before the first synchronisation."""
    declarations: list[Declaration] = field(default_factory=list)
    """In the order of the server."""
    reported: dict[str, bytes] = field(default_factory=dict)
    """The value of each status item that was reported last, by name, as JSON."""
    full_report_at: float | None = None
    """When the next full report is due, in seconds since the epoch; None before the first report."""

    @property
    def in_use(self) -> bool:
        """Whether a server has used declarative management."""
        return bool(self.token or self.declarations)

    def of(self, kind: str) -> Iterator[Declaration]:
        """The declarations of one kind, in the order of the server."""
        return (each for each in self.declarations if each.kind == kind)

    @property
    def by_place(self) -> dict[tuple[str, str], Declaration]:
        """The declarations by kind and identifier."""
        return {each.place: each for each in self.declarations}


def as_json(value: Any) -> bytes:
    """A value in the form in which declarations and status are stored and compared."""
    return _ENCODER.encode(value)


def reasons_of(*stored: bytes) -> list[Reason]:
    """Stored reasons, together."""
    return [reason for octets in stored if octets for reason in decode(octets)]


def reason(code: str, description: str, **details: Any) -> Reason:
    """A StatusReason. Source: apple-schema declarative/status/statusreason.yaml."""
    return {"code": code, "description": description, "details": details}


def reason_of(declaration: Declaration, code: str, text: str, **details: Any) -> Reason:
    """A StatusReason about a declaration. ``text`` names it as ``{}``; the quotation marks are Apple's."""
    name = f"{declaration.identifier}:{declaration.server_token}"
    about = {"Identifier": declaration.identifier, "ServerToken": declaration.server_token}
    return reason(code, text.format(name), **about, **details)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Identifiers in a reason's details."""
    return [name[:_MAX_NAME] for name in sorted(set(names), key=str.casefold)[:_MAX_NAMES]]
