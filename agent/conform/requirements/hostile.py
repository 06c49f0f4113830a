"""Requirements of identity: certificates, signatures, resumed TLS sessions, and Macs that are replaced."""

from __future__ import annotations

from functools import partial
from typing import Any

from agent.conform.reading.sessions import answer_to, refused, refused_and_stays, still_enrolled, unprepared
from agent.conform.trace.evidence import Evidence
from agent.conform.verdicts.requirement import Finding, Level, Outcome, Requirement, Source, failed, not_tested, passed


def resumed_is_bound(evidence: Evidence) -> Finding:
    """In a resumed TLS session the report of another Mac is refused."""
    own = evidence.exchanges("raw", message_type="own, resumed")
    if not own:
        return not_tested("The report could not be sent.")
    if not all(each.data["resumed"] for each in evidence.notes("resumed")[1:]):
        return not_tested("The server does not resume TLS sessions.", *own)
    if own[0].status != 200:
        wanted = "status 200 for the Mac's own report in a resumed TLS session"
        return unprepared(evidence, own[0]) or failed(wanted, answer_to(own[0]), own[0])
    return refused(evidence, "another's, resumed")


def check_out_is_bound(evidence: Evidence) -> Finding:
    """CheckOut in the name of another Mac is refused, and that Mac stays."""
    finding = refused(evidence, "another's CheckOut")
    sent = evidence.exchanges("raw", message_type="another's CheckOut")
    return finding if finding.outcome is not Outcome.PASSED else still_enrolled(evidence, sent[-1])


def queue_is_not_handed_over(evidence: Evidence) -> Finding:
    """Who enrolls the UDID of a Mac with another identity does not get the command that was queued for the Mac.

    A command that was queued for another Mac reaches that Mac.
    """
    sent = evidence.exchanges("raw", message_type="another identity")
    queued = evidence.notes("queued", sent[0].udid) if sent else []
    if not queued:
        return not_tested("No command could be queued in the server, or no message could be sent.")
    for each in evidence.commands(after=queued[0].number):
        if each.command_uuid == queued[0].command_uuid and each.exchange.kind == "raw":
            return failed("no command from before the new enrollment", each.request_type, queued[0], *sent)
    for one in sent:
        without = unprepared(evidence, one)
        if without is not None:
            return without
    delivered = [each for each in evidence.commands(after=sent[-1].number) if each.udid != sent[0].udid]
    if not delivered:
        return not_tested("The server sent no command that was queued for another Mac, either.", queued[0], *sent)
    return passed(queued[0], *sent, *delivered)


_PAGE = "Apple Device Management, Managing certificates for device management services and devices"
_AUTHENTICATION = Source(_PAGE, "Overview", "")
_SIGNATURE = Source("profiles/com.apple.mdm.yaml", "SignMessage")


def _entry(number: int, level: Level, says: str, source: Source, probe: str, check: Any) -> Requirement:
    return Requirement(f"SEC-IDENTITY-{number:02d}", level, says, source, ("lom", "mdm"), (probe,), check)


REQUIREMENTS = (
    _entry(
        4,
        Level.MUST,
        "A server must refuse a Mac with a certificate of another CA, also in Authenticate.",
        _AUTHENTICATION,
        "identity-certificates",
        partial(refused_and_stays, says="another CA"),
    ),
    _entry(
        5,
        Level.MUST,
        "A server must refuse a certificate that has expired and that the Mac itself signed.",
        Source("RFC 5280", "6.1.3", "2008-05"),
        "identity-certificates",
        partial(refused_and_stays, says="expired and self-signed"),
    ),
    _entry(
        6,
        Level.SHOULD,
        "A server should refuse a message whose Mdm-Signature is that of another message, where the profile has "
        "SignMessage.",
        _SIGNATURE,
        "identity-signatures",
        partial(refused_and_stays, says="another body"),
    ),
    _entry(
        7,
        Level.SHOULD,
        "A server should refuse a message without Mdm-Signature, where the profile has SignMessage.",
        _SIGNATURE,
        "identity-signatures",
        partial(refused_and_stays, says="no signature"),
    ),
    _entry(
        8,
        Level.SHOULD,
        "A server should refuse a message whose Mdm-Signature is by another Mac than the TLS certificate, where the "
        "profile has SignMessage.",
        _SIGNATURE,
        "identity-signatures",
        partial(refused_and_stays, says="another signer"),
    ),
    _entry(
        9,
        Level.MUST,
        "A server must refuse a Mac that has neither a TLS certificate nor a signature, also in Authenticate.",
        _AUTHENTICATION,
        "identity-certificates",
        partial(refused_and_stays, says="no certificate"),
    ),
    _entry(
        10,
        Level.MUST,
        "A server must know a Mac in a resumed TLS session by the certificate of the session before.",
        Source("RFC 8446", "2.2", "2018-08"),
        "identity-resumed",
        resumed_is_bound,
    ),
    _entry(
        11,
        Level.MUST,
        "A server must refuse a CheckOut that names another Mac, and must keep the enrollment of that Mac.",
        _AUTHENTICATION,
        "identity-check-out",
        check_out_is_bound,
    ),
    _entry(
        12,
        Level.SHOULD,
        "A server should not send a command from before to whoever enrolls the UDID again with another identity.",
        Source("checkin/tokenupdate.yaml", "notes, a unique MDM relationship"),
        "identity-replaced",
        queue_is_not_handed_over,
    ),
    _entry(
        13,
        Level.SHOULD,
        "A server should refuse a signed message of one Mac that is replayed with the TLS certificate of another Mac.",
        _AUTHENTICATION,
        "identity-signatures",
        partial(refused_and_stays, says="replayed"),
    ),
)
