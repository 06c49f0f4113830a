"""The fleet as a service: its start, a later fleet and its stop, ratios to a bare interpreter; and CPU per request.

    python benchmarks/service.py [ROUNDS [MACS]]

The floor of the ratios is an interpreter that imports Twisted's reactor, in the same round, and that of ``lom-agent
--help`` is one that does nothing; all have compiled modules, as an installed program has. "start" is from the start
of the process until a fleet of 3 is ready; "client and start" is from the start of a new interpreter, which imports
the client, until its fleet of 3 is ready, and its CPU is that of both processes; "later fleet" is a reset and 3 new
Macs; "stop" ends the process. CPU is that of the service, wall time that of its client.

Then the CPU time of the service: an enrollment by the API, in which the lab and the gateway of the same process have
their part; adding 1,000 Macs; a list of MACS; the removal of half as many again; a session without a rule and with one
that never matches; an event with and without clients that follow the events. Their floor is the cheapest request.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from table import heading, row, verdict

from agent.client import Device, Fleet, Rule

AIM_START, AIM_LATER, AIM_STOP, AIM_HELP = 2.0, 0.2, 0.2, 3.0
ADDED = 1000
ENROLLED = 20
SESSIONS = 100
EVENTS = 200
PAGE = 1000  # Macs in one answer of a list
Seconds = tuple[float, float]  # of CPU, and of wall time


def process(*arguments: str) -> Seconds:
    """Run an interpreter to its end."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, arguments
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def used(pid: int) -> float:
    """The CPU seconds of a running process, all threads."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def stopped(fleet: Fleet) -> Seconds:
    """Stop the service; the CPU time from now to its end."""
    pid, before, began = fleet.info.pid, used(fleet.info.pid), time.perf_counter()
    children = os.times()
    fleet.close()
    ended = os.times()
    assert not Path(f"/proc/{pid}").exists()
    whole = ended.children_user + ended.children_system - children.children_user - children.children_system
    return max(0.0, whole - before), time.perf_counter() - began


def client_and_start() -> Seconds:
    """A new interpreter whose first fleet is ready, and both its processes."""
    code = "from agent.client import Fleet; fleet = Fleet.start(devices=3); print(fleet.info.pid, flush=True); input()"
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        wall = time.perf_counter() - began
        cpu = used(child.pid) + used(int(line))
    return cpu, wall


def timed(pid: int, what: Callable[[], object]) -> Seconds:
    """CPU of the service and wall time of ``what``."""
    before, began = used(pid), time.perf_counter()
    what()
    return used(pid) - before, time.perf_counter() - began


def another(fleet: Fleet) -> None:
    """A later fleet of 3."""
    fleet.reset()
    assert len(fleet.add(3)) == 3


def ratios(rounds: int) -> None:
    """The start, a later fleet, the stop and ``--help``."""
    bare = ("-c", "import twisted.internet.reactor")
    kinds: dict[str, list[Seconds]] = {
        name: [] for name in ("reactor", "client and start", "start", "later fleet", "stop", "nothing", "help")
    }
    for turn in range(rounds + 1):
        found = {"reactor": process(*bare), "client and start": client_and_start()}
        began = time.perf_counter()
        fleet = Fleet.start(devices=3)
        wall = time.perf_counter() - began
        pid = fleet.info.pid
        found["start"] = used(pid), wall
        found["later fleet"] = timed(pid, lambda fleet=fleet: another(fleet))  # type: ignore[misc]
        found["stop"] = stopped(fleet)
        found["nothing"] = process("-c", "pass")
        found["help"] = process("-m", "agent", "--help")
        if turn:  # the first one compiles the modules
            for name, seconds in found.items():
                kinds[name].append(seconds)
    for place, what in enumerate(("CPU", "wall time")):
        print(f"{f'ms of {what}, {rounds} interleaved rounds':<58}{'lowest':>9}{'median':>9}")
        measured = {name: [1e3 * seconds[place] for seconds in values] for name, values in kinds.items()}
        for name, values in measured.items():
            print(row(name, values))
        floor, least = min(measured["reactor"]), min(measured["nothing"])
        aims = (("start", AIM_START), ("later fleet", AIM_LATER), ("stop", AIM_STOP))
        for name, aim in aims:
            print(verdict(f"{name}, {what}", min(measured[name]) / floor, aim, "times the reactor's import"))
        print(verdict(f"lom-agent --help, {what}", min(measured["help"]) / least, AIM_HELP, "times nothing"))


def sessions(fleet: Fleet, macs: list[Device]) -> None:
    """SESSIONS sessions of enrolled Macs, one after another."""
    for number in range(SESSIONS):
        after = fleet.info.last_event
        mac = macs[number % len(macs)]
        mac.connect()
        fleet.wait(kind="session_ended", udid=mac.udid, after=after)


def toggle(mac: Device) -> None:
    """EVENTS events."""
    for _ in range(EVENTS // 2):
        mac.go_offline()
        mac.come_online()


def removed(ready: dict[str, str]) -> None:
    """Remove all Macs."""
    headers = {"Authorization": f"Bearer {ready['token']}"}
    httpx.delete(f"{ready['control']}/v1/macs", headers=headers, timeout=60, trust_env=False).raise_for_status()


@contextmanager
def followers(url: str, token: str, count: int) -> Iterator[None]:
    """Clients that follow the events, and read them."""
    target = urlsplit(url)
    clients = []
    for _ in range(count):
        client = socket.create_connection((target.hostname or "", target.port or 0))
        head = f"GET /v1/events HTTP/1.1\r\nHost: {target.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        thread = threading.Thread(target=_drain, args=(client,), daemon=True)
        thread.start()
        clients.append((client, thread))
    try:
        yield
    finally:
        for client, thread in clients:
            client.shutdown(socket.SHUT_RDWR)
            thread.join()
            client.close()


def _drain(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def requests(rounds: int, macs: int) -> None:
    """CPU of the service for each kind of request."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ready_file = Path(folder) / "ready.json"
        command = ["-m", "agent", "serve", "--lab", "--ready-file", str(ready_file), "--until-eof"]
        child = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            while not ready_file.exists():
                assert child.poll() is None, "the service ended"
                time.sleep(0.05)
            ready = json.loads(ready_file.read_text())
            with Fleet.connect(ready["control"], ready["token"]) as fleet:
                for _ in range(rounds):
                    one_round(fleet, child.pid, ready, macs, found)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()
    print(heading(rounds))
    for name, values in found.items():
        print(row(name, values))


