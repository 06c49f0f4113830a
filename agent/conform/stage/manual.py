"""The adapter ``manual``: prints what to do in the server's own console, and waits until the operator has done it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from agent import plists
from agent.errors import PeerError

_ENTER = "Press Enter when it is done."
_READ = 4096  # bytes at once


class NobodyThere(PeerError):
    """Standard input has ended: nobody can do what is asked for."""

    kind = "conform_manual"


class ManualServer:
    """A ``Server``, ``LOMServer`` and ``RenewingServer`` that an operator carries out. ``say`` prints a text."""

    pushes_on_enqueue = True

    def __init__(self, reactor: Any, say: Callable[[str], object]) -> None:
        self._reactor = reactor
        self._say = say
        self._waiting: list[Deferred[None]] = []
        self._ended = False
        reactor.addReader(self)

    # Server.

    def enqueue(self, udid: str, _command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """Ask for a command."""
        plist = plists.dump_xml(dict(command)).decode()
        return self._ask(f"Queue {command.get('RequestType')} for the Mac {udid} in the server:\n{plist}")

    def push(self, udid: str) -> Deferred[None]:
        """Ask for a push."""
        return self._ask(f"Have the server push the Mac {udid}.")

    def close(self) -> None:
        """Read nothing more."""
        self._reactor.removeReader(self)
        self._fail()

    # LOMServer.

    composes = True

    def lom_profile(self, udid: str, dns_name: str, *, device: bool, controller: bool) -> Deferred[str]:
        """Ask for the LOM profile."""
        roles = " and ".join(role for role, has in (("Device", device), ("Controller", controller)) if has)
        return self._ask(f"Install the LOM profile on the Mac {udid}, as {roles}, named {dns_name}.").addCallback(
            _no_uuid
        )

    def lom_setup(self, udid: str) -> Deferred[str]:
        """Ask for LOMSetupRequest."""
        return self._ask(f"Set the Mac {udid} up for LOM (LOMSetupRequest).").addCallback(_no_uuid)

    def lom_request(self, controller: str, action: str, devices: Collection[str]) -> Deferred[str]:
        """Ask for LOMDeviceRequest."""
        text = f"Send {action} to {', '.join(devices)} through the LOM Controller {controller}, in one request."
        return self._ask(text).addCallback(_no_uuid)

    # RenewingServer.

    def renew(self, udid: str) -> Deferred[str]:
        """Ask for a renewal."""
        text = f"Have the server renew the MDM identity of the Mac {udid}: InstallProfile with its enrollment profile."
        return self._ask(text).addCallback(_no_uuid)

    # What the reactor calls.

    def fileno(self) -> int:
        """Standard input."""
        return 0

    def doRead(self) -> None:
        """A line, or the end."""
        if not os.read(0, _READ):
            self._ended = True
            self._reactor.removeReader(self)
            self._fail()
        elif self._waiting:
            self._waiting.pop(0).callback(None)

    def connectionLost(self, _reason: object) -> None:
        """The other end of the pipe is closed."""
        self._ended = True
        self._fail()

    def logPrefix(self) -> str:
        """In the reactor's log lines."""
        return "standard input"

    def _ask(self, text: str) -> Deferred[None]:
        asked: Deferred[None] = Deferred(self._forget)
        self._waiting.append(asked)
        self._say(f"{text}\n{_ENTER}")
        if self._ended:
            self._fail()
        return asked

    def _forget(self, asked: Deferred[None]) -> None:
        if asked in self._waiting:
            self._waiting.remove(asked)

    def _fail(self) -> None:
        waiting, self._waiting = self._waiting, []
        for asked in waiting:
            asked.errback(NobodyThere("Expected a line on standard input, found its end."))


def _no_uuid(_done: None) -> str:
    """The server chooses the CommandUUID."""
    return ""
