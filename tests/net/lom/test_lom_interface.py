"""The LOM network on a real interface: two network namespaces, a wire between them, real link-local addresses."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from debian import need
from forked import Forked
from lom_parties import (
    ADDRESS,
    ADDRESS_2,
    CONTROLLER_IDENTITY,
    CONTROLLER_NAME,
    DEVICE_CA,
    NAME,
    NOWHERE,
    device,
    item,
)
from lom_peers import answers, good, pem_files
from lom_peers import request as request_octets
from lom_wire import FROM, Here, asking, device_process
from namespaces import HERE, THERE, Namespace, wire

from agent.lom.requests import RelayOutcome
from agent.measure.records import Exchange
from agent.net.lom.interface import LOM_PORT
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SOMEBODY_ELSES = "fe80::bad"
IMPATIENT = Timeouts(connect=0.5)  # where nobody answers: never where an answer is expected, however busy the machine


# Two namespaces


def test_controller_resets_a_device_in_another_process(
    ours: Namespace, others: Namespace, tmp_path: Path, run_in_reactor: Run
) -> None:
    asker = asking()

    async def run() -> list[Exchange]:
        with Here(tmp_path, asker) as here:
            assert await here.relay(asker, item()) == [RelayOutcome("0001")]
        return here.records

    with device_process(others, tmp_path, ADDRESS) as there:
        assert there.line() == "listening"
        with ours.inside():
            (record,) = run_in_reactor(run())
        assert json.loads(there.line()) == {"uuid": "0001", "request": "Reset", "controller": CONTROLLER_NAME}
    assert record.failure is None
    assert (record.facts["address"], record.facts["peer"]) == (ADDRESS, NAME)


def test_openssl_controller_reaches_a_device_on_an_interface(
    ours: Namespace, others: Namespace, tmp_path: Path
) -> None:
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
        pytest.param("nobody", f"no host answers at this address on {HERE}", "lom_unreachable", id="unreachable"),
        pytest.param("no Device", f"refused: nothing listens on TCP port {LOM_PORT}", "connect", id="refused"),
        pytest.param(
            "silent", "no answer from TCP port .* a host had this address recently", "connect_timeout", id="time-out"
        ),
    ],
)
def test_unreachable_addresses_are_explained(
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

    async def run() -> tuple[list[RelayOutcome], list[Exchange]]:
        timeouts = DEFAULT_TIMEOUTS if neighbour == "no Device" else IMPATIENT
        with Here(tmp_path, asker, timeouts=timeouts) as here:
            return await here.relay(asker, item(NOWHERE)), here.records

    try:
        with ours.inside():
            (outcome,), (record,) = run_in_reactor(run())
    finally:
        ours.ip("neigh", "flush", "dev", HERE, "nud", "permanent")
    assert record.failure is not None
    assert record.failure.kind == kind
    assert re.search(words, outcome.error)


def test_run_on_an_interface_succeeds(ours: Namespace, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    line = ["run", "--devices", "3", "--boot", "constant:0.1", "--lom-network", f"interface:{HERE}"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    with Forked(*line, "--trace", str(trace), patch=ours.entrance, environment=environment) as run:
        _said, errors = run.communicate()
    assert run.returncode == 0, errors
    links = [line for line in map(json.loads, trace.read_text().splitlines()) if line.get("operation") == "lom_link"]
    assert {link["tls"] for link in links} == {"TLSv1.3"}
    assert all(link["address"].startswith("fe80::") for link in links)
    assert ours.addresses(HERE) == set()


# What is put on the interface, and taken off


def test_addresses_exist_only_during_the_run(ours: Namespace, tmp_path: Path) -> None:
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


def test_mac_is_added_and_removed(ours: Namespace, tmp_path: Path, run_in_reactor: Run) -> None:
    asker, asked = asking(), device()

    async def run() -> list[RelayOutcome]:
        with Here(tmp_path, asker) as here:
            here.network.add(asked, NAME)
            assert ours.addresses(HERE) == {FROM, ADDRESS}
            first = await here.relay(asker, item())
            here.network.remove(asked)
            assert ours.addresses(HERE) == {FROM}
            here.network.timeouts = IMPATIENT
            return first + await here.relay(asker, item())

    with ours.inside():
        there, gone = run_in_reactor(run())
    assert there.success
    assert not gone.success
    assert len(asked.asked) == 1


def test_next_run_removes_the_addresses_of_a_killed_one(others: Namespace, tmp_path: Path) -> None:
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


def test_next_run_removes_the_addresses_of_two_killed_ones(others: Namespace, tmp_path: Path) -> None:
    for address in (ADDRESS, ADDRESS_2):
        with device_process(others, tmp_path, address) as there:
            assert there.line() == "listening"
            there.kill()
        assert others.addresses(THERE) == {address}
    with device_process(others, tmp_path, ADDRESS) as there:
        assert there.line() == "listening"
        assert others.addresses(THERE) == {ADDRESS}
    assert others.addresses(THERE) == set()


@pytest.fixture(scope="module")
def left_behind(both_ends: Sequence[Namespace], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The name and the content of the state file of a run that was killed with ADDRESS on THERE."""
    _, others = both_ends
    folder = tmp_path_factory.mktemp("killed")
    with device_process(others, folder, ADDRESS) as there:
        assert there.line() == "listening"
        there.kill()
    others.ip("addr", "flush", "dev", THERE)
    (state,) = (folder / "state" / "lom-agent").iterdir()
    return state.name, state.read_text()


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
def test_only_addresses_in_the_state_file_are_removed(
    left_behind: tuple[str, str], others: Namespace, tmp_path: Path, change: Callable[[str], str], stays: set[str]
) -> None:
    for address in (ADDRESS, SOMEBODY_ELSES):
        others.ip("addr", "add", f"{address}/64", "dev", THERE, "scope", "link", "nodad")
    name, text = left_behind
    (tmp_path / name).write_text(change(text))
    with others.inside(), Here(tmp_path, device(addresses=["fe80::2"]), interfaces=[THERE]):
        assert others.addresses(THERE) == {"fe80::2", *stays}
    assert others.addresses(THERE) == stays


def test_removed_interface_is_no_error_at_the_end(both_ends: Sequence[Namespace], tmp_path: Path) -> None:
    ours, others = both_ends
    wire(ours, "lom2", others, "far2")
    with ours.inside(), Here(tmp_path, device(), interfaces=["lom2"]):
        ours.ip("link", "delete", "lom2")
    assert list(tmp_path.iterdir()) == []
