"""Requirements of identity: a server knows each Mac by its certificate."""

from __future__ import annotations

from agent.conform.evidence import Evidence
from agent.conform.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed

_SOURCE = Source("Apple, Managing certificates for device management services and devices", "Overview", "")


def another_report(evidence: Evidence) -> Finding:
    """A report with the UDID of another Mac is refused."""
    return _refused(evidence, "another's report")


def another_token_update(evidence: Evidence) -> Finding:
    """The same of TokenUpdate."""
    return _refused(evidence, "another's TokenUpdate")


def victim_stays(evidence: Evidence) -> Finding:
    """The Mac in whose name they came is still managed."""
    sent = evidence.exchanges("raw")
    if not sent:
        return not_tested("The messages could not be sent.")
    idles = evidence.exchanges("report", answer_status="Idle", after=sent[-1].number)
    if not idles:
        return not_tested("The other Mac opened no session afterwards.", *sent)
    if idles[0].status != 200:
        return failed("status 200 in the next session of the other Mac", f"status {idles[0].status}", *sent, idles[0])
    return passed(*sent, idles[0])


def _refused(evidence: Evidence, says: str) -> Finding:
    sent = evidence.exchanges("raw", message_type=says)
    if not sent:
        return not_tested("The message could not be sent.")
    if sent[0].status is not None and 200 <= sent[0].status < 400:
        return failed("a status from 400 to 499, or no answer", f"status {sent[0].status}", sent[0])
    return passed(sent[0])


REQUIREMENTS = (
    Requirement(
        "SEC-IDENTITY-01",
        Level.MUST,
        "A server must refuse a report that names another Mac than the one with this certificate.",
        _SOURCE,
        ("lom", "mdm"),
        ("identity-another-udid",),
        another_report,
    ),
    Requirement(
        "SEC-IDENTITY-02",
        Level.MUST,
        "A server must refuse a TokenUpdate that names another Mac than the one with this certificate.",
        _SOURCE,
        ("lom", "mdm"),
        ("identity-another-udid",),
        another_token_update,
    ),
    Requirement(
        "SEC-IDENTITY-03",
        Level.MUST,
        "A message in the name of another Mac must not end the enrollment of that Mac.",
        _SOURCE,
        ("lom", "mdm"),
        ("identity-another-udid",),
        victim_stays,
    ),
)
