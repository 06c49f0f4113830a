"""The lab's HTTP API: look at the Macs, queue a command, read its result. Described in docs/lab-api.md.

Every request carries ``Authorization: Bearer TOKEN``. Commands come and results go as XML plists, the rest is JSON.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from twisted.web.resource import Resource

from agent import plists
from agent.lab.core import MAX_BODY_BYTES, EnrolledMac, Lab

_MAX_COMMAND_BYTES = MAX_BODY_BYTES


class APIError(Exception):
    """What cannot be done, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class API(Resource):
    """Everything under ``/api/``; the rest of the path is read here."""

    isLeaf = True

    def __init__(self, lab: Lab, token: str) -> None:
        super().__init__()
        self._lab = lab
        self._token = token

    def render(self, request: Any) -> bytes:
        """Answer one request."""
        try:
            self._authorise(request)
            if request.too_long:
                raise APIError(413, f"at most {_MAX_COMMAND_BYTES} bytes are taken")
            path = [part.decode("utf-8", "replace") for part in request.postpath if part]
            return self._route(request, request.method.decode("ascii", "replace"), path)
        except APIError as error:
            if error.status == 401:
                request.setHeader(b"www-authenticate", b"Bearer")
            return _json(request, error.status, {"error": str(error)})

    def _authorise(self, request: Any) -> None:
        kind, _, token = (request.getHeader(b"authorization") or b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token.encode()):
            raise APIError(401, "expected the header Authorization: Bearer TOKEN, with the token that the lab printed")

    def _route(self, request: Any, method: str, path: list[str]) -> bytes:
        match method, path:
            case "GET", ["v1", "macs"]:
                return _json(request, 200, [_summary(mac) for mac in self._lab.macs.values()])
            case "GET", ["v1", "macs", udid]:
                return _json(request, 200, _details(self._mac(udid)))
            case "POST", ["v1", "macs", udid, "commands"]:
                return self._enqueue(request, self._mac(udid))
            case "GET", ["v1", "macs", udid, "commands", command_uuid]:
                return self._result(request, self._mac(udid), command_uuid)
        raise APIError(404, f"there is no {method} /api/{'/'.join(path)[:200]}; docs/lab-api.md lists what there is")

    def _mac(self, udid: str) -> EnrolledMac:
        mac = self._lab.macs.get(udid.upper())
        if mac is None:
            raise APIError(404, f"no Mac {udid[:80]} is enrolled here")
        return mac

    def _enqueue(self, request: Any, mac: EnrolledMac) -> bytes:
        try:
            command = plists.load_dict(request.content.read(), what="command", max_bytes=_MAX_COMMAND_BYTES)
        except plists.PlistError as error:
            raise APIError(400, str(error)) from error
        inner = command.get("Command", command)
        if not isinstance(inner, dict) or not ("RequestType" in inner or "RequestList" in inner):
            raise APIError(400, "the body should be the plist of a command: a dictionary with a RequestType")
        command_uuid = self._lab.enqueue(mac.udid, inner)
        return _json(request, 201, {"command_uuid": command_uuid})

    def _result(self, request: Any, mac: EnrolledMac, command_uuid: str) -> bytes:
        result = mac.results.get(command_uuid)
        if result is not None:
            request.setHeader(b"content-type", b"application/xml; charset=utf-8")
            return plists.dump_xml(result)
        if any(command.uuid == command_uuid for command in mac.queue):
            return _json(request, 202, {"command_uuid": command_uuid, "state": "queued"})
        raise APIError(404, f"the lab has neither queued nor kept a command {command_uuid[:80]}")


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
                {"command_uuid": command.uuid, "request_type": command.request_type, "state": "queued"}
                for command in mac.queue
            ),
            *(
                {"command_uuid": command_uuid, "state": "answered", "status": result.get("Status")}
                for command_uuid, result in mac.results.items()
            ),
        ],
    }


def _json(request: Any, status: int, document: Any) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return json.dumps(document, indent=1).encode() + b"\n"
