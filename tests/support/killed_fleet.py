"""Fleets with a state file that are killed: each is forked from this process, which has imported everything once.

Reads a line of JSON for each fleet: the state file, the URL of the enrollment profile, the CA, the number of Macs, the
one that enrolls anew (or -1), the file to which the CommandUUID of each command that was carried out is appended, and
the step at which the fleet kills itself with SIGKILL; 0 for never. Prints its process id, and its status at its end.

Steps are the statements of the state file, the ends of its transactions, and what happens on the network.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import twisted.internet.default
import twisted.internet.epollreactor  # noqa: F401 - imported before the fork, installed after it

import agent.net.mac.sessions.commands
import agent.pki.pfx
import agent.service.restoring
from agent.cli.reactor import the_reactor
from agent.device.stored.types import DeviceRecord
from agent.faults.decisions import RuleRecord
from agent.mdm.facts import of_kind
from agent.net.mac.fleet.behaviour import MacSettings
from agent.net.mac.fleet.keeping import MacRecord
from agent.net.mac.sessions.sessions import Sessions
from agent.net.transport.anchors import read_anchors
from agent.net.transport.stream import TLSStream
from agent.service.fleet import FleetService
from agent.service.macs.parts import ServiceSettings
from agent.service.types import Enroll
from agent.sqlite_file import SQLiteFile
from agent.state.fleet import FleetState

POLL_SECONDS = 0.01
MOST_SECONDS = 20  # of a fleet that does not reach its step


class Steps:
    """Kills this process at a step."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at

    def __call__(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, kind: type, name: str) -> None:
        """The beginning and the end of a method are steps."""
        method: Callable[..., Any] = getattr(kind, name)

        def stepping(*arguments: Any, **named: Any) -> Any:
            self()
            answer = method(*arguments, **named)
            self()
            return answer

        setattr(kind, name, stepping)


def simulate(what: dict[str, Any]) -> None:
    """Run a fleet until it is killed."""
    steps = Steps(what["kill_at"])
    for kind, name in ((SQLiteFile, "write"), (TLSStream, "write"), (TLSStream, "doRead"), (Sessions, "answered")):
        steps.around(kind, name)
    _log_executions(what["executions"])
    reactor = the_reactor()
    state = FleetState(Path(what["file"]), reactor)
    state._file._base.set_trace_callback(steps)
    settings = ServiceSettings(
        seed="killed",
        devices=what["macs"],
        enroll=what["url"],
        lom_network="memory",
        anchors=read_anchors((what["ca"],)),
        poll=POLL_SECONDS,
        macs=MacSettings(boot="constant:0.002", shutdown="constant:0.002"),
    )
    service = FleetService(reactor, settings, state=state)
    service.open()
    signal.signal(signal.SIGALRM, lambda *_: _stuck(service, reactor))
    signal.alarm(MOST_SECONDS)

    def begin() -> None:
        for handle in service.macs():
            device = handle.client.device
            fresh = device.enrollment is None and device.enrolling is None
            if (fresh or handle.index == what["anew"]) and device.running:
                _enroll(service, handle)

    reactor.callLater(0.0, reactor.callLater, 0.0, begin)  # after the Macs of the file go on
    reactor.run(installSignalHandlers=False)


def _stuck(service: FleetService, reactor: Any) -> None:
    """Say why no step is made, and end."""
    for handle in service.macs():
        client = handle.client
        device = client.device
        print(
            handle.number, service.view(handle), device.session.state, device.session.deadline, device.power.state,
            device.enrolling and device.enrolling.sent, client.open_session is not None, client.undelivered,
            file=sys.stderr,
        )  # fmt: skip
    print(*service.events.since(0)[-20:], *reactor.getDelayedCalls(), sep="\n", file=sys.stderr, flush=True)
    os._exit(3)


def _enroll(service: FleetService, handle: Any) -> None:
    from twisted.internet.defer import ensureDeferred

    ensureDeferred(service.actions.enroll(handle, Enroll())).addErrback(lambda _: None)  # it was enrolling already


def _log_executions(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    carry_out = agent.net.mac.sessions.commands.carry_out

    def logged(device: Any, command: Any) -> Any:
        outcome = carry_out(device, command)
        os.write(log, f"{command.uuid}\n".encode())
        return outcome

    agent.net.mac.sessions.commands.carry_out = logged


def main() -> None:
    """Fork a fleet for each line."""
    for kind in (DeviceRecord, MacRecord, RuleRecord):
        msgspec.msgpack.Decoder(kind)  # the types keep what this makes
    for facts in ("command", "payload"):
        of_kind(facts)
    gc.freeze()  # what is here is neither looked through nor copied in each fleet
    for line in sys.stdin:
        what = json.loads(line)
        process = os.fork()
        if process == 0:
            try:
                simulate(what)
            finally:
                os._exit(1)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
