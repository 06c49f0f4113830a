"""The lab's HTTP API: list the Macs, queue a command, read its result, push. Documented in docs/lab-api.md.

Every request has ``Authorization: Bearer TOKEN``. Commands and results are XML plists, everything else is JSON.
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
from agent.lab.enrollment.renewal import INSTALL
from agent.lab.lom.actions import LabLOM
from agent.lab.mdm.core import Lab, NotQueued, Refused
from agent.lab.mdm.push import LabPush
from agent.lab.mdm.unsupported import fault_of
from agent.lab.stored.state import EnrolledMac
from agent.net.apns.provider import PushFailed
from agent.net.http.server import MAX_BODY_BYTES
from agent.net.timing import Alarm, Reactor
from agent.pki.names import ascii_upper

MAX_UUID_LENGTH = 100  # characters of a CommandUUID chosen by a client; our limit
MAX_NAME_LENGTH = 253  # characters of a DNS name (RFC 1035, 2.3.4)
PUSH_SECONDS = 5.0  # how long an answer waits for APNs; our choice

Rendered = bytes | int

_WANTED = "expected one header Authorization: Bearer TOKEN, with the token that the lab printed"


class APIError(Exception):
    """A request fails with this HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def is_authorised(request: Any, token: str) -> bool:
    """Whether a request has exactly one Authorization header, with the API's token."""
    values = request.requestHeaders.getRawHeaders(b"authorization", [])
    if len(values) != 1:
        return False
    kind, _, found = values[0].partition(b" ")
    return bool(kind.lower() == b"bearer" and hmac.compare_digest(found.strip(), token.encode()))


class API(Resource):
    """The resource ``/api/`` with all paths below it.

    ``pusher`` returns the lab's current way to push, or None; ``renewal`` an enrollment profile with a new identity.
    """

    isLeaf = True

    def __init__(
        self,
        reactor: Reactor,
        lab: Lab,
        lom: LabLOM,
        token: str,
        pusher: Callable[[], LabPush | None],
        renewal: Callable[[], bytes],
    ) -> None:
        super().__init__()
        self._lom = lom
        self._reactor = reactor
        self._lab = lab
        self._token = token
        self._pusher = pusher
        self._renewal = renewal

    def render(self, request: Any) -> Rendered:
        """Answer one request."""
        try:
            if not is_authorised(request, self._token):
                raise APIError(401, _WANTED)
            if request.too_long:
                raise APIError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
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
            case "POST", ["v1", "macs", udid, "declarations"]:
                return self._declare(request, self._mac(udid))
            case "POST", ["v1", "macs", udid, "lom", action]:
                return self._lom_action(request, self._mac(udid), action)
            case "POST", ["v1", "macs", udid, "renew"]:
                return self._renew(request, self._mac(udid))
            case "POST", ["v1", "macs", udid, "push"]:
                return self._push(request, self._mac(udid))
        raise APIError(404, f"there is no {method} /api/{'/'.join(path)[:200]}; docs/lab-api.md lists the requests")

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
            raise APIError(400, "expected the plist of a command with a RequestType, found another dictionary")
        chosen = _command_uuid(command.get("CommandUUID")) if "Command" in command else None
        unsupported = fault_of(inner, mac, self._lab.defects)
        if unsupported and _option(request, b"unchecked") != b"1":
            raise APIError(409, f"{unsupported}; with ?unchecked=1 it is queued nevertheless")
        try:
            command_uuid = self._lab.enqueue(mac.udid, inner, command_uuid=chosen)
        except NotQueued as error:
            raise APIError(409, str(error)) from error
        except Refused as error:
            raise APIError(error.status, str(error)) from error
        return self._queued(request, mac, command_uuid)

    def _declare(self, request: Any, mac: EnrolledMac) -> Rendered:
        """Queue DeclarativeManagement."""
        try:
            return self._queued(request, mac, self._lab.declare(mac.udid))
        except NotQueued as error:
            raise APIError(409, str(error)) from error
        except Refused as error:
            raise APIError(error.status, str(error)) from error

    def _lom_action(self, request: Any, mac: EnrolledMac, action: str) -> Rendered:
        """Queue the LOM profile, LOMSetupRequest or LOMDeviceRequest."""
        asked = _json_object(request.content.read())
        try:
            match action:
                case "profile":
                    roles = {role: asked.get(role, True) is True for role in ("device", "controller")}
                    uuid = self._lom.install(mac, _string(asked, "dns_name"), **roles)
                case "setup":
                    uuid = self._lom.set_up(mac)
                case "request":
                    devices = asked.get("devices")
                    if not isinstance(devices, list):
                        raise APIError(400, "devices: expected an array of UDIDs")
                    macs = [self._mac(str(udid)) for udid in devices]
                    uuid = self._lom.request(mac, _string(asked, "action"), macs)
                case _:
                    raise APIError(404, f"there is no LOM action {action[:80]!r}; docs/lab-api.md lists them")
        except NotQueued as error:
            raise APIError(409, str(error)) from error
        except Refused as error:
            raise APIError(error.status, str(error)) from error
        return self._queued(request, mac, uuid)

    def _renew(self, request: Any, mac: EnrolledMac) -> Rendered:
        """Queue the enrollment profile with a new identity."""
        try:
            uuid = self._lab.enqueue(mac.udid, {"RequestType": INSTALL, "Payload": self._renewal()})
        except NotQueued as error:
            raise APIError(409, str(error)) from error
        except Refused as error:
            raise APIError(error.status, str(error)) from error
        return self._queued(request, mac, uuid)

    def _queued(self, request: Any, mac: EnrolledMac, command_uuid: str) -> Rendered:
        """Push, unless the URL says otherwise, and answer with the CommandUUID."""
        pusher = self._pusher() if _option(request, b"push") != b"0" else None
        if pusher is None:
            return _json(request, 201, {"command_uuid": command_uuid, "push": None})
        answer = _PushAnswer(self._reactor, request, lambda push: (201, {"command_uuid": command_uuid, "push": push}))
        answer.start(pusher, mac.udid)
        return NOT_DONE_YET

    def _push(self, request: Any, mac: EnrolledMac) -> Rendered:
        pusher = self._pusher()
        if pusher is None:
            raise APIError(409, "this lab has no way to push: it was started without --apns")
        _PushAnswer(self._reactor, request, _pushed).start(pusher, mac.udid)
        return NOT_DONE_YET

    def _result(self, request: Any, mac: EnrolledMac, command_uuid: str) -> bytes:
        result = mac.results.get(command_uuid)
        if result is not None:
            request.setHeader(b"content-type", b"application/xml; charset=utf-8")
            return result.body
        if command_uuid in mac.queue:
            return _json(request, 202, {"command_uuid": command_uuid, "state": "queued"})
        raise APIError(404, f"the command {command_uuid[:80]} is not queued, and the lab has no result of it")


