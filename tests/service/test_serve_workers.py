"""``lom-agent serve --workers N``: the Macs in several processes, and one control API that stays the same."""

from __future__ import annotations

import json
import os
import plistlib
import signal
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import lom_agent
from started_service import Service, started_service
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred

from agent.cli.serve import forms
from agent.cli.serve.forms import MACS_A_PROCESS
from agent.errors import OperatorError
from agent.faults.rules import Rule
from agent.fleet.population import Population
from agent.service.errors import WorkerGone
from agent.service.macs.parts import ServiceSettings
from agent.service.workers.files import fleet_of, open_part
from agent.service.workers.messages import Share, Start
from agent.service.workers.numbers import Numbers
from agent.service.workers.pool import SILENT_SECONDS, PoolWorker, WorkerPool
from agent.service.workers.roster import SharedGroup, divided, spread
from agent.service.workers.share import ShareService
from agent.state.fleet import FleetState

Run = Callable[[Coroutine[Any, Any, Any]], Any]

slow = pytest.mark.slow


class Served:
    """A service that runs: its control API, and its lab where it has one."""

    def __init__(self, service: Service) -> None:
        self.process, self.ready, self.group = service.process, service.ready, service.group
        self.control = service.client()
        lab = self.ready["lab"]
        self.lab: httpx.Client | None = None
        if lab is not None:
            headers = {"Authorization": f"Bearer {lab['token']}"}
            verify = ssl.create_default_context(cadata=lab["ca"])
            self.lab = httpx.Client(base_url=lab["url"], headers=headers, verify=verify, trust_env=False)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of a request that succeeds."""
        answer = self.control.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def problem(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """The status and the detail of a request that fails."""
        answer = self.control.request(method, path, json=body)
        return answer.status_code, answer.json()["detail"]

    def queue(self, udid: str, request_type: str, server: Served | None = None) -> str:
        """Queue a command in the lab, which pushes; returns its CommandUUID."""
        lab = (server or self).lab
        assert lab is not None
        command = plistlib.dumps({"RequestType": request_type})
        answer = lab.post(f"/api/v1/macs/{udid}/commands", content=command)
        return str(answer.raise_for_status().json()["command_uuid"])

    def wait(self, **wanted: Any) -> dict[str, Any]:
        """Wait for an event."""
        found: dict[str, Any] = self.ask("POST", "/v1/wait", {"timeout": 60, **wanted})
        return found


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Served]:
    """A service."""
    folder.mkdir(exist_ok=True)
    with started_service(folder, *arguments) as service:
        served = Served(service)
        with served.control, served.lab or nullcontext():
            yield served


# Both forms.


def story(served: Served) -> Iterator[Any]:
    """Every request of the control API, and what of its answers is the same in every form."""
    ask, shown = served.ask, ("number", "udid", "segment", "roles", "enrolled", "power", "boots")

    def macs(query: str = "") -> list[Any]:
        return [[mac[name] for name in shown] for mac in ask("GET", f"/v1/macs{query}")]

    def info() -> list[Any]:
        found = ask("GET", "/v1")
        return [found[name] for name in ("seed", "macs", "enrolled", "rules", "clock", "protocol_errors")]

    yield info(), macs()
    yield macs("?segment=1"), macs("?role=controller"), macs("?after=0&limit=2"), macs("?text=nothing")
    mine = [mac["udid"] for mac in ask("GET", "/v1/macs")]
    yield [ask("POST", f"/v1/macs/{mine[number]}/enroll", {})["enrolled"] for number in (0, 3)], info()

    # A rule whose counts are for all Macs.
    rule = ask("POST", "/v1/rules", {"on": "command", "do": "not_now", "type": "ProfileList", "times": 1})
    yield rule, ask("GET", f"/v1/rules/{rule['id']}"), served.problem("POST", "/v1/rules", {**rule})
    commands = {number: served.queue(mine[number], "ProfileList") for number in (0, 3)}
    for number, uuid in commands.items():
        served.wait(kind="delivered", udid=mine[number], command_uuid=uuid, status="NotNow")
    yield ask("GET", "/v1/rules")
    ask("POST", "/v1/clock", {"advance": 3600})
    for number, uuid in commands.items():
        served.wait(kind="delivered", udid=mine[number], command_uuid=uuid, status="Acknowledged")
        answers = ask("GET", f"/v1/macs/{number}/answers?command_uuid={uuid}")
        yield [(answer["status"], answer["delivered"]) for answer in answers]
        for answer in answers:  # it has the number of its event
            event = served.wait(after=answer["number"] - 1)
            yield (event["number"] == answer["number"], event["kind"], event["status"])
        hit = served.wait(kind="rule_hit", udid=mine[number])
        exchange = ask("GET", f"/v1/exchanges?mac={number}&after={hit['data']['exchange'] - 1}")[0]
        yield exchange["number"] == hit["data"]["exchange"], exchange["rules"], exchange["request_type"]
    yield ask("GET", "/v1/rules"), ask("DELETE", f"/v1/rules/{rule['id']}"), ask("GET", "/v1/rules")
    yield served.problem("DELETE", "/v1/rules/none"), ask("POST", "/v1/rules", rule)["id"], ask("DELETE", "/v1/rules")

    # Exchanges and events.
    every = ask("GET", "/v1/exchanges?limit=1000")
    numbers = [each["number"] for each in every]
    yield numbers == sorted({*numbers}), sorted((each["udid"], each["kind"], each["message_type"]) for each in every)
    after = ask("GET", f"/v1/exchanges?limit=1000&after={numbers[4]}")
    yield [each["number"] for each in after] == numbers[5:], ask("GET", "/v1/exchanges?limit=0")
    last = ask("GET", "/v1/exchanges?limit=2")
    yield [each["number"] for each in last] == numbers[-2:]
    yield len(ask("GET", "/v1/exchanges?kind=enroll")), len(ask("GET", f"/v1/exchanges?text={mine[3]}&kind=checkin"))
    detail = ask("GET", "/v1/macs/3")
    yield detail["profiles"][0]["identifier"], detail["exchanges"][0]["number"] in numbers, detail["pending"]
    late = served.control.post("/v1/wait", json={"kind": "enrolled", "udid": mine[1], "timeout": 0}).json()
    yield late["status"], {each["kind"] for each in late["nearest"]}, late.get("exchanges")
    with served.control.stream("GET", f"/v1/events?after=0&kind=enrolled&mac={mine[3]}") as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data: "))
        yield json.loads(data.removeprefix("data: "))["udid"] == mine[3]
    ask("DELETE", "/v1/exchanges?mac=0")
    yield {each["udid"] for each in ask("GET", "/v1/exchanges?limit=1000")}
    yield ask("DELETE", "/v1/exchanges"), ask("GET", "/v1/exchanges")
    counted = ask("GET", "/v1/results")["operations"]
    yield {name: (counted[name]["count"], counted[name]["errors"]) for name in ("enroll", "command", "checkin")}
    yield [line for line in served.control.get("/metrics").text.splitlines() if line.startswith("lom_agent_macs{")]

    # Power, network, the clock.
    ask("POST", "/v1/segments/1/mains", {"action": "cut_mains"})
    yield served.wait(kind="power", udid=mine[3], status="no_mains", timeout=0)["text"]  # it has arrived already
    yield macs(), served.problem("POST", "/v1/macs/3/power", {"action": "on"})
    yield ask("POST", "/v1/segments/1/mains", {"action": "restore_mains"})[0]["power"], ask("GET", "/v1/clock")["next"]
    ask("POST", "/v1/clock", {"advance": 30})
    for number in (2, 3):
        yield ask("POST", f"/v1/macs/{number}/wait", {"power": "on", "timeout": 60})["boots"]
    yield ask("POST", "/v1/macs/0/network", {"online": False})["state"]
    yield served.problem("POST", "/v1/macs/0/enroll", {}), served.problem("POST", "/v1/macs/1/connect")
    yield ask("POST", "/v1/macs/0/network", {"online": True})["online"]
    yield (
        ask("POST", "/v1/macs/3/connect")["enrolled"],
        served.problem("POST", "/v1/segments/9/mains", {"action": "cut_mains"}),
    )
    profile = plistlib.loads(served.control.get("/v1/macs/2/lom-profile").content)
    yield sorted(profile), ask("POST", "/v1/macs/3/unenroll")["enrolled"]

    # Macs that come and go.
    added = ask("POST", "/v1/macs", {"count": 3, "segment_size": 1, "os": "27"})
    yield [[mac[name] for name in shown] for mac in added]
    yield served.problem("POST", "/v1/macs", {"seed": "story"}), ask("DELETE", "/v1/macs/5")
    yield served.problem("GET", "/v1/macs/5"), served.problem("GET", "/v1/macs/nobody"), macs("?after=3")
    yield ask("POST", f"/v1/macs/{mine[0]}/reset")["enrolled"], info()
    yield ask("DELETE", "/v1/macs"), info(), macs()
    yield ask("POST", "/v1/macs", {"count": 2})[1]["number"]
    before = ask("GET", "/v1")["last_event"]
    state = ask("POST", "/v1/reset", {"seed": "another"})
    yield state["seed"], state["macs"], info(), macs(), ask("GET", "/v1/clock")["seconds"]
    yield served.wait(kind="reset")["number"] > before, served.wait(kind="added", udid=mine[3])["text"]
    yield ask("POST", "/v1/macs", {})[0]["udid"], ask("POST", "/v1/macs/2/enroll", {"automated": True})["enrolled"]
    served.queue(mine[2], "ProfileList")
    yield served.wait(kind="delivered", udid=mine[2], request_type="DeviceConfigured")["status"]


@slow
def test_every_request_has_the_same_answers_with_workers(tmp_path: Path) -> None:
    arguments = ("--lab", "--devices", "4", "--segment-size", "2", "--os", "26.4", "--seed", "story")
    told = []
    for workers in ("1", "2"):
        with serving(
            tmp_path / workers, *arguments, "--clock", "manual", "--boot", "constant:20", "--workers", workers
        ) as served:
            assert served.ready["workers"] == int(workers)
            assert len(served.group()) == 1 + (int(workers) if workers != "1" else 0)
            told.append(list(story(served)))
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait() == 143
            assert served.process.communicate()[1] == b""
            assert served.group() == []
    for one, other in zip(*told, strict=True):
        assert one == other


# A worker that ends.


@slow
def test_a_worker_that_is_killed_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--lab", "--devices", "4", "--segment-size", "2", "--workers", "2") as served:
        command, *workers = served.group()
        assert command == served.process.pid
        first = served.ask("GET", "/v1")["last_event"]
        udids = [mac["udid"] for mac in served.ask("GET", "/v1/macs")]
        with ThreadPoolExecutor() as threads:  # whoever waits for its Macs is told
            wanted = [{"kind": "enrolled", "udid": udids[number], "timeout": 5} for number in (0, 2)]
            waits = [threads.submit(served.problem, "POST", "/v1/wait", each) for each in wanted]
            time.sleep(0.5)
            os.kill(workers[0], signal.SIGKILL)
            event = served.wait(kind="worker_lost")
            assert sorted(wait.result()[0] for wait in waits) == [503, 504]
            assert served.wait(kind="added", udid=udids[0])["udid"] == udids[0]  # what happened before is still there
        lost = event["data"]["worker"]
        assert event["number"] > first
        gone, there = (0, 2) if lost == 1 else (2, 0)
        assert event["data"]["macs"] == f"{gone} to {gone + 1}"
        for method, path, body in (
            ("GET", f"/v1/macs/{gone}", None),
            ("POST", f"/v1/macs/{gone}/enroll", {}),
            ("POST", f"/v1/segments/{gone // 2}/mains", {"action": "cut_mains"}),
            ("GET", f"/v1/exchanges?mac={gone}", None),
            ("POST", "/v1/wait", {"kind": "enrolled", "udid": udids[gone], "timeout": 600}),
        ):
            status, detail = served.problem(method, path, body)
            assert (status, f"worker {lost}" in detail, "-9" in detail) == (503, True, True)
        assert served.ask("POST", f"/v1/macs/{there}/enroll", {})["enrolled"]
        info = served.ask("GET", "/v1")
        assert (info["macs"], info["enrolled"], info["workers"]) == (2, 1, 2)
        assert f"Worker {lost} is lost, with the Macs {gone} to {gone + 1}" in info["lost_workers"][0]
        assert f'lom_agent_worker_up{{worker="{lost}"}} 0.0' in served.control.get("/metrics").text
        assert served.ask("POST", "/v1/reset", {})["macs"] == 4  # by the other one
        served.process.send_signal(signal.SIGTERM)
        _, errors = served.process.communicate()
        assert served.process.returncode == 1
        assert errors.decode().splitlines()[-1].startswith(f"lom-agent: Worker {lost} is lost")


# The state file.


@slow
def test_workers_go_on_from_their_state_files_after_kill_9(tmp_path: Path) -> None:
    with serving(tmp_path / "server", "--lab") as server:
        (tmp_path / "lab.pem").write_text(server.ready["lab"]["ca"])
        kept = ("--state", str(tmp_path / "fleet.sqlite"), "--ca", str(tmp_path / "lab.pem"))
        macs = ("--devices", "4", "--segment-size", "2", "--workers", "2", "--seed", "kept")
        enroll = ("--enroll", server.ready["lab"]["enroll_url"])
        with serving(tmp_path / "first", *macs, *kept, *enroll) as served:
            for number in range(4):
                served.ask("POST", f"/v1/macs/{number}/wait", {"enrolled": True, "timeout": 60})
            served.ask("POST", "/v1/macs", {"count": 2})
            served.ask("DELETE", "/v1/macs/1")
            rule = {"on": "command", "do": "not_now", "type": "ProfileList", "times": 1}
            served.ask("POST", "/v1/rules", rule)
            last = served.ask("GET", "/v1")["last_event"]
            udid = served.ask("GET", "/v1/macs/3")["udid"]
            served.process.kill_group()
        refused = lom_agent("serve", "--workers", "3", *kept)
        assert (refused.returncode, b"Expected --workers 2" in refused.stderr) == (2, True)
        moved, part = tmp_path / "moved", tmp_path / "fleet.sqlite.worker-2"
        part.rename(moved)
        refused = lom_agent("serve", *kept)
        assert (refused.returncode, b"Expected the state of worker 2" in refused.stderr) == (2, True)
        moved.rename(part)
        with serving(tmp_path / "second", *kept) as served:
            info = served.ask("GET", "/v1")
            assert (info["workers"], info["macs"], info["enrolled"], info["rules"]) == (2, 5, 3, 1)
            assert info["last_event"] >= last
            assert served.problem("GET", "/v1/macs/1")[0] == 404
            uuid = served.queue(udid, "ProfileList", server)
            served.ask("POST", "/v1/macs/3/connect")
            served.wait(kind="delivered", command_uuid=uuid, status="NotNow")
            assert [(each["matches"], each["hits"]) for each in served.ask("GET", "/v1/rules")] == [(1, 1)]
            assert served.ask("POST", "/v1/macs", {})[0]["number"] == 6


def test_the_file_of_a_worker_is_that_of_its_fleet_and_number(tmp_path: Path) -> None:
    def fleet(name: str) -> str:
        state = FleetState(tmp_path / name, task.Clock())
        name = fleet_of(state)
        assert name == fleet_of(state)
        state.close()
        return name

    def opened(name: str, fleet: str, worker: int, *, is_new: bool = False) -> None:
        state = open_part(tmp_path / name, task.Clock(), fleet, worker, is_new=is_new)
        state.set("macs", "2")
        state.close()

    one, other = fleet("one"), fleet("other")
    with pytest.raises(OperatorError, match="found no such file"):
        opened("one.worker-1", one, 1)
    assert not (tmp_path / "one.worker-1").exists()
    for worker in (1, 2):
        opened(f"one.worker-{worker}", one, worker, is_new=True)
        opened(f"one.worker-{worker}", one, worker)
        opened(f"one.worker-{worker}", one, worker, is_new=True)  # killed before the front had its Macs
    opened("old", "", 1, is_new=True)
    opened("old", "", 1)
    for name, owner, worker, is_new in (
        ("one.worker-1", one, 2, False),
        ("one.worker-1", other, 1, False),
        ("one.worker-1", other, 1, True),
        ("old", other, 1, True),
        ("old", other, 1, False),
        ("one.worker-1", "", 1, False),
    ):
        with pytest.raises(OperatorError, match="found that of another one"):
            opened(name, owner, worker, is_new=is_new)
    refused = lom_agent("serve", "--state", str(tmp_path / "one.worker-2"), "--until-eof")
    assert (refused.returncode, b"found the part that worker 2 has" in refused.stderr) == (2, True)


def test_a_worker_takes_what_its_front_has_from_its_file(run_in_reactor: Run, tmp_path: Path) -> None:
    def share(first: int, seed: str) -> Share:
        return Share(first, first // 2, seed, 4, 2, None, None, 2, 4)

    def rule(name: str) -> Rule:
        return Rule(on="command", do="not_now", id=name)

    async def scenario() -> None:
        found = []
        for shares, rules in (
            ([share(0, "first"), share(4, "second")], [rule("one"), rule("two")]),
            ([share(0, "first"), share(4, "another"), share(8, "third")], [rule("two"), rule("three")]),
            ([share(8, "third")], []),
        ):
            state = FleetState(tmp_path / "worker.sqlite", reactor)  # type: ignore[arg-type]
            service = ShareService(reactor, ServiceSettings(lom_network="memory"), lambda _text: None, state)
            service.open_shares(shares, rules)
            assert {each.rule.id for each in service.faults} == {each.id for each in rules}
            found.append([(each.number, each.udid) for each in service.macs()])
            assert [number for number, _ in found[-1]] == [each.first + i for each in shares for i in (2, 3)]
            service.close()
        assert found[0][:2] == found[1][:2]
        assert found[0][2][1] != found[1][2][1]  # the same numbers, and other Macs
        assert found[1][4:] == found[2]

    run_in_reactor(scenario())


# Parts.


def test_numbers_are_translated_both_ways() -> None:
    numbers = Numbers()
    numbers.add(1, 1)
    numbers.add(2, 2, 3)  # 2 to 4
    numbers.add(5, 9, 2)  # 5 and 6 are 9 and 10
    numbers.add(9, 11)  # 7 and 8 were not for the front
    assert [numbers.of_front(own) for own in range(11)] == [0, 1, 2, 3, 4, 9, 10, 0, 0, 11, 0]
    assert [numbers.last_of_worker(front) for front in (-1, 0, 1, 4, 8, 9, 10, 11, 99)] == [-1, -1, 1, 4, 4, 5, 6, 9, 9]


@pytest.mark.parametrize(
    ("devices", "size", "loads", "expected"),
    [
        (4, 2, {1: 0, 2: 0}, {1: (0, 2), 2: (2, 4)}),
        (7, 2, {1: 0, 2: 0}, {1: (0, 4), 2: (4, 7)}),
        (3, 3, {1: 5, 2: 0}, {2: (0, 3)}),  # one segment is never divided: to the one with fewer Macs
        (5, 1, {1: 0, 3: 0}, {1: (0, 2), 3: (2, 5)}),
    ],
)
def test_whole_segments_are_divided_among_the_workers(
    devices: int, size: int, loads: dict[int, int], expected: dict[int, tuple[int, int]]
) -> None:
    population = Population("divided", devices, size, os="26", model="Mac16,10", roles=["device"])
    shares = divided(population, 10, 5, loads)
    assert {worker: (share.start, share.stop) for worker, share in shares.items()} == expected
    group = SharedGroup(shares)
    assert repr(group.population) == repr(population)
    assert sorted(filter(None, map(group.worker_of, range(devices)))) == sorted(
        worker for worker, (start, stop) in expected.items() for _ in range(start, stop)
    )
    assert all(group.index_of(population[index].serial_number) == index for index in range(devices))


def test_the_macs_of_shares_are_named() -> None:
    pair, one = (Share(first, 0, "named", 9, 1, None, None, 2, stop) for first, stop in ((0, 4), (10, 3)))
    assert [spread(shares) for shares in ([], [pair], [pair, one])] == ["none", "2 to 3", "2 to 3, 12"]


class Processes(Executor):
    """In place of processes: ``kill`` ends one as a signal does."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def kill(self, number: int) -> None:
        """End a process."""
        if not self.futures[number].done():
            self.futures[number].set_exception(BrokenExecutor("the process ended with -9"))


