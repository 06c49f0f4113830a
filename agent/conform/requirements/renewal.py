"""Requirements of renewals: an update of the enrollment profile, with a new identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.conform.reading.sessions import answer_to, still_enrolled
from agent.conform.trace.evidence import Evidence, SentProfile
from agent.conform.verdicts.requirement import Finding, Level, Requirement, Source, failed, not_tested, passed

MDM = "com.apple.mdm"
_PER_USER = "com.apple.mdm.per-user-connections"
_FIXED = ("Topic", "ServerURL", "CheckInURL")
_NOT_RENEWED = "The server sent no update of its enrollment profile."
Change = Callable[[SentProfile, SentProfile], tuple[str, str] | None]


def _unchanged(evidence: Evidence, change: Change) -> Finding:
    """No update of the enrollment profile has this change."""
    enrolled = [each for each in evidence.profiles() if not each.command_uuid and each.of_type(MDM)]
    updates = [each for each in evidence.profiles() if each.of_type(MDM) and evidence.by_server(each.command_uuid)]
    updates = [each for each in updates if each.command_uuid]
    if not enrolled or not updates:
        return not_tested(_NOT_RENEWED)
    for update in updates:
        changed = change(enrolled[0], update)
        if changed is not None:
            return failed(*changed, enrolled[0], update)
    return passed(enrolled[0], *updates)


def _mdm(profile: SentProfile) -> Mapping[str, Any]:
    payload = profile.of_type(MDM)[0]
    return {**payload, "CheckInURL": payload.get("CheckInURL") or payload.get("ServerURL")}


def same_server(evidence: Evidence) -> Finding:
    """Topic, ServerURL and CheckInURL do not change."""

    def change(before: SentProfile, after: SentProfile) -> tuple[str, str] | None:
        was, now = _mdm(before), _mdm(after)
        key = next((key for key in _FIXED if was.get(key) != now.get(key)), None)
        return None if key is None else (f"{key} {was.get(key)} as in the enrollment", str(now.get(key)))

    return _unchanged(evidence, change)


def no_more_rights(evidence: Evidence) -> Finding:
    """No access right is added."""

    def change(before: SentProfile, after: SentProfile) -> tuple[str, str] | None:
        was, now = _mdm(before).get("AccessRights"), _mdm(after).get("AccessRights")
        added = now & ~was if isinstance(was, int) and isinstance(now, int) else 0
        return (f"no other AccessRights than {was}", f"{now}, which adds {added}") if added else None

    return _unchanged(evidence, change)


def same_connections(evidence: Evidence) -> Finding:
    """The capability of connections per user is neither added nor removed."""

    def change(before: SentProfile, after: SentProfile) -> tuple[str, str] | None:
        was, now = (_PER_USER in (_mdm(each).get("ServerCapabilities") or ()) for each in (before, after))
        if was == now:
            return None
        words = (f"ServerCapabilities with {_PER_USER}", "ServerCapabilities without it")
        return words if was else (f"ServerCapabilities without {_PER_USER}", "ServerCapabilities with it")

    return _unchanged(evidence, change)


def same_identifier(evidence: Evidence) -> Finding:
    """The update has the PayloadIdentifier of the enrollment profile, so that it replaces it."""

    def change(before: SentProfile, after: SentProfile) -> tuple[str, str] | None:
        was, now = (each.content.get("PayloadIdentifier") for each in (before, after))
        return None if was == now else (f"PayloadIdentifier {was} as in the enrollment", str(now))

    return _unchanged(evidence, change)


def new_identity(evidence: Evidence) -> Finding:
    """After a renewal the Mac's result and its next session are accepted with the new certificate."""
    notes = evidence.notes("renewed")
    if not notes:
        return not_tested(_NOT_RENEWED)
    if notes[0].data["before"] == notes[0].data["after"]:
        return not_tested("The Mac has the same identity as before.", notes[0])
    results = [each for each in evidence.results("InstallProfile") if each.answer_status == "Acknowledged"]
    if not results:
        return not_tested(_NOT_RENEWED)
    if all(each.status != 200 for each in results):
        return failed("status 200 for the result with the new certificate", answer_to(results[-1]), *results)
    return still_enrolled(evidence, results[-1], *results)


_PAYLOAD = "profiles/com.apple.mdm.yaml"


def _entry(number: int, says: str, source: Source, check: Any) -> Requirement:
    return Requirement(f"MDM-RENEW-{number:02d}", Level.MUST, says, source, ("mdm",), ("renewal",), check)


REQUIREMENTS = (
    _entry(
        1,
        "A renewal must have the Topic, ServerURL and CheckInURL of the enrollment profile.",
        Source(_PAYLOAD, "Topic, ServerURL, CheckInURL"),
        same_server,
    ),
    _entry(
        2,
        "A server must accept the new certificate of a Mac after a renewal.",
        Source(
            "Apple Device Management, Managing certificates for device management services and devices", "Overview", ""
        ),
        new_identity,
    ),
    _entry(3, "A renewal must not add access rights.", Source(_PAYLOAD, "AccessRights"), no_more_rights),
    _entry(
        4,
        "A renewal must neither add nor remove the server capability com.apple.mdm.per-user-connections.",
        Source(_PAYLOAD, "ServerCapabilities"),
        same_connections,
    ),
    _entry(
        5,
        "A renewal must have the PayloadIdentifier of the enrollment profile.",
        Source("profiles/TopLevel.yaml", "PayloadIdentifier"),
        same_identifier,
    ),
)
