"""A process with a LOM Device on a real interface, for tests that start it in a network namespace of its own.

Usage: ``python lom_interface_device.py FOLDER INTERFACE ADDRESS…``. FOLDER holds the Device's certificate and key and
the CA of the Controllers, as PEM. It writes ``listening``, then a JSON line for each request. SIGINT ends it. What
cannot be done it writes to its standard error, and ends with 1.
"""

from __future__ import annotations

import json
import sys
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


def main() -> None:
    """Be the Device."""
    _, folder, interface, *addresses = sys.argv
    try:
        network = make_network(f"interface:{interface}", reactor, Operations(reactor, lambda _: None))
        network.add(ToldDevice(Path(folder), addresses), "device.lom.test")
        network.listen()
    except OperatorError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    reactor.callWhenRunning(tell, "listening")  # from then on SIGINT stops the reactor
    reactor.run()
    network.close()


if __name__ == "__main__":
    main()
