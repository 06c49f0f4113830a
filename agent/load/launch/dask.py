"""Starts the shards of a run as tasks of a Dask cluster. Dask only places them: all else goes over the control link.

So a scheduler that is lost after the shards have joined costs nothing, and a task that Dask starts a second time is
refused by the conductor. Needs the extra ``lom-agent[dask]``.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib import import_module
from typing import Any

from twisted.logger import Logger

from agent.errors import OperatorError
from agent.load.control.joining import without_secret
from agent.load.control.link import ControlServer
from agent.load.launch.dask_task import TOPIC, run_worker

RESOURCE = "lom-agent"  # of a Dask worker: how many shards it takes
CLIENT_SECONDS = 10.0  # in which the scheduler answers
CLOSE_SECONDS = 2.0
_DIGEST_BYTES = 32  # SHA-256
_MAX_PORT = 65535
_log = Logger()
_START = f"dask worker SCHEDULER --resources {RESOURCE}=1"


def own_address(scheduler: str) -> str:
    """The address of this machine on the way to the scheduler. Raises OperatorError."""
    host, _, port = scheduler.rpartition("://")[2].rpartition(":")
    try:
        if not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:  # getaddrinfo would take the rest of it
            raise ValueError("it has no valid port")
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # of UDP: nothing is sent
            return str(probe.getsockname()[0])
    except (OSError, ValueError, OverflowError) as error:
        raise OperatorError(
            f"Expected dask=SCHEDULER with the address of a Dask scheduler, such as tls://scheduler:8786, found "
            f"{scheduler!r}: {error}. Look at --executor."
        ) from error


class DaskLauncher:
    """One task for each shard, pinned to a Dask worker that has a slot for it."""

    elsewhere = True

    def __init__(self, reactor: Any, scheduler: str, join_seconds: float) -> None:
        self.join_seconds: float | None = join_seconds
        self._reactor = reactor
        self._scheduler = scheduler
        self._client: Any = None
        self._places: list[str] = []

    def open(self, server: ControlServer, note: Callable[[str], None]) -> None:
        """Connect to the scheduler, and choose a Dask worker for each shard. Raises OperatorError."""
        self._client = self._connected()
        workers = self._client.scheduler_info()["workers"]
        self._places = places(workers, server.admission.shards)

        def announced(event: tuple[float, object]) -> None:
            found = _announcement(event[1])
            if found is not None:
                self._reactor.callFromThread(server.announce, *found)

        self._client.subscribe_topic(TOPIC.format(run=server.admission.run), announced)
        note(f"Dask starts {len(self._places)} workers on {len(set(self._places))} of {len(workers)} Dask workers")

    def _connected(self) -> Any:
        try:
            distributed = import_module("distributed")
        except ImportError as error:
            raise OperatorError(
                "Expected the package distributed for --executor dask=…, found none. Install lom-agent[dask]."
            ) from error
        for name in [each for each in logging.Logger.manager.loggerDict if each.startswith("distributed")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost scheduler does not concern the run
        try:
            return distributed.Client(self._scheduler, timeout=CLIENT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates in its configuration
            raise OperatorError(
                f"Expected a Dask scheduler at {self._scheduler}, found none: {str(error) or type(error).__name__}. "
                "Look at --executor, and at the certificates of Dask's configuration."
            ) from error

    def launch(self, number: int, server: ControlServer) -> Future[Any]:
        """Submit the task of a shard: it runs once, there, and its arguments have no secret."""
        task = self._client.submit(
            run_worker,
            without_secret(server.invite_without_secret(number)),
            key=f"lom-agent-{server.admission.run}-{number}",
            workers=[self._places[number]],
            allow_other_workers=False,
            resources={RESOURCE: 1},
            pure=False,
            retries=0,
        )
        ended: Future[Any] = Future()
        task.add_done_callback(lambda done: _settle(done, ended))
        return ended

    def kill(self, _number: int) -> None:
        """Do nothing: a shard without a link ends by itself."""

    def too_few(self, missing: Sequence[int], shards: int) -> str:
        """Which Dask workers did not start theirs."""
        where = ", ".join(f"{number} on {self._places[number]}" for number in missing)
        return (
            f"Expected {shards} workers to join within {self.join_seconds:g} s, found {shards - len(missing)}; "
            f"missing: {where}. Look whether these Dask workers are busy, have lom-agent, and reach --listen."
        )

    def close(self) -> None:
        """Leave the cluster."""
        if self._client is not None:
            try:
                self._client.close(CLOSE_SECONDS)
            except Exception as error:  # noqa: BLE001  # the scheduler may be gone; the results are here
                _log.info("the Dask client was not closed in order: {error}", error=error)


def places(workers: Mapping[str, Mapping[str, Any]], shards: int) -> list[str]:
    """The address of the Dask worker for each shard, in turn. Raises OperatorError if there are too few slots."""
    slots = {
        address: min(int(facts.get("resources", {}).get(RESOURCE, 0)), int(facts["nthreads"]))
        for address, facts in sorted(workers.items())
    }
    chosen = [address for turn in range(max(slots.values(), default=0)) for address in slots if slots[address] > turn]
    if len(chosen) < shards:
        raise OperatorError(
            f"Expected a Dask cluster with slots for {shards} workers, found {len(chosen)} on {len(workers)} Dask "
            f"workers. Start more of them ({_START}; a slot takes a thread), or ask for fewer workers (--workers)."
        )
    return chosen[:shards]


def _announcement(message: object) -> tuple[int, bytes] | None:
    """The shard and the digest of a join secret; None for a message that has no such."""
    shard, digest = (message.get("shard"), message.get("digest")) if isinstance(message, dict) else (None, None)
    if not isinstance(shard, int) or not isinstance(digest, str) or len(digest) != 2 * _DIGEST_BYTES:
        return None
    try:
        return shard, bytes.fromhex(digest)
    except ValueError:
        return None


def _settle(task: Any, ended: Future[Any]) -> None:
    """Called in a thread of the Dask client when a task has ended."""
    error = task.exception() if task.status == "error" else None
    if task.status == "cancelled":
        ended.cancel()
    elif error is not None:
        ended.set_exception(error)
    else:
        ended.set_result(None)
