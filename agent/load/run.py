"""One run: everything is started, the job runs, everything is closed again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred

from agent.errors import OperatorError
from agent.fleet.population import Population
from agent.lab.authorities import Authorities
from agent.lab.core import Lab
from agent.lab.server import LabServer
from agent.load.fleet import USUAL_MANNERS, Fleet, Manners
from agent.load.job import MainJob
from agent.load.limits import allow_open_files
from agent.load.progress import Progress
from agent.load.push import APNsPlan, PushService
from agent.load.server_job import ServerJob
from agent.net.http1 import split_url
from agent.net.keys import KeyPool
from agent.net.lom_networks import LOOPBACK, make_network
from agent.net.mdm_client import MDMClient
from agent.net.records import Observer
from agent.net.resolver import Resolver
from agent.net.surroundings import Surroundings
from agent.net.tls import TLSContexts

MAX_PROFILE_BYTES = 8 * 1024 * 1024
KEYS_STEP = "Make RSA keys"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run.

    ``enroll`` is the file or URL of a server's enrolment profile; None is the embedded lab, whose profile then has a
    SCEP payload where ``scep`` says so. ``anchors`` and ``insecure`` are about the server's certificate. ``key_pool``
    is how many RSA keys the fleet shares, None for a key of its own for each Mac. ``rate`` is in enrolments a second,
    ``stay`` and ``poll`` are in seconds; ``poll`` None looks for commands by push only. ``apns`` is the push gateway;
    without a lab, None is none. ``lom_network`` is what ``agent.net.lom_networks.parse_network`` takes.
    """

    population: Population
    observer: Observer
    progress: Progress
    enroll: str | None = None
    scep: bool = False
    anchors: tuple[x509.Certificate, ...] = ()
    insecure: bool = False
    key_pool: int | None = None
    rate: float | None = None
    retries: int = 0
    stay: float = 0.0
    poll: float | None = 60.0
    apns: APNsPlan | None = None
    manners: Manners = field(default=USUAL_MANNERS)
    lom_network: str = LOOPBACK


class Run:
    """A run of one job. ``interrupted`` says afterwards whether it was stopped before its end."""

    def __init__(self, reactor: Any, plan: RunPlan) -> None:
        self._reactor = reactor
        self._plan = plan
        self._job: Deferred[None] | None = None
        self.interrupted = False
        self.keys_reused = 0
        self.push_counts: dict[str, Any] | None = None
        self._keys_announced = False

    async def run(self) -> None:
        """Run to the end, or until ``interrupt``. Raises OperatorError where it cannot start."""
        plan, reactor = self._plan, self._reactor
        allow_open_files(len(plan.population))
        enrol = None if plan.enroll is None else enrol_from(plan.enroll)
        network = make_network(plan.lom_network, reactor, plan.observer)
        server = None if enrol is not None else LabServer(reactor, Lab(), Authorities(), scep=plan.scep)
        keys = KeyPool(reactor, plan.key_pool, self._key_made)
        surroundings = Surroundings(
            reactor=reactor,
            resolver=Resolver(reactor, reactor.nameResolver),
            contexts=TLSContexts(system_anchors=server is None, short_keys=True),
            network=network,
            keys=keys,
            observer=plan.observer,
            anchors=plan.anchors if server is None else (server.authorities.anchor,),
            insecure=plan.insecure,
            on_warning=lambda text: plan.progress.note(f"Warning: {text}"),
        )
        fleet = Fleet(plan.population, surroundings, plan.manners)
        push = self._push_service(fleet, surroundings, server)
        try:
            network.listen()
            if push is not None:
                push.listen()
                plan.progress.note(f"The APNs gateway listens on {push.url}")
            if server is not None:
                server.listen()
                plan.progress.note(f"The lab, an embedded MDM server, listens on {server.url}")
            if not self.interrupted:
                self._job = Deferred.fromCoroutine(self._run_job(fleet, surroundings, server, enrol, push))
                await self._job
        except CancelledError:
            self.interrupted = True
        finally:
            self.keys_reused = keys.reused
            if push is not None:
                self.push_counts = push.counts
                await push.close()
            fleet.close()
            network.close()
            keys.close()
            if server is not None:
                await server.close()

    def interrupt(self) -> None:
        """Stop now; what was measured so far is kept."""
        self.interrupted = True
        if self._job is not None:
            self._job.cancel()

    async def _run_job(
        self,
        fleet: Fleet,
        surroundings: Surroundings,
        server: LabServer | None,
        enrol: Callable[[MDMClient], Awaitable[None]] | None,
        push: PushService | None,
    ) -> None:
        plan = self._plan
        if server is not None and push is not None:
            await MainJob(
                fleet,
                server,
                surroundings,
                plan.progress,
                push.push,
                rate=plan.rate,
                retries=plan.retries,
                longest_boot=plan.manners.boot.draw(lambda: 1.0) + plan.manners.shutdown.draw(lambda: 1.0),
            ).run()
        elif enrol is not None:
            await ServerJob(
                fleet,
                surroundings,
                plan.progress,
                enrol=enrol,
                rate=plan.rate,
                retries=plan.retries,
                stay=plan.stay,
                poll=plan.poll,
                pushed=push is not None,
            ).run()

    def _push_service(self, fleet: Fleet, surroundings: Surroundings, server: LabServer | None) -> PushService | None:
        """The push gateway: where it was asked for, and always for the lab, which has no other way to wake a Mac."""
        plan = self._plan.apns
        if plan is None:
            if server is None:
                return None
            plan = APNsPlan()
        return PushService(fleet, surroundings, plan, server)

    def _key_made(self) -> None:
        plan = self._plan
        if not self._keys_announced:
            self._keys_announced = True
            plan.progress.step(KEYS_STEP, plan.key_pool or len(plan.population))
        plan.progress.advance(KEYS_STEP)


def enrol_from(source: str) -> Callable[[MDMClient], Awaitable[None]]:
    """How a Mac enrols with the profile at a URL, or in a file that all Macs share. Raises OperatorError."""
    if source.startswith(("https://", "http://")):
        split_url(source)
        return lambda client: client.enroll_at(source)
    try:
        with Path(source).open("rb") as file:
            blob = file.read(MAX_PROFILE_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"the enrolment profile {source} cannot be read: {error.strerror}") from error

    async def fetch() -> bytes:
        return blob

    return lambda client: client.enroll(fetch)


def read_anchors(paths: tuple[str, ...]) -> tuple[x509.Certificate, ...]:
    """The CA certificates in PEM or DER files. Raises OperatorError."""
    anchors: list[x509.Certificate] = []
    for path in paths:
        try:
            blob = Path(path).read_bytes()
            if b"-----BEGIN" in blob:
                anchors += x509.load_pem_x509_certificates(blob)
            else:
                anchors.append(x509.load_der_x509_certificate(blob))
        except OSError as error:
            raise OperatorError(f"the CA file {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise OperatorError(f"the CA file {path} holds no certificate in PEM or DER: {error}") from error
    return tuple(anchors)
