"""What a fault rule does to one Mac: the result of a command, the bytes of a message, the request on a connection.

`agent.faults.decisions` decides; the parts of the Mac (commands, sessions, background tasks, push) ask it at their
operations and carry out what is found here.
"""

from __future__ import annotations

from agent.errors import PeerError
from agent.faults.decisions import Hit
from agent.faults.rules import Rule
from agent.fleet.derivation import uuid_text
from agent.fleet.population import Mac
from agent.mdm.results import INVALID_REQUEST_TYPE, ChainedError, Domain, Result, Status, failed
from agent.net.http.connection import HTTPConnection
from agent.net.http.faulty import ConnectionFault, FaultyConnection
from agent.pki.identity import Identity
from agent.pki.issuing.attestation import Falsified
from agent.pki.issuing.invalid import expired, of_another_ca

_NO_CHAIN = ChainedError(Domain.MDM, INVALID_REQUEST_TYPE, "The command failed because of an injected fault.")


class MacOffline(PeerError):
    """The Mac is offline: it opens no connection to its server."""

    kind = "offline"


def result_of(rule: Rule) -> Result | None:
    """The result that a rule puts in the place of a command's own; None where the command is carried out."""
    match rule.do:
        case "not_now":
            return Result(Status.NOT_NOW)
        case "format_error":
            return Result(Status.COMMAND_FORMAT_ERROR)
        case "error":
            return failed(
                *[ChainedError(each.domain, each.code, each.description) for each in rule.errors] or [_NO_CHAIN]
            )
    return None


def altered(message: bytes, mac: Mac, hit: Hit | None) -> bytes:
    """A message of a Mac as the rule has it sent."""
    if hit is None:
        return message
    match hit.rule.do:
        case "wrong_udid":
            other = uuid_text(mac.source.digest(b"wrong udid", mac.index)[:16], 5)
            return message.replace(mac.udid.encode(), other.encode())
        case "malformed":
            return message[: len(message) // 2]
    return message


def connection_fault(rule: Rule, identity: Identity | None = None) -> ConnectionFault | None:
    """What a rule does to a request, or to a new connection with ``identity``; None where that is nothing."""
    match rule.do:
        case "delay":
            return ConnectionFault(delay=rule.seconds or 0.0, rule=rule.id)
        case "drop":
            return ConnectionFault(drop=rule.at, rule=rule.id)
        case "slow":
            return ConnectionFault(bytes_per_s=rule.bytes_per_s, rule=rule.id)
        case "certificate" if identity is not None:
            other = expired(identity) if rule.which == "expired" else of_another_ca(identity)
            return ConnectionFault(identity=other, rule=rule.id)
    return None


def connect_rule(connection: HTTPConnection | None) -> str:
    """The id of the rule that hit when the last request opened a connection; empty if none did."""
    return connection.connect_rule if isinstance(connection, FaultyConnection) else ""


def inject(connection: HTTPConnection, hit: Hit | None) -> None:
    """Have the rule's fault happen to the next request on this connection."""
    if hit is not None and isinstance(connection, FaultyConnection):
        connection.inject(connection_fault(hit.rule))


def falsified(hit: Hit | None) -> Falsified | None:
    """What a rule makes wrong with an attestation; None where that is nothing."""
    return None if hit is None or hit.rule.do != "falsify" else Falsified(hit.rule.what)
