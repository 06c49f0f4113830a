"""App Transport Security against openssl's server, and what Macs of each release do about it."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from debian import need
from msgspec.structs import replace
from rsa_keys import rsa_key
from stack import stack
from twisted.internet import reactor

from agent.errors import PeerError
from agent.fleet.population import Population
from agent.lab.mdm.core import Lab
from agent.lab.web.server import LabServer
from agent.net.http.connection import HTTPConnection
from agent.net.http.fetch import Connections, ask
from agent.net.http.http1 import Origin
from agent.net.mac.fleet.macs import Fleet
from agent.net.transport.floor import BelowFloor, FloorCheck
from agent.net.transport.tls import TLSContexts
from agent.pki.issuing.authority import SERVER_USAGE, Authority
from agent.pki.verify import PeerCheck, server_judge

Run = Callable[[Any], Any]
CA = Authority.create("Floor CA")
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa_key()
SHORT_KEY = rsa_key(1024)
NO_EMS = "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nOptions = -ExtendedMasterSecret\n"

MATRIX: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "TLS 1.3": (EC_KEY, (), ""),
    "ECDSA, AES-GCM": (EC_KEY, ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), ""),
    "RSA, AES-GCM": (RSA_KEY, ("-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"), ""),
    "AES-CBC": (RSA_KEY, ("-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"), "cipher suite"),
    "no forward secrecy": (RSA_KEY, ("-tls1_2", "-cipher", "AES128-GCM-SHA256"), "cipher suite"),
    "DHE": (RSA_KEY, ("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"), "cipher suite"),
    "RSA of 1024 bits": (SHORT_KEY, ("-tls1_3", "-cipher", "DEFAULT:@SECLEVEL=0"), "key"),
    "no extended master secret": (EC_KEY, ("-tls1_2",), "extended master secret"),
}


@pytest.mark.parametrize("name", MATRIX)
def test_a_server_of_openssl_is_judged(name: str, tmp_path: Path) -> None:
    key, options, rule = MATRIX[name]
    with served(key, options, tmp_path, extended="extended" not in name) as port:
        warnings: list[str] = []
        assert checked(port, warnings.append, refuse=False) == "localhost"
        assert [rule in each and "localhost" in each for each in warnings] == ([True] if rule else [])
        if rule:
            with pytest.raises(BelowFloor, match=rule):
                checked(port, warnings.append, refuse=True)
        else:
            assert checked(port, warnings.append, refuse=True) == "localhost"


@contextmanager
def served(key: Any, options: tuple[str, ...], folder: Path, *, extended: bool) -> Iterator[int]:
    """openssl's server with this key; yields its port."""
    identity = CA.issue("localhost", SERVER_USAGE, names=["localhost"], key=key)
    (folder / "own.pem").write_bytes(
        identity.certificate.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "openssl.cnf").write_text("" if extended else NO_EMS)
    command = [need("openssl", "openssl"), "s_server", "-accept", "127.0.0.1:0", "-cert", "own.pem", "-naccept", "2"]
    with subprocess.Popen(
        [*command, *options], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"OPENSSL_CONF": str(folder / "openssl.cnf")}, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            for line in server.stdout:
                found = re.match(r"ACCEPT 127\.0\.0\.1:(\d+)$", line)
                if found:
                    break
            assert found, "openssl does not listen"
            yield int(found[1])
        finally:
            server.kill()


def checked(port: int, warn: Callable[[str], None], *, refuse: bool) -> str:
    """The server's name after a handshake as a Mac does it."""
    check = FloorCheck(PeerCheck(server_judge("localhost")), warn, refuse=refuse)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.setblocking(True)
        tls = TLSContexts(short_keys=True).client(sock, [CA.certificate], None, check, "localhost")
        tls.do_handshake()
        name = check.name
        tls.shutdown()
        return name


@pytest.mark.parametrize(
    ("os", "floor", "refused", "warned"),
    [
        ("27", "apple-2026", True, 0),
        ("27", "warn", False, 1),
        ("27", "off", False, 0),
        ("26.4", "apple-2026", False, 0),
    ],
)
def test_a_mac_with_macos_27_judges_every_server_but_that_of_scep(
    run_in_reactor: Run, os: str, floor: Any, refused: bool, warned: int
) -> None:
    async def work() -> None:
        async with stack(1, enrolled=False) as running:
            weak = LabServer(reactor, Lab(defects=frozenset({"tls-weak-key"})), running.server.authorities)
            weak.listen()
            environment = replace(running.environment, tls_floor=floor)
            fleet = Fleet(Population("floor", 1, os=os), environment)
            mac = fleet[0]

            def by_scep(origin: Origin) -> HTTPConnection:
                return environment.connection(mac.device.mac, origin, floor=False)

            try:
                connections = Connections(by_scep)
                response = await ask(connections, "GET", weak.enrollment_url, {})
                connections.close()
                assert (response.status, running.warnings) == (200, [])
                error: PeerError | None = None
                for _ in range(2):
                    try:
                        await mac.enroll_at(weak.enrollment_url)
                    except PeerError as raised:
                        error = raised
                assert isinstance(error, BelowFloor) if refused else error is None
                assert len([each for each in running.warnings if "2040 bits" in each]) == warned
            finally:
                fleet.close()
                await weak.close()

    run_in_reactor(work())
