"""How many worker processes a run has."""

from __future__ import annotations

import os

from agent.errors import OperatorError
from agent.load.scenario.types import Scenario
from agent.net.lom_networks import INTERFACE, parse_network


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def workers_of(scenario: Scenario) -> int:
    """How many workers the scenario asks for. Raises OperatorError where its LOM network allows one only."""
    wanted = scenario.load.workers
    if parse_network(scenario.lom.network).kind == INTERFACE:
        if wanted > 1:
            raise OperatorError(
                f"load.workers should be 1 with lom.network = {scenario.lom.network!r}, but is {wanted}: one process "
                "has an interface's addresses"
            )
        return 1
    return wanted or cores()