def one_round(fleet: Fleet, pid: int, ready: dict[str, str], macs: int, found: dict[str, list[float]]) -> None:
    """Each kind once."""

    def measure(name: str, operations: int, what: Callable[[], object]) -> None:
        found.setdefault(name, []).append(timed(pid, what)[0] / operations * 1e6)

    fleet.reset()
    measure("a request for the clock (floor)", EVENTS, lambda: [fleet.clock for _ in range(EVENTS)])
    enrolled = fleet.add(ENROLLED)
    measure("an enrollment by API, with the lab", ENROLLED, lambda: [mac.enroll() for mac in enrolled])
    measure("a session (3 requests)", SESSIONS, lambda: sessions(fleet, enrolled))
    fleet.rule(Rule(on="session", do="drop", at="before_request", macs=(str(10**6),)))
    measure("a session (3 requests), with a rule that never matches", SESSIONS, lambda: sessions(fleet, enrolled))
    fleet.clear_rules()
    for count in (0, 1, 20):
        with followers(ready["control"], ready["token"], count):
            measure(f"an event (1 request), {count} clients", EVENTS, lambda: toggle(enrolled[0]))
    measure(f"a Mac, {ADDED:,} added in one request", ADDED, lambda: fleet.add(ADDED))
    for _ in range(max(0, macs - len(fleet) + PAGE - 1) // PAGE):
        fleet.add(PAGE)
    there = len(fleet)
    measure(f"a Mac, {there:,} listed", there, lambda: fleet.macs)
    for _ in range(macs // 2 // PAGE):
        fleet.add(PAGE)
    there = len(fleet)
    measure(f"a Mac, {there:,} removed in one request", there, lambda: removed(ready))


def main() -> None:
    """Measure the ratios, then the requests."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    macs = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        ratios(rounds)
        requests(max(1, rounds // 2), macs)


if __name__ == "__main__":
    main()
