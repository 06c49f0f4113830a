"""Client of any server's API by request templates; every status from 200 to 299 is a success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail

from agent.fleet.population import Mac
from agent.net.http.http1 import Origin, Response
from agent.servers.configs import WebhookConfig
from agent.servers.pool import Connect, Pool
from agent.servers.server import PushNotSent, check_status
from agent.servers.templates import COMMAND_NAMES, MAC_NAMES, Template, Values, command_values, mac_values


class Webhook:
    """The ``Server`` of a webhook. ``mac_of`` returns the Mac of a UDID. Raises OperatorError for invalid templates."""

    def __init__(
        self, config: WebhookConfig, connect: Connect, mac_of: Callable[[str], Mac], environment: Mapping[str, str]
    ) -> None:
        self._mac_of = mac_of
        self._enqueue = Template(config.enqueue, MAC_NAMES + COMMAND_NAMES, environment, plain=config.plain)
        self._push = None if config.push is None else Template(config.push, MAC_NAMES, environment, plain=config.plain)
        self.pushes_on_enqueue = self._push is None
        self._secrets = [*self._enqueue.secrets, *(self._push.secrets if self._push is not None else ())]
        self._pools: dict[Origin, Pool] = {}
        for template in (self._enqueue, self._push):
            if template is not None and template.origin not in self._pools:
                self._pools[template.origin] = Pool(connect, template.origin, config.connections)

    def enqueue(self, udid: str, command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """Send the request that queues a command."""
        values = {**mac_values(self._mac_of(udid)), **command_values(command_uuid, command)}
        return self._send(self._enqueue, values, "queuing a command")

    def push(self, udid: str) -> Deferred[None]:
        """Send the push request."""
        if self._push is None:
            return fail(PushNotSent("the webhook has no push request"))
        return self._send(self._push, mac_values(self._mac_of(udid)), "a push")

    def close(self) -> None:
        """Close every connection; open requests fail."""
        for pool in self._pools.values():
            pool.close()

    def _send(self, template: Template, values: Values, what: str) -> Deferred[None]:
        request = template.render(values)
        sent = self._pools[template.origin].ask(request.method, request.target, request.headers, request.body)
        return sent.addCallback(self._judge, what)

    def _judge(self, response: Response, what: str) -> None:
        check_status(response, what, self._secrets)
