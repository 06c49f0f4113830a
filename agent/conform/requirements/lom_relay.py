"""Requirements of what a server does with the answers of Controllers and Devices, and of the requests that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from agent.conform.reading.lom import (
    EXAMPLE_ANSWER,
    LOM,
    NEVER_SENT,
    NEW_ADDRESSES,
    NO_ACTIONS,
    PAYLOAD,
    REQUEST,
    REQUEST_TYPE,
    SETUP,
    SETUP_TYPE,
    all_addresses,
    by_server,
    commands_of,
    device_of,
    first_of_each,
    lom_profiles,
    must_of_lom,
)
from agent.conform.reading.sessions import later_sessions
from agent.conform.trace.evidence import DeliveredCommand, Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Finding, Outcome, Source, failed, not_tested, passed

_REFERENCE = "Apple Mobile Device Management Protocol Reference"
_NOT_NOW = Source(_REFERENCE, "MDM Protocol, Handling a NotNow Response", "2019-03-25")
_DEQUEUEING = Source(_REFERENCE, "MDM Best Practices, Dequeueing Commands", "2019-03-25")
_NO_REQUEST = NO_ACTIONS.format(what=REQUEST_TYPE)
_NO_SETUP = NO_ACTIONS.format(what=SETUP_TYPE)


def error_ends_setup(evidence: Evidence) -> Finding:
    """After the Error of a Device to LOMSetupRequest no LOMDeviceRequest has an item for it, until it answers one."""
    errors = [each for each in evidence.results(SETUP_TYPE) if each.answer_status == "Error"]
    if not errors:
        return not_tested(_NO_SETUP)
    for error in errors:
        for command in by_server(evidence, REQUEST_TYPE):
            devices = [device_of(evidence, item) for item in _items(command)]
            concerned = any(each is None or each.udid == error.udid for each in devices)
            answered = evidence.answer(SETUP_TYPE, error.udid, before=command.number)
            if command.number > error.number and concerned and not answered:
                return failed(
                    "no LOMDeviceRequest for a Device whose only answer to LOMSetupRequest is an Error",
                    "LOMDeviceRequest for it",
                    error,
                    command,
                )
    asked, sent = evidence.asked(REQUEST_TYPE), by_server(evidence, REQUEST_TYPE)
    if not asked:
        return not_tested(_NO_REQUEST)
    return passed(*errors, *sent) if sent else not_tested(NEVER_SENT.format(what=REQUEST_TYPE), *errors)


def setup_again(evidence: Evidence) -> Finding:
    """LOMSetupRequest is sent again after NotNow, and the Mac's answer to it is accepted."""
    postponed = [each for each in evidence.results(SETUP_TYPE) if each.answer_status == "NotNow"]
    if not postponed:
        return not_tested(_NO_SETUP)
    for each in postponed:
        again = [command for command in evidence.commands(SETUP_TYPE, udid=each.udid) if command.number >= each.number]
        if again:
            continue
        sessions = evidence.exchanges("report", udid=each.udid, answer_status="Idle", after=each.number)
        if not sessions:
            return not_tested("No session was opened after NotNow.", each)
        return failed("LOMSetupRequest again after NotNow", "a session that ended without it", each, *sessions)
    return passed(*postponed)


def request_to_the_letter(evidence: Evidence) -> Finding:
    """The command with a RequestList has the RequestType LOMDeviceRequest, in this spelling."""
    found = [
        each
        for each in evidence.commands()
        if evidence.by_server(each.command_uuid, form=True)
        and ("RequestList" in each.command or each.request_type.lower() == REQUEST_TYPE.lower())
    ]
    for each in found:
        if each.request_type != REQUEST_TYPE:
            return failed(f"RequestType {REQUEST_TYPE}", each.request_type[:80] or "none", each)
    return passed(*found) if found else not_tested(_NO_REQUEST)


def item_for_each_device(evidence: Evidence) -> Finding:
    """There is one item for each Device that was asked for, in one command or in several."""
    judged: list[DeliveredCommand] = []
    for note in evidence.notes("queued"):
        asked = note.data.get("devices")
        commands = commands_of(evidence, note)
        if not asked or not commands:
            continue
        judged += commands
        devices = [device_of(evidence, item) for command in commands for item in _items(command)]
        found = Counter(each.udid for each in devices if each is not None)
        if len(devices) != len(asked) or (None not in devices and found != Counter(asked)):
            seen = f"{len(devices)} for {len(found)} of them"
            return failed(f"one item of RequestList for each of {len(asked)} Devices", seen, note, *commands)
    return passed(*judged) if judged else not_tested(_NO_REQUEST)


