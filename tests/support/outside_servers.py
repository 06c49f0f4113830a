"""Servers that are not the run's own, for whole runs: a real lab, and an operator's API in front of it.

The API hands what it is asked to the lab, whose pushes go through the run's gateway.
"""

from __future__ import annotations

import json
import plistlib
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from load_runs import Onlooker
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from agent.lab.mdm.core import Lab
from agent.lab.mdm.push import LabPush, provider_at
from agent.lab.web.server import LabServer
from agent.net.apns.provider import PushFailed
from agent.net.transport.anchors import read_anchors
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import TOPIC

KEY = "nano-key-0123456789"
KEY_VARIABLE = "TEST_SERVER_KEY"


class Outside:
    """A lab that is not the run's own, its push provider, and the files that a scenario names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.onlooker = Onlooker()
        self.server = LabServer(reactor, Lab(), Authorities())
        self.server.listen()
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.server.authorities.anchor.public_bytes(Encoding.PEM))
        self._provider: LabPush | None = None

    @property
    def lab(self) -> Lab:
        """What it knows."""
        return self.server.lab

    def tables(self, **server: Any) -> dict[str, Any]:
        """The tables of a scenario that enrolls here."""
        return {
            "server": {"enroll": self.server.enrollment_url, "ca": [str(self.ca)], **server},
            "push": {"listen": "127.0.0.1:0", "tls": str(self.folder / "apns")},
        }

    def pusher(self) -> LabPush:
        """Its provider, which dials the run's gateway when it is first asked for."""
        if self._provider is None:
            anchors = read_anchors((str(self.folder / "apns" / "ca.pem"),))
            identity = self.server.authorities.push_identity(TOPIC)
            self._provider = LabPush(self.lab, provider_at(reactor, self.onlooker.gateway, anchors, identity))
        return self._provider

    async def close(self) -> None:
        """Hang up, and listen no longer."""
        if self._provider is not None:
            self._provider.close()
        await self.server.close()


