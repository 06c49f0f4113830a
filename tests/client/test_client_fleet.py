"""The client against a real service with its lab: Macs enroll, answer, misbehave and lose power."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from forked_service import connected, forked_service

from agent.client import (
    ClientError,
    CommandFormatError,
    Device,
    EnrollmentFailed,
    Error,
    Fleet,
    NotFound,
    NotNow,
    RequestRefused,
    Rule,
    ServiceNotStarted,
    UnexpectedStatus,
    WaitTimedOut,
)
from agent.faults.effects import On

pytestmark = pytest.mark.slow

LONG = 60.0  # seconds; only a test that fails waits so long


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with forked_service(tmp_path_factory.mktemp("service"), "--seed", "client") as ready, connected(ready) as fleet:
        yield fleet


@pytest.fixture
def fleet(service: Fleet) -> Fleet:
    service.reset()
    return service


def enrolled(fleet: Fleet) -> Device:
    return fleet.mac().enroll(fleet.lab.enroll_url, timeout=LONG)


def test_a_mac_answers_not_now_twice_and_then_carries_the_command_out(fleet: Fleet) -> None:
    mac = enrolled(fleet)
    rule = mac.on("ProfileList").answer(NotNow, times=2)
    uuid = fleet.lab.queue(mac.udid, "ProfileList")
    for _ in range(2):
        fleet.wait(kind="answered", udid=mac.udid, command_uuid=uuid, status="NotNow", timeout=LONG)
        fleet.lab.push(mac.udid)
    assert mac.wait_for(uuid, status="Acknowledged", timeout=LONG).body["ProfileList"]
    statuses = [answer.status for answer in mac.answers(uuid)]
    assert statuses[-1] == "Acknowledged"
    assert statuses.count("NotNow") == rule.hits == 2
    fleet.assert_no_protocol_errors()


@pytest.mark.parametrize("by", ["plug", "LOM"])
def test_a_controller_powers_a_device_on_that_lost_its_power(fleet: Fleet, by: str) -> None:
    rack = fleet.segment(devices=2).enroll(fleet.lab.enroll_url, timeout=LONG).set_up_lom(fleet.lab, timeout=LONG)
    off, other = rack.devices
    if by == "plug":
        assert off.pull_the_plug().power == "off"
    else:
        fleet.lab.lom(rack.controller.udid, "PowerOFF", [off.udid])
        off.wait_until("off", timeout=LONG)
    uuid = fleet.lab.lom(rack.controller.udid, "PowerON", [off.udid])
    off.wait_until("on", timeout=LONG)
    assert rack.controller.wait_for(uuid, timeout=LONG).status == "Acknowledged"
    assert other.power == "on"
    fleet.assert_no_protocol_errors()


def test_the_chosen_release_and_model_are_what_a_mac_has(fleet: Fleet) -> None:
    mac = fleet.mac(os="15.5", model="Mac16,10")
    assert (mac.os_version, mac.model) == ("15.5", "Mac16,10")
    with pytest.raises(RequestRefused, match="Mac16,1"):
        fleet.mac(model="Mac16,1")


def test_the_same_seed_gives_the_same_macs(fleet: Fleet) -> None:
    first = [mac.udid for mac in fleet.add(3, seed="same")]
    fleet.reset()
    assert [mac.udid for mac in fleet.add(3, seed="same")] == first


def test_a_reset_removes_macs_and_rules(fleet: Fleet) -> None:
    enrolled(fleet)
    fleet.rule(Rule(on="command", do="not_now"))
    fleet.reset()
    assert len(fleet) == 0
    assert fleet.rules == []
    assert fleet.exchanges() == []


@pytest.mark.parametrize(
    ("reply", "status"), [(Error("no", code=12), "Error"), (CommandFormatError, "CommandFormatError")]
)
def test_another_answer_than_the_expected_one_is_shown_with_the_exchanges(
    fleet: Fleet, reply: object, status: str
) -> None:
    mac = enrolled(fleet)
    mac.on("CertificateList").answer(reply)  # type: ignore[arg-type]
    uuid = fleet.lab.queue(mac.udid, "CertificateList")
    with pytest.raises(
        UnexpectedStatus, match=f"(?s)Expected Acknowledged .* found {status}.*report {status}"
    ) as error:
        mac.wait_for(uuid, status="Acknowledged", timeout=LONG)
    assert "Authenticate" not in str(error.value)  # it is not about the command
    assert re.search(r"push -> delivered \(\d+ ms\)$", mac.conversation(), re.MULTILINE)


def test_a_wait_that_fails_shows_the_nearest_event_and_the_exchanges(fleet: Fleet) -> None:
    mac = enrolled(fleet)
    with pytest.raises(WaitTimedOut, match=r"(?s)nearest.*enrolled.*last exchanges.*TokenUpdate"):
        mac.wait_for("NO-SUCH-COMMAND", timeout=0.1)


def test_failed_enrollment_has_a_reason(fleet: Fleet) -> None:
    with pytest.raises(EnrollmentFailed, match=r"(?s)404"):
        fleet.mac().enroll(f"{fleet.lab.info.url}/nothing", timeout=LONG)


def test_an_unknown_mac_is_named(fleet: Fleet) -> None:
    mac = fleet.mac()
    mac.remove()
    with pytest.raises(NotFound, match=mac.udid):
        mac.connect()


def test_a_mac_loses_power_and_boots(fleet: Fleet) -> None:
    mac = enrolled(fleet)
    mac.cut_mains()
    assert mac.power == "no_mains"
    boots = mac.detail.boots
    mac.restore_mains().wait_until("on", timeout=LONG)
    assert mac.detail.boots == boots + 1


def test_a_mac_that_is_offline_gets_its_command_when_it_is_back(fleet: Fleet) -> None:
    mac = enrolled(fleet).go_offline()
    uuid = fleet.lab.queue(mac.udid, "SecurityInfo")
    assert mac.answers(uuid) == []
    mac.come_online()
    assert mac.wait_for(uuid, timeout=LONG).status == "Acknowledged"


def test_a_manual_clock_stands_until_it_is_moved(tmp_path: Path) -> None:
    with forked_service(tmp_path, "--clock=manual") as ready, connected(ready) as fleet:
        mac = enrolled(fleet)
        mac.press_power("reset")
        assert mac.power == "booting"
        fleet.advance(600)
        mac.wait_until("on", timeout=LONG)


def test_macs_are_found_by_what_they_are(fleet: Fleet) -> None:
    one, other = fleet.mac(os="15.5"), fleet.mac(os="26.4")
    rack = fleet.segment(devices=1, os=["27.0"])
    assert fleet.select(os="15.5") == [one]
    assert {mac.os_version for mac in rack.macs} == {"27.0"}
    assert {mac.os_version for mac in fleet.add(20, os={"26.4": 1, "27.0": 1})} == {"26.4", "27.0"}
    assert fleet.select(role="controller", segment=rack.number) == [rack.controller]
    assert fleet.find(other.serial_number) == fleet.find(other.number) == other
    assert [len(segment) for segment in fleet.segments] == [1, 1, 2, 20]
    assert fleet.segments[2].macs == rack.macs
    first, second = fleet.add(2, roles=["device"]), [fleet.mac(roles=["controller"])]
    assert [mac.roles for mac in first + second] == [["device"], ["device"], ["controller"]]
    assert fleet.segments[-1].controller == second[0]
    with pytest.raises(ClientError, match="Expected a LOM Controller in segment 4, found Devices only"):
        print(fleet.segments[-2].controller)
    fleet.remove_macs()
    assert fleet.macs == []
    assert one.udid in repr(one)  # of a Mac that is gone


def test_events_are_followed_as_they_happen(fleet: Fleet) -> None:
    events = fleet.follow(kind="added")
    macs = [fleet.mac() for _ in range(2)]
    assert [next(events).udid for _ in macs] == [mac.udid for mac in macs]
    events.close()  # type: ignore[attr-defined]
    assert "lom_agent_macs" in fleet.metrics


def test_the_exchanges_of_one_mac_are_forgotten(fleet: Fleet) -> None:
    one, other = enrolled(fleet), enrolled(fleet)
    one.clear_exchanges()
    assert one.exchanges() == []
    assert other.exchanges() != []


def test_every_operation_has_a_rule(fleet: Fleet) -> None:
    mac = fleet.mac()
    operations = {
        mac.on("ProfileList"), mac.on_check_in(), mac.on_connect(), mac.on_session(), mac.on_lom_request(),
        mac.on_push(), mac.on_scep(), mac.on_acme(), mac.on_enroll(),
    }  # fmt: skip
    rules = [operation.drop(probability=0.0) for operation in operations]
    rules.append(mac.on_attestation().falsify("nonce"))
    assert {rule.rule.on for rule in rules} == set(get_args(On))
    mac.on_push().refuse("TooManyRequests", id="limit")
    assert fleet.rules[-1].rule.reason == "TooManyRequests"
    mac.on_push().throttle(3, 60.0)
    mac.on_push().store(until=30.0)
    fleet.on("push").do("away", until=5.0)
    fields = [(each.rule.do, each.rule.limit, each.rule.seconds, each.rule.until) for each in fleet.rules[-3:]]
    assert fields == [("throttle", 3, 60.0, None), ("store", None, None, 30.0), ("away", None, None, 5.0)]


def test_an_unknown_option_of_a_service_is_named() -> None:
    with pytest.raises(TypeError, match=r"found device, macs\. Use lab, apns"):
        Fleet.start(macs=3, device=2)  # type: ignore[call-arg]


def test_two_threads_may_use_a_fleet(fleet: Fleet) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(enrolled(fleet).udid)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*found}) == 2


def test_service_that_cannot_start_reports_the_reason() -> None:
    with pytest.raises(ServiceNotStarted, match=r"(?s)ended with status 2:.*--devices"):
        Fleet.start(devices=-1)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_names_in_the_current_folder_do_not_shadow_those_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").write_text("raise SystemExit('another agent')")
    monkeypatch.chdir(tmp_path)
    with Fleet.start(devices=1) as fleet:
        assert len(fleet) == 1


def test_errors_can_be_sent_to_another_process(fleet: Fleet) -> None:
    with pytest.raises(WaitTimedOut) as raised:
        fleet.wait(kind="power", timeout=0)
    error = pickle.loads(pickle.dumps(raised.value))
    assert (type(error), str(error), error.problem) == (WaitTimedOut, str(raised.value), raised.value.problem)


def test_a_forked_child_does_not_keep_the_service_from_its_orderly_end() -> None:
    program = """
import os, signal
from agent.client.process import ServiceProcess
service = ServiceProcess(["--devices=1"])
service.wait_until_ready()
child = os.fork()
if child == 0:
    signal.pause()
status = service.stop()
os.kill(child, signal.SIGKILL)
print("status", status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG)
    assert "status 143" in done.stdout, done


def test_nothing_is_left_after_a_fleet_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    fleet = Fleet.start()
    pid = fleet.info.pid
    assert list(tmp_path.iterdir()) == []  # also nothing that a kill could leave
    fleet.close()
    assert not alive(pid)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_service_with_a_state_file_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "fleet.sqlite"
    with Fleet.start(lab=True, state=file) as first:
        udid = enrolled(first).udid
    with forked_service(tmp_path, f"--state={file}") as ready, connected(ready) as second:
        mac = second.macs[0]
        assert (mac.udid, mac.enrolled) == (udid, True)
        uuid = second.lab.queue(udid, "ProfileList")
        assert mac.wait_for(uuid, status="Acknowledged", timeout=LONG).status == "Acknowledged"