def to_controllers(evidence: Evidence) -> Finding:
    """LOMDeviceRequest goes to Macs whose LOM payload has ControllerCertificateUUID."""
    commands = by_server(evidence, REQUEST_TYPE)
    for command in commands:
        profiles = [each for each in lom_profiles(evidence, command.udid) if each.number < command.number]
        payloads = [payload for profile in profiles for payload in profile.of_type(LOM)]
        if not any(payload.get("ControllerCertificateUUID") for payload in payloads):
            return failed(
                "LOMDeviceRequest to a Mac whose LOM payload has ControllerCertificateUUID",
                "LOMDeviceRequest to another Mac",
                command,
                *profiles,
            )
    return passed(*commands) if commands else not_tested(_NO_REQUEST)


def new_addresses(evidence: Evidence) -> Finding:
    """After a second answer to LOMSetupRequest no address of the first one is used that is not in the second."""
    answers = [
        *evidence.results(SETUP_TYPE),
        *evidence.exchanges("raw", message_type=NEW_ADDRESSES),
    ]
    judged: list[DeliveredCommand] = []
    for command in by_server(evidence, REQUEST_TYPE):
        devices = {each.udid for each in map(partial(device_of, evidence), _items(command)) if each is not None}
        known = [each for each in answers if each.status == 200 and each.udid in devices]
        known = sorted((each for each in known if each.number < command.number), key=lambda each: each.number)
        if not known:
            continue
        last = all_addresses(known[-1].request.dictionary)
        stale = {address for each in known for address in all_addresses(each.request.dictionary)} - last
        if stale:
            judged.append(command)
        used = {address for item in _items(command) for address in all_addresses(item)} & stale
        if used:
            expected = f"addresses of the last answer of the Device: {', '.join(sorted(last))[:200]}"
            return failed(expected, f"{', '.join(sorted(used))[:200]}, of an earlier one", known[-1], command)
    return passed(*judged) if judged else not_tested("No Device answered LOMSetupRequest twice, with other addresses.")


def example_survived(evidence: Evidence) -> Finding:
    """A result with the keys of the documented example is accepted, and the command is over."""
    answers = evidence.exchanges("raw", message_type=EXAMPLE_ANSWER)
    for answer in answers:
        if answer.status != 200:
            return failed("status 200", answer.error or f"status {answer.status}", answer)
        again = _again(evidence, answer, str(answer.request.dictionary.get("CommandUUID")))
        if again:
            return failed("no command again after its result was accepted", "the same command", answer, *again)
        later = later_sessions(evidence, answer)
        if later.outcome is not Outcome.PASSED:
            return later
    return passed(*answers) if answers else not_tested(_NO_REQUEST)


def error_ends_request(evidence: Evidence) -> Finding:
    """A LOMDeviceRequest that the Controller answered with Error is over."""
    errors = [each for each in evidence.results(REQUEST_TYPE) if each.answer_status == "Error" and each.status == 200]
    for error in errors:
        again = _again(evidence, error, error.command_uuid)
        if again:
            return failed("no command again after its result was accepted", "the same command", error, *again)
        later = later_sessions(evidence, error)
        if later.outcome is not Outcome.PASSED:
            return later
    return passed(*errors) if errors else not_tested(_NO_REQUEST)


def new_uuid(evidence: Evidence) -> Finding:
    """The same action for the same Device has a new DeviceRequestUUID in each command."""
    commands = first_of_each(by_server(evidence, REQUEST_TYPE))
    before: dict[str, DeliveredCommand] = {}
    for command in commands:
        for uuid in {str(item.get("DeviceRequestUUID")).upper() for item in _items(command)}:
            if uuid in before:
                return failed("a new DeviceRequestUUID", f"{uuid[:80]} again", before[uuid], command)
            before[uuid] = command
    return passed(*commands) if len(commands) > 1 else not_tested(_NO_REQUEST)


