"""The lab's HTTP API: look at the Macs, queue a command, read its result, push. Described in docs/lab-api.md.

Every request carries ``Authorization: Bearer TOKEN``. Commands come and results go as XML plists, the rest is JSON.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from agent import plists
from agent.lab.core import Lab, NotQueued, Refused
from agent.lab.kept import EnrolledMac
from agent.lab.push import LabPush
from agent.net.apns.provider import PushFailed
from agent.net.http.server import MAX_BODY_BYTES
from agent.net.timing import DelayedCall, Reactor
from agent.pki.names import ascii_upper

MAX_UUID_LENGTH = 100  # ours, of a CommandUUID that a client chose
PUSH_SECONDS = 5.0  # ours: how long an answer waits for APNs

Rendered = bytes | int

_WANTED = "expected one header Authorization: Bearer TOKEN, with the token that the lab printed"


class APIError(Exception):
    """What cannot be done, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def is_authorised(request: Any, token: str) -> bool:
    """Whether a request has the API's token, in one header Authorization. Only its header is looked at."""
    values = request.requestHeaders.getRawHeaders(b"authorization", [])
    if len(values) != 1:
        return False
    kind, _, found = values[0].partition(b" ")
    return bool(kind.lower() == b"bearer" and hmac.compare_digest(found.strip(), token.encode()))


class API(Resource):
    """Everything under ``/api/``; the rest of the path is read here. ``pusher`` is how the lab pushes just now."""

    isLeaf = True

    def __init__(self, reactor: Reactor, lab: Lab, token: str, pusher: Callable[[], LabPush | None]) -> None:
        super().__init__()
        self._reactor = reactor
        self._lab = lab
        self._token = token
        self._pusher = pusher

    def render(self, request: Any) -> Rendered:
        """Answer one request."""
        try:
            if not is_authorised(request, self._token):
                raise APIError(401, _WANTED)
            if request.too_long:
                raise APIError(413, f"at most {MAX_BODY_BYTES} bytes are taken")
            path = [part.decode("utf-8", "replace") for part in request.postpath if part]
            return self._route(request, request.method.decode("ascii", "replace"), path)
        except APIError as error:
            if error.status == 401:
                request.setHeader(b"www-authenticate", b"Bearer")
            return _json(request, error.status, {"error": str(error)})

    def _route(self, request: Any, method: str, path: list[str]) -> Rendered:
        match method, path:
            case "GET", ["v1", "macs"]:
                return _json(request, 200, [_summary(mac) for mac in self._lab.macs.values()])
            case "GET", ["v1", "macs", udid]:
                return _json(request, 200, _details(self._mac(udid)))
            case "POST", ["v1", "macs", udid, "commands"]:
                return self._enqueue(request, self._mac(udid))
            case "GET", ["v1", "macs", udid, "commands", command_uuid]:
                return self._result(request, self._mac(udid), command_uuid)
            case "POST", ["v1", "macs", udid, "push"]:
                return self._push(request, self._mac(udid))
        raise APIError(404, f"there is no {method} /api/{'/'.join(path)[:200]}; docs/lab-api.md lists what there is")

    def _mac(self, udid: str) -> EnrolledMac:
        mac = self._lab.macs.get(ascii_upper(udid))
        if mac is None:
            raise APIError(404, f"no Mac {udid[:80]} is enrolled here")
        return mac

    def _enqueue(self, request: Any, mac: EnrolledMac) -> Rendered:
        try:
            command = plists.load_dict(request.content.read(), what="command", max_bytes=MAX_BODY_BYTES)
        except plists.PlistError as error:
            raise APIError(400, str(error)) from error
        inner = command.get("Command", command)
        if not isinstance(inner, dict) or not ("RequestType" in inner or "RequestList" in inner):
            raise APIError(400, "the body should be the plist of a command: a dictionary with a RequestType")
        chosen = _command_uuid(command.get("CommandUUID")) if "Command" in command else None
        try:
            command_uuid = self._lab.enqueue(mac.udid, inner, command_uuid=chosen)
        except NotQueued as error:
            raise APIError(409, str(error)) from error
        except Refused as error:
            raise APIError(error.status, str(error)) from error
        # Of the URL alone: Twisted's own reading takes curl's usual body for a form.
        wanted = parse_qs(request.uri.partition(b"?")[2]).get(b"push") != [b"0"]
        pusher = self._pusher() if wanted else None
        if pusher is None:
            return _json(request, 201, {"command_uuid": command_uuid, "push": None})
        _Pushing(self._reactor, request, lambda push: (201, {"command_uuid": command_uuid, "push": push})).begin(
            pusher, mac.udid
        )
        return NOT_DONE_YET

    def _push(self, request: Any, mac: EnrolledMac) -> Rendered:
        pusher = self._pusher()
        if pusher is None:
            raise APIError(409, "this lab has no way to push: it was started without --apns")
        _Pushing(self._reactor, request, _pushed).begin(pusher, mac.udid)
        return NOT_DONE_YET

    def _result(self, request: Any, mac: EnrolledMac, command_uuid: str) -> bytes:
        result = mac.results.get(command_uuid)
        if result is not None:
            request.setHeader(b"content-type", b"application/xml; charset=utf-8")
            return result.body
        if command_uuid in mac.queue:
            return _json(request, 202, {"command_uuid": command_uuid, "state": "queued"})
        raise APIError(404, f"the lab has neither queued nor kept a command {command_uuid[:80]}")


