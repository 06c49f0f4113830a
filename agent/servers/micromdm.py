"""Client of MicroMDM's API.

Source: github.com/micromdm/micromdm, platform/command (server.go, new_command.go), platform/apns (push.go, service.go),
pkg/httputil/httputil.go, cmd/micromdm/serve.go: HTTP basic authentication as ``micromdm`` with the API key; ``POST
/v1/commands/UDID`` takes the plist of a whole command and answers 201; ``GET /push/UDID`` pushes. Both answer with a
JSON object; after an error it has ``error``, and the status is 500. MicroMDM pushes after it has queued a command, and
does not report whether that succeeded: after a failed push the result of the command does not arrive.

LOM commands are sent as JSON (mdm/mdm/unmarshal_json.go, mdm_command_test.go): ``POST /v1/commands`` with the values,
which MicroMDM encodes as a property list under a CommandUUID of its own. It keeps nothing of what Devices answer, and
has no LOM profile: its client writes these.
"""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from agent import plists
from agent.fleet.population import Mac
from agent.net.http.http1 import Response
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import lom_profile
from agent.servers.configs import MicroMDMConfig
from agent.servers.pool import Connect, Pool
from agent.servers.server import (
    AnswerUnreadable,
    CommandRefused,
    PushNotSent,
    RequestFailed,
    check_status,
    excerpt,
    read_object,
)
from agent.servers.urls import base_of


class MicroMDM:
    """The ``Server`` and ``LOMServer`` of a MicroMDM. Raises OperatorError for an invalid URL.

    ``mac_of`` returns the Mac of a UDID: what it would answer to LOMSetupRequest is in LOMDeviceRequest.
    """

    pushes_on_enqueue = True
    composes = False

    def __init__(self, config: MicroMDMConfig, connect: Connect, mac_of: Callable[[str], Mac]) -> None:
        self._mac_of = mac_of
        self._authorities: Authorities | None = None  # of the LOM profiles; made for the first one
        origin, self._path = base_of(config.url, plain=config.plain)
        self._pool = Pool(connect, origin, config.connections)
        credentials = b64encode(f"{config.user}:{config.api_key}".encode()).decode("ascii")
        self._secrets = (config.api_key, credentials)
        self._headers = {"Authorization": f"Basic {credentials}"}

    def enqueue(self, udid: str, command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """POST /v1/commands/UDID."""
        body = plists.dump_xml({"Command": command, "CommandUUID": command_uuid})
        target = f"{self._path}/v1/commands/{quote(udid, safe='')}"
        headers = {**self._headers, "Content-Type": "application/xml"}
        asked = self._pool.ask("POST", target, headers, body)
        return asked.addCallback(self._judge, "queuing a command", CommandRefused).addCallback(_nothing)

    def push(self, udid: str) -> Deferred[None]:
        """GET /push/UDID."""
        target = f"{self._path}/push/{quote(udid, safe='')}"
        return (
            self._pool.ask("GET", target, self._headers)
            .addCallback(self._judge, "a push", PushNotSent)
            .addCallback(_nothing)
        )

    def lom_profile(self, udid: str, dns_name: str, *, device: bool, controller: bool) -> Deferred[str]:
        """Queue a LOM profile of this client's CAs."""
        if self._authorities is None:
            self._authorities = Authorities()
        payload = lom_profile(self._authorities, dns_name, device=device, controller=controller)
        command_uuid = str(uuid.uuid4()).upper()
        queued = self.enqueue(udid, command_uuid, {"RequestType": "InstallProfile", "Payload": payload})
        return queued.addCallback(lambda _: command_uuid)

    def lom_setup(self, udid: str) -> Deferred[str]:
        """POST /v1/commands with LOMSetupRequest as JSON."""
        return self._compose({"udid": udid, "request_type": "LOMSetupRequest"})

    def lom_request(self, controller: str, action: str, devices: Collection[str]) -> Deferred[str]:
        """POST /v1/commands with LOMDeviceRequest as JSON."""
        items = [_item(action, self._mac_of(udid)) for udid in devices]
        return self._compose({"udid": controller, "request_type": "LOMDeviceRequest", "request_list": items})

    def close(self) -> None:
        """Close every connection; open requests fail."""
        self._pool.close()

    def _compose(self, document: Mapping[str, Any]) -> Deferred[str]:
        headers = {**self._headers, "Content-Type": "application/json"}
        asked = self._pool.ask("POST", f"{self._path}/v1/commands", headers, json.dumps(document).encode())
        return asked.addCallback(self._judge, "queuing a command", CommandRefused).addCallback(_command_uuid)

    def _judge(self, response: Response, what: str, refused: type[RequestFailed]) -> dict[str, Any]:
        if response.status != 500 or not response.body.lstrip().startswith(b"{"):
            check_status(response, what, self._secrets)
        document = read_object(response, what, self._secrets)
        error = document.get("error") or (document.get("status") == "failure" and "the push failed")
        if error:
            text = excerpt(str(error).encode(), self._secrets)
            raise refused(f"{what}: MicroMDM answered {response.status}: {text}")
        check_status(response, what, self._secrets)
        return document


def _item(action: str, mac: Mac) -> dict[str, Any]:
    return {
        "device_request_type": action,
        "device_request_uuid": str(uuid.uuid4()).upper(),
        "device_dns_name": mac.dns_name,
        "primary_ip_v6_address_list": list(mac.primary_ipv6),
        "secondary_ip_v6_address_list": list(mac.secondary_ipv6),
        "lom_protocol_version": mac.lom_protocol_version,
    }


def _command_uuid(document: Mapping[str, Any]) -> str:
    """The CommandUUID that MicroMDM chose. Raises AnswerUnreadable."""
    payload = document.get("payload")
    found = payload.get("command_uuid") if isinstance(payload, dict) else None
    if not isinstance(found, str) or not found:
        raise AnswerUnreadable("queuing a command: expected payload.command_uuid in the answer, found none")
    return found


def _nothing(_document: Mapping[str, Any]) -> None:
    """The caller chose the CommandUUID."""