def arrives_after_boot(evidence: Evidence) -> Finding:
    """What was queued for a Device that is off reaches it after it was powered on."""
    for note in evidence.notes("queued"):
        if "devices" in note.data or note.request_type != "DeviceInformation":
            continue
        after = [each for each in evidence.results(REQUEST_TYPE) if each.number > note.number and _succeeded(each)]
        if not after:
            return not_tested("The Device could not be powered on through its Controller.", note)
        delivered = [
            each for each in evidence.commands("DeviceInformation", udid=note.udid) if each.number > note.number
        ]
        if delivered:
            return passed(note, *after, *delivered)
        sessions = evidence.exchanges("report", udid=note.udid, answer_status="Idle", after=after[0].number)
        if not sessions:
            return not_tested("The Device opened no session after it was powered on.", note)
        return failed(
            "the command that was queued while the Device was off", "sessions that ended without it", note, *sessions
        )
    return not_tested(_NO_REQUEST)


def _items(command: DeliveredCommand) -> list[Mapping[str, Any]]:
    items = command.command.get("RequestList")
    return [each if isinstance(each, dict) else {} for each in items] if isinstance(items, list) else []


def _again(evidence: Evidence, answer: ExchangeRecord, command_uuid: str) -> list[DeliveredCommand]:
    """The times when a command was sent after this answer, also as the response to it."""
    return evidence.commands(udid=answer.udid, command_uuid=command_uuid, after=answer.number - 1)


def _succeeded(result: ExchangeRecord) -> bool:
    items = result.request.dictionary.get("ResponseList")
    return isinstance(items, list) and any(
        isinstance(each, dict) and each.get("DeviceRequestSuccess") is True for each in items
    )


REQUIREMENTS = (
    must_of_lom(
        "LOM-SETUP-19",
        "A server must not send LOMDeviceRequest for a Device whose only answer to LOMSetupRequest is an Error.",
        Source(SETUP, "content; responsekeys"),
        ("lom-setup-error",),
        error_ends_setup,
    ),
    must_of_lom(
        "LOM-SETUP-20",
        "A server must send LOMSetupRequest again in a later session after the Mac answered NotNow.",
        _NOT_NOW,
        ("lom-setup-not-now",),
        setup_again,
    ),
    must_of_lom(
        "LOM-DEVICE-09",
        "RequestType must be LOMDeviceRequest, in this spelling.",
        Source(REQUEST, "requesttype"),
        ("lom-requests",),
        request_to_the_letter,
    ),
    must_of_lom(
        "LOM-DEVICE-10",
        "There must be one item for each Device that is asked for, in one RequestList or in several.",
        Source(REQUEST, "RequestList"),
        ("lom-requests",),
        item_for_each_device,
    ),
    must_of_lom(
        "LOM-DEVICE-11",
        "LOMDeviceRequest must go to a Mac whose LOM payload has ControllerCertificateUUID, and to no other.",
        Source(PAYLOAD, "ControllerCertificateUUID"),
        ("lom-partial",),
        to_controllers,
    ),
    must_of_lom(
        "LOM-DEVICE-12",
        "After a second answer to LOMSetupRequest the addresses of LOMDeviceRequest must be those of that answer.",
        Source(REQUEST, "notes"),
        ("lom-set-up-again",),
        new_addresses,
    ),
    must_of_lom(
        "LOM-DEVICE-13",
        "A result with the keys of the documented example, ResponseData and DeviceRequestSucess, must end the command.",
        Source("Apple Developer Documentation, LOM Device Request Command", "example", "2026"),
        ("lom-example-answer",),
        example_survived,
    ),
    must_of_lom(
        "LOM-DEVICE-14",
        "A server must not send LOMDeviceRequest again after it has accepted an Error to it.",
        _DEQUEUEING,
        ("lom-request-error",),
        error_ends_request,
    ),
    must_of_lom(
        "LOM-DEVICE-15",
        "A request that is made again must have a new DeviceRequestUUID.",
        Source(REQUEST, "DeviceRequestUUID"),
        ("lom-request-error",),
        new_uuid,
    ),
    must_of_lom(
        "LOM-DEVICE-16",
        "A command that is queued for a Device that is off must reach it after it was powered on.",
        _DEQUEUEING,
        ("lom-power-on",),
        arrives_after_boot,
    ),
)
