"""A Device restored from the store of idle Macs behaves as before: the same answers, the same random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.device.commands import carry_out
from agent.device.installing import enrollment_steps, install_profile
from agent.device.mac import Device
from agent.device.packed import IdleStore
from agent.device.steps import Done, Steps, advance
from agent.errors import PeerError
from agent.fleet.chance import Chance
from agent.fleet.durations import Durations, Uniform
from agent.fleet.population import Population
from agent.lom.link import LinkRequest
from agent.lom.requests import PowerRequest
from agent.mdm.commands import Command
from agent.mdm.results import Result, Status, acknowledged
from agent.mdm.session import DEFAULT_TIMING, Execute, Send, State
from agent.pki.authorities import Authorities
from agent.pki.cms import sign_attached
from agent.plists import dump_xml
from agent.profiles.making import LOM_IDENTIFIER, enrollment_profile, lom_profile, pkcs12_payload

POPULATION = Population("idle store", 3)
BOOT = Uniform(10.0, 30.0)
AUTHORITIES = Authorities()
SIGNER = AUTHORITIES.signer_identity()
ENROLLMENTS = [
    sign_attached(
        enrollment_profile(AUTHORITIES, "https://mdm.invalid", pkcs12_payload(AUTHORITIES)),
        SIGNER.certificate,
        SIGNER.key,
    )
    for _ in range(2)
]
LOM_PROFILES = [
    lom_profile(AUTHORITIES, POPULATION[index].dns_name, device=True, controller=index == 0) for index in range(3)
]
COMMAND = dump_xml({"CommandUUID": "0001", "Command": {"RequestType": "ProfileList"}})


def make(index: int) -> Device:
    """A Device in its factory state."""
    mac = POPULATION[index]
    return Device(
        mac,
        boot_seconds=Durations(BOOT, Chance(mac.source, index, b"boot")),
        shutdown_seconds=Durations(BOOT, Chance(mac.source, index, b"shutdown")),
        jitter=Chance(mac.source, index, b"back-off"),
    )


def idle_store() -> IdleStore:
    return IdleStore(make, (BOOT, DEFAULT_TIMING))


def run(steps: Steps[Any]) -> None:
    need = advance(steps, None)
    while not isinstance(need, Done):
        need = advance(steps, b"")


def answer(device: Device, request_type: str, **body: Any) -> Any:
    outcome = carry_out(device, Command("0001", request_type, {"RequestType": request_type, **body}))
    if isinstance(outcome, Result):
        return outcome
    try:
        while True:
            next(outcome)
    except StopIteration as end:
        return end.value


# Events in the life of a Mac, each at a later time than the one before.


def enrolled(device: Device, now: float) -> None:
    run(enrollment_steps(device, ENROLLMENTS[int(now) % 2]))


def lom_installed(device: Device, _now: float) -> None:
    run(install_profile(device, LOM_PROFILES[device.mac.index]))


def lom_removed(device: Device, _now: float) -> None:
    answer(device, "RemoveProfile", Identifier=LOM_IDENTIFIER)


def named(device: Device, now: float) -> None:
    items = [
        {"Item": "DeviceName", "DeviceName": f"Mac of {now}"},
        {"Item": "OrganizationInfo", "OrganizationInfo": {}},
    ]
    answer(device, "Settings", Settings=items)


def reset(device: Device, now: float) -> None:
    request = LinkRequest(f"reset {now}", device.mac.dns_name, PowerRequest.RESET, device.mac.lom_protocol_version)
    device.receive_lom_request(request, "controller", now)
    device.power.advance(now + BOOT.longest)


def switched_off(device: Device, now: float) -> None:
    request = LinkRequest(f"off {now}", device.mac.dns_name, PowerRequest.OFF, device.mac.lom_protocol_version)
    device.receive_lom_request(request, "controller", now)


def broken(device: Device, now: float) -> None:
    if device.session.wake() is not None:
        device.session.broke(PeerError("broken"), now)
        device.session.deadline = None  # the Mac has polled again


def owing(device: Device, now: float) -> None:
    """A result that does not reach the server."""
    if isinstance(device.session.wake(), Send):
        event = device.session.answer(200, COMMAND, now)
        if isinstance(event, Execute):
            device.session.finish(event.command.uuid, acknowledged({"ProfileList": []}))
            device.session.power_lost()


def declared(device: Device, now: float) -> None:
    device.declarations = {"a": f"token {now}", "b": "token"}
    device.declarations_token = f"all {now}"


def left(device: Device, now: float) -> None:
    device.forget_enrollment()
    device.left_at = now


EVENTS = [enrolled, lom_installed, lom_removed, named, reset, switched_off, broken, owing, declared, left]
Event = Callable[[Device, float], None]


def shown(device: Device, now: float) -> list[Any]:
    """Everything that is visible of a Device from outside. Changes it: draws random numbers, opens a session."""
    repeated = LinkRequest(f"reset {now}", device.mac.dns_name, PowerRequest.RESET, device.mac.lom_protocol_version)
    return [
        device.mac,
        device.running,
        device.left_at,
        device.declarations,
        device.declarations_token,
        device.enrollment,
        device.lom,
        device.enrollment and device.enrollment.identity.key.private_numbers(),
        device.session.owes_result,
        device.session.failures,
        device.session.open().body,
        *(answer(device, what) for what in ("ProfileList", "CertificateList", "LOMSetupRequest", "SecurityInfo")),
        answer(device, "DeviceInformation", Queries=["DeviceName", "OrganizationInfo", "UDID", "SerialNumber"]),
        device.receive_lom_request(repeated, "controller", now + 1.0),
        device.power.deadline,
        device.session.broke(PeerError("broken"), now),
        device.session.deadline,
    ]


def seen(device: Device, now: float) -> list[Any]:
    """The same in a form that can be compared: errors are never equal."""
    return [
        repr(one) if isinstance(one, PeerError) or "SessionEnded" in type(one).__name__ else one
        for one in shown(device, now)
    ]


@examples(60)
@given(st.integers(0, 2), st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans()), max_size=8))
def test_a_restored_device_is_the_same_device(index: int, story: list[tuple[Event, bool]]) -> None:
    here, unstored, stored = idle_store(), make(index), make(index)
    now = 1000.0
    for happens, is_stored in story:
        now += 1.0
        for device in (unstored, stored):
            happens(device, now)
        if is_stored:
            stored = here.restore(index, here.serialise(stored))
    assert seen(here.restore(index, here.serialise(stored)), now) == seen(unstored, now)


def test_factory_state_is_stored_in_no_bytes() -> None:
    here = idle_store()
    device = here.restore(2, b"")
    assert device.mac == POPULATION[2]
    assert list(here.active) == [2]


def test_stored_devices_share_common_data() -> None:
    here, devices = idle_store(), [make(index) for index in range(3)]
    for device in devices:
        enrolled(device, 0.0)
        lom_installed(device, 0.0)
    kept = [here.serialise(device) for device in devices]
    assert max(len(one) for one in kept[1:]) < 1200  # two identities of P-256 alone are 1,300 in DER
    back = [here.restore(index, one) for index, one in enumerate(kept)]
    first, second = (device.enrollment for device in back[:2])
    assert first is not None
    assert second is not None
    assert first.anchors[0] is second.anchors[0]


def test_device_unlike_the_compression_dictionary_is_restored() -> None:
    here = idle_store()
    here.serialise(make(0))
    for number in range(50):  # each differs from all others
        device = make(1)
        device.declarations = {f"{number} {one}": str(number**20 + one) for one in range(200)}
        assert here.restore(1, here.serialise(device)).declarations == device.declarations


def test_restored_identity_is_one_object_everywhere() -> None:
    here, device = idle_store(), make(0)
    enrolled(device, 0.0)
    back = here.restore(0, here.serialise(device))
    assert back.enrollment is not None
    assert back.enrollment.identity is next(back.identities)


@pytest.mark.parametrize("state", [State.WAITING, State.WORKING])
def test_device_in_a_session_is_not_idle(state: State) -> None:
    device = make(0)
    assert device.quiet
    device.session.wake()
    if state is State.WORKING:
        device.session.answer(200, COMMAND, 0.0)
    assert device.session.state is state
    assert not device.quiet


def test_device_that_boots_or_waits_to_retry_is_not_idle() -> None:
    booting, waiting = make(0), make(1)
    booting.power.receive(PowerRequest.RESET, 0.0)
    waiting.session.wake()
    waiting.session.broke(PeerError("broken"), 0.0)
    assert not booting.quiet
    assert not waiting.quiet
    assert Status.IDLE.value.encode() in waiting.session.open().body
