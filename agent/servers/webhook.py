"""Client of any server's API by request templates; every status from 200 to 299 is a success."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail

from agent.fleet.population import Mac
from agent.net.http.http1 import Origin, Response
from agent.servers.configs import LOMTemplates, RequestTemplate, WebhookConfig
from agent.servers.pool import Connect, Pool
from agent.servers.server import PushNotSent, check_status
from agent.servers.templates import (
    COMMAND_NAMES,
    LOM_PROFILE_NAMES,
    LOM_REQUEST_NAMES,
    MAC_NAMES,
    Template,
    Values,
    command_values,
    lom_profile_values,
    lom_request_values,
    mac_values,
)

_UUID_KEYS = ("command_uuid", "CommandUUID")


class Webhook:
    """The ``Server`` of a webhook. ``mac_of`` returns the Mac of a UDID. Raises OperatorError for invalid templates."""

    def __init__(
        self, config: WebhookConfig, connect: Connect, mac_of: Callable[[str], Mac], environment: Mapping[str, str]
    ) -> None:
        self._config = config
        self._connect = connect
        self._mac_of = mac_of
        self._environment = environment
        self._secrets: list[str] = []
        self._pools: dict[Origin, Pool] = {}
        self._enqueue = self._template(config.enqueue, MAC_NAMES + COMMAND_NAMES)
        self._push = None if config.push is None else self._template(config.push, MAC_NAMES)
        self.pushes_on_enqueue = self._push is None

    def enqueue(self, udid: str, command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """Send the request that queues a command."""
        values = {**mac_values(self._mac_of(udid)), **command_values(command_uuid, command)}
        return self._send(self._enqueue, values, "queuing a command").addCallback(_nothing)

    def push(self, udid: str) -> Deferred[None]:
        """Send the push request."""
        if self._push is None:
            return fail(PushNotSent("the webhook has no push request"))
        return self._send(self._push, mac_values(self._mac_of(udid)), "a push").addCallback(_nothing)

    def close(self) -> None:
        """Close every connection; open requests fail."""
        for pool in self._pools.values():
            pool.close()

    def _template(self, request: RequestTemplate, names: tuple[str, ...]) -> Template:
        config = self._config
        template = Template(request, names, self._environment, plain=config.plain)
        self._secrets += template.secrets
        if template.origin not in self._pools:
            self._pools[template.origin] = Pool(self._connect, template.origin, config.connections)
        return template

    def _send(self, template: Template, values: Values, what: str) -> Deferred[Response]:
        request = template.render(values)
        sent = self._pools[template.origin].ask(request.method, request.target, request.headers, request.body)
        return sent.addCallback(check_status, what, self._secrets)


class LOMWebhook(Webhook):
    """A webhook of a server that composes LOM commands itself: the ``LOMServer`` of the templates ``lom``."""

    composes = True

    def __init__(
        self,
        config: WebhookConfig,
        lom: LOMTemplates,
        connect: Connect,
        mac_of: Callable[[str], Mac],
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(config, connect, mac_of, environment)
        self._profile = self._template(lom.profile, MAC_NAMES + LOM_PROFILE_NAMES)
        self._setup = self._template(lom.setup, MAC_NAMES)
        self._request = self._template(lom.request, MAC_NAMES + LOM_REQUEST_NAMES)

    def lom_profile(self, udid: str, dns_name: str, *, device: bool, controller: bool) -> Deferred[str]:
        """Send the request that queues the LOM profile."""
        return self._act(self._profile, udid, lom_profile_values(dns_name, device=device, controller=controller))

    def lom_setup(self, udid: str) -> Deferred[str]:
        """Send the request that queues LOMSetupRequest."""
        return self._act(self._setup, udid, {})

    def lom_request(self, controller: str, action: str, devices: Collection[str]) -> Deferred[str]:
        """Send the request that queues LOMDeviceRequest."""
        return self._act(self._request, controller, lom_request_values(action, devices))

    def _act(self, template: Template, udid: str, values: Values) -> Deferred[str]:
        sent = self._send(template, {**mac_values(self._mac_of(udid)), **values}, "queuing a LOM command")
        return sent.addCallback(_command_uuid)


def _command_uuid(response: Response) -> str:
    """The CommandUUID in the answer, a JSON object with ``command_uuid`` or ``CommandUUID``; empty if there is none."""
    try:
        document = json.loads(response.body)
    except (ValueError, RecursionError):
        return ""
    found = [document.get(key) for key in _UUID_KEYS] if isinstance(document, dict) else []
    return next((each for each in found if isinstance(each, str)), "")


def _nothing(_response: Response) -> None:
    """The caller chose the CommandUUID."""
