"""Client of the lab's API (docs/lab-api.md), for the embedded lab or one that runs by itself."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from agent import plists
from agent.net.http.http1 import Response
from agent.servers.configs import LabConfig
from agent.servers.pool import Connect, Pool
from agent.servers.server import PushNotSent, check_status, excerpt, read_object
from agent.servers.urls import base_of


class LabAPI:
    """The ``Server`` of a lab. Raises OperatorError for an invalid URL."""

    def __init__(self, config: LabConfig, connect: Connect) -> None:
        origin, self._path = base_of(config.url, plain=False)
        self._pool = Pool(connect, origin, config.connections)
        self._secrets = (config.token,)
        self._headers = {"Authorization": f"Bearer {config.token}"}
        self.pushes_on_enqueue = config.push

    def enqueue(self, udid: str, command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """POST …/macs/UDID/commands."""
        body = plists.dump_xml({"Command": command, "CommandUUID": command_uuid})
        target = f"{self._mac(udid)}/commands" + ("" if self.pushes_on_enqueue else "?push=0")
        headers = {**self._headers, "Content-Type": "application/xml"}
        return self._pool.ask("POST", target, headers, body).addCallback(self._queued).addCallback(_nothing)

    def push(self, udid: str) -> Deferred[None]:
        """POST …/macs/UDID/push."""
        return self._pool.ask("POST", f"{self._mac(udid)}/push", self._headers, b"").addCallback(self._pushed)

    composes = True

    def lom_profile(self, udid: str, dns_name: str, *, device: bool, controller: bool) -> Deferred[str]:
        """POST …/macs/UDID/lom/profile."""
        return self._lom(udid, "profile", {"dns_name": dns_name, "device": device, "controller": controller})

    def lom_setup(self, udid: str) -> Deferred[str]:
        """POST …/macs/UDID/lom/setup."""
        return self._lom(udid, "setup", {})

    def lom_request(self, controller: str, action: str, devices: Collection[str]) -> Deferred[str]:
        """POST …/macs/UDID/lom/request."""
        return self._lom(controller, "request", {"action": action, "devices": list(devices)})

    def renew(self, udid: str) -> Deferred[str]:
        """POST …/macs/UDID/renew."""
        return self._action(udid, "renew", {})

    def declare(self, udid: str) -> Deferred[str]:
        """POST …/macs/UDID/declarations."""
        return self._action(udid, "declarations", {})

    def _lom(self, udid: str, action: str, document: dict[str, Any]) -> Deferred[str]:
        return self._action(udid, f"lom/{action}", document)

    def _action(self, udid: str, action: str, document: dict[str, Any]) -> Deferred[str]:
        target = f"{self._mac(udid)}/{action}" + ("" if self.pushes_on_enqueue else "?push=0")
        headers = {**self._headers, "Content-Type": "application/json"}
        return self._pool.ask("POST", target, headers, json.dumps(document).encode()).addCallback(self._queued)

    def close(self) -> None:
        """Close every connection; open requests fail."""
        self._pool.close()

    def _mac(self, udid: str) -> str:
        return f"{self._path}/api/v1/macs/{quote(udid, safe='')}"

    def _queued(self, response: Response) -> str:
        """The CommandUUID."""
        what = "queuing a command"
        document = read_object(check_status(response, what, self._secrets), what, self._secrets)
        push = document.get("push")
        if isinstance(push, dict) and "error" in push and push.get("pending") is not True:
            text = excerpt(str(push["error"]).encode(), self._secrets)
            raise PushNotSent(f"the command is queued, but the lab could not push: {text}")
        return str(document.get("command_uuid", ""))

    def _pushed(self, response: Response) -> None:
        if response.status == 502:
            raise PushNotSent(f"the lab could not push: {excerpt(response.body, self._secrets)}")
        check_status(response, "a push", self._secrets)


def _nothing(_command_uuid: str) -> None:
    """The caller chose the CommandUUID."""
