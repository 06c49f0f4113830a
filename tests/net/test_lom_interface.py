"""The LOM network on a real interface: two network namespaces, a wire between them, real link-local addresses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND
from command import SECONDS as COMMAND_SECONDS
from cryptography.hazmat.primitives.serialization import Encoding
from debian import need
from lom_parties import (
    ADDRESS,
    ADDRESS_2,
    CONTROLLER_CA,
    CONTROLLER_IDENTITY,
    CONTROLLER_NAME,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    NOWHERE,
    QUICK,
    Party,
    controller,
    device,
    item,
)
from lom_peers import answers, good, pem_files
from lom_peers import request as request_octets
from namespaces import Namespace, namespaces, wire
from twisted.internet import reactor

from agent.errors import OperatorError
from agent.lom.requests import Outcome, RelayItem
from agent.net.lom_interface import LOM_PORT, InterfaceNetwork
from agent.net.records import Exchange
from agent.net.stream import Timeouts
from agent.net.tls import TLSContexts

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SCRIPT = Path(__file__).parent.parent / "lom_interface_device.py"
HERE, THERE = "lom0", "far0"  # the two ends of the wire
FROM = "fe80::c0"
SOMEBODY_ELSES = "fe80::bad"
SECONDS = 20.0  # after which a process is stuck
SOON = Timeouts(connect=0.5)


@pytest.fixture(scope="module")
def both_ends() -> Iterator[tuple[Namespace, Namespace]]:
    with namespaces(2) as (ours, others):
        wire(ours, HERE, others, THERE)
        wire(ours, "lom1", others, "far1")
        yield ours, others


@pytest.fixture
def ours(both_ends: tuple[Namespace, Namespace]) -> Iterator[Namespace]:
    """Where the process of the tests goes, with HERE; what a test puts on it is taken off."""
    yield both_ends[0]
    both_ends[0].ip("addr", "flush", "dev", HERE)


@pytest.fixture
def others(both_ends: tuple[Namespace, Namespace]) -> Iterator[Namespace]:
    """Where the Device's process runs, with THERE; what a test puts on it is taken off."""
    yield both_ends[1]
    both_ends[1].ip("addr", "flush", "dev", THERE)


class DeviceProcess:
    """A run of its own, in a namespace."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        """What it told next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(SECONDS)