class Reactor(task.Clock):
    """A reactor without sockets."""

    def adoptStreamConnection(self, *_: Any) -> None:
        """Do nothing: the test speaks for the worker."""

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        """Call."""
        call(*arguments)


def test_a_silent_worker_is_killed_and_what_waits_for_it_ends() -> None:
    told: list[str] = []

    class Owner:
        def worker_lost(self, worker: PoolWorker) -> None:
            told.append(worker.lost)

    clock, processes = Reactor(), Processes()
    pool = WorkerPool(clock, Owner(), processes)  # type: ignore[arg-type]
    pool.start([Start(1, {}), Start(2, {})])
    silent, busy = pool.workers
    waiting = Deferred.fromCoroutine(pool.call_all("info"))
    alone = pool.call(silent, "mac", mac="0")
    for _ in range(SILENT_SECONDS):
        busy.quiet = 0  # it sends something
        clock.advance(1)
    assert told == []  # its last messages may still be in the socket
    assert silent.link is not None
    silent.link.connectionLost()
    assert told == [f"it sent nothing for {SILENT_SECONDS} s; the process ended with -9"]
    alone.addErrback(lambda failure: failure.trap(WorkerGone))
    assert alone.result is WorkerGone
    busy.calls.pop(2).callback(b"{}")
    assert waiting.result == {busy: b"{}"}
    assert pool.present == [busy]
    with pytest.raises(WorkerGone, match="worker 1"):
        pool.call(silent, "mac", mac="0")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"devices": MACS_A_PROCESS, "segment_size": 10}, 1),
        ({"devices": MACS_A_PROCESS + 1, "segment_size": 10}, 2),
        ({"devices": 100_000, "segment_size": 10}, 4),  # the cores
        ({"devices": 100_000}, 1),  # one segment
        ({"devices": 3, "workers": 2}, 2),
        ({"devices": 100_000, "segment_size": 10, "lom_network": "interface:lo"}, 1),
    ],
)
def test_the_number_of_workers_follows_from_the_macs(
    options: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "cores", lambda: 4)
    usual = {"workers": None, "devices": 0, "segment_size": None, "lom_network": "loopback"}
    assert forms.workers_of(usual | options, None) == expected
