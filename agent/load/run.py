"""One run against the embedded lab: everything is started, the job runs, everything is closed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from agent.fleet.population import Population
from agent.lab.authorities import Authorities
from agent.lab.core import Lab
from agent.lab.server import LabServer
from agent.load.fleet import Fleet
from agent.load.job import MainJob
from agent.load.limits import allow_open_files
from agent.load.progress import Progress
from agent.lom.network import AddressBook
from agent.net.lom_link import LoopbackNetwork
from agent.net.records import Observer
from agent.net.resolver import Resolver
from agent.net.surroundings import Surroundings
from agent.net.tls import TLSContexts


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run."""

    population: Population
    observer: Observer
    progress: Progress


class Run:
    """A run of the main job. ``interrupted`` says afterwards whether it was stopped before its end."""

    def __init__(self, reactor: Any, plan: RunPlan) -> None:
        self._reactor = reactor
        self._plan = plan
        self._job: Deferred[None] | None = None
        self.interrupted = False

    async def run(self) -> None:
        """Run to the end, or until ``interrupt``. Raises OperatorError where it cannot start."""
        plan, reactor = self._plan, self._reactor
        allow_open_files(len(plan.population))
        server = LabServer(reactor, Lab(), Authorities())
        contexts = TLSContexts()
        network = LoopbackNetwork(reactor, AddressBook(), contexts, plan.observer)
        surroundings = Surroundings(
            reactor=reactor,
            resolver=Resolver(reactor, reactor.nameResolver),
            contexts=contexts,
            network=network,
            observer=plan.observer,
            anchors=(server.authorities.anchor,),
        )
        fleet = Fleet(plan.population, surroundings)
        try:
            server.listen()
            network.listen()
            plan.progress.note(f"The lab, an embedded MDM server, listens on {server.url}")
            self._job = Deferred.fromCoroutine(MainJob(fleet, server, surroundings, plan.progress).run())
            await self._job
        except CancelledError:
            self.interrupted = True
        finally:
            fleet.close()
            network.close()
            await server.close()

    def interrupt(self) -> None:
        """Stop now; what was measured so far is kept."""
        self.interrupted = True
        if self._job is not None:
            self._job.cancel()
