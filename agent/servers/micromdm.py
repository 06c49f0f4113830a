"""Client of MicroMDM's API.

Source: github.com/micromdm/micromdm, platform/command (server.go, new_command.go), platform/apns (push.go, service.go),
pkg/httputil/httputil.go, cmd/micromdm/serve.go: HTTP basic authentication as ``micromdm`` with the API key; ``POST
/v1/commands/UDID`` takes the plist of a whole command and answers 201; ``GET /push/UDID`` pushes. Both answer with a
JSON object; after an error it has ``error``, and the status is 500. MicroMDM pushes after it has queued a command, and
does not report whether that succeeded: after a failed push the result of the command does not arrive.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from agent import plists
from agent.net.http.http1 import Response
from agent.servers.configs import MicroMDMConfig
from agent.servers.pool import Connect, Pool
from agent.servers.server import CommandRefused, PushNotSent, RequestFailed, check_status, excerpt, read_object
from agent.servers.urls import base_of


class MicroMDM:
    """The ``Server`` of a MicroMDM. Raises OperatorError for an invalid URL."""

    pushes_on_enqueue = True

    def __init__(self, config: MicroMDMConfig, connect: Connect) -> None:
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
        return asked.addCallback(self._judge, "queuing a command", CommandRefused)

    def push(self, udid: str) -> Deferred[None]:
        """GET /push/UDID."""
        target = f"{self._path}/push/{quote(udid, safe='')}"
        return self._pool.ask("GET", target, self._headers).addCallback(self._judge, "a push", PushNotSent)

    def close(self) -> None:
        """Close every connection; open requests fail."""
        self._pool.close()

    def _judge(self, response: Response, what: str, refused: type[RequestFailed]) -> None:
        if response.status != 500 or not response.body.lstrip().startswith(b"{"):
            check_status(response, what, self._secrets)
        document = read_object(response, what, self._secrets)
        error = document.get("error") or (document.get("status") == "failure" and "the push failed")
        if error:
            text = excerpt(str(error).encode(), self._secrets)
            raise refused(f"{what}: MicroMDM answered {response.status}: {text}")
        check_status(response, what, self._secrets)
