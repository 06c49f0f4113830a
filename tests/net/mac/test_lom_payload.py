"""A Device's LOM payload opens and closes its endpoint on ``[::1]``: links that are open, and the next ones."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from lom_parties import (
    CONTROLLER_IDENTITY,
    CONTROLLER_NAME,
    DEVICE_CA,
    NAME,
    QUICK,
    STRANGE_CA,
    Party,
    Sockets,
    controller,
    device,
    item,
)
from lom_peers import PEER_SECONDS, RawController, answers, good, in_thread, read_all, request
from msgspec.structs import replace
from stack import Stack, stack
from twisted.internet import reactor

from agent.lom.requests import PowerRequest, RelayItem, RelayOutcome
from agent.net.mac.client import MDMClient
from agent.pki.issuing.authority import LOM_USAGE
from agent.profiles.making import ENROLLMENT_IDENTIFIER, LOM_IDENTIFIER, lom_profile

Run = Callable[[Coroutine[Any, Any, Any]], Any]
LONG = replace(QUICK, request_seconds=10 * PEER_SECONDS)


async def with_open_link(sockets: Sockets, folder: Path, change: Callable[[], None]) -> tuple[bytes, bytes | None]:
    """What a raw Controller reads that asks "a", and "b" after ``change``; and the certificate that it saw."""
    first_answered, go_on = threading.Event(), threading.Event()

    def work() -> tuple[bytes, Any]:
        with RawController(folder, sockets.network.port, CONTROLLER_IDENTITY) as tls:
            tls.sendall(request("a"))
            received = tls.recv(65536)
            first_answered.set()
            go_on.wait(PEER_SECONDS)
            try:
                tls.sendall(request("b"))
                received += tls.recv(65536)
            except (ConnectionError, ssl.SSLError):
                pass
            return received, tls.getpeercert(binary_form=True)

    working = in_thread(work)
    await in_thread(lambda: first_answered.wait(PEER_SECONDS))
    change()
    go_on.set()
    return await working


@pytest.mark.parametrize("left", [None, controller().lom], ids=["no payload", "a Controller only"])
def test_without_its_payload_a_device_hangs_up_at_once_and_accepts_no_more(
    run_in_reactor: Run, tmp_path: Path, left: Any
) -> None:
    party = device()

    async def run() -> None:
        with Sockets(reactor, party, limits=LONG) as sockets:

            def remove() -> None:
                party.lom = left
                sockets.network.lom_changed(party)

            received, _ = await with_open_link(sockets, tmp_path, remove)
            assert answers(received) == [good("a")]
            (outcome,) = await sockets.relay(controller(), item())
            assert "not set up as a LOM Device" in outcome.error
            assert sockets.kinds == ["lom_not_set_up"]

    run_in_reactor(run())
    assert [asked.uuid for asked, _ in party.asked] == ["a"]


def test_a_silent_link_ends_with_the_payload(run_in_reactor: Run, tmp_path: Path) -> None:
    """The peer waits for nothing but the end; the limit of time is far away."""
    party = device()

    async def run() -> bytes:
        with Sockets(reactor, party, limits=LONG) as sockets:
            there = threading.Event()

            def work() -> bytes:
                with RawController(tmp_path, sockets.network.port, CONTROLLER_IDENTITY) as tls:
                    tls.sendall(request("a"))
                    received = tls.recv(65536)
                    there.set()
                    return received + read_all(tls)

            working = in_thread(work)
            await in_thread(lambda: there.wait(PEER_SECONDS))
            party.lom = None
            sockets.network.lom_changed(party)
            return await working

    assert answers(run_in_reactor(run())) == [good("a")]


def test_another_identity_is_shown_on_the_next_link_and_the_open_one_goes_on(
    run_in_reactor: Run, tmp_path: Path
) -> None:
    party = device()
    renewed = DEVICE_CA.issue(NAME, LOM_USAGE, names=[NAME])
    before = party.lom
    assert before is not None

    async def run() -> None:
        with Sockets(reactor, party, limits=LONG) as sockets:

            def replace_it() -> None:
                party.lom = replace(before, device_identity=renewed)
                sockets.network.lom_changed(party)

            received, shown = await with_open_link(sockets, tmp_path, replace_it)
            assert answers(received) == [good("a"), good("b")]
            assert before.device_identity is not None
            assert shown == before.device_identity.certificate.public_bytes(Encoding.DER)
            _, shown = await with_open_link(sockets, tmp_path, lambda: None)
            assert shown == renewed.certificate.public_bytes(Encoding.DER)

    run_in_reactor(run())


def test_other_cas_judge_the_next_controller(run_in_reactor: Run) -> None:
    party = device()
    untrusted = controller(STRANGE_CA.issue(CONTROLLER_NAME, LOM_USAGE))

    async def run() -> None:
        with Sockets(reactor, party) as sockets:
            assert await sockets.relay(controller(), item(uuid="a")) == [RelayOutcome("a")]
            (refused,) = await sockets.relay(untrusted, item(uuid="b"))
            assert "refused our certificate" in refused.error
            assert party.lom is not None
            party.lom = replace(party.lom, controller_anchors=(STRANGE_CA.certificate,))
            sockets.network.lom_changed(party)
            (refused,) = await sockets.relay(controller(), item(uuid="c"))
            assert "refused our certificate" in refused.error
            assert await sockets.relay(untrusted, item(uuid="d")) == [RelayOutcome("d")]

    run_in_reactor(run())
    assert [asked.uuid for asked, _ in party.asked] == ["a", "d"]


def test_a_device_is_found_under_its_next_name(run_in_reactor: Run) -> None:
    party: Party = device()

    async def run() -> None:
        with Sockets(reactor, party) as sockets:
            assert party.lom is not None
            party.lom = replace(party.lom, device_identity=DEVICE_CA.issue("renamed.lom.test", LOM_USAGE))
            sockets.network.lom_changed(party)
            (refused,) = await sockets.relay(controller(), item(uuid="a"))
            assert f"expected a certificate with CommonName {NAME}, found renamed.lom.test" in refused.error
            assert await sockets.relay(controller(), item(uuid="b", name="renamed.lom.test")) == [RelayOutcome("b")]

    run_in_reactor(run())


# The same by MDM: the payload comes and goes with its profile


async def served_by(running: Stack, controller_mac: MDMClient, client: MDMClient, uuid: str) -> RelayOutcome:
    mac = client.device.mac
    item_of_it = RelayItem(uuid, mac.dns_name, PowerRequest.ON, mac.primary_ipv6, 1)
    (outcome,) = await running.network.relay(controller_mac, [item_of_it])
    return outcome


def install(running: Stack, client: MDMClient) -> Any:
    profile = lom_profile(running.server.authorities, client.device.mac.dns_name, device=True, controller=True)
    return running.command(client, "InstallProfile", Payload=profile)


def outside_controller(running: Stack, client: MDMClient, folder: Path) -> RawController:
    """A Controller that is no Mac, with an identity of the lab's, for one Mac's Device end."""
    identity = running.server.authorities.lom_controller_identity("outside.lom.test")
    raw = RawController(folder, running.network.port, identity, name=client.device.mac.dns_name)
    anchor = running.server.authorities.lom_device_anchor.public_bytes(Encoding.PEM).decode()
    raw.context.load_verify_locations(cadata=anchor)
    return raw


@pytest.mark.parametrize("how", ["RemoveProfile", "unenrolled"])
def test_removing_the_profile_hangs_up_at_once(run_in_reactor: RunInReactor, tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            asker, client = running.fleet
            for mac in (asker, client):
                await install(running, mac)
            there = threading.Event()

            def work() -> bytes:
                with outside_controller(running, client, tmp_path) as tls:
                    tls.sendall(request("a", DeviceRequestType="PowerON"))
                    received = tls.recv(65536)
                    there.set()
                    return received + read_all(tls)

            working = in_thread(work)
            await in_thread(lambda: there.wait(PEER_SECONDS))
            identifier = LOM_IDENTIFIER if how == "RemoveProfile" else ENROLLMENT_IDENTIFIER
            await running.command(client, "RemoveProfile", Identifier=identifier)
            assert answers(await working) == [good("a")]
            outcome = await served_by(running, asker, client, "gone")
            assert "not set up as a LOM Device" in outcome.error

    run_in_reactor(scenario())


def test_a_profile_that_is_installed_again_serves_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(2) as running:
            asker, client = running.fleet
            for mac in (asker, client):
                await install(running, mac)
            before = client.lom
            assert (await served_by(running, asker, client, "a")).success
            await install(running, client)
            assert client.lom is not before
            assert (await served_by(running, asker, client, "b")).success
            await running.command(client, "RemoveProfile", Identifier=LOM_IDENTIFIER)
            assert not (await served_by(running, asker, client, "c")).success
            await install(running, client)
            assert (await served_by(running, asker, client, "d")).success

    run_in_reactor(scenario())
