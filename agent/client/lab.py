"""The lab of a service as the server under test: queues commands through its API."""

from __future__ import annotations

import plistlib
import ssl
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from agent.client.connection import Connection, path
from agent.client.errors import ClientError
from agent.client.http import HTTPClient, NoAnswer, Response, path_segment
from agent.service.types import LabInfo, MacDetail

_ANSWER_SECONDS = 30.0


class Lab:
    """The embedded MDM server beside the fleet. It pushes to a Mac whenever a command is queued for it."""

    def __init__(self, info: LabInfo, connection: Connection) -> None:
        self.info = info
        self._connection = connection
        self._setups: dict[str, str] = {}  # UDID to the CommandUUID of its last LOMSetupRequest
        trust = ssl.create_default_context(cadata=info.ca)
        self._http = HTTPClient(info.url, {"Authorization": f"Bearer {info.token}"}, trust)

    def __repr__(self) -> str:
        return f"<Lab {self.info.url}>"

    @property
    def enroll_url(self) -> str:
        """The URL of its enrollment profile."""
        return self.info.enroll_url

    @property
    def automated_url(self) -> str:
        """The URL of automated enrollment."""
        return self.info.automated_url

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def queue(self, udid: str, request_type: str, /, **keys: Any) -> str:
        """Queue a command with these keys and push to the Mac; returns the CommandUUID."""
        command_uuid = str(uuid4()).upper()
        if request_type == "LOMSetupRequest":
            self._setups[udid] = command_uuid
        command = {"Command": {"RequestType": request_type, **keys}, "CommandUUID": command_uuid}
        self._post(f"/api/v1/macs/{path_segment(udid)}/commands", plistlib.dumps(command))
        return command_uuid

    def push(self, udid: str) -> None:
        """Push to a Mac."""
        self._post(f"/api/v1/macs/{path_segment(udid)}/push", b"")

    def lom(self, controller: str, action: str, devices: Sequence[str]) -> str:
        """Queue a LOMDeviceRequest (``PowerON``, ``PowerOFF`` or ``Reset``) for a Controller; both by UDID.

        The addresses are those that each Device answered to its last LOMSetupRequest.
        """
        return self.queue(controller, "LOMDeviceRequest", RequestList=[self._item(udid, action) for udid in devices])

    def result(self, udid: str, command_uuid: str) -> dict[str, Any] | None:
        """The result that the lab has of a command, or None while it has none."""
        response = self._request("GET", f"/api/v1/macs/{path_segment(udid)}/commands/{path_segment(command_uuid)}")
        if response.status == 202:
            return None
        found: dict[str, Any] = plistlib.loads(response.content)
        return found

    def _item(self, udid: str, action: str) -> dict[str, Any]:
        setup = self.result(udid, self._setups[udid]) if udid in self._setups else None
        if setup is None:
            raise ClientError(
                f"Expected the answer of {udid} to LOMSetupRequest, found none. Call set_up_lom for the Mac first."
            )
        lists = ("PrimaryIPv6AddressList", "SecondaryIPv6AddressList", "LOMProtocolVersion")
        return {
            "DeviceRequestType": action,
            "DeviceRequestUUID": str(uuid4()).upper(),
            "DeviceDNSName": self._connection.get(path("macs", udid), MacDetail).dns_name,
            **{key: setup[key] for key in lists if key in setup},
        }

    def _post(self, path: str, body: bytes) -> None:
        self._request("POST", path, body)

    def _request(self, method: str, path: str, body: bytes | None = None) -> Response:
        headers = {} if body is None else {"Content-Type": "application/xml"}
        try:
            response = self._http.request(method, path, body, seconds=_ANSWER_SECONDS, headers=headers)
        except NoAnswer as error:
            raise ClientError(
                f"Expected an answer from the lab at {self.info.url} {error}. Check that the service still runs."
            ) from error
        if response.status >= 300:
            raise ClientError(
                f"Expected the lab to accept {method} {path}, found status {response.status}: {response.text[:500]}"
            )
        return response
