"""Creates the API client for a server's configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from agent.fleet.population import Mac
from agent.net.timing import Reactor
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts
from agent.servers.configs import LabConfig, MicroMDMConfig, NanoMDMConfig, ServerConfig
from agent.servers.lab import LabAPI
from agent.servers.micromdm import MicroMDM
from agent.servers.nanomdm import NanoMDM
from agent.servers.pool import connector
from agent.servers.server import Server
from agent.servers.webhook import LOMWebhook, Webhook


def open_server(
    config: ServerConfig,
    reactor: Reactor,
    resolver: Resolver,
    mac_of: Callable[[str], Mac],
    *,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    environment: Mapping[str, str] = os.environ,
) -> Server:
    """The API client for a configuration; it connects with its first request. ``mac_of`` returns the Mac of a UDID.

    Raises OperatorError for an invalid URL, CA or template.
    """
    connect = connector(reactor, resolver, config.trust, timeouts)
    if isinstance(config, LabConfig):
        return LabAPI(config, connect)
    if isinstance(config, NanoMDMConfig):
        return NanoMDM(config, connect)
    if isinstance(config, MicroMDMConfig):
        return MicroMDM(config, connect, mac_of)
    if config.lom is not None:
        return LOMWebhook(config, config.lom, connect, mac_of, environment)
    return Webhook(config, connect, mac_of, environment)
