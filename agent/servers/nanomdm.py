"""Client of NanoMDM's API.

Source: github.com/micromdm/nanomdm, docs/operations-guide.md ("HTTP endpoints & APIs": Push, Enqueue; "-api") and
docs/openapi.yaml: HTTP basic authentication as ``nanomdm`` with the API key; ``/v1/enqueue/ID`` takes the plist of a
whole command, and pushes unless ``?nopush=1``; ``/v1/push/ID`` pushes. The ID of a Mac's device channel is its UDID.
Both answer with a JSON object. After an error it has ``command_error`` or ``push_error``, at the top level or by ID in
``status``, and the HTTP status is 500 or 207.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from agent import plists
from agent.net.http.http1 import Response
from agent.servers.configs import NanoMDMConfig
from agent.servers.pool import Connect, Pool
from agent.servers.server import CommandRefused, PushNotSent, check_status, excerpt, read_object
from agent.servers.urls import base_of

_ANSWERS = (200, 207, 500)  # the statuses that have the JSON object


class NanoMDM:
    """The ``Server`` of a NanoMDM. Raises OperatorError for an invalid URL."""

    def __init__(self, config: NanoMDMConfig, connect: Connect) -> None:
        origin, self._path = base_of(config.url, plain=config.plain)
        self._pool = Pool(connect, origin, config.connections)
        credentials = b64encode(f"{config.user}:{config.api_key}".encode()).decode("ascii")
        self._secrets = (config.api_key, credentials)
        self._headers = {"Authorization": f"Basic {credentials}"}
        self.pushes_on_enqueue = config.push

    def enqueue(self, udid: str, command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """PUT /v1/enqueue/UDID."""
        body = plists.dump_xml({"Command": command, "CommandUUID": command_uuid})
        target = f"{self._path}/v1/enqueue/{quote(udid, safe='')}" + ("" if self.pushes_on_enqueue else "?nopush=1")
        headers = {**self._headers, "Content-Type": "application/xml"}
        return self._pool.ask("PUT", target, headers, body).addCallback(self._judge, "queuing a command")

    def push(self, udid: str) -> Deferred[None]:
        """PUT /v1/push/UDID."""
        target = f"{self._path}/v1/push/{quote(udid, safe='')}"
        return self._pool.ask("PUT", target, self._headers, b"").addCallback(self._judge, "a push")

    def close(self) -> None:
        """Close every connection; open requests fail."""
        self._pool.close()

    def _judge(self, response: Response, what: str) -> None:
        if response.status not in _ANSWERS or (response.status == 500 and not _is_object(response.body)):
            check_status(response, what, self._secrets)
        document = read_object(response, what, self._secrets)
        for kind, error in (("command_error", CommandRefused), ("push_error", PushNotSent)):
            text = next(_errors(document, kind), None)
            if text is not None:
                raise error(f"{what}: NanoMDM answered {response.status}: {excerpt(text.encode(), self._secrets)}")
        check_status(response, what, self._secrets)


def _errors(document: Mapping[str, Any], kind: str) -> Iterator[str]:
    """The errors of this kind: of the whole request, and of single IDs."""
    status = document.get("status")
    below = status.values() if isinstance(status, dict) else ()
    for each in (document, *below):
        if isinstance(each, dict) and each.get(kind):
            yield str(each[kind])


def _is_object(body: bytes) -> bool:
    return body.lstrip()[:1] == b"{"
