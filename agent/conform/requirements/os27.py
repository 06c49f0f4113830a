"""Requirements of macOS 27: what a server does not send to its Macs."""

from __future__ import annotations

from collections.abc import Collection

from agent.conform.reading.os27 import MAJOR, QUERIES, REMOVED, USER_CHANNEL
from agent.conform.trace.evidence import DeliveredCommand, Evidence
from agent.conform.trace.records import NoteRecord
from agent.conform.verdicts.requirement import Check, Finding, Level, Requirement, Source, failed, not_tested, passed


def no_removed_command(evidence: Evidence) -> Finding:
    """No removed command reaches a Mac with macOS 27."""
    sent = [each for each in evidence.commands() if each.request_type in REMOVED and _is_27(evidence, each)]
    if sent:
        return failed("no removed command for a Mac with macOS 27", sent[0].request_type, *sent)
    return _not_sent(evidence, REMOVED)


def no_removed_query(evidence: Evidence) -> Finding:
    """No removed query reaches a Mac with macOS 27."""
    for each in evidence.commands("DeviceInformation"):
        queries = each.command.get("Queries")
        found = [query for query in QUERIES if query in queries] if isinstance(queries, list) else []
        if found and _is_27(evidence, each):
            return failed("DeviceInformation without the removed queries", f"one with {', '.join(found)}", each)
    return _not_sent(evidence, ("DeviceInformation",))


def no_user_command(evidence: Evidence) -> Finding:
    """The command of the user channel is not sent on the device channel."""
    sent = evidence.commands(USER_CHANNEL)
    if sent:
        return failed("no command of the user channel on the device channel", sent[0].request_type, *sent)
    return _not_sent(evidence, (USER_CHANNEL,))


def _is_27(evidence: Evidence, command: DeliveredCommand) -> bool:
    return evidence.mac(command.udid).os.partition(".")[0] == str(MAJOR)


def _not_sent(evidence: Evidence, request_types: Collection[str]) -> Finding:
    """Passed if the server refused or withheld each of these commands."""
    asked = [*_notes(evidence, "refused", request_types), *_notes(evidence, "queued", request_types)]
    if {each.request_type for each in asked} != set(request_types):
        return not_tested("The server was not asked to queue all of these commands.", *asked)
    if not evidence.commands("ProfileList"):
        return not_tested("The server did not send ProfileList either, which it had accepted.", *asked)
    last = max(asked, key=lambda each: each.number)
    sessions = evidence.exchanges("report", udid=last.udid, answer_status="Idle", after=last.number)
    answered = [each for each in sessions if each.status == 200]
    return passed(*asked, *answered) if answered else not_tested("No session was answered afterwards.", *asked)


def _notes(evidence: Evidence, step: str, request_types: Collection[str]) -> list[NoteRecord]:
    return [each for each in evidence.notes(step) if each.request_type in request_types]


def _entry(number: int, level: Level, says: str, source: Source, check: Check) -> Requirement:
    return Requirement(f"OS27-CMD-{number:02d}", level, says, source, ("macos27",), ("os27-removed",), check)


REQUIREMENTS = (
    _entry(
        1,
        Level.SHOULD,
        "A server should not send AvailableOSUpdates, OSUpdateStatus, ScheduleOSUpdate or ScheduleOSUpdateScan to a "
        "Mac with macOS 27, which no longer has them.",
        Source("commands/system.update.{available,scan,schedule,status}.yaml", "removed in 27.0"),
        no_removed_command,
    ),
    _entry(
        2,
        Level.SHOULD,
        "A server should not query OSUpdateSettings and SoftwareUpdateDeviceID of a Mac with macOS 27.",
        Source("commands/information.device.yaml", "Queries, removed in 27.0"),
        no_removed_query,
    ),
    _entry(
        3,
        Level.SHOULD,
        "A server should not send TriggerEnhancedLogCollection on the device channel of a Mac.",
        Source("commands/trigger.enhanced.log.collection.yaml", "devicechannel"),
        no_user_command,
    ),
)
