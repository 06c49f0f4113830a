"""An MDM server with NanoMDM's API as a process, until its standard input ends: ``APNS_URL APNS_CA_FILE FOLDER``.

It prints one line of JSON: ``api``, ``key`` and ``enroll_url``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from outside_servers import KEY, NanoMDMAPI, Outside
from twisted.internet import reactor, stdio
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure


class UntilEOF(Protocol):
    """Stops the reactor at the end of standard input."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It ended."""
        if reactor.running:
            reactor.stop()


def main(apns_url: str, apns_ca: str, folder: str) -> None:
    """Serve."""
    outside = Outside(Path(folder))
    (outside.folder / "apns").mkdir()
    (outside.folder / "apns" / "ca.pem").write_bytes(Path(apns_ca).read_bytes())
    outside.onlooker.notes.append(f"The APNs gateway listens on {apns_url}")
    api = NanoMDMAPI(outside)
    api.listen()
    stdio.StandardIO(UntilEOF())
    print(json.dumps({"api": api.url, "key": KEY, "enroll_url": outside.server.enrollment_url}), flush=True)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
