"""Macs and the lab over real sockets: the effects of each command, and how later answers show them."""

from __future__ import annotations

import json
import plistlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from apns_gateways import run
from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from debian import need
from msgspec import structs
from odd_certificates import VERSION_4, odd_identity
from stack import stack
from twisted.internet.defer import Deferred

import agent.lab.web.server
from agent.lab.mdm.core import Message
from agent.lom.power import Power
from agent.lom.requests import PowerRequest, RelayItem
from agent.mdm.timing import Timing
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.environment import MAX_WARNINGS
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.pki.cms import open_signed
from agent.pki.cms_signing import sign_attached
from agent.pki.issuing.authority import Authority, Usage
from agent.pki.pem import key_pem
from agent.profiles.errors import ProfileError
from agent.profiles.making import (
    ENROLLMENT_IDENTIFIER,
    LOM_IDENTIFIER,
    TOPIC,
    enrollment_profile,
    lom_profile,
    pkcs12_payload,
    scep_payload,
)


def lom_of(running: Any, client: MDMClient) -> bytes:
    name = client.device.mac.dns_name
    return lom_profile(running.server.authorities, name, device=True, controller=True)


def test_enrollment_sends_every_check_in_message(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            mac = client.device.mac
            enrolled = running.lab.macs[mac.udid]
            assert enrolled.announcement["SerialNumber"] == mac.serial_number
            assert enrolled.token == mac.push_token
            assert enrolled.push_magic == mac.push_magic
            assert enrolled.bootstrap_token == mac.bootstrap_token
            assert running.warnings == []  # the profile is signed, by someone whom the lab's CA vouches for
            assert [exchange.operation for exchange in running.exchanges] == ["checkin"] * 3 + ["enroll"]

    run_in_reactor(scenario())


def test_untrusted_profile_signer_warns_and_invalid_signature_fails(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            plain = open_signed(running.server.enrollment_profile()).content
            stranger = Authority.create("A stranger").issue("stranger", Usage())
            signed = sign_attached(plain, stranger.certificate, stranger.key)

            async def foreign() -> bytes:
                return signed

            async def broken() -> bytes:
                return signed.replace(b"lom-agent lab enrollment", b"lom-agent lab enr0lment")

            for client in running.fleet:
                running.lab.macs.clear()
                running.lab._udids.clear()
                await client.enroll(foreign)
            assert len(running.warnings) == 1  # one warning for the whole fleet
            assert "not trusted" in running.warnings[0]
            with pytest.raises(ProfileError, match="signature is invalid"):
                await running.fleet[0].enroll(broken)
            assert (await running.command(running.fleet[1], "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_scep_identity_has_the_profiles_attributes(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2, scep=True) as running:
            for client in running.fleet:
                mac, enrollment = client.device.mac, client.device.enrollment
                assert enrollment is not None
                certificate = enrollment.identity.certificate
                assert certificate.subject.rfc4514_string() == f"CN={mac.serial_number},O=lom-agent lab"
                certificate.verify_directly_issued_by(running.server.authorities.scep.certificate)
                assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            assert running.keys.reused == 1

    run_in_reactor(scenario())


def test_scep_challenge_is_valid_once(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2, scep=True) as running:
            profile = running.server.enrollment_profile()

            async def fetch() -> bytes:
                return profile

            first, second = running.fleet
            await first.enroll(fetch)
            before = second.device.enrollment
            with pytest.raises(Exception, match="challenge"):
                await second.enroll(fetch)
            assert second.device.enrollment is before  # managed as before
            (failed,) = [exchange for exchange in running.exchanges if exchange.failure is not None]
            assert (failed.operation, failed.failure.kind) == ("enroll", "profile")  # type: ignore[union-attr]
            assert "badRequest" in failed.failure.message  # type: ignore[union-attr]
            assert (await running.command(second, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_failed_scep_gives_the_error_chain_of_macos(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(scep=True) as running:
            client, authorities = running.fleet[0], running.server.authorities
            for url, challenge, code in (
                ("http://127.0.0.1:1/scep", "any", 22005),
                (running.server.scep_url, "wrong", 22013),
            ):
                identity = scep_payload(authorities, url, challenge)
                content = {**plistlib.loads(lom_of(running, client)), "PayloadContent": [identity]}
                result = await running.command(client, "InstallProfile", Payload=plistlib.dumps(content))
                assert [(error["ErrorDomain"], error["ErrorCode"]) for error in result["ErrorChain"]] == [
                    ("MCProfileErrorDomain", 1009),
                    ("MCInstallationErrorDomain", 4001),
                    ("MCSCEPErrorDomain", code),
                ]
            listed = (await running.command(client, "ProfileList"))["ProfileList"]
            assert [profile["PayloadIdentifier"] for profile in listed] == [ENROLLMENT_IDENTIFIER]

    run_in_reactor(scenario())


def test_openssl_verifies_every_mdm_signature(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    openssl = need("openssl", "openssl")

    async def scenario() -> list[Message]:
        async with stack() as running:
            puts: list[Message] = []
            report, check_in = running.lab.report, running.lab.check_in
            for endpoint in ("mdm", "checkin"):
                url = running.server._ports[-1].factory.wrappedFactory.endpoints[f"/{endpoint}".encode()]
                take = report if endpoint == "mdm" else check_in
                url._take = lambda put, take=take: (puts.append(put), take(put))[1]
            await running.enroll(running.fleet[0])
            await running.command(running.fleet[0], "ProfileList")
            anchor = running.server.authorities.anchor.public_bytes(Encoding.PEM)
            (tmp_path / "ca.pem").write_bytes(anchor)
            return puts

    puts = run_in_reactor(scenario())
    kinds = [plistlib.loads(put.body).get("MessageType") or plistlib.loads(put.body)["Status"] for put in puts]
    assert kinds[:3] == ["Authenticate", "TokenUpdate", "SetBootstrapToken"]
    assert kinds[3:5] == ["Idle", "Acknowledged"]
    verify = [openssl, "cms", "-verify", "-binary", "-inform", "PEM", "-CAfile", "ca.pem", "-purpose", "sslclient"]
    for number, put in enumerate(puts):
        assert put.signature is not None
        (tmp_path / f"{number}.body").write_bytes(put.body)
        signature = f"-----BEGIN CMS-----\n{put.signature}\n-----END CMS-----\n"
        (tmp_path / f"{number}.sig").write_text(signature)
        verified = subprocess.run(
            [*verify, "-in", f"{number}.sig", "-content", f"{number}.body"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert verified.returncode == 0, verified.stderr


def test_declarations_are_fetched_once_and_reported(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            mac = running.lab.macs[running.udid(client)]
            await running.command(client, "DeclarativeManagement")
            await running.until(lambda: mac.status_report != b"", "a status report")
            report = json.loads(mac.status_report)
            declared = report["StatusItems"]["management"]["declarations"]
            assert [item["identifier"] for item in declared["configurations"]] == ["test.lom-agent.lab.configuration"]
            await running.until(lambda: len(endpoints(running)) == 5, "five check-ins")
            fetched = endpoints(running)
            assert fetched[:2] == ["tokens", "declaration-items"]
            assert sorted(fetched[2:4]) == [
                "declaration/activation/test.lom-agent.lab.activation",
                "declaration/configuration/test.lom-agent.lab.configuration",
            ]
            assert fetched[4:] == ["status"]
            tokens = running.lab.declarations.answer("tokens")
            await running.command(client, "DeclarativeManagement", Data=tokens)
            await running.command(client, "ProfileList")
            assert endpoints(running) == fetched  # nothing changed, so nothing more was fetched

    run_in_reactor(scenario())


def request_types(running: Any) -> list[Any]:
    return [exchange.facts["request_type"] for exchange in running.exchanges if exchange.operation == "command"]


def endpoints(running: Any) -> list[Any]:
    return [exchange.facts["endpoint"] for exchange in running.exchanges if "endpoint" in exchange.facts]


def test_restart_follows_the_answer_and_ends_in_a_session(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            assert (await running.command(client, "RestartDevice"))["Status"] == "Acknowledged"
            seen = list(running.reports)
            await running.until(lambda: len(running.reports) > len(seen), "a session after the restart")
            assert client.boots == 1
            assert running.reports[-1][1] != seen[-1][1]  # over a new connection
            assert running.failures("session") == []

    run_in_reactor(scenario())


def test_mac_stays_off_after_shutdown_until_power_on(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            controller, client = running.fleet
            for mac in (controller, client):
                await running.command(mac, "InstallProfile", Payload=lom_of(running, mac))
            await running.command(client, "ShutDownDevice")
            await running.until(lambda: client.device.power.state is Power.OFF, "off")
            client.wake()
            assert client.device.session.deadline is None
            setup = client.device.mac
            item = RelayItem("on", setup.dns_name, PowerRequest.ON, setup.primary_ipv6, 1)
            (outcome,) = await running.network.relay(controller, [item])
            assert outcome.success
            seen = len(running.reports)
            await running.until(lambda: len(running.reports) > seen, "a session after PowerON")
            assert running.reports[-1][0] == running.udid(client)

    run_in_reactor(scenario())


def test_erased_mac_is_unenrolled_and_can_enroll_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            await running.command(client, "InstallProfile", Payload=lom_of(running, client))
            assert (await running.command(client, "EraseDevice", PIN="123456"))["Status"] == "Acknowledged"
            await running.until(lambda: client.device.enrollment is None, "the end of the management")
            assert client.lom is None
            client.wake()
            await running.enroll(client)
            listed = await running.command(client, "ProfileList")
            assert [profile["PayloadIdentifier"] for profile in listed["ProfileList"]] == [ENROLLMENT_IDENTIFIER]

    run_in_reactor(scenario())


def test_removing_the_enrollment_profile_checks_the_mac_out(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            client, other = running.fleet
            await running.command(client, "RemoveProfile", Identifier=ENROLLMENT_IDENTIFIER)
            await running.until(lambda: running.udid(client) not in running.lab.macs, "CheckOut")
            assert client.device.enrollment is None
            assert (await running.command(other, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_enrollment_profile_can_be_renewed_without_more_rights(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]

            async def update(**keys: Any) -> Any:
                authorities = running.server.authorities
                profile = plistlib.loads(
                    enrollment_profile(authorities, running.server.url, pkcs12_payload(authorities))
                )
                for payload in profile["PayloadContent"]:
                    if payload["PayloadType"] == "com.apple.mdm":
                        payload["IdentityCertificateUUID"] = next(
                            other["PayloadUUID"]
                            for other in profile["PayloadContent"]
                            if other["PayloadType"] == "com.apple.security.pkcs12"
                        )
                        payload.update(keys)
                return await running.command(client, "InstallProfile", Payload=plistlib.dumps(profile))

            for wrong in (
                {"ServerURL": "https://elsewhere.example/mdm"},
                {"CheckInURL": "https://elsewhere.example/checkin"},
                {"Topic": "com.apple.mgmt.Other"},
            ):
                refused = await update(**wrong)
                assert refused["Status"] == "Error"
                assert [error["ErrorCode"] for error in refused["ErrorChain"]] == [1009, 1000]
            before = client.device.enrollment
            assert before is not None
            client.device.enrollment = structs.replace(before, access_rights=before.access_rights & ~8)
            widened = await update()
            assert "access rights 8" in widened["ErrorChain"][1]["USEnglishDescription"]
            assert client.device.enrollment.identity is before.identity

    run_in_reactor(scenario())


def test_command_answered_with_notnow_is_offered_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        behaviour = FleetBehaviour(not_now_for=0.2, timing=Timing(not_now=0.1))
        async with stack(behaviour=behaviour) as running:
            client = running.fleet[0]
            busy = [True, True, False]
            client.device.not_now = lambda: busy.pop(0)
            result = await running.command(client, "ProfileList")
            assert result["Status"] == "Acknowledged"
            assert busy == []
            sessions = [exchange for exchange in running.exchanges if exchange.operation == "session"]
            assert len(sessions) == 2  # the first ones, in which it was busy; the third is still open
            await running.until(
                lambda: (
                    [exchange.facts["status"] for exchange in running.exchanges if exchange.operation == "command"]
                    == ["NotNow", "NotNow", "Acknowledged"]
                ),
                "three records",
            )
            assert running.failures("command") == []

    run_in_reactor(scenario())


def test_a_malformed_command_is_answered_and_counted(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            arrived: Deferred[Any] = Deferred()
            running.lab.enqueue(running.udid(client), {"RequestType": 5}, arrived.callback)
            client.wake()
            assert (await arrived)["Status"] == "CommandFormatError"
            await running.until(lambda: running.failures("command") == ["command"], "a record")
            (failed,) = [exchange for exchange in running.exchanges if exchange.failure is not None]
            assert failed.facts["status"] == "CommandFormatError"
            assert "Expected a string for RequestType" in failed.failure.message  # type: ignore[union-attr]
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_each_leniency_warns_once_for_the_whole_fleet(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:

            async def odd() -> bytes:
                profile = plistlib.loads(open_signed(running.server.enrollment_profile()).content)
                (payload,) = [each for each in profile["PayloadContent"] if each["PayloadType"] == "com.apple.mdm"]
                payload.update(SignMessage=1, Note="%Nothing% %MACAddress%")
                return b"\n" + plistlib.dumps(profile)

            for client in running.fleet:
                running.lab.macs.clear()
                await client.enroll(odd)
                assert client.device.enrollment is not None
                assert client.device.enrollment.sign_message
                item = {"Item": "MDMOptions", "MDMOptions": {"BootstrapTokenAllowed": 1}}
                assert (await running.command(client, "Settings", Settings=[item]))["Status"] == "Acknowledged"
            assert len(running.warnings) == 3
            for text in ("SignMessage", "%Nothing%", "BootstrapTokenAllowed"):
                assert sum(text in warning for warning in running.warnings) == 1

    run_in_reactor(scenario())


def test_number_of_warnings_is_limited(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            for number in range(2 * MAX_WARNINGS):
                running.environment.warn(f"number {number}")
            assert len(running.warnings) == MAX_WARNINGS + 1
            assert "not shown" in running.warnings[-1]

    run_in_reactor(scenario())


def test_reenrollment_during_a_session_starts_over(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            before = client.device.enrollment
            enrolling = Deferred.fromCoroutine(running.enroll(client))
            client.wake()
            await enrolling
            assert client.device.enrollment is not before
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_a_mac_with_another_macs_identity_is_refused(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            thief, owner = running.fleet
            assert thief.device.enrollment is not None
            assert owner.device.enrollment is not None
            stolen = structs.replace(thief.device.enrollment, identity=owner.device.enrollment.identity)
            thief.device.enrollment = stolen
            thief.wake()
            await running.until(lambda: running.failures("session") == ["http_status"], "a refused session")
            (failed,) = [exchange for exchange in running.exchanges if exchange.failure is not None]
            assert "403" in failed.failure.message  # type: ignore[union-attr]
            assert (await running.command(owner, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_mac_unenrolls_on_401(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            client, other = running.fleet
            del running.lab.macs[running.udid(client)]
            client.wake()
            await running.until(lambda: client.device.enrollment is None, "the end of the management")
            assert running.failures("enroll") == ["unenrolled"]
            assert (await running.command(other, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_controller_answers_before_it_resets_itself(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            mac = client.device.mac
            await running.command(client, "InstallProfile", Payload=lom_of(running, client))
            item = {
                "DeviceRequestType": "Reset",
                "DeviceRequestUUID": "0001",
                "DeviceDNSName": mac.dns_name,
                "PrimaryIPv6AddressList": list(mac.primary_ipv6),
                "SecondaryIPv6AddressList": list(mac.secondary_ipv6),
                "LOMProtocolVersion": 1,
            }
            result = await running.command(client, "LOMDeviceRequest", RequestList=[item])
            assert result["ResponseList"] == [{"DeviceRequestSuccess": True, "DeviceRequestUUID": "0001"}]
            await running.until(lambda: client.boots == 1, "a boot")
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            done = ["InstallProfile", "LOMDeviceRequest", "ProfileList"]  # the request's result was delivered once
            await running.until(lambda: request_types(running) == done, "three records")

    run_in_reactor(scenario())


def test_command_interrupted_by_a_reset_is_offered_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            controller, client = running.fleet
            for mac in (controller, client):
                await running.command(mac, "InstallProfile", Payload=lom_of(running, mac))
            arrived: Deferred[Any] = Deferred()
            target = client.device.mac
            running.lab.enqueue(running.udid(client), {"RequestType": "ProfileList"}, arrived.callback)
            client.wake()
            item = RelayItem("reset", target.dns_name, PowerRequest.RESET, target.primary_ipv6, 1)
            await running.network.relay(controller, [item])  # while the session is on its way
            assert (await arrived)["Status"] == "Acknowledged"
            await running.until(lambda: client.boots == 1, "a boot")
            listed = await running.command(client, "ProfileList")
            assert LOM_IDENTIFIER in [profile["PayloadIdentifier"] for profile in listed["ProfileList"]]

    run_in_reactor(scenario())


def test_lab_topic_is_valid() -> None:
    assert TOPIC.startswith("com.apple.mgmt.")


def test_resumed_tls_session_has_the_macs_identity(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_site = agent.lab.web.server.lab_site

    def impatient_site(*arguments: Any) -> Any:
        site = make_site(*arguments)
        site.timeOut = 0.2  # as servers do it with connections that are quiet
        return site

    monkeypatch.setattr(agent.lab.web.server, "lab_site", impatient_site)

    async def scenario() -> None:
        async with stack(2, resume=1.0) as running:
            clients = [running.fleet[0], running.fleet[1]]
            for client in clients:
                await running.command(client, "ProfileList")
            contexts = running.environment.contexts
            full, resumed = contexts.handshakes_full, contexts.handshakes_resumed
            for client in clients:
                await running.until(lambda client=client: not client.connected, "the lab closes the connection")
                answer = await running.command(client, "DeviceInformation", Queries=["SerialNumber"])
                assert answer["QueryResponses"] == {"SerialNumber": client.device.mac.serial_number}
            assert (contexts.handshakes_full, contexts.handshakes_resumed) == (full, resumed + 2)

    run_in_reactor(scenario())


def test_unreadable_client_certificate_is_refused_and_the_lab_continues(
    run_in_reactor: RunInReactor, tmp_path: Path
) -> None:
    """The certificate is issued by the lab's own CA, so that TLS accepts it."""
    need("curl", "curl")

    async def scenario() -> None:
        async with stack() as running:
            authority = running.server.authorities
            odd = odd_identity(authority.mdm_identity(), authority._mdm.identity.key, VERSION_4)
            certificate, key = tmp_path / "odd.pem", tmp_path / "odd.key"
            certificate.write_bytes(odd.certificate.public_bytes(Encoding.PEM))
            key.write_bytes(key_pem(odd.key))
            (tmp_path / "ca.pem").write_bytes(authority.anchor.public_bytes(Encoding.PEM))
            output, _errors, _status = await run(
                "curl", "--silent", "--show-error", "--max-time", "20", "--cacert", str(tmp_path / "ca.pem"),
                "--cert", str(certificate), "--key", str(key), "--upload-file", str(certificate),
                "--write-out", "%{http_code}", f"{running.server.url}/mdm",
            )  # fmt: skip
            assert "client certificate is refused" in output
            assert output.endswith("403")
            assert (await running.command(running.fleet[0], "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(scenario())
