"""A Mac as LOM Device: effects of a Controller's requests, repeated requests, and requests to itself."""

from __future__ import annotations

import pytest

from agent.device.mac import Device
from agent.device.steps import ChangePower
from agent.fleet.population import Population
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LIMITS, LinkRequest
from agent.lom.power import Power, PowerChoices, PowerEvent, SystemRequest
from agent.lom.requests import PowerRequest
from agent.mdm.results import acknowledged
from agent.mdm.session import Execute
from agent.pki.issuing.authority import LOM_USAGE, Authority
from agent.plists import dump_xml

MAC = Population("mac power", 1)[0]
OWN = MAC.dns_name
OTHER = "another.lom.test"
AUTHORITY = Authority.create("LOM Controllers")
IDENTITY = AUTHORITY.issue(OWN, LOM_USAGE)
BOOT, SHUTDOWN = 30.0, 5.0
NOW = 1000.0
ON, OFF, RESET = PowerRequest
DOWN, STARTED = PowerEvent.WENT_DOWN, PowerEvent.BOOT_STARTED


def mac(**options: PowerChoices) -> Device:
    device = Device(MAC, boot_seconds=lambda: BOOT, shutdown_seconds=lambda: SHUTDOWN, jitter=lambda: 0.0, **options)
    device.profiles.lom = LOMConfiguration(controller_identity=IDENTITY)
    return device


def ask(
    device: Device, request: PowerRequest, uuid: str = "0001", *, by: str = OTHER, now: float = NOW, version: int = 1
) -> tuple[str, list[PowerEvent]]:
    """The error of the answer, and the power events."""
    answer, events = device.receive_lom_request(LinkRequest(uuid, MAC.dns_name, request, version), by, now)
    assert answer.uuid == uuid
    return answer.error, events


# Once


def test_repeated_request_is_answered_but_not_executed_again() -> None:
    device = mac()
    assert ask(device, RESET) == ("", [DOWN, STARTED])
    device.power.advance(NOW + BOOT)
    for seconds in (0.0, 1.0, BOOT, LIMITS.repeat_seconds - 1.0):
        assert ask(device, RESET, now=NOW + seconds) == ("", [])
    assert ask(device, RESET, "0002", now=NOW + BOOT) == ("", [DOWN, STARTED])
    assert ask(device, RESET, by="a third", now=NOW + BOOT) == ("", [DOWN, STARTED])


def test_repeated_request_is_executed_after_repeat_seconds() -> None:
    device = mac()
    ask(device, RESET)
    device.power.advance(NOW + BOOT)
    assert ask(device, RESET, now=NOW + LIMITS.repeat_seconds) == ("", [DOWN, STARTED])


def test_refusal_is_repeated_and_a_uuid_is_for_one_request_type() -> None:
    device = mac()
    ask(device, OFF, "off")
    refused = ask(device, RESET)
    assert refused == ("Reset refused: the Mac is off", [])
    ask(device, ON, "on")
    assert ask(device, RESET) == refused
    error, events = ask(device, OFF, "on")
    assert error == "DeviceRequestUUID 'on' was used for PowerON before; PowerOFF needs a new one"
    assert events == []
    assert device.power.state is Power.BOOTING


def test_answered_requests_are_remembered_after_a_reset() -> None:
    device = mac()
    ask(device, OFF, "off")
    device.lose_power()
    ask(device, ON, "on")
    device.power.advance(NOW + BOOT)
    assert device.running
    assert ask(device, OFF, "off", now=NOW + BOOT) == ("", [])
    assert device.running


@pytest.mark.parametrize(
    ("choices", "error"), [(PowerChoices(power_on_while_on="refuse"), "PowerON refused: the Mac is on"), (None, "")]
)
def test_mac_follows_its_power_choices(choices: PowerChoices | None, error: str) -> None:
    device = mac() if choices is None else mac(power_choices=choices)
    assert ask(device, ON) == (error, [])


# Itself


@pytest.mark.parametrize("request_type", [OFF, RESET])
def test_mac_that_requests_itself_answers_its_server_first(request_type: PowerRequest) -> None:
    device = mac()
    device.relaying = True
    assert ask(device, request_type, by=OWN) == ("", [])
    assert device.running
    assert device.take_follow_ups() == [ChangePower(request_type)]


@pytest.mark.parametrize("request_type", [OFF, RESET])
def test_request_of_another_controller_takes_effect_at_once(request_type: PowerRequest) -> None:
    device = mac()
    device.relaying = True
    ask(device, OFF, "own", by=OWN)
    assert ask(device, request_type)[1][0] is DOWN
    device.lose_power()
    assert device.take_follow_ups() == []  # the current command is lost, and the server offers it again


def test_unexecuted_request_to_itself_is_new_when_repeated() -> None:
    device = mac()
    device.relaying = True
    ask(device, OFF, "own", by=OWN)
    ask(device, RESET)
    device.lose_power()
    device.power.advance(NOW + BOOT)
    device.relaying = True
    assert ask(device, OFF, "own", by=OWN, now=NOW + BOOT) == ("", [])
    assert device.take_follow_ups() == [ChangePower(OFF)]


def test_delivered_result_executes_the_request_to_itself() -> None:
    """A result whose delivery broke opens the next session, and the Mac goes down after that."""
    device = mac()
    assert isinstance(_begin(device, "c1"), Execute)
    device.relaying = True
    ask(device, OFF, "own", by=OWN)
    device.session.finish("c1", acknowledged())
    ask(device, RESET)
    device.lose_power()
    assert device.session.owes_result
    assert ask(device, OFF, "own", by=OWN, now=NOW + 1.0) == ("", [])
    assert device.take_follow_ups() == [ChangePower(OFF)]


def test_unenrolled_mac_forgets_its_pending_request() -> None:
    device = mac()
    device.relaying = True
    ask(device, OFF, "own", by=OWN)
    device.forget_enrollment()
    assert device.take_follow_ups() == []
    assert ask(device, OFF, "own", by=OWN) == ("", [DOWN])


def _begin(device: Device, uuid: str) -> object:
    device.session.open()
    command: dict[str, object] = {"CommandUUID": uuid, "Command": {"RequestType": "LOMDeviceRequest"}}
    return device.session.answer(200, dump_xml(command), NOW)


@pytest.mark.parametrize(
    ("request_type", "ask_first", "after"),
    [
        (SystemRequest.SHUT_DOWN, None, Power.OFF),
        (SystemRequest.RESTART, None, Power.BOOTING),
        (SystemRequest.SHUT_DOWN, ON, Power.BOOTING),
        (SystemRequest.RESTART, OFF, Power.OFF),
        (SystemRequest.SHUT_DOWN, RESET, Power.BOOTING),
    ],
)
def test_controller_request_during_a_shutdown(
    request_type: SystemRequest, ask_first: PowerRequest | None, after: Power
) -> None:
    device = mac()
    device.power.receive(request_type, NOW)
    assert not device.running
    if ask_first is not None:
        assert ask(device, ask_first, now=NOW + 1.0)[0] == ""
    device.power.advance(NOW + SHUTDOWN)
    assert device.power.state is after
