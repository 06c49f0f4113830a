"""Macs for tests and scripts: ``Fleet.start()`` runs ``lom-agent serve``, its methods are requests to the control API.

Blocking calls, httpx inside; no Twisted, and no pytest: `agent.pytest_plugin` has the fixtures.
"""

from agent.client.devices import Device, MDMServer, Segment
from agent.client.errors import (
    ClientError,
    EnrollmentFailed,
    NotFound,
    RequestRefused,
    ServiceNotStarted,
    UnexpectedStatus,
    WaitTimedOut,
)
from agent.client.fleet import Fleet, Start
from agent.client.lab import Lab
from agent.client.rules import ActiveRule, CommandFormatError, Error, NotNow, Reply, chain
from agent.faults import Rule

__all__ = [
    "ActiveRule",
    "ClientError",
    "CommandFormatError",
    "Device",
    "EnrollmentFailed",
    "Error",
    "Fleet",
    "Lab",
    "MDMServer",
    "NotFound",
    "NotNow",
    "Reply",
    "RequestRefused",
    "Rule",
    "Segment",
    "ServiceNotStarted",
    "Start",
    "UnexpectedStatus",
    "WaitTimedOut",
    "chain",
]
