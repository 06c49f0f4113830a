"""Automated Device Enrollment against the lab: the signed MachineInfo, what a 403 asks for, and Setup Assistant."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from debian import need
from stack import Stack, stack
from twisted.internet.defer import ensureDeferred

from agent import plists
from agent.device.answering import OfflineMac
from agent.device.installing.software_update import Update
from agent.errors import PeerError
from agent.fleet.durations import Constant
from agent.fleet.population import Population
from agent.lab.enrollment.automated import AutomatedPolicy
from agent.lom.power import Power
from agent.lom.requests import Dialect
from agent.mdm.automated import RefusalMalformed, SignInRequired, UpdateRequired, required_before
from agent.mdm.checkin import user_agent
from agent.mdm.refusals import ServerRefused
from agent.measure.exchanges import ExchangeLog, HTTPExchange
from agent.net.http.http1 import Response
from agent.net.mac.enrollment.automated import automated_profile, device_identity, signed_machine_info
from agent.net.mac.fleet.macs import Fleet, FleetBehaviour
from agent.pki.issuing.authority import Authority
from agent.pki.issuing.device_ca import device_ca_pem, read_device_ca

Run = Callable[[Any], Any]
REFUSED = "answered the request for the enrollment profile with 403"
MOMENT = Constant(0.001)
AT_ONCE = FleetBehaviour(users=1.0, boot=MOMENT, shutdown=MOMENT, update=MOMENT)


async def enrolled(running: Stack, fleet: Fleet) -> None:
    """Enroll the Mac of a fleet automatically."""
    await fleet[0].enroll_automatically(running.server.automated_url, running.server.authorities.device_authority)


def test_a_mac_waits_in_setup_assistant_until_it_is_configured(run_in_reactor: Run) -> None:
    async def work() -> None:
        seen: list[HTTPExchange] = []
        async with stack(1, behaviour=AT_ONCE, enrolled=False, log=ExchangeLog(seen.append)) as running:
            client = running.fleet[0]
            await enrolled(running, running.fleet)
            mac = client.device.mac
            checkins = [plists.load_dict(each.request) for each in seen if each.kind == "checkin"]
            assert [(each["MessageType"], each.get("AwaitingConfiguration")) for each in checkins] == [
                ("Authenticate", None),
                ("TokenUpdate", True),
                ("SetBootstrapToken", True),
            ]
            assert client.device.settings.awaiting_configuration
            assert client.device.user is not None
            assert client.device.user.managed is None  # nobody can log in
            queued = running.lab.macs[mac.udid].queue.values()
            assert [each.request_type for each in queued] == ["DeviceConfigured"]
            client.wake()
            await running.until(lambda: client.user_name in running.lab.macs, "the user logs in after DeviceConfigured")
            assert not client.device.settings.awaiting_configuration
            assert client.device.settings.automated
            await running.enroll(client)  # with the profile of the URL, not as in Setup Assistant
            assert not client.device.settings.automated

    run_in_reactor(work())


@pytest.mark.parametrize(
    ("os", "policy", "posts", "release", "words"),
    [
        ("26.2", AutomatedPolicy(os_version="27.0"), 2, "27.0", None),
        ("26.2", AutomatedPolicy(platform_sso=True), 2, "26.2", None),
        ("26.2", AutomatedPolicy(os_version="27.0", platform_sso=True), 3, "27.0", None),
        ("15.5", AutomatedPolicy(platform_sso=True), 1, "15.5", REFUSED),
        ("13.6", AutomatedPolicy(os_version="14.4"), 1, "13.6", REFUSED),
        ("27.0", AutomatedPolicy(os_version="99.0"), 1, "27.0", "found 99.0"),
    ],
)  # fmt: skip
def test_a_server_asks_for_something_first(
    run_in_reactor: Run, os: str, policy: AutomatedPolicy, posts: int, release: str, words: str | None
) -> None:
    async def work() -> None:
        seen: list[HTTPExchange] = []
        async with stack(1, enrolled=False, log=ExchangeLog(seen.append)) as running:
            running.server.automated.policy = policy
            fleet = Fleet(Population("ade", 1, os=os, model="Mac14,3"), running.environment, AT_ONCE)
            try:
                failure: PeerError | None = None
                try:
                    await enrolled(running, fleet)
                except PeerError as error:
                    failure = error
                assert [each.kind for each in seen if each.method == "POST"] == ["enroll"] * posts
                assert (fleet[0].device.mac.os_version, fleet[0].boots) == (release, int(release != os))
                assert fleet[0].device.update is None
                assert words is None if failure is None else words is not None
                if words is not None:
                    assert isinstance(failure, ServerRefused)
                    assert words in str(failure)
                else:
                    announced = running.lab.macs[fleet[0].device.mac.udid].announcement
                    assert announced["OSVersion"] == release
            finally:
                fleet.close()

    run_in_reactor(work())


def test_the_lab_refuses_the_identity_of_another_ca(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, enrolled=False) as running:
            other = Authority.create("another CA of devices")
            with pytest.raises(ServerRefused, match="403"):
                await running.fleet[0].enroll_automatically(running.server.automated_url, other)
            assert not running.lab.macs

    run_in_reactor(work())


def test_openssl_verifies_a_machine_info(tmp_path: Path) -> None:
    authority = read_device_ca(device_ca_pem(Authority.create("CA")), "ca.pem")
    mac = Population("ade", 1, os="27")[0]
    device = OfflineMac(mac, Authority.create("Devices"), Authority.create("Controllers"), Dialect.SCHEMA).device
    signed = signed_machine_info(device, device_identity(device, authority))
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    command = [need("openssl", "openssl"), "cms", "-verify", "-inform", "DER", "-CAfile", "ca.pem", "-purpose", "any"]
    done = subprocess.run(command, cwd=tmp_path, input=signed, capture_output=True, check=True, timeout=60)
    info = plists.load_dict(done.stdout.replace(b"\r\n", b"\n"))
    assert (info["UDID"], info["SERIAL"], info["PRODUCT"]) == (mac.udid, mac.serial_number, mac.model)
    assert info["MDM_CAN_REQUEST_PSSO_CONFIG"] is True
    older = Population("ade", 1, os="13.6")[0]
    device.mac = older
    assert set(plists.load_dict(_content(signed_machine_info(device, device_identity(device, authority))))) == {
        "LANGUAGE", "PRODUCT", "SERIAL", "UDID", "VERSION",
    }  # fmt: skip


def test_every_request_has_the_user_agent_of_the_macos_that_sends_it() -> None:
    authority = Authority.create("CA")
    mac = Population("ade", 1, os="26.2", model="Mac14,3")[0]
    device = OfflineMac(mac, authority, authority, Dialect.SCHEMA).device
    answers = [(403, UPDATE), (403, SSO), *[(200, b"")] * 4]
    seen: list[tuple[str, str]] = []

    class Server:
        async def send_once(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Response:
            seen.append((method, headers["User-Agent"]))
            status, answer = answers.pop(0)
            return Response(status, {"content-type": "application/json"}, answer, keep_alive=True)

    async def install(update: Update) -> None:
        device.mac = device.mac.with_release(update.version, update.build)

    steps = automated_profile(device, Server(), "https://mdm.invalid/ade", authority, install)
    with pytest.raises(StopIteration):
        steps.send(None)
    before, after = user_agent("26.2"), user_agent("27.0")
    assert before != after
    assert seen == [("POST", before), ("POST", after), *[("GET", after)] * 3, ("POST", after)]


def _content(signed: bytes) -> bytes:
    start = signed.index(b"<?xml")
    return signed[start : signed.index(b"</plist>") + len(b"</plist>")]


SSO_DETAILS = b'{"ProfileURL": "p", "Package": {"ManifestURL": "m"}, "AuthURL": "a"}'
SSO = b'{"code": "com.apple.psso.required", "details": ' + SSO_DETAILS + b"}"
UPDATE = b'{"code": "com.apple.softwareupdate.required", "details": {"OSVersion": "27.0", "BuildVersion": "26A428"}}'


@pytest.mark.parametrize(
    ("body", "content_type", "release", "found"),
    [
        (UPDATE, "application/json", "14.4", UpdateRequired("27.0", "26A428")),
        (UPDATE, "application/json", "13.6", None),
        (SSO, "application/json; charset=utf-8", "26.0", SignInRequired("p", "m", "a")),
        (SSO, "application/json", "15.5", None),
        (SSO, "text/html", "26.0", None),
        (b"<html>", "application/xml", "26.0", None),
        (b"[]", "application/json", "26.0", None),
        (plists.dump_xml({"code": "com.apple.softwareupdate.required", "details": {"OSVersion": "27.0"}}),
         "application/xml", "26.0", UpdateRequired("27.0")),
    ],
)  # fmt: skip
def test_a_refusal_is_read_by_its_content_type(body: bytes, content_type: str, release: str, found: object) -> None:
    assert required_before(body, content_type, release) == found


@pytest.mark.parametrize(
    "body",
    [
        b'{"code": "com.apple.softwareupdate.required"}',
        b'{"code": "com.apple.softwareupdate.required", "details": {"OSVersion": 27}}',
        b'{"code": "com.apple.psso.required", "details": {"ProfileURL": "p", "AuthURL": "a"}}',
    ],
)
def test_a_refusal_without_its_details_is_malformed(body: bytes) -> None:
    with pytest.raises(RefusalMalformed):
        required_before(body, "application/json", "27.0")


@pytest.mark.parametrize(
    ("happens", "during"),
    [
        ("cut_mains", Power.ON),
        ("leave_network", Power.ON),
        ("retire", Power.ON),
        ("retire", Power.BOOTING),
        ("cut_mains", Power.BOOTING),
    ],
)
def test_a_mac_that_goes_down_during_the_update_does_not_enroll(
    run_in_reactor: Run, happens: str, during: Power
) -> None:
    async def work() -> None:
        seen: list[HTTPExchange] = []
        lasts, ends = Constant(600.0), MOMENT
        behaviour = FleetBehaviour(update=lasts if during is Power.ON else ends, boot=lasts, shutdown=ends, users=1.0)
        async with stack(1, os="26.2", behaviour=behaviour, enrolled=False, log=ExchangeLog(seen.append)) as running:
            running.server.automated.policy = AutomatedPolicy(os_version="27.0")
            client = running.fleet[0]
            enrolling = ensureDeferred(enrolled(running, running.fleet))
            await running.until(lambda: client.device.update is not None, "the server asks for an update")
            await running.until(lambda: client.device.power.state is during, "the Mac is in this state")
            if happens == "retire":
                client.retire("the Mac was removed")
            else:
                getattr(client, happens)()
            with pytest.raises(PeerError):
                await enrolling
            assert [each.kind for each in seen] == ["enroll"]
            assert (client.enrolled, client.device.mac.os_version) == (False, "26.2")
            (record,) = (each for each in running.exchanges if each.operation == "enroll")
            assert record.cut_short

    run_in_reactor(work())


def test_an_automated_enrollment_that_fails_leaves_a_configured_mac_configured(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, os="27.0") as running:
            client = running.fleet[0]
            running.server.automated.policy = AutomatedPolicy(os_version="99.0")
            with pytest.raises(PeerError):
                await enrolled(running, running.fleet)
            settings = client.device.settings
            assert (client.enrolled, settings.awaiting_configuration, settings.automated) == (True, False, False)

    run_in_reactor(work())
