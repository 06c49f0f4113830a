"""LOM on a real interface, for tests: a Device in a process of its own, a network in the process of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from forked import Forked
from lom_parties import (
    ADDRESS,
    CONTROLLER_CA,
    DEVICE_IDENTITY,
    NAME,
    QUICK,
    Party,
    controller,
)
from lom_peers import pem_files
from namespaces import HERE, THERE, Namespace
from twisted.internet import reactor

from agent.lom.requests import RelayItem, RelayOutcome
from agent.measure.operations import Operations
from agent.measure.records import Exchange
from agent.net.lom.interface import InterfaceNetwork
from agent.net.transport.tls import TLSContexts

SCRIPT = Path(__file__).parent / "lom_interface_device.py"
FROM = "fe80::c0"  # where a Controller calls from
SECONDS = 120.0  # after which a process is stuck: far beyond what any takes


class DeviceProcess:
    """A run of its own, in a namespace."""

    def __init__(self, process: Forked | subprocess.Popen[bytes]) -> None:
        self.process = process

    def line(self) -> str:
        """Its next event."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(SECONDS)


@contextmanager
def device_process(
    place: Namespace, folder: Path, *addresses: str, interface: str = THERE, before: Sequence[str] = ()
) -> Iterator[DeviceProcess]:
    """A Device in a process of its own, which ends in good order.

    It is forked, unless there is a command ``before`` that starts it.
    """
    pem_files(folder, DEVICE_IDENTITY, "device")
    (folder / "controller-ca.pem").write_bytes(CONTROLLER_CA.certificate.public_bytes(Encoding.PEM))
    arguments = (str(folder), interface, *addresses)
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    process: Forked | subprocess.Popen[bytes]
    if before:
        command = place.command(*before, sys.executable, SCRIPT, *arguments)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    else:
        process = Forked(*arguments, module=SCRIPT.stem, patch=place.entrance, environment=environment)
    with process:
        try:
            yield DeviceProcess(process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def refused(place: Namespace, folder: Path, interface: str = THERE, *, before: Sequence[str] = ()) -> str:
    """The error of a run that cannot start."""
    with device_process(place, folder, ADDRESS, interface=interface, before=before) as running:
        output, text = running.process.communicate(timeout=SECONDS)
        assert (running.process.returncode, output) == (1, b""), text
    return text.decode()


class Here:
    """An InterfaceNetwork in the process of the tests, with ``parties`` on it, and every record that it leaves."""

    def __init__(self, folder: Path, *parties: Party, interfaces: Sequence[str] = (HERE,), **options: Any) -> None:
        self.records: list[Exchange] = []
        options = {"limits": QUICK, "folder": folder, **options}
        self.network = InterfaceNetwork(
            reactor, interfaces, TLSContexts(), Operations(reactor, self.records.append), **options
        )
        for party in parties:
            self.network.add(party, NAME)

    def __enter__(self) -> Here:
        self.network.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.network.close()

    async def relay(self, asker: Party, *items: RelayItem) -> list[RelayOutcome]:
        """What came of the items."""
        return await self.network.relay(asker, items)


def asking() -> Party:
    """A Controller with an address."""
    party = controller()
    party.lom_addresses = [FROM]
    return party