@contextmanager
def device_process(
    place: Namespace, folder: Path, *addresses: str, interface: str = THERE, before: Sequence[str] = ()
) -> Iterator[DeviceProcess]:
    """A Device in a process of its own, which ends in good order; ``before`` is a command that starts it."""
    pem_files(folder, DEVICE_IDENTITY, "device")
    (folder / "controller-ca.pem").write_bytes(CONTROLLER_CA.certificate.public_bytes(Encoding.PEM))
    command = place.command(*before, sys.executable, SCRIPT, folder, interface, *addresses)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
    ) as process:
        try:
            yield DeviceProcess(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def refused(place: Namespace, folder: Path, interface: str = THERE, *, before: Sequence[str] = ()) -> str:
    """What a run says that cannot start."""
    with device_process(place, folder, ADDRESS, interface=interface, before=before) as running:
        output, said = running.process.communicate(timeout=SECONDS)
        assert (running.process.returncode, output) == (1, ""), said
    return said


class Here:
    """An InterfaceNetwork in the process of the tests, with ``parties`` on it, and every record that it leaves."""

    def __init__(self, folder: Path, *parties: Party, interfaces: Sequence[str] = (HERE,), **options: Any) -> None:
        self.records: list[Exchange] = []
        options = {"limits": QUICK, "timeouts": SOON, "folder": folder, **options}
        self.network = InterfaceNetwork(reactor, interfaces, TLSContexts(), self.records.append, **options)
        for party in parties:
            self.network.add(party, NAME)

    def __enter__(self) -> Here:
        self.network.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.network.close()

    async def relay(self, asker: Party, *items: RelayItem) -> list[Outcome]:
        """What came of the items."""
        return await self.network.relay(asker, items)


def asking() -> Party:
    party = controller()
    party.lom_addresses = [FROM]
    return party


# Two namespaces


def test_a_controller_resets_a_device_of_another_process(
    ours: Namespace, others: Namespace, tmp_path: Path, run_in_reactor: Run
) -> None:
    asker = asking()

    async def run() -> list[Exchange]:
        with Here(tmp_path, asker) as here:
            assert await here.relay(asker, item()) == [Outcome("0001")]
        return here.records

    with device_process(others, tmp_path, ADDRESS) as there:
        assert there.line() == "listening"
        with ours.inside():
            (record,) = run_in_reactor(run())
        assert json.loads(there.line()) == {"uuid": "0001", "request": "Reset", "controller": CONTROLLER_NAME}
    assert record.failure is None
    assert (record.facts["address"], record.facts["peer"]) == (ADDRESS, NAME)


def test_a_controller_of_openssl_reaches_a_device(ours: Namespace, others: Namespace, tmp_path: Path) -> None:
    openssl = need("openssl", "openssl")
    certificate, key = pem_files(tmp_path, CONTROLLER_IDENTITY, "controller")
    anchor = tmp_path / "device-ca.pem"
    anchor.write_bytes(DEVICE_CA.certificate.public_bytes(Encoding.PEM))
    ours.ip("addr", "add", f"{FROM}/64", "dev", HERE, "scope", "link", "nodad")
    with device_process(others, tmp_path, ADDRESS, ADDRESS_2) as there:
        assert there.line() == "listening"
        command = [openssl, "s_client", "-quiet", "-connect", f"[{ADDRESS_2}%{HERE}]:{LOM_PORT}", "-cert", certificate]
        command += ["-key", key, "-CAfile", anchor, "-verify_return_error"]
        with subprocess.Popen(ours.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as openssl_client:
            assert openssl_client.stdin is not None
            assert openssl_client.stdout is not None
            openssl_client.stdin.write(request_octets())
            openssl_client.stdin.flush()
            assert json.loads(there.line())["controller"] == CONTROLLER_NAME
            received = openssl_client.stdout.read(4)
            received += openssl_client.stdout.read(int.from_bytes(received, "big"))
            openssl_client.kill()
    assert answers(received) == [good()]


@pytest.mark.parametrize(
    ("neighbour", "words", "kind"),
    [
        pytest.param("nobody", f"nobody answers at this address on {HERE}", "lom_unreachable", id="unreachable"),
        pytest.param("no Device", f"refused: nothing listens on TCP port {LOM_PORT}", "connect", id="refused"),
        pytest.param("silent", "no answer from TCP port .* somebody had it lately", "connect_timeout", id="time-out"),
    ],
)
def test_why_nobody_was_asked(
    ours: Namespace,
    others: Namespace,
    tmp_path: Path,
    run_in_reactor: Run,
    neighbour: str,
    words: str,
    kind: str,
) -> None:
    assert others.addresses(THERE) == set()
    asker = asking()
    if neighbour == "no Device":
        others.ip("addr", "add", f"{NOWHERE}/64", "dev", THERE, "scope", "link", "nodad")
    if neighbour == "silent":
        ours.ip("neigh", "replace", NOWHERE, "lladdr", "02:00:00:00:00:99", "dev", HERE, "nud", "permanent")

    async def run() -> tuple[list[Outcome], list[Exchange]]:
        with Here(tmp_path, asker) as here:
            return await here.relay(asker, item(NOWHERE)), here.records

    try:
        with ours.inside():
            (outcome,), (record,) = run_in_reactor(run())
    finally:
        ours.ip("neigh", "flush", "dev", HERE, "nud", "permanent")
    assert record.failure is not None
    assert record.failure.kind == kind
    assert re.search(words, outcome.error)


def test_a_whole_run_on_an_interface(ours: Namespace, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    done = subprocess.run(
        ours.command(COMMAND, "run", "--devices", "3", "--lom-network", f"interface:{HERE}", "--trace", trace),
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    links = [line for line in map(json.loads, trace.read_text().splitlines()) if line.get("operation") == "lom_link"]
    assert {link["tls"] for link in links} == {"TLSv1.3"}
    assert all(link["address"].startswith("fe80::") for link in links)
    assert ours.addresses(HERE) == set()


# What is put on the interface, and taken off


def test_the_addresses_are_there_while_it_runs(ours: Namespace, tmp_path: Path) -> None:
    ours.ip("addr", "add", f"{SOMEBODY_ELSES}/64", "dev", HERE, "scope", "link", "nodad")
    folder = tmp_path / "state"
    with ours.inside():
        with Here(folder, device(addresses=[ADDRESS, ADDRESS_2])):
            assert ours.addresses(HERE) == {ADDRESS, ADDRESS_2, SOMEBODY_ELSES}
            (state,) = folder.iterdir()
            assert stat.S_IMODE(state.stat().st_mode) == 0o600
            assert {ADDRESS, ADDRESS_2} < set(state.read_text().split())
            assert SOMEBODY_ELSES not in state.read_text()
        assert ours.addresses(HERE) == {SOMEBODY_ELSES}
    assert list(folder.iterdir()) == []


def test_a_mac_comes_and_goes(ours: Namespace, tmp_path: Path, run_in_reactor: Run) -> None:
    asker, asked = asking(), device()

    async def run() -> list[Outcome]:
        with Here(tmp_path, asker) as here:
            here.network.add(asked, NAME)
            assert ours.addresses(HERE) == {FROM, ADDRESS}
            first = await here.relay(asker, item())
            here.network.remove(asked)
            assert ours.addresses(HERE) == {FROM}
            return first + await here.relay(asker, item())

    with ours.inside():
        there, gone = run_in_reactor(run())
    assert there.success
    assert not gone.success
    assert len(asked.asked) == 1


def test_what_a_run_that_was_killed_left_is_taken_off_by_the_next(others: Namespace, tmp_path: Path) -> None:
    others.ip("addr", "add", f"{SOMEBODY_ELSES}/64", "dev", THERE, "scope", "link", "nodad")
    with device_process(others, tmp_path, ADDRESS, ADDRESS_2) as there:
        assert there.line() == "listening"
        there.kill()
    assert others.addresses(THERE) == {ADDRESS, ADDRESS_2, SOMEBODY_ELSES}
    others.ip("addr", "del", f"{ADDRESS_2}/64", "dev", THERE)  # somebody has tidied up a little
    with device_process(others, tmp_path, "fe80::2") as there:
        assert there.line() == "listening"
        assert others.addresses(THERE) == {"fe80::2", SOMEBODY_ELSES}
    assert others.addresses(THERE) == {SOMEBODY_ELSES}


def test_a_run_that_was_killed_twice_leaves_nothing_either(others: Namespace, tmp_path: Path) -> None:
    for address in (ADDRESS, ADDRESS_2):
        with device_process(others, tmp_path, address) as there:
            assert there.line() == "listening"
            there.kill()
        assert others.addresses(THERE) == {address}
    with device_process(others, tmp_path, ADDRESS) as there:
        assert there.line() == "listening"
        assert others.addresses(THERE) == {ADDRESS}
    assert others.addresses(THERE) == set()


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        pytest.param(lambda text: text, {SOMEBODY_ELSES}, id="as it was left"),
        pytest.param(lambda text: text + f"+ {SOMEBODY_ELSES}", {SOMEBODY_ELSES}, id="killed in the middle of a line"),
        pytest.param(lambda text: text + f"+ {SOMEBODY_ELSES}\n", set(), id="killed after it"),
        pytest.param(lambda text: text + f"- {ADDRESS}\n", {ADDRESS, SOMEBODY_ELSES}, id="taken off before"),
        pytest.param(lambda text: text.replace("-", "+", 1), {ADDRESS, SOMEBODY_ELSES}, id="of another boot"),
        pytest.param(lambda _: "\x00\xff\n+\n\n- x", {ADDRESS, SOMEBODY_ELSES}, id="no state file at all"),
    ],
)
def test_only_what_the_state_file_lists_is_taken_off(
    others: Namespace, tmp_path: Path, change: Callable[[str], str], stays: set[str]
) -> None:
    others.ip("addr", "add", f"{SOMEBODY_ELSES}/64", "dev", THERE, "scope", "link", "nodad")
    with device_process(others, tmp_path, ADDRESS) as there:
        assert there.line() == "listening"
        there.kill()
    (state,) = (tmp_path / "state" / "lom-agent").iterdir()
    state.write_text(change(state.read_text()))
    with device_process(others, tmp_path, "fe80::2") as there:
        assert there.line() == "listening"
    assert others.addresses(THERE) == stays


def test_an_interface_that_is_gone_is_no_trouble_at_the_end(both_ends: Sequence[Namespace], tmp_path: Path) -> None:
    ours, others = both_ends
    wire(ours, "lom2", others, "far2")
    with ours.inside(), Here(tmp_path, device(), interfaces=["lom2"]):
        ours.ip("link", "delete", "lom2")
    assert list(tmp_path.iterdir()) == []


# What an operator can get wrong


def test_a_second_run_on_the_same_interface_is_refused(others: Namespace, tmp_path: Path) -> None:
    with device_process(others, tmp_path, ADDRESS) as there:
        assert there.line() == "listening"
        assert f"another run of lom-agent uses the interface {THERE}" in refused(others, tmp_path)
        assert others.addresses(THERE) == {ADDRESS}


def test_without_rights_it_is_said_which_are_missing(others: Namespace, tmp_path: Path) -> None:
    setpriv = need("setpriv", "util-linux")
    said = refused(others, tmp_path, before=[setpriv, "--bounding-set", "-net_admin"])
    assert "needs root, or the capabilities CAP_NET_ADMIN and CAP_NET_BIND_SERVICE; CAP_NET_ADMIN is missing" in said
    said = refused(others, tmp_path, before=[setpriv, "--bounding-set", "-all"])
    assert "CAP_NET_ADMIN and CAP_NET_BIND_SERVICE are missing here" in said


def test_an_interface_that_is_not_there(others: Namespace, tmp_path: Path) -> None:
    assert f"no interface 'eth9'; it has lo, {THERE}" in refused(others, tmp_path, "eth9")
    assert "no interface '../state'" in refused(others, tmp_path, "../state")


def test_an_interface_that_is_down(ours: Namespace, tmp_path: Path) -> None:
    ours.ip("link", "set", "lom1", "down")
    with ours.inside(), pytest.raises(OperatorError, match="lom1 is down; bring it up: ip link set lom1 up"):
        Here(tmp_path, device(), interfaces=["lom1"]).network.listen()
    ours.ip("link", "set", "lom1", "up")


def test_an_interface_without_ipv6(ours: Namespace, tmp_path: Path) -> None:
    with ours.inside():
        switch = Path(f"/proc/sys/net/ipv6/conf/{HERE}/disable_ipv6")
        switch.write_text("1")
        with pytest.raises(OperatorError, match=f"sysctl net.ipv6.conf.{HERE}.disable_ipv6"):
            Here(tmp_path, device()).network.listen()
        switch.write_text("0")
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_somebody_has_is_left_alone(ours: Namespace, tmp_path: Path) -> None:
    ours.ip("addr", "add", f"{ADDRESS}/64", "dev", HERE, "scope", "link", "nodad")
    with ours.inside(), pytest.raises(OperatorError, match=f"{HERE} has the address {ADDRESS} already"):
        Here(tmp_path, device(addresses=[ADDRESS_2, ADDRESS])).network.listen()
    assert ours.addresses(HERE) == {ADDRESS}


def test_a_port_that_is_taken_leaves_every_interface_as_it_was(ours: Namespace, tmp_path: Path) -> None:
    elsewhere = device(index=2, addresses=[ADDRESS_2])
    elsewhere.segment = 1
    with ours.inside(), socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lom1")
        taken.bind(("::", LOM_PORT))
        taken.listen()
        here = Here(tmp_path, device(), elsewhere, interfaces=[HERE, "lom1"])
        with pytest.raises(OperatorError, match=f"cannot listen on port {LOM_PORT} of lom1: Address already in use"):
            here.network.listen()
        assert ours.addresses(HERE) == ours.addresses("lom1") == set()
        with Here(tmp_path, device(), elsewhere, interfaces=[HERE, "lom1"], port=LOM_PORT + 1):
            assert (ours.addresses(HERE), ours.addresses("lom1")) == ({ADDRESS}, {ADDRESS_2})


def test_a_state_file_that_cannot_be_written(ours: Namespace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with ours.inside(), pytest.raises(OperatorError, match=r"state file .* cannot be used"):
        Here(tmp_path / "file", device()).network.listen()
    assert ours.addresses(HERE) == set()


# Without any interface


def test_a_segment_too_many_for_the_interfaces(tmp_path: Path) -> None:
    party = device()
    party.segment = 2
    with pytest.raises(OperatorError, match="segment 2 has no interface: eth0,eth1 are 2; name one for each segment"):
        Here(tmp_path, party, interfaces=["eth0", "eth1"])


def test_two_macs_with_one_address_on_one_interface(tmp_path: Path) -> None:
    twin = device(index=2)
    twin.segment = 1
    with pytest.raises(OperatorError, match=f"two Macs have the address {ADDRESS} on eth0: 1 and 2"):
        Here(tmp_path, device(), twin, interfaces=["eth0"])
    Here(tmp_path, device(), twin, interfaces=["eth0", "eth1"])


def test_another_system_than_linux(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="needs Linux; this is darwin, where loopback and memory work"):
        Here(tmp_path, platform="darwin")