class API(Resource):
    """An operator's API in plain HTTP. ``asked`` lists the paths; ``refuse`` may answer a request by itself."""

    isLeaf = True

    def __init__(self, outside: Outside) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.refuse: Callable[[Any], bytes | int | None] = lambda _request: None
        self.url = ""
        self._outside = outside
        self._port: Any = None

    def listen(self) -> None:
        """Listen on loopback."""
        self._port = reactor.listenTCP(0, Site(self), interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"

    async def close(self) -> None:
        """Listen no longer."""
        await self._port.stopListening()

    def render(self, request: Any) -> bytes | int:
        """Answer one request."""
        self.asked.append(request.path.decode())
        answer = self.refuse(request)
        return self.answer(request) if answer is None else answer

    def answer(self, request: Any) -> bytes | int:
        """What the API does."""
        raise NotImplementedError

    def queue(self, udid: str, command: dict[str, Any]) -> None:
        """Hand a command to the lab."""
        self._outside.lab.enqueue(udid, command["Command"], command_uuid=command["CommandUUID"])

    def push(self, request: Any, udid: str, answer: Callable[[str | PushFailed], bytes]) -> int:
        """Push, and answer with what became of it."""

        def say(outcome: Any) -> None:
            request.write(answer(outcome if isinstance(outcome, str) else outcome.value))
            request.finish()

        self._outside.pusher().push(udid).addBoth(say)
        return NOT_DONE_YET


class NanoMDMAPI(API):
    """PUT /v1/enqueue/ID and /v1/push/ID with HTTP basic authentication, as NanoMDM's operations guide has them."""

    def answer(self, request: Any) -> bytes | int:
        """Answer one request."""
        if (request.getUser(), request.getPassword()) != (b"nanomdm", KEY.encode()):
            request.setResponseCode(401)
            return b"Unauthorized"
        _, version, what, udid = request.path.decode().split("/")
        assert (request.method, version) == (b"PUT", "v1")
        text: dict[str, Any] = {}
        if what == "enqueue":
            command = plistlib.loads(request.content.read())
            self.queue(udid, command)
            text = {"command_uuid": command["CommandUUID"], "request_type": command["Command"]["RequestType"]}
            if b"nopush" in request.args:
                return json.dumps({"status": {udid: {}}, **text}).encode()

        def answer(pushed: str | PushFailed) -> bytes:
            good = isinstance(pushed, str)
            request.setResponseCode(200 if good else 500)
            result = {"push_result": pushed} if good else {"push_error": str(pushed)}
            return json.dumps({"status": {udid: result}, **text}).encode()

        return self.push(request, udid, answer)


class MicroMDMAPI(API):
    """POST /v1/commands/UDID, which also pushes, and GET /push/UDID, with HTTP basic authentication, as in MicroMDM."""

    def answer(self, request: Any) -> bytes | int:
        """Answer one request."""
        request.setHeader(b"content-type", b"application/json; charset=utf-8")
        if (request.getUser(), request.getPassword()) != (b"micromdm", KEY.encode()):
            request.setResponseCode(401)
            return json.dumps({"error": "Unauthorized Access"}).encode()
        udid = request.path.decode().rpartition("/")[2]
        if request.path.startswith(b"/push/"):
            assert request.method == b"GET"
            return self.push(request, udid, self._pushed)
        assert (request.method, request.path) == (b"POST", f"/v1/commands/{udid}".encode())
        command = plistlib.loads(request.content.read())
        self.queue(udid, command)
        self.pushes_later(udid)
        request.setResponseCode(201)
        payload = {"udid": udid, "command_uuid": command["CommandUUID"]}
        return json.dumps({"payload": payload}).encode()

    @staticmethod
    def _pushed(pushed: str | PushFailed) -> bytes:
        good = isinstance(pushed, str)
        return json.dumps(
            {"status": "success", "push_notification_id": pushed} if good else {"error": str(pushed)}
        ).encode()

    def pushes_later(self, udid: str) -> None:
        """Nobody hears how that went."""
        self._outside.pusher().push(udid).addErrback(lambda _: None)


class AnyAPI(API):
    """POST /devices/UDID/commands with a command in JSON, and POST /devices/UDID/wake, with a bearer token."""

    def answer(self, request: Any) -> bytes | int:
        """Answer one request."""
        if request.getHeader(b"authorization") != f"Bearer {KEY}".encode():
            request.setResponseCode(403)
            return f"not with {request.getHeader(b'authorization').decode()}".encode()
        _, _, udid, what = request.path.decode().split("/")
        if what == "wake":
            return self.push(request, udid, lambda pushed: json.dumps({"pushed": str(pushed)}).encode())
        self.queue(udid, plistlib.loads(b64decode(json.loads(request.content.read())["plist"])))
        return b""


@asynccontextmanager
async def outside_lab(folder: Path, api: type[API] = NanoMDMAPI) -> AsyncIterator[tuple[Outside, API]]:
    """A lab and an API in front of it, closed at the end."""
    outside = Outside(folder)
    front = api(outside)
    front.listen()
    try:
        yield outside, front
    finally:
        await front.close()
        await outside.close()


def nanomdm(url: str) -> dict[str, Any]:
    """The tables of [server] for NanoMDM."""
    return {"adapter": "nanomdm", "nanomdm": {"url": url, "api_key_env": KEY_VARIABLE}}


def micromdm(url: str) -> dict[str, Any]:
    """The tables of [server] for MicroMDM."""
    return {"adapter": "micromdm", "micromdm": {"url": url, "api_key_env": KEY_VARIABLE}}


def webhook(url: str) -> dict[str, Any]:
    """The tables of [server] for any API."""
    headers = {"Authorization": f"Bearer {{env:{KEY_VARIABLE}}}", "Content-Type": "application/json"}
    enqueue = {"url": f"{url}/devices/{{udid}}/commands", "headers": headers, "body": '{"plist": "{command_base64}"}'}
    push = {"url": f"{url}/devices/{{udid}}/wake", "headers": headers}
    return {"adapter": "webhook", "webhook": {"enqueue": enqueue, "push": push}}
