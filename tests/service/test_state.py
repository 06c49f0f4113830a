"""The state file of a service: another service on the same file continues, and reports what it cannot continue."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater

from agent.device.installing.profiles import enrollment_steps
from agent.device.steps import CheckIn, advance
from agent.device.system import App, SystemState
from agent.errors import OperatorError
from agent.faults.rules import Rule
from agent.lab.mdm.core import Lab, Refused
from agent.lab.web.server import LabServer
from agent.net.apns.behaviour import PushBehaviour
from agent.net.mac.fleet.behaviour import MacSettings
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import TOPIC
from agent.push.store import Notification
from agent.service.fleet import FleetService
from agent.service.macs.groups import MacHandle
from agent.service.macs.parts import ServiceSettings
from agent.service.types import AddMacs, Enroll, Mac
from agent.state.fleet import FleetState

SECONDS = 20.0  # after which something that should happen did not
LONG = "constant:3000"


class Scene:
    """A lab, and services on one state file, one after another."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file = folder / "fleet.sqlite"
        self.server = LabServer(reactor, Lab(), Authorities())
        self.server.listen()
        self.settings = ServiceSettings(
            seed="state",
            devices=3,
            enroll=self.server.enrollment_url,
            lom_network="memory",
            anchors=(self.server.authorities.anchor,),
            push=PushBehaviour(),
            macs=MacSettings(boot=LONG),
        )
        self.settings = replace(self.settings, **settings)

    @asynccontextmanager
    async def service(self, **settings: Any) -> AsyncIterator[FleetService]:
        """A service, from its start to its end."""
        state = FleetState(self.file, reactor)
        try:
            service = FleetService(reactor, replace(self.settings, **settings), state=state)
        except OperatorError:
            state.close()
            raise
        try:
            service.open()
            await deferLater(reactor, 0.0)
            await deferLater(reactor, 0.0)  # the Macs of the file go on
            yield service
        finally:
            service.close()

    def mac(self, service: FleetService, number: int = 0) -> MacHandle:
        return service.find(str(number))


@pytest.fixture
def run_scene(run_in_reactor, tmp_path: Path) -> Callable[..., None]:
    def run(test: Any, **settings: Any) -> None:
        async def scene() -> None:
            scene = Scene(tmp_path, **settings)
            try:
                await test(scene)
            finally:
                await scene.server.close()

        run_in_reactor(scene())

    return run


async def until(happened: Callable[[], bool], what: str) -> None:
    for _ in range(int(SECONDS / 0.01)):
        if happened():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError(f"did not happen: {what}")


def kinds(service: FleetService, udid: str) -> list[str]:
    return [event.kind for event in service.events.since(0) if event.udid == udid]


def seen(service: FleetService) -> list[Mac]:
    return [replace_connected(service.view(handle)) for handle in service.macs()]


def replace_connected(mac: Mac) -> Mac:
    return structs.replace(mac, connected=False)