class _PushAnswer:
    """Answers a request with the outcome of a push, after PUSH_SECONDS at the latest.

    ``answer`` returns status and document for the outcome of the push.
    """

    def __init__(
        self, reactor: Reactor, request: Any, answer: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
    ) -> None:
        self._reactor = reactor
        self._request: Any = request
        self._answer = answer
        self._alarm = Alarm(reactor, self._timed_out)

    def start(self, pusher: LabPush, udid: str) -> None:
        """Push, and answer once the outcome is known."""
        self._request.notifyFinish().addBoth(self._finished)
        self._alarm.set(PUSH_SECONDS)
        pusher.push(udid).addCallbacks(self._accepted, self._refused)

    def _accepted(self, apns_id: str) -> None:
        self._respond({"apns_id": apns_id})

    def _refused(self, failure: Failure) -> Failure | None:
        error = failure.value
        if not isinstance(error, PushFailed):
            return failure
        self._respond({"error": str(error), "status": error.status, "reason": error.reason})
        return None

    def _timed_out(self) -> None:
        text = f"APNs has not answered within {PUSH_SECONDS:g} s; the lab keeps trying"
        self._respond({"error": text, "status": 0, "reason": "", "pending": True})

    def _respond(self, push: dict[str, Any]) -> None:
        request = self._request
        if request is not None:
            status, document = self._answer(push)
            request.write(_json(request, status, document))
            request.finish()

    def _finished(self, _ignored: object) -> None:
        """The answer was sent, or the client closed the connection."""
        self._request = None
        self._alarm.cancel()


def _option(request: Any, name: bytes) -> bytes | None:
    """The option in the query of the URL; None unless it is there once."""
    # Parsed from the URL only: Twisted's ``args`` would also parse curl's default body as a form.
    values = parse_qs(request.uri.partition(b"?")[2]).get(name, [])
    return values[0] if len(values) == 1 else None


def _json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; an empty body is an empty one. Raises APIError."""
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise APIError(400, f"expected a JSON object, found other bytes: {error}") from error
    if not isinstance(value, dict):
        raise APIError(400, "expected a JSON object, found another value")
    return value


def _string(asked: dict[str, Any], key: str) -> str:
    value = asked.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        raise APIError(400, f"{key}: expected a string of 1 to {MAX_NAME_LENGTH} printable characters")
    return value


def _pushed(push: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and document of a push request; a pending push has not failed."""
    return 202 if "pending" in push else 502 if "error" in push else 200, {"push": push}


def _command_uuid(value: object) -> str | None:
    """The client's CommandUUID, or None if the lab is to choose one. Raises APIError."""
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_UUID_LENGTH or not value.isprintable():
        found = repr(value[:80]) if isinstance(value, str) else plists.type_name(value)
        raise APIError(
            400, f"CommandUUID: expected a string of 1 to {MAX_UUID_LENGTH} printable characters, found {found}"
        )
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
