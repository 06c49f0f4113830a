"""Runs a shard: it takes and returns plain data, creates its own reactor and leaves nothing open.

Any executor may call it, in a process or in a thread.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from agent.load.control.joining import Invitation
from agent.load.shard.shard import Shard, ShardEnd, ShardWatch
from agent.net.timing import make_monotonic


def run_shard(invitation: Invitation, watch: ShardWatch | None = None) -> ShardEnd:
    """Run the shard of an invitation to its end; the conductor has its result then. Raises only for defects."""
    reactor = own_reactor()
    shard = Shard(reactor, invitation, watch)
    outcomes: list[ShardEnd | Failure] = []

    def ended(outcome: ShardEnd | Failure) -> None:
        outcomes.append(outcome)
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(shard.run()).addBoth(ended))
    if watch is not None:
        watch.stoppable(lambda reason: reactor.callFromThread(shard.stop, reason))
    reactor.run(installSignalHandlers=False)
    outcome = outcomes[0]
    if isinstance(outcome, Failure):
        outcome.raiseException()
    return outcome


def own_reactor() -> Any:
    """A new reactor that is not installed as the global one, so a process may have several."""
    platform: str = sys.platform
    if platform == "linux":
        return make_monotonic(import_module("agent.load.machine.turns").TurnReactor())
    if platform == "darwin":
        return make_monotonic(import_module("twisted.internet.kqreactor").KQueueReactor())
    return make_monotonic(import_module("twisted.internet.pollreactor").PollReactor())
