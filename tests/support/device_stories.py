"""The life of a Device, for tests that store and restore it: what happens to it, and all that is visible of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.device.commands import carry_out
from agent.device.ddm.declared import Declaration, Declared
from agent.device.installing.profiles import enrollment_steps, install_profile
from agent.device.mac import Device
from agent.device.steps import Done, Steps, advance
from agent.errors import PeerError
from agent.fleet.chance import Chance
from agent.fleet.durations import Durations, Uniform
from agent.fleet.population import Population
from agent.lom.link import LinkRequest
from agent.lom.requests import PowerRequest
from agent.mdm.commands import Command
from agent.mdm.results import Result, acknowledged
from agent.mdm.session import Execute, Send
from agent.pki.cms_signing import sign_attached
from agent.pki.issuing.authorities import Authorities
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
    chances = boot, shutdown, jitter = tuple(
        Chance(mac.source, index, name) for name in (b"boot", b"shutdown", b"jitter")
    )
    return Device(
        mac,
        boot_seconds=Durations(BOOT, boot),
        shutdown_seconds=Durations(BOOT, shutdown),
        jitter=jitter,
        chances=chances,
    )


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
    there = [Declaration("configuration", "a", f"token {now}"), Declaration("activation", "b", "token", applied=True)]
    device.declared = Declared(f"all {now}", there, {"device.model.family": b"Mac"}, now)


def left(device: Device, now: float) -> None:
    device.forget_enrollment()
    device.left_at = now


EVENTS = [enrolled, lom_installed, lom_removed, named, reset, switched_off, broken, owing, declared, left]
Event = Callable[[Device, float], None]


def shown(device: Device, now: float, last: float) -> list[Any]:
    """Everything that is visible of a Device from outside. Changes it: draws random numbers, opens a session.

    ``last`` is when the last event happened to it, on the clock of that time.
    """
    repeated = LinkRequest(f"reset {last}", device.mac.dns_name, PowerRequest.RESET, device.mac.lom_protocol_version)
    return [
        device.mac,
        device.running,
        device.left_at,
        device.declared,
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


def seen(device: Device, now: float, last: float | None = None) -> list[Any]:
    """The same in a form that can be compared: errors are never equal."""
    return [
        repr(one) if isinstance(one, PeerError) or "SessionEnded" in type(one).__name__ else one
        for one in shown(device, now, now if last is None else last)
    ]
