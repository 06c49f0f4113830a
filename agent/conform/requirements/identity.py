"""Requirements of identity: a server knows each Mac by its certificate."""

from __future__ import annotations

from agent.conform.reading.sessions import refused, still_enrolled
from agent.conform.trace.evidence import Evidence
from agent.conform.verdicts.requirement import Finding, Level, Requirement, Source, not_tested

_SOURCE = Source(
    "Apple Device Management, Managing certificates for device management services and devices", "Overview", ""
)


def another_report(evidence: Evidence) -> Finding:
    """A report with the UDID of another Mac is refused."""
    return refused(evidence, "another's report")


def another_token_update(evidence: Evidence) -> Finding:
    """The same of TokenUpdate."""
    return refused(evidence, "another's TokenUpdate")


def victim_stays(evidence: Evidence) -> Finding:
    """The Mac in whose name they came is still managed."""
    sent = evidence.exchanges("raw")
    if not sent:
        return not_tested("The messages could not be sent.")
    return still_enrolled(evidence, sent[-1], *sent)


REQUIREMENTS = (
    Requirement(
        "SEC-IDENTITY-01",
        Level.MUST,
        "A server must refuse a report with the UDID of a Mac that has another certificate.",
        _SOURCE,
        ("lom", "mdm"),
        ("identity-another-udid",),
        another_report,
    ),
    Requirement(
        "SEC-IDENTITY-02",
        Level.MUST,
        "A server must refuse a TokenUpdate with the UDID of a Mac that has another certificate.",
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
