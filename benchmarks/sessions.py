"""Cost of a session over a kept connection for the client: with an empty queue, a command, Mdm-Signature, fault rules.

    python benchmarks/sessions.py [SESSIONS [MACS [AT_ONCE]]]

The server is nginx on the other core, over mutual TLS. A session is all of ``MDMClient``: from ``wake`` to its end,
its record in the metrics with it. The floors, in the same run: the same PUT over as many connections in C on epoll
(floor.c, by the system's OpenSSL), and bare RSA-2048 signatures, by the system's OpenSSL and by the one in use here.
Skipped, with a message, where nginx or a C compiler is missing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from floor import Floor
from macs import COMMAND, IDLE_LENGTH, Macs, identities, raw_request
from nginx import cores, server, skip_without, write_identity
from table import heading, row, verdict

from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.pki.issuing.authority import CLIENT_USAGE

ROUNDS = 7
SIGNATURES = 1000


def sign(key: rsa.RSAPrivateKey) -> float:
    """µs of CPU of one bare signature by the OpenSSL of this process."""
    began = time.process_time()
    for _ in range(SIGNATURES):
        key.sign(b"x" * 300, padding.PKCS1v15(), hashes.SHA256())
    return (time.process_time() - began) / SIGNATURES * 1e6


def main() -> None:
    """Run all measurements."""
    skip_without("nginx", "cc")
    given = [int(number) for number in sys.argv[1:4]]
    sessions, macs, at_once = given + [10_000, 500, 50][len(given) :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # nginx's worker runs as another user
        with server(folder, COMMAND, IDLE_LENGTH) as nginx:
            floor = Floor(folder)
            os.sched_setaffinity(0, {cores()[0]})
            people = identities(nginx, macs)
            key = rsa.generate_private_key(65537, 2048)
            signer = nginx.authority.issue("signer", CLIENT_USAGE, key=key)
            write_identity(folder / "client.pem", people[0])
            write_identity(folder / "signer.pem", signer)
            request = raw_request(folder, "nothing")
            kinds = {
                "session, empty queue": Macs(nginx, "nothing", people),
                f"… with a command of {len(COMMAND)} bytes parsed and answered": Macs(nginx, "command", people),
                "session, empty queue, RSA-2048 Mdm-Signature": Macs(nginx, "nothing", [signer] * macs, sign=True),
            }
            plain, command, signed = kinds
            with_rules = "session, empty queue, a fault rule that never hits"
            faults = Faults()
            faults.add(Rule(on="session", do="malformed", probability=0.0), 0.0)
            kinds[with_rules] = Macs(nginx, "nothing", people, faults=faults)
            for each in kinds.values():
                each.sessions(macs, at_once)
            in_c, sign_c, sign_here = (
                "floor: one PUT in C",
                "floor: a bare RSA-2048 signature in C",
                "… by cryptography",
            )
            found: dict[str, list[float]] = {what: [] for what in (*kinds, in_c, sign_c, sign_here)}
            for _ in range(ROUNDS):
                for what, each in kinds.items():
                    found[what].append(each.sessions(sessions, at_once))
                found[in_c].append(
                    floor("keep", nginx.port, folder / "ca.pem", folder / "client.pem", request, at_once, sessions)
                )
                found[sign_c].append(floor("sign", folder / "signer.pem", SIGNATURES))
                found[sign_here].append(sign(key))
            for each in kinds.values():
                each.close()
    print(heading(ROUNDS))
    for what, times in found.items():
        print(row(what, times))
    best = {what: min(times) for what, times in found.items()}
    print(verdict("a session", best[plain], 60))
    print(verdict("a command more", best[command] - best[plain], 180))
    for bare in (sign_c, sign_here):
        ratio = (best[signed] - best[plain]) / best[bare]
        print(verdict(f"(session with signature - session) / {bare}", ratio, 1.3, "times"))


if __name__ == "__main__":
    main()
