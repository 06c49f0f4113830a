"""Identities that change: renewed by InstallProfile, also while the Mac enrolls again, expired, and enrolled again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs
from stack import Stack, stack
from twisted.internet.defer import Deferred

from agent.device.ddm.synchronising import synchronise
from agent.errors import PeerError
from agent.lab.mdm.core import Refused
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.pki.identity import Identity
from agent.profiles.enrollment import Enrollment

IDENTITIES = ["pkcs12", "scep", "acme"]


def enrollment(client: MDMClient) -> Enrollment:
    found = client.device.enrollment
    assert found is not None
    return found


def kind(identity: str) -> dict[str, Any]:
    return {"scep": identity == "scep", "acme": identity == "acme", "os": "15.5"}


def at_authenticate(running: Stack, does: Callable[[], object]) -> None:
    """Have ``does`` called when the lab receives the next Authenticate, before it answers."""
    authenticate, called = running.lab._authenticate, []

    def received(*arguments: Any) -> None:
        if not called:
            called.append(arguments)
            does()
        authenticate(*arguments)

    running.lab._authenticate = received  # type: ignore[method-assign]


async def works(running: Stack, client: MDMClient) -> None:
    """The server knows the Mac by the identity that it has."""
    assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
    assert running.lab.macs[running.udid(client)].fingerprint == enrollment(client).identity.fingerprint


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_renewed_identity_replaces_the_one_before(run_in_reactor: RunInReactor, identity: str) -> None:
    async def scenario() -> None:
        async with stack(**kind(identity)) as running:
            client = running.fleet[0]
            before = enrollment(client).identity
            profile = running.server.enrollment_profile(renews=True)
            assert (await running.command(client, "InstallProfile", Payload=profile))["Status"] == "Acknowledged"
            after = enrollment(client).identity
            assert after.fingerprint != before.fingerprint
            assert after.octets[1] != before.octets[1] or identity == "scep"  # whose key is from the pool of one
            listed = (await running.command(client, "CertificateList"))["CertificateList"]
            identities = [each["Data"] for each in listed if each["IsIdentity"]]
            assert identities == [after.certificate.public_bytes(Encoding.DER)]
            await works(running, client)

    run_in_reactor(scenario())


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_renewal_while_the_mac_enrolls_again(run_in_reactor: RunInReactor, identity: str) -> None:
    """The enrollment goes on, and no session of the one before fails on the way."""

    async def scenario() -> None:
        async with stack(**kind(identity)) as running:
            client = running.fleet[0]
            before = enrollment(client).identity
            profile = running.server.enrollment_profile(renews=True)
            renewal: Deferred[Any] = Deferred()
            command = {"RequestType": "InstallProfile", "Payload": profile}
            enrolled = Deferred.fromCoroutine(running.enroll(client))
            running.lab.enqueue(running.udid(client), command, renewal.callback)
            assert client.wake()
            await enrolled
            assert enrollment(client).identity.fingerprint != before.fingerprint
            await works(running, client)
            assert not running.failures("session")
            assert not running.failures("enroll")

    run_in_reactor(scenario())


@pytest.mark.parametrize("accepted", [True, False])
def test_the_user_channel_follows_the_enrollment_that_the_mac_has(run_in_reactor: RunInReactor, accepted: bool) -> None:
    async def scenario() -> None:
        async with stack(behaviour=FleetBehaviour(users=1.0)) as running:
            client = running.fleet[0]
            await running.until(lambda: bool(client.user_name), "the login")
            woken: list[bool] = []

            def meanwhile() -> None:
                user = client._parts.user
                assert user is not None
                woken.append(user.wake())
                if not accepted:
                    raise Refused(503, "later")

            at_authenticate(running, meanwhile)
            if accepted:
                await running.enroll(client)
            else:
                with pytest.raises(PeerError, match="503"):
                    await running.enroll(client)
            assert woken == [False]
            await running.until(lambda: bool(client.user_name), "the login")
            user = client._parts.user
            assert user is not None
            await running.until(lambda: user.quiet or user.wake(), "the user's session")
            await works(running, client)
            assert not running.failures("session")

    run_in_reactor(scenario())


def test_no_session_is_opened_between_the_check_ins_of_another_enrollment(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            await works(running, client)
            woken: list[bool] = []
            at_authenticate(running, lambda: woken.append(client.wake()))
            await running.enroll(client)
            assert woken == [False]
            await works(running, client)
            assert not running.failures("session")

    run_in_reactor(scenario())


def test_a_session_goes_on_where_the_other_enrollment_is_refused(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            before = enrollment(client).identity
            arrived: Deferred[Any] = Deferred()

            def refuse() -> None:
                running.lab.enqueue(running.udid(client), {"RequestType": "ProfileList"}, arrived.callback)
                raise Refused(503, "later")

            at_authenticate(running, refuse)
            client.device.session.deadline = running.environment.clock.seconds() + 3600.0  # it was to poll some time
            with pytest.raises(PeerError, match="503"):
                await running.enroll(client)
            assert (await arrived)["Status"] == "Acknowledged"
            assert enrollment(client).identity == before

    run_in_reactor(scenario())


@pytest.mark.parametrize("first", ["declarations", "enrollment"])
def test_declarations_do_not_break_the_check_ins_of_another_enrollment(
    run_in_reactor: RunInReactor, first: str
) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            ended: list[object] = []

            def update() -> None:
                steps = synchronise(client.device, b"", running.environment.wall_clock)
                Deferred.fromCoroutine(client._parts.background.drive(steps)).addBoth(ended.append)

            if first == "declarations":
                update()
            else:
                at_authenticate(running, update)
            await running.enroll(client)
            await running.until(lambda: bool(ended), "the end of the update")
            await works(running, client)
            assert not running.failures("enroll")

    run_in_reactor(scenario())


def test_an_expired_identity_is_refused_until_the_mac_enrolls_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            current = enrollment(client)
            issued = running.server.authorities.mdm_identity(not_after=datetime.now(UTC) - timedelta(minutes=1))
            structs.force_setattr(current, "identity", Identity(issued.certificate, issued.key))
            client._parts.connection.hang_up()
            client.wake()
            await running.until(lambda: bool(running.failures("session")), "the failed session")
            assert client.device.enrollment is current  # the Mac stays enrolled, and tries again
            await running.enroll(client)
            await works(running, client)

    run_in_reactor(scenario())