@pytest.mark.parametrize("many", [False, True])
def test_another_service_goes_on_with_everything(run_scene, monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    if many:
        monkeypatch.setattr("agent.service.fleet.MAKE_IDLE_FROM", 1)

    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            for number in (0, 1):
                await service.actions.enroll(scene.mac(service, number), Enroll())
            service.actions.set_online(scene.mac(service, 1), False)
            service.actions.power(scene.mac(service, 0), "reset")
            service.actions.power(scene.mac(service, 2), "cut_mains")
            added = service.add(AddMacs(count=3, segment_size=2, os="26.4"))
            service.remove(added[1])
            service.actions.power(added[2], "off")
            service.reset_mac(added[2])
            gone = service.add(AddMacs(count=1))
            service.remove(gone[0])
            service.add_rule(Rule(id="flaky", on="session", do="delay", seconds=5.0, times=3, macs=("0-2",)))
            service.add_rule(Rule(id="limit", on="push", do="throttle", limit=1, seconds=1000.0))
            service.add_rule(Rule(id="outage", on="push", do="away", until=1000.0))
            now = service.parts.clock.seconds()
            assert service.faults.decide("push", scene.mac(service, 0).mac, now) is None
            assert service.faults.decide("session", scene.mac(service, 0).mac, now) is not None
            assert service.faults.away(now)
            before, rules = seen(service), list(service.faults)
            enrollment = scene.mac(service, 0).client.device.enrollment
            event, exchange = service.events.last, service.parts.exchanges.last_number
        assert [mac.power for mac in before] == ["booting", "on", "no_mains", "on", "on"]
        assert [each.matches for each in rules] == [1, 1, 1]
        async with scene.service() as service:
            assert seen(service) == before
            assert list(service.faults) == rules
            now = service.parts.clock.seconds()
            assert service.faults.decide("push", scene.mac(service, 0).mac, now) is not None
            assert scene.mac(service, 0).client.device.enrollment == enrollment
            assert service.events.last >= event
            assert service.parts.exchanges.last_number >= exchange
            assert service.info().state_file == str(scene.file)
            (new,) = service.add(AddMacs(count=1))
            assert service.view(new).number == 7  # numbers of removed Macs are not used again
            assert service.view(new).segment == 4
            service.reset()
        async with scene.service() as service:
            assert [(mac.number, mac.state) for mac in seen(service)] == [(0, "new"), (1, "new"), (2, "new")]
            assert list(service.faults) == []

    run_scene(test)


def test_of_many_macs_those_with_nothing_to_do_are_idle(run_scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.service.fleet.MAKE_IDLE_FROM", 1)
    monkeypatch.setattr("agent.service.fleet.MAKE_IDLE_SECONDS", SECONDS)

    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            for number in (0, 1):
                await service.actions.enroll(scene.mac(service, number), Enroll())
            service.actions.set_online(scene.mac(service, 1), False)
        async with scene.service() as service:
            clients = [scene.mac(service, number).client for number in (0, 1)]
            assert [client.is_idle for client in clients] == [True, False]
            assert [client.enrolled for client in clients] == [True, True]
            uuid = scene.server.lab.enqueue(scene.mac(service).udid, {"RequestType": "ProfileList"})
            service.actions.connect(scene.mac(service))
            await until(lambda: uuid in scene.server.lab.macs[scene.mac(service).udid].results, "the answer")

    run_scene(test)


def test_a_mac_that_booted_comes_up(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            handle = scene.mac(service)
            await service.actions.enroll(handle, Enroll())
            service.actions.power(handle, "reset")
            service.actions.power(scene.mac(service, 1), "off")
        scene.settings = replace(scene.settings, macs=MacSettings(boot="constant:0.001"))
        async with scene.service(manual_clock=True) as service:
            handle = scene.mac(service)
            assert service.view(handle).power == "booting"
            service.advance(2900.0)
            assert service.view(handle).power == "booting"
            service.advance(200.0)
            assert service.view(handle).power == "on"
            assert service.view(handle).boots == 1
            assert [event.status for event in service.events.since(0) if event.kind == "power"] == ["on"]
            assert service.view(scene.mac(service, 1)).power == "off"
            await until(lambda: "session_ended" in kinds(service, handle.udid), "a session after the boot")

    run_scene(test)


def test_an_owed_result_is_delivered_by_the_next_process(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            handle = scene.mac(service)
            await service.actions.enroll(handle, Enroll())
            service.add_rule(Rule(on="command", do="drop", at="before_request", times=1))
            uuid = scene.server.lab.enqueue(handle.udid, {"RequestType": "ProfileList"})
            service.actions.connect(handle)
            await until(lambda: "session_ended" in kinds(service, handle.udid), "the connection breaks")
            assert service.detail(handle).pending is not None
            assert not scene.server.lab.macs[handle.udid].results
        async with scene.service() as service:
            handle = scene.mac(service)
            pending = service.detail(handle).pending
            assert pending is None or (pending.command_uuid, pending.request_type) == (uuid, "ProfileList")
            await until(lambda: "delivered" in kinds(service, handle.udid), "the result is delivered")
            (event,) = [event for event in service.events.since(0) if event.kind == "delivered"]
            assert (event.command_uuid, event.request_type, event.status) == (uuid, "ProfileList", "Acknowledged")
            assert list(scene.server.lab.macs[handle.udid].results) == [uuid]
            assert "command" not in kinds(service, handle.udid)

    run_scene(test)


def test_a_mac_that_is_offline_stays_it_and_gets_its_stored_push(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            handle = scene.mac(service)
            await service.actions.enroll(handle, Enroll())
            service.actions.set_online(handle, False)
            endpoint = handle.group.push_endpoint
            assert endpoint is not None
            magic, now = handle.mac.push_magic, time.time()
            endpoint.broker.restore(Notification(0, TOPIC, magic, "apns-id", now, now + 3000.0), 0.0)
            endpoint.on_change()
        async with scene.service() as service:
            handle = scene.mac(service)
            assert not service.view(handle).online
            assert kinds(service, handle.udid) == []
            service.actions.set_online(handle, True)
            await until(lambda: "session_ended" in kinds(service, handle.udid), "a session for the push")
            assert "pushed" in kinds(service, handle.udid)
        async with scene.service() as service:
            endpoint = scene.mac(service).group.push_endpoint
            assert endpoint is not None
            assert endpoint.counts["waiting"] == 0

    run_scene(test)


def test_declarations_that_were_being_updated_are_updated(run_scene) -> None:
    async def test(scene: Scene) -> None:
        lab = scene.server.lab
        async with scene.service() as service:
            handle = scene.mac(service)
            await service.actions.enroll(handle, Enroll())
            handle.client.device.synchronising = b""  # its command is answered, and the process ends
            service.actions.set_online(handle, False)
            service.actions.set_online(handle, True)
        assert not lab.macs[handle.udid].status_report
        async with scene.service() as service:
            handle = scene.mac(service)
            await until(lambda: bool(lab.macs[handle.udid].status_report), "the status report")
            await until(lambda: handle.client.device.synchronising is None, "the update ends")
            declared = handle.client.device.declared
            assert declared.token
            assert "FullReport" not in json.loads(lab.macs[handle.udid].status_report)
            declared.full_report_at = 1.0  # it is due, and the process ends
            service.actions.set_online(handle, False)
        async with scene.service() as service:
            service.actions.set_online(scene.mac(service), True)
            await until(lambda: "FullReport" in json.loads(lab.macs[handle.udid].status_report), "the full report")

    run_scene(test)


def test_an_app_that_was_to_be_installed_is_installed(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            handle = scene.mac(service)
            await service.actions.enroll(handle, Enroll())
            service.actions.set_online(handle, False)
            device = handle.client.device  # its command is answered, and the process ends
            device.system = SystemState(apps=(App(identifier="com.example.app", managed=True, store_id=1),))
            handle.group.fleet[handle.index]._environment.changed(handle.index)
        async with scene.service() as service:
            handle = scene.mac(service)
            assert handle.client.device.system.app("com.example.app") == App(
                identifier="com.example.app", managed=True, store_id=1
            )
            service.actions.set_online(handle, True)
            await until(lambda: handle.client.device.system.managed_app("com.example.app") is not None, "the app")

    run_scene(test)


def begun(scene: Scene, handle: MacHandle) -> None:
    """The Mac has its identity and was about to tell its server, when its process ended."""
    device = handle.client.device
    steps = enrollment_steps(device, scene.server.enrollment_profile())
    assert isinstance(advance(steps, None), CheckIn)
    handle.group.fleet[handle.index]._environment.changed(handle.index)
    unfinished = device.enrolling
    steps.close()
    device.enrolling = unfinished


def test_an_enrollment_in_progress_goes_on_with_its_identity(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            begun(scene, scene.mac(service))
            unfinished = scene.mac(service).client.device.enrolling
            assert unfinished is not None
        async with scene.service() as service:
            handle = scene.mac(service)
            await until(lambda: "enrolled" in kinds(service, handle.udid), "the Mac enrolls")
            assert handle.client.device.enrollment == unfinished.enrollment
            known = scene.server.lab.macs[handle.udid]
            assert known.fingerprint == unfinished.enrollment.identity.fingerprint
            assert known.enrolled

    run_scene(test)


def test_an_enrollment_in_progress_waits_for_its_server(run_scene) -> None:
    async def test(scene: Scene) -> None:
        check_in, asked = scene.server.lab.check_in, []

        def late(message: Any) -> bytes:
            asked.append(message)
            if len(asked) == 1:
                raise Refused(503, "not yet")
            return check_in(message)

        async with scene.service() as service:
            begun(scene, scene.mac(service))
        scene.server.lab.check_in = late  # type: ignore[method-assign]
        await scene.server.close()
        port = int(scene.server.url.rpartition(":")[2])
        scene.server.listen(port)
        async with scene.service() as service:
            handle = scene.mac(service)
            await until(lambda: "enrolled" in kinds(service, handle.udid), "the Mac enrolls")
            assert len(asked) > 1

    run_scene(test)


def test_an_enrollment_in_progress_that_is_refused_is_given_up(run_scene) -> None:
    async def test(scene: Scene) -> None:
        def refuse(_message: Any) -> bytes:
            raise Refused(403, "unknown")

        async with scene.service() as service:
            begun(scene, scene.mac(service))
        scene.server.lab.check_in = refuse  # type: ignore[method-assign]
        await scene.server.close()
        scene.server.listen(int(scene.server.url.rpartition(":")[2]))
        async with scene.service() as service:
            handle = scene.mac(service)
            await until(lambda: "enroll_failed" in kinds(service, handle.udid), "the Mac gives up")
            assert handle.client.device.enrolling is None
        async with scene.service() as service:
            assert scene.mac(service).client.device.enrolling is None

    run_scene(test)


def test_other_macs_than_those_of_the_file_are_refused(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service():
            pass
        with pytest.raises(OperatorError, match=r"devices 3, seed state\), found others asked for \(devices 4, "):
            async with scene.service(devices=4):
                pass

    run_scene(test)


def state_with(folder: Path) -> tuple[FleetState, Clock, list[str]]:
    clock, text = Clock(), []
    state = FleetState(folder / "fleet.sqlite", clock)
    state.on_failure = lambda error: text.append(str(error))
    return state, clock, text


def test_what_waits_goes_on_after_the_transaction(tmp_path: Path) -> None:
    state, clock, text = state_with(tmp_path)
    state.set("a", "1")
    state.when_kept(0, 0, lambda: text.append(state._file.rows("SELECT value FROM settings")[0][0]))
    assert text == []
    clock.advance(0.0)
    assert text == ["1"]
    state.close()


def test_nothing_goes_on_when_the_file_cannot_be_written(tmp_path: Path) -> None:
    state, clock, text = state_with(tmp_path)
    state._file.close()
    state.set("a", "1")
    state.when_kept(0, 0, lambda: text.append("sent"))
    clock.advance(0.0)
    assert len(text) == 1
    assert "cannot be written" in text[0]
    state.when_kept(0, 0, lambda: text.append("sent"))
    clock.advance(1.0)
    state.close()
    assert len(text) == 1


def test_numbers_only_grow_after_a_kill(tmp_path: Path) -> None:
    state, clock, _ = state_with(tmp_path)
    for number in range(1, 2500):
        state.number("event", number)
        clock.advance(0.0)
        assert int(state._file.rows("SELECT value FROM settings")[0][0]) > number
    state.close()


def test_roles_are_kept(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service(devices=1) as service:
            added = [service.add(AddMacs(count=2, roles=roles)) for roles in (["controller"], None)]
            roles = [handle.mac.roles for group in added for handle in group]
            assert roles == [("controller",), ("controller",), ("controller", "device"), ("device",)]
        async with scene.service(devices=1) as service:
            assert [handle.mac.roles for handle in service.macs()][1:] == roles

    run_scene(test)


def test_a_file_without_roles_is_migrated(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service(devices=2) as service:
            macs = [handle.mac for handle in service.macs()]
        with closing(sqlite3.connect(scene.file)) as base:
            base.executescript("ALTER TABLE groups DROP COLUMN roles; PRAGMA user_version = 1;")
        async with scene.service(devices=2) as service:
            assert [handle.mac for handle in service.macs()] == macs

    run_scene(test)


def test_a_file_that_was_changed_by_hand_is_an_error_of_ours(run_scene) -> None:
    async def test(scene: Scene) -> None:
        async with scene.service() as service:
            await service.actions.enroll(scene.mac(service), Enroll())
        state = FleetState(scene.file, reactor)
        state._file.write([("UPDATE devices SET record = x'81a17801'", ())])
        state.close()
        with pytest.raises(OperatorError, match=r"Expected the state of a fleet in .*, found something else"):
            async with scene.service():
                pass
        FleetState(scene.file, reactor).close()  # it is not left open

    run_scene(test)
