"""The Macs of a service, with a real lab, TLS, pushes through the gateway and LOM links on the loopback interface."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from services import FAST, SECONDS, RunningService, running_service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from agent import plists
from agent.errors import OperatorError, PeerError
from agent.faults.rules import Rule
from agent.lab.stored.state import QueuedCommand
from agent.lom.requests import PowerRequest
from agent.mdm.refusals import ServerRefused
from agent.measure.exchanges import HTTPExchange
from agent.net.apns.behaviour import PushBehaviour
from agent.net.mac.fleet.behaviour import MacSettings
from agent.service.errors import Conflict, NoSuchMac
from agent.service.events import TimedOut
from agent.service.fleet import FleetService
from agent.service.macs.enrolling import EnrollmentTimedOut
from agent.service.macs.parts import ServiceSettings
from agent.service.types import AddMacs, Enroll, WaitState

Run = Callable[[Coroutine[Any, Any, Any]], Any]
INFORMATION = {"Queries": ["UDID", "SerialNumber"]}


def test_a_mac_enrolls_gets_a_push_and_answers_a_command(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = await running.enrolled(os="26.4")
            seen = service.view(mac)
            assert (seen.enrolled, seen.power, seen.os_version, seen.number) == (True, "on", "26.4", 0)
            command = await running.command(mac, "DeviceInformation", **INFORMATION)
            await running.event("delivered", mac, command_uuid=command)
            (answer,) = service.answers(mac, command, 100)
            assert (answer.status, answer.delivered) == ("Acknowledged", True)
            assert answer.body["QueryResponses"] == {"UDID": seen.udid, "SerialNumber": seen.serial_number}
            await running.event("session_ended", mac)
            assert running.kinds(mac) == [
                "added", "enrolled", "pushed", "session_started", "command", "answered", "delivered", "session_ended",
            ]  # fmt: skip
            detail = service.detail(mac)
            assert (detail.pending, detail.last_error) == (None, "")
            assert [each.kind for each in detail.exchanges][-2:] == ["report", "report"]
            assert [each.identifier for each in detail.profiles] == ["test.lom-agent.lab.enrollment.profiles"]
            results = service.results()
            assert {name: each["count"] for name, each in results.operations.items()} == {
                "enroll": 1, "checkin": 3, "session": 1, "command": 1, "push": 1,
            }  # fmt: skip

    run_in_reactor(scenario())


def test_a_controller_switches_a_device_on_and_off_over_the_loopback_interface(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            controller, device = macs = await running.enrolled(2)
            await running.set_up_lom(macs)
            assert [running.service.view(mac).lom for mac in macs] == [True, True]
            await running.lom(controller, device, PowerRequest.OFF)
            asked = await running.event("lom_request", device)
            assert (asked.data["request"], asked.data["controller"]) == ("PowerOFF", controller.mac.dns_name)
            await running.event("power", device, status="off")
            await running.lom(controller, device, PowerRequest.ON)
            await running.state(device, power="on", lom=True)
            assert running.service.view(device).boots == 1

    run_in_reactor(scenario())


def test_a_mac_without_mains_cannot_be_reached_until_they_are_back(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            controller, device = macs = await running.enrolled(2)
            await running.set_up_lom(macs)
            service.actions.power(device, "cut_mains")
            assert (service.view(device).power, service.view(device).lom) == ("no_mains", False)
            with pytest.raises(Conflict, match="no mains power"):
                service.actions.power(device, "on")
            command = await running.lom(controller, device, PowerRequest.ON)
            await running.event("answered", controller, command_uuid=command)
            (answer,) = service.answers(controller, command, 1)
            assert answer.body["ResponseList"][0]["DeviceRequestSuccess"] is False
            service.actions.power(device, "restore_mains")
            await running.state(device, power="on", lom=True)
            powers = service.events.since(0, lambda event: event.kind == "power" and event.udid == device.udid)
            assert [event.status for event in powers] == ["no_mains", "booting", "on"]

    run_in_reactor(scenario())


def test_boot_ends_by_the_manual_clock(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        behaviour = MacSettings(boot="constant:40", shutdown="constant:5")
        async with running_service(manual_clock=True, macs=behaviour) as running:
            service = running.service
            (mac,) = await running.enrolled()
            service.actions.power(mac, "reset")
            assert service.view(mac).power == "booting"
            assert (service.clock_state().next, service.clock_state().pending) == (40.0, 1)
            service.advance(39.0)
            assert service.view(mac).power == "booting"
            service.advance(1.0)
            assert service.view(mac).power == "on"
            assert service.clock_state().seconds == 40.0
            await running.event("session_ended", mac)  # of the boot, over real sockets

    run_in_reactor(scenario())


def test_after_not_now_a_mac_asks_again_by_the_manual_clock(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(manual_clock=True) as running:
            service = running.service
            (mac,) = await running.enrolled()
            service.add_rule(Rule(on="command", do="not_now", type="ProfileList", times=1))
            command = await running.command(mac, "ProfileList")
            await running.event("delivered", mac, command_uuid=command, status="NotNow")
            first = await running.event("session_ended", mac)
            retry = service.clock_state().next
            assert retry is not None
            service.advance(retry - 0.5)
            assert not service.events.since(first.number, lambda event: event.kind == "session_started")
            service.advance(0.5)
            await running.event("delivered", mac, command_uuid=command, status="Acknowledged")
            assert [answer.status for answer in service.answers(mac, command, 10)] == ["NotNow", "Acknowledged"]
            (hit,) = service.events.since(0, lambda event: event.kind == "rule_hit")
            assert hit.udid == mac.udid
            assert [counts.hits for counts in service.faults] == [1]

    run_in_reactor(scenario())


def test_pushes_to_a_mac_that_is_offline_wait_for_it(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(manual_clock=True) as running:
            service = running.service
            controller, device = macs = await running.enrolled(2)
            await running.set_up_lom(macs)
            service.actions.set_online(device, False)
            seen = service.view(device)
            assert (seen.online, seen.state, seen.connected, seen.lom) == (False, "offline", False, False)
            command = await running.command(device, "DeviceInformation", **INFORMATION)
            on_lom = await running.lom(controller, device, PowerRequest.OFF)
            await running.event("delivered", controller, command_uuid=on_lom)
            (answer,) = service.answers(controller, on_lom, 1)
            assert answer.body["ResponseList"][0]["DeviceRequestSuccess"] is False
            assert not service.answers(device, command, 1)
            with pytest.raises(Conflict, match="is offline"):
                await service.actions.enroll(device, Enroll())
            with pytest.raises(Conflict, match="is offline"):
                service.actions.connect(device)
            service.actions.set_online(device, True)
            await running.event("delivered", device, command_uuid=command)
            states = service.events.since(0, lambda event: event.kind == "network")
            assert [event.status for event in states] == ["offline", "online"]
            assert service.view(device).lom

    run_in_reactor(scenario())


def test_a_reset_mac_is_new_and_can_enroll_again(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            mac, other = await running.enrolled(2)
            command = await running.command(mac, "DeviceInformation", **INFORMATION)
            await running.event("delivered", mac, command_uuid=command)
            service.actions.power(mac, "off")
            service.reset_mac(mac)
            seen = service.view(mac)
            assert (seen.enrolled, seen.power, seen.state, seen.boots) == (False, "on", "new", 0)
            assert not service.answers(mac, None, 10)
            assert not service.detail(mac).exchanges
            assert service.view(other).enrolled
            await service.actions.enroll(mac, Enroll())
            command = await running.command(mac, "DeviceInformation", **INFORMATION)
            await running.event("delivered", mac, command_uuid=command)

    run_in_reactor(scenario())


def test_a_user_removes_the_profile_and_the_server_gets_check_out(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = await running.enrolled()
            service.actions.unenroll(mac)
            assert not service.view(mac).enrolled
            await running.until(lambda: mac.udid not in running.lab.macs, "CheckOut")
            event = await running.event("unenrolled", mac)
            assert event.data == {"reason": "a user removed the enrollment profile"}
            with pytest.raises(Conflict, match="Enroll it first"):
                service.actions.connect(mac)
            with pytest.raises(Conflict, match="Enroll it first"):
                service.actions.unenroll(mac)

    run_in_reactor(scenario())


def test_groups_have_numbers_one_after_another_and_are_found_by_each_name(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(devices=3, segment_size=2) as running:
            service = running.service
            added = service.add(AddMacs(count=3, segment_size=1, seed="another"))
            views = [service.view(mac) for mac in service.macs()]
            assert [(each.number, each.segment) for each in views] == [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
            assert [each.roles for each in views[:3]] == [
                ["controller", "device"],
                ["device"],
                ["controller", "device"],
            ]
            for seen in views:
                for name in (str(seen.number), seen.udid, seen.udid.lower(), seen.serial_number):
                    assert service.find(name).udid == seen.udid
            assert [service.view(mac).number for mac in service.segment(0)] == [0, 1]
            assert [service.view(mac).number for mac in service.segment(3)] == [4]
            assert service.segment(9) == []
            service.remove(added[1])
            assert [mac.number for mac in service.macs()] == [0, 1, 2, 3, 5]
            for name in ("4", views[4].udid, views[4].serial_number, "6", "x", ""):
                with pytest.raises(NoSuchMac):
                    service.find(name)
            with pytest.raises(Conflict, match="another seed"):
                service.add(AddMacs(count=1, seed="another"))
            service.remove(added[0])
            service.remove(added[2])
            (again,) = service.add(AddMacs(count=1, seed="another"))
            assert (again.number, service.view(again).segment) == (6, 5)
            assert service.view(again).udid == views[3].udid
            service.remove_all()
            assert service.info().macs == 0

    run_in_reactor(scenario())


def test_exchanges_of_all_macs_are_deleted_at_once_and_not_for_each(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(devices=20, segment_size=5) as running:
            service = running.service
            service.add(AddMacs(count=10))
            udids = [mac.udid for mac in service.macs()]
            for udid in udids:
                exchange = HTTPExchange(at=0.0, seconds=0.0, device=0, udid=udid, kind="checkin")
                service.parts.exchanges.add(exchange)
            after = service.events.last
            with patch.object(service.parts.exchanges, "clear", wraps=service.parts.exchanges.clear) as clear:
                service.remove_all()
            assert clear.call_count == 1
            assert len(service.parts.exchanges) == 0
            removed = service.events.since(after, lambda event: event.kind == "removed")
            assert [event.udid for event in removed] == udids

    run_in_reactor(scenario())


def test_the_same_requests_add_the_same_macs_after_a_reset(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(devices=1) as running:
            service = running.service

            def udids() -> list[str]:
                service.add(AddMacs(count=2))
                service.add(AddMacs(os="27"))
                return [mac.udid for mac in service.macs()]

            before = udids()
            assert len(set(before)) == 4
            await service.actions.enroll(service.find("3"), Enroll())
            service.add_rule(Rule(on="command", do="not_now"))
            last = service.events.last
            service.reset()
            assert [event.kind for event in service.events.since(0)] == ["added", "reset"]
            assert service.events.last == last + 2
            info = service.info()
            assert (info.macs, info.enrolled, info.rules) == (1, 0, 0)
            assert not running.lab.macs
            assert not service.exchanges(None, None, None, -1, 10)
            assert not service.results().operations
            assert udids() == before

    run_in_reactor(scenario())


def test_a_rule_names_macs_by_their_number_in_the_service(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(devices=1) as running:
            service = running.service
            (first,) = service.macs()
            await service.actions.enroll(first, Enroll())
            (second,) = await running.enrolled(1)
            service.add_rule(Rule(on="command", do="error", macs=("1",)))
            service.add_rule(Rule(id="segment", on="command", do="format_error", segment=0))
            for mac, status in ((first, "CommandFormatError"), (second, "Error")):
                command = await running.command(mac, "DeviceInformation", **INFORMATION)
                await running.event("answered", mac, command_uuid=command, status=status)

    run_in_reactor(scenario())


def test_failed_enrollment_has_a_reason_and_leaves_the_mac_unchanged(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = service.add(AddMacs())
            assert service.lab is not None
            with pytest.raises(ServerRefused, match="405"):
                await service.actions.enroll(mac, Enroll(url=f"{service.lab.url}/checkin"))
            failed = await running.event("enroll_failed", mac)
            assert "405" in failed.data["error"]
            assert "405" in service.detail(mac).last_error
            assert [each.status for each in service.detail(mac).exchanges] == [405]
            with pytest.raises(PeerError):
                await service.actions.enroll(mac, Enroll(profile=b"nonsense"))
            assert await running.event("protocol_error", mac)
            with pytest.raises(OperatorError, match="found both"):
                await service.actions.enroll(mac, Enroll(url="https://x", profile=b"x"))
            service.actions.power(mac, "off")
            with pytest.raises(Conflict, match="that is on, found off"):
                await service.actions.enroll(mac, Enroll())
            assert not service.view(mac).enrolled

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>an error page", "html_page"),
        (plists.dump_xml({"Command": {"RequestType": "ProfileList"}}), "command_dropped"),
        (plists.dump_xml({"Command": "ProfileList", "CommandUUID": "odd"}), "command_format"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_named(run_in_reactor: Run, body: bytes, kind: str) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            (mac,) = await running.enrolled()
            running.lab.macs[mac.udid].queue["odd"] = QueuedCommand("ProfileList", body)
            running.service.actions.connect(mac)
            event = await running.event("protocol_error", mac)
            assert event.data["kind"] == kind
            await running.event("session_ended", mac)
            if kind == "command_format":
                assert [answer.status for answer in running.service.answers(mac, "odd", 1)] == ["CommandFormatError"]
            else:
                assert event.data["error"] in running.service.detail(mac).last_error

    run_in_reactor(scenario())


def test_what_a_fault_rule_breaks_is_no_fault_of_the_server(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            (mac,) = await running.enrolled()
            running.service.add_rule(Rule(on="session", do="malformed", times=1))
            running.service.actions.connect(mac)
            ended = await running.event("session_ended", mac)
            assert "400" in ended.data["error"]
            assert "rule_hit" in running.kinds(mac)
            assert "protocol_error" not in running.kinds(mac)

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    "fault", [{"do": "malformed"}, {"do": "drop", "at": "after_request"}, {"do": "wrong_udid", "type": "TokenUpdate"}]
)
def test_what_a_fault_rule_breaks_in_an_enrollment_is_no_fault_of_the_server(run_in_reactor: Run, fault: Any) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = service.add(AddMacs())
            service.add_rule(Rule(on="checkin", times=1, **fault))
            with pytest.raises(Conflict, match="after the hit of a fault rule: "):
                await service.actions.enroll(mac, Enroll())
            assert "enroll_failed" in running.kinds(mac)
            assert "protocol_error" not in running.kinds(mac)
            assert service.lab is not None
            with pytest.raises(ServerRefused, match="405"):  # the rule's hit excuses no later enrollment
                await service.actions.enroll(mac, Enroll(url=f"{service.lab.url}/checkin"))
            assert await running.event("protocol_error", mac)

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    "rule",
    [
        Rule(id="one", on="command", do="crash", times=1),
        Rule(id="one", on="command", do="offline", seconds=0.05, times=1),
        Rule(id="one", on="session", do="offline", seconds=0.05, times=1),
        Rule(id="one", on="session", do="delay", seconds=0.05, times=1),
    ],
)
def test_a_hit_that_no_report_shows_is_among_the_exchanges(run_in_reactor: Run, rule: Rule) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = await running.enrolled()
            service.add_rule(rule)
            command = await running.command(mac, "DeviceInformation", **INFORMATION)
            hit = await running.event("rule_hit", mac)
            shown = [each for each in service.detail(mac).exchanges if each.rules]
            assert [(each.number, each.error) for each in shown] == [(hit.data["exchange"], f"a fault rule: {rule.do}")]
            assert hit.command_uuid == (command if rule.on == "command" else "")
            await running.event("delivered", mac, command_uuid=command, status="Acknowledged")
            assert [each.hits for each in service.faults] == [1]
            assert "protocol_error" not in running.kinds(mac)

    run_in_reactor(scenario())


@pytest.mark.parametrize("do", ["not_now", "error"])
def test_an_answer_by_a_rule_excuses_no_server(run_in_reactor: Run, do: Any) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            (mac,) = await running.enrolled()
            running.service.add_rule(Rule(on="command", do=do))
            await running.command(mac, "DeviceInformation", push=False, **INFORMATION)
            queue = running.lab.macs[mac.udid].queue
            queue["odd"] = QueuedCommand("ProfileList", b"<html>an error page")
            running.service.actions.connect(mac)
            await running.event("rule_hit", mac)
            await running.event("session_ended", mac)
            assert "protocol_error" in running.kinds(mac)

    run_in_reactor(scenario())


def test_a_state_that_does_not_last_is_seen(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        behaviour = MacSettings(boot="constant:40")
        async with running_service(manual_clock=True, macs=behaviour) as running:
            service = running.service
            (mac,) = service.add(AddMacs())
            waits = [service.wait_state(mac, WaitState(power=power)) for power in ("no_mains", "booting", "on")]
            service.actions.power(mac, "cut_mains")
            service.actions.power(mac, "restore_mains")
            service.advance(40.0)  # in the same turn of the reactor
            assert [(await wait).power for wait in waits] == ["no_mains", "booting", "on"]
            assert service.wait_state(mac, WaitState(power="on")).called

    run_in_reactor(scenario())


def test_the_password_in_a_url_is_not_shown(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = service.add(AddMacs())
            assert service.lab is not None
            url = service.lab.url.replace("://", "://user:hunter2@")
            with pytest.raises(ServerRefused, match="405"):
                await service.actions.enroll(mac, Enroll(url=f"{url}/checkin?key=hunter2"))
            (exchange,) = service.detail(mac).exchanges
            assert exchange.url == f"{service.lab.url}/checkin"
            assert "hunter2" not in str(service.events.since(0))

    run_in_reactor(scenario())


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/enroll", "http://127.0.0.1/enroll", "https://127.0.0.1:x/"])
def test_what_is_no_https_url_fails_before_the_mac_enrolls(run_in_reactor: Run, url: str) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = service.add(AddMacs())
            for automated in (False, True):
                with pytest.raises(OperatorError, match="URL"):
                    await service.actions.enroll(mac, Enroll(url=url, automated=automated))
            assert service.detail(mac).exchanges == []
            assert "enroll_failed" not in str(service.events.since(0))

    run_in_reactor(scenario())


def test_the_delay_of_a_push_passes_on_the_manual_clock(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(manual_clock=True, push=PushBehaviour(delay="constant:30")) as running:
            service = running.service
            (mac,) = await running.enrolled()
            await running.push(mac)
            assert service.clock_state().next == pytest.approx(30.0)
            service.advance(29.0)
            assert "pushed" not in running.kinds(mac)
            service.advance(1.0)
            await running.event("session_ended", mac)

    run_in_reactor(scenario())


def test_a_rule_has_the_gateway_away_on_the_manual_clock(run_in_reactor: Run) -> None:
    def listens(url: str) -> bool:
        parts = urlsplit(url)
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((parts.hostname, parts.port)):
            return True
        return False

    async def scenario() -> None:
        async with running_service(manual_clock=True) as running:
            service = running.service
            assert service.apns is not None
            url = service.apns.url
            service.advance(1000.0)
            rule = service.add_rule(Rule(on="push", do="away", after=5.0, until=10.0))
            seen = [listens(url)]
            for seconds in (4.9, 0.2, 4.8, 0.2):
                service.advance(seconds)
                seen.append(listens(url))
            assert seen == [True, True, False, False, True]
            assert [(each.matches, each.hits, each.exhausted) for each in service.faults] == [(1, 1, True)]
            service.faults.remove(rule.id)
            service.add_rule(Rule(on="push", do="away", until=10.0))
            assert not listens(url)
            service.faults.clear()
            assert listens(url)
            assert service.clock_state().pending == 0

    run_in_reactor(scenario())


def test_a_rule_for_pushes_needs_a_gateway(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        service = FleetService(reactor, ServiceSettings())
        with pytest.raises(OperatorError, match="Expected an APNs gateway for a rule"):
            service.add_rule(Rule(on="push", do="lose"))
        service.add_rule(Rule(on="session", do="malformed"))
        service.close()

    run_in_reactor(scenario())


def test_a_rule_stores_pushes_until_its_end(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(manual_clock=True) as running:
            service = running.service
            (mac,) = await running.enrolled()
            service.advance(100.0)
            service.add_rule(Rule(on="push", do="store", until=30.0))
            await running.push(mac)
            service.advance(29.0)
            assert "pushed" not in running.kinds(mac)
            service.advance(1.0)
            await running.event("session_ended", mac)

    run_in_reactor(scenario())


def test_the_lab_gives_identities_by_scep(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service(scep=True) as running:
            (mac,) = await running.enrolled()
            kinds = [exchange.kind for exchange in running.service.exchanges(mac, None, None, -1, 100)]
            assert kinds == ["enroll", "scep", "scep", "scep", "checkin", "checkin", "checkin"]

    run_in_reactor(scenario())


async def _silent_enrollment(running: RunningService, seconds: float) -> tuple[Any, Deferred[None]]:
    """A Mac that enrolls and gets no answer in time."""
    service = running.service
    (mac,) = service.add(AddMacs())
    service.add_rule(Rule(on="enroll", do="delay", seconds=1000.0))
    enrolling = Deferred.fromCoroutine(service.actions.enroll(mac, Enroll(timeout=seconds)))
    return mac, enrolling


def test_an_enrollment_has_a_time_limit(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            mac, enrolling = await _silent_enrollment(running, 0.05)
            with pytest.raises(EnrollmentTimedOut, match=r"within 0\.05 s"):
                await enrolling
            running.service.faults.clear()
            await running.service.actions.enroll(mac, Enroll())

    run_in_reactor(scenario())


@pytest.mark.parametrize("how", ["reset_mac", "remove", "reset", "close"])
def test_an_enrollment_in_progress_ends_where_the_mac_does(run_in_reactor: Run, how: str) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            mac, enrolling = await _silent_enrollment(running, SECONDS)
            with pytest.raises(Conflict, match="enrolls now"):
                await running.service.actions.enroll(mac, Enroll())
            end = getattr(running.service, how)
            end(mac) if how in ("reset_mac", "remove") else end()
            with pytest.raises(Conflict, match="reset or removed"):
                await enrolling

    run_in_reactor(scenario())


@pytest.mark.parametrize("how", ["power", "network"])
def test_an_enrollment_that_the_mac_breaks_off_is_no_failure_of_the_server(run_in_reactor: Run, how: str) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            mac, enrolling = await _silent_enrollment(running, SECONDS)
            if how == "power":
                running.service.actions.power(mac, "cut_mains")
            else:
                running.service.actions.set_online(mac, False)
            with pytest.raises(Conflict, match="Expected the Mac to enroll, found that it could not: "):
                await enrolling

    run_in_reactor(scenario())


def test_timeout_of_a_wait_for_a_state_has_the_present_state(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            service = running.service
            (mac,) = service.add(AddMacs())
            with pytest.raises(TimedOut, match=r"Expected power off, enrolled true .* found power on, enrolled false"):
                await service.wait_state(mac, WaitState(power="off", enrolled=True, timeout=0.05))
            waiting = service.wait_state(mac, WaitState(power="off", timeout=SECONDS))
            service.remove(mac)
            with pytest.raises(NoSuchMac, match="removed meanwhile"):
                await waiting

    run_in_reactor(scenario())


def test_the_real_clock_cannot_be_advanced(run_in_reactor: Run) -> None:
    async def scenario() -> None:
        async with running_service() as running:
            assert running.service.clock_state().kind == "real"
            with pytest.raises(Conflict, match="--clock manual"):
                running.service.advance(1.0)

    run_in_reactor(scenario())


def test_macs_that_are_removed_in_the_middle_of_their_work_leave_nothing(run_in_reactor: Run) -> None:
    """Sessions, a boot, a LOM relay and a push are in progress; the fixture finds what is left open."""

    async def scenario() -> None:
        async with running_service(macs=FAST) as running:
            service = running.service
            macs = await running.enrolled(3)
            await running.set_up_lom(macs)
            service.actions.power(macs[2], "reset")
            relayed = running.lom(macs[0], macs[1], PowerRequest.RESET)
            await gatherResults([Deferred.fromCoroutine(relayed), Deferred.fromCoroutine(running.push(macs[1]))])
            service.actions.connect(macs[1])
            service.remove(macs[1])
            service.reset_mac(macs[0])
            service.remove_all()
            assert service.clock_state().pending == 0
            assert service.info().macs == 0
            assert service.live().connections >= 0

    run_in_reactor(scenario())