class _Pushing:
    """A request whose answer says what APNs made of a push, but does not wait for it for ever.

    ``answer`` makes status and document from what is said of the push.
    """

    def __init__(
        self, reactor: Reactor, request: Any, answer: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
    ) -> None:
        self._reactor = reactor
        self._request: Any = request
        self._answer = answer
        self._timer: DelayedCall | None = None

    def begin(self, pusher: LabPush, udid: str) -> None:
        """Push."""
        self._request.notifyFinish().addBoth(self._over)
        self._timer = self._reactor.callLater(PUSH_SECONDS, self._late)
        pusher.push(udid).addCallbacks(self._accepted, self._refused)

    def _accepted(self, apns_id: str) -> None:
        self._say({"apns_id": apns_id})

    def _refused(self, failure: Failure) -> Failure | None:
        error = failure.value
        if not isinstance(error, PushFailed):
            return failure
        self._say({"error": str(error), "status": error.status, "reason": error.reason})
        return None

    def _late(self) -> None:
        text = f"APNs has not answered within {PUSH_SECONDS:g} s; the lab goes on trying"
        self._say({"error": text, "status": 0, "reason": "", "pending": True})

    def _say(self, push: dict[str, Any]) -> None:
        request = self._request
        if request is not None:
            status, document = self._answer(push)
            request.write(_json(request, status, document))
            request.finish()

    def _over(self, _ignored: object) -> None:
        """The answer is out, or nobody waits for it any more."""
        self._request = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def _pushed(push: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A push that may still be taken has not failed."""
    return 202 if "pending" in push else 502 if "error" in push else 200, {"push": push}


def _command_uuid(value: object) -> str | None:
    """The CommandUUID of a whole command; None where the lab is to choose one."""
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_UUID_LENGTH or not value.isprintable():
        raise APIError(400, f"the CommandUUID should be a string of 1 to {MAX_UUID_LENGTH} printable characters")
    return value


def _summary(mac: EnrolledMac) -> dict[str, Any]:
    return {
        "udid": mac.udid,
        "serial_number": mac.announcement.get("SerialNumber"),
        "device_name": mac.announcement.get("DeviceName"),
        "enrolled": mac.enrolled,
        "queued": len(mac.queue),
        "results": len(mac.results),
    }


def _details(mac: EnrolledMac) -> dict[str, Any]:
    return {
        **_summary(mac),
        "commands": [
            *(
                {"command_uuid": command_uuid, "request_type": command.request_type, "state": "queued"}
                for command_uuid, command in mac.queue.items()
            ),
            *(
                {"command_uuid": command_uuid, "state": "answered", "status": result.status}
                for command_uuid, result in mac.results.items()
            ),
        ],
    }


def _json(request: Any, status: int, document: Any) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return json.dumps(document, indent=1).encode() + b"\n"
