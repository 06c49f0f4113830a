"""Macs for tests and scripts: ``Fleet.start()`` runs ``lom-agent serve``, its methods are requests to the control API.

Blocking calls; no Twisted, and no pytest: `agent.pytest_plugin` has the fixtures.
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
from agent.client.fleet import Fleet, MacFilter
from agent.client.lab import Lab
from agent.client.rules import ActiveRule, CommandFormatError, Error, NotNow, Reply, When, chain
from agent.client.run import Run
from agent.client.start import Start
from agent.faults.rules import Rule, RuleError

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
    "MacFilter",
    "NotFound",
    "NotNow",
    "Reply",
    "RequestRefused",
    "Rule",
    "RuleError",
    "Run",
    "Segment",
    "ServiceNotStarted",
    "Start",
    "UnexpectedStatus",
    "WaitTimedOut",
    "When",
    "chain",
]
