"""A process with a LOM Device on a real interface, for tests that start it in a network namespace of its own.

Usage: ``python lom_interface_device.py FOLDER INTERFACE ADDRESS…``. FOLDER holds the Device's certificate and key and
the CA of the Controllers, as PEM. It writes ``listening``, then a JSON line for each request. It ends when its standard
input does; what cannot be done it writes to its standard error and ends with 1.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet import reactor

from agent.errors import OperatorError
from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LinkAnswer, LinkRequest
from agent.measure.operations import Operations
from agent.net.lom.networks import make_network
from agent.pki.identity import Identity


class ToldDevice:
    """A Mac that reports each request and carries it out."""

    index = 1
    segment = 0

    def __init__(self, folder: Path, addresses: list[str]) -> None:
        certificate = x509.load_pem_x509_certificate((folder / "device.pem").read_bytes())
        key = load_pem_private_key((folder / "device.key").read_bytes(), None)
        anchor = x509.load_pem_x509_certificate((folder / "controller-ca.pem").read_bytes())
        self.lom_addresses = addresses
        self.lom = LOMConfiguration(device_identity=Identity(certificate, key), controller_anchors=(anchor,))

    def receive_lom_request(self, request: LinkRequest, controller: str) -> LinkAnswer:
        """Tell of it."""
        tell(json.dumps({"uuid": request.uuid, "request": request.request.value, "controller": controller}))
        return LinkAnswer(request.uuid)


def tell(line: str) -> None:
    """Write a line now."""
    print(line, flush=True)


def stop_after_input() -> None:
    """Wait for the end of standard input, then stop."""
    sys.stdin.read()
    reactor.callFromThread(reactor.stop)


def main(folder: str, interface: str, *addresses: str) -> int:
    """Be the Device."""
    try:
        network = make_network(f"interface:{interface}", reactor, Operations(reactor, lambda _: None))
        network.add(ToldDevice(Path(folder), list(addresses)), "device.lom.test")
        network.listen()
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    tell("listening")
    threading.Thread(target=stop_after_input, daemon=True).start()
    reactor.run()
    network.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
