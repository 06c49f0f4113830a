"""From a server's configuration to the server."""

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
from agent.servers.webhook import Webhook


def open_server(
    config: ServerConfig,
    reactor: Reactor,
    resolver: Resolver,
    mac_of: Callable[[str], Mac],
    *,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    environment: Mapping[str, str] = os.environ,
) -> Server:
    """The server of a configuration; it connects when it is first asked. ``mac_of`` gives the Mac of a UDID.

    Raises OperatorError for a URL, an anchor or a template that cannot be used.
    """
    connect = connector(reactor, resolver, config.trust, timeouts)
    if isinstance(config, LabConfig):
        return LabAPI(config, connect)
    if isinstance(config, NanoMDMConfig):
        return NanoMDM(config, connect)
    if isinstance(config, MicroMDMConfig):
        return MicroMDM(config, connect)
    return Webhook(config, connect, mac_of, environment)
