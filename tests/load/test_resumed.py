"""A run with a state file that is killed at any step and resumed: its server is owed nothing that is lost, and each
Mac enrolls once. The server is the lab in this process, which outlives the run; what it has is the judge.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from balance import check_sums
from conftest import RunInReactor
from examples import USUAL_EXAMPLES
from forked import Forked
from hypothesis import settings
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from agent.device.stored.types import DeviceRecord
from agent.fleet.population import Population
from agent.lab.mdm.core import Lab
from agent.lab.stored.state import EnrolledMac, NoStorage
from agent.lab.web.server import LabServer
from agent.load.conductor.state import RunState
from agent.load.shard.state import LOST, ShardState
from agent.pki.issuing.authorities import Authorities
from agent.pki.pem import certificate_pem

MACS, RATE, SECONDS = 4, 20, 1
SCENARIO = f"""
[fleet]
devices = {MACS}
segment_size = 2
boot = "constant:0.05"
[load]
workers = 2
tail = 5
[server.lab]
url = "{{url}}"
token_file = "token"
ca = ["ca.pem"]
[server]
ca = ["ca.pem"]
[[phase]]
kind = "enroll"
concurrency = 2
[[phase]]
kind = "command"
request = {{{{ RequestType = "ProfileList" }}}}
rate = {RATE}
duration = {SECONDS}
[[phase]]
kind = "checkin"
name = "last"
by = "self"
[[rule]]
on = "command"
do = "delay"
seconds = 0.01
times = 1
"""
KILLED = """
import os, random, signal
import agent.load.shard.shard
from agent.net.transport.stream import TLSStream
from agent.sqlite_file import SQLiteFile
left = {kill_at}
def step(*_):
    global left
    left -= 1
    if not left:
        {kill}
def around(kind, name):
    method = getattr(kind, name)
    def stepping(*arguments, **named):
        step()
        answer = method(*arguments, **named)
        step()
        return answer
    setattr(kind, name, stepping)
run = agent.load.shard.shard.Shard.run
def stepping(self):
    if self._link._invitation.shard == {shard}:
        for kind, name in ((SQLiteFile, "write"), (TLSStream, "write"), (TLSStream, "doRead")):
            around(kind, name)
    return run(self)
agent.load.shard.shard.Shard.run = stepping
"""


GROUP, WORKER = "os.killpg(0, signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGKILL)"


class Enrollments(NoStorage):
    """Records with which identity each Mac enrolled."""

    def __init__(self) -> None:
        self.identities: dict[str, set[bytes]] = {}

    def enroll(self, mac: EnrolledMac) -> None:
        self.identities.setdefault(mac.udid, set()).add(mac.fingerprint)


@dataclass
class Judge:
    """Compares what the lab has with the files of the run."""

    lab: Lab
    enrollments: Enrollments
    folder: Path
    owed: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def look(self) -> None:
        """After a kill: what each Mac owes, and which identity it has."""
        with closing(RunState(self.folder / "run.sqlite")) as run:
            for worker in range(run.workers):
                path = Path(run.worker_file(worker))
                if path.exists():
                    self._look(ShardState(path, reactor, run.run, run.scenario))

    def _look(self, state: ShardState) -> None:
        with closing(state):
            for mac in state.fleet.macs(0):
                udid = POPULATION.udid(mac.index)
                device = msgspec.msgpack.decode(mac.device, type=DeviceRecord)
                known = self.lab.macs.get(udid)
                assert known is None or device.enrollment or device.enrolling, "the Mac does not know that it enrolled"
                session = mac.record.activity.session
                if session.result:
                    self.owed[udid, session.command_uuid] = session.result

    def check_end(self) -> None:
        """Everything was delivered, and each Mac enrolled with one identity."""
        assert {udid: len(found) for udid, found in self.enrollments.identities.items()} == dict.fromkeys(UDIDS, 1)
        for (udid, command_uuid), body in self.owed.items():
            assert self.lab.macs[udid].results[command_uuid].body == body, "a result was lost"
        for udid in UDIDS:
            assert self.lab.macs[udid].enrolled
            assert not self.lab.macs[udid].queue, "a command that was queued was not answered"


POPULATION = Population("lom-agent", MACS, 2)
UDIDS = [POPULATION.udid(index) for index in range(MACS)]


@contextmanager
def lab_for(folder: Path) -> Iterator[tuple[LabServer, Judge]]:
    """A lab in this process, and the scenario that names it."""
    enrollments = Enrollments()
    server = LabServer(reactor, Lab(kept_results=1000, state=enrollments), Authorities())
    server.listen()
    (folder / "ca.pem").write_bytes(certificate_pem(server.authorities.anchor))
    (folder / "token").write_text(server.token)
    (folder / "scenario.toml").write_text(SCENARIO.format(url=server.url))
    yield server, Judge(server.lab, enrollments, folder)


def run(folder: Path, *, resume: bool, patch: str = "") -> tuple[int, str]:
    """Start the run, or go on with it, until it is killed or ends."""
    state = str(folder / "run.sqlite")
    line = ["--resume", state] if resume else [str(folder / "scenario.toml"), "--state", state]
    with Forked("run", *line, "--out", str(folder), "--quiet", mixed=True, patch=patch) as process:
        said, _ = process.communicate()
        return process.wait(), said.decode()


def has_a_run(folder: Path) -> bool:
    """Whether the run had begun: a kill may be before that."""
    return (folder / "run.sqlite").exists()


def finished(folder: Path) -> bool:
    """Whether there is nothing to go on with."""
    with closing(RunState(folder / "run.sqlite")) as state:
        return state.finished


@pytest.mark.slow
@pytest.mark.hypothesis  # `tox -e explore` has a second one
@pytest.mark.parametrize("seed", range(2 if settings.default.max_examples > USUAL_EXAMPLES else 1))
def test_a_run_that_is_killed_and_resumed_loses_no_result_and_enrolls_each_mac_once(
    run_in_reactor: RunInReactor, tmp_path: Path, seed: int
) -> None:
    async def test() -> None:
        chance = random.Random(seed)
        with lab_for(tmp_path) as (server, judge):
            ends = [GROUP, GROUP, WORKER, GROUP, WORKER, ""]
            kills = 0
            for number, kill in enumerate(ends):
                patch = KILLED.format(kill_at=chance.randint(1, 40), shard=number % 2, kill=kill) if kill else ""
                status, said = await deferToThread(run, tmp_path, resume=has_a_run(tmp_path), patch=patch)
                assert "Traceback" not in said, said
                if finished(tmp_path):
                    break
                assert (status, kill) != (0, ""), said
                kills += 1
                judge.look()
            assert status in (0, 1), said
            assert kills >= 2
            judge.check_end()
            await server.close()
        document = json.loads((tmp_path / "results.json").read_bytes())
        check_sums(document)
        assert document["complete"], said
        assert 1 <= len(document["resumed"]) <= kills
        assert [phase["ended_s"] is not None for phase in document["phases"]] == [True] * 3
        enroll, command, last = document["phases"]
        assert enroll["done"] + enroll["cut_short"] >= MACS
        assert command["planned"] == RATE * SECONDS
        assert last["planned"] == MACS
        assert not document["errors"]
        [rule] = document["rules"]
        assert rule["hits"] == MACS  # its counts go on: once for each Mac
        lost = sum(each["lost"] for each in document["resumed"])
        assert lost == sum(cut["count"] for cut in document["cut_short"] if cut["reason"] == LOST)

    run_in_reactor(test())
