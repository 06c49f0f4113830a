"""Cost of a new connection for the client: TCP, mutual TLS with a P-256 key, one session, close; also resumed.

    python benchmarks/connections.py [CONNECTIONS [MACS [AT_ONCE]]]

The server is nginx on the other core; it closes the connection after its answer, so that the Mac's next session needs a
new one. A Mac that had a connection lately has its identity at hand as OpenSSL wants it; one of a crowd too large for
that is measured beside it. The floor, in the same run: the same in C on epoll by the system's OpenSSL (floor.c), with
the server's chain and address verified as well. Skipped, with a message, where nginx or a C compiler is missing.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from floor import Floor
from macs import COMMAND, IDLE_LENGTH, Macs, identities, raw_request
from nginx import cores, server, skip_without, write_identity
from table import heading, row, verdict

ROUNDS = 7
CROWD = 1024  # further Macs


def main() -> None:
    """Run all measurements."""
    skip_without("nginx", "cc")
    given = [int(number) for number in sys.argv[1:4]]
    connections, macs, at_once = given + [1000, 200, 20][len(given) :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # nginx's worker runs as another user
        with server(folder, COMMAND, IDLE_LENGTH) as nginx:
            floor = Floor(folder)
            os.sched_setaffinity(0, {cores()[0]})
            crowd = identities(nginx, CROWD + connections)
            people = crowd[:macs]
            write_identity(folder / "client.pem", people[0])
            request = raw_request(folder, "once")
            new, resumed, in_a_crowd, in_c = (
                "new connection and a session",
                "… with the TLS session resumed",
                "… of a Mac in a large crowd",
                "floor: the same in C, new",
            )
            kinds = {
                new: Macs(nginx, "once", people),
                resumed: Macs(nginx, "once", people, resume=1.0),
                in_a_crowd: Macs(nginx, "once", crowd),
            }
            found: dict[str, list[float]] = {what: [] for what in (*kinds, in_c)}
            arguments = "connect", nginx.port, folder / "ca.pem", folder / "client.pem", request, at_once, connections
            for _ in range(ROUNDS):
                for what, each in kinds.items():
                    if what != in_a_crowd:
                        each.sessions(macs, at_once)  # to warm the caches up
                    found[what].append(each.sessions(connections, at_once))
                found[in_c].append(floor(*arguments))
            for each in kinds.values():
                each.close()
    print(heading(ROUNDS))
    for what, times in found.items():
        print(row(what, times))
    taken_up, full = (
        getattr(kinds[resumed].environment.contexts, f"handshakes_{kind}") for kind in ("resumed", "full")
    )
    print(f"{taken_up:,} of {taken_up + full:,} handshakes that could be were resumed")
    print(verdict("new / the same in C", min(found[new]) / min(found[in_c]), 1.4, "times"))
    print(verdict("in a crowd / the same in C", min(found[in_a_crowd]) / min(found[in_c]), 1.4, "times"))


if __name__ == "__main__":
    main()
