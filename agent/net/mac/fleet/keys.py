"""RSA keys, generated in parallel by child processes: a key takes tens of milliseconds of a core.

``unique`` generates one for each identity. ``pool:N`` generates N and reuses them, for fleets in which the keys are not
what is tested; the results say so.

Expected keys are generated ahead. The wait for a key that is not ready is recorded apart, because this machine causes
it and not the server.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from twisted.internet.defer import Deferred

from agent.errors import LomAgentError, MisuseError, OperatorError
from agent.net.mac.fleet.key_process import begin_key_process, make_key

if TYPE_CHECKING:  # imported for the first key: most fleets generate none
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing.process import BaseProcess

MAX_POOL = 100_000
MAX_AHEAD = 256  # keys generated ahead: some seconds of work for a large machine

ResultT = TypeVar("ResultT")


def parse_keys(text: str) -> int | None:
    """Parse ``--keys``: None for ``unique``, N for ``pool:N``. Raises OperatorError."""
    if text == "unique":
        return None
    kind, _, number = text.partition(":")
    if kind == "pool" and number.isascii() and number.isdigit() and 0 < int(number) <= MAX_POOL:
        return int(number)
    raise OperatorError(f"--keys should be unique or pool:N with N from 1 to {MAX_POOL}, but is {text!r}")


class KeyNotMade(LomAgentError):
    """A child process that generates RSA keys died."""

    kind = "key"


class KeyPool:
    """The RSA keys of one process's fleet.

    ``reused`` counts how often a key of the pool was used again, ``waits`` the requests for a key that was not ready.
    ``pool`` is the size of the pool, None for unique keys. ``on_wait`` is called with the seconds of each wait when it
    ends. ``processes`` is the number of child processes, by default one for each core; they start with the first key.
    """

    def __init__(
        self,
        reactor: Any,
        pool: int | None = None,
        processes: int | None = None,
        on_wait: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.reused = 0
        self.waits = 0
        self._reactor = reactor
        self._pool = pool
        self._on_wait = on_wait
        self._processes = max(1, processes or os.cpu_count() or 1)
        self._executor: ProcessPoolExecutor | None = None
        self._children: list[BaseProcess] = []
        self._kept: dict[int, list[_Key]] = {}  # of a pool, by size: those that are reused
        self._ahead: dict[int, deque[_Key]] = {}  # by size: generated ahead, the oldest first
        self._taken: dict[int, int] = {}
        self._expected: dict[int, int] = {}  # by size
        self._expected_sizeless = 0
        self._first_bits: int | None = None  # the size of the first requested key
        self._waited_s = 0.0
        self._waiting_since: dict[Deferred[rsa.RSAPrivateKey], float] = {}

    @property
    def waited_s(self) -> float:
        """The total seconds of all ``waits``, including those that last."""
        now = float(self._reactor.seconds())
        return self._waited_s + sum(now - since for since in self._waiting_since.values())

    def expect(self, count: int, bits: int | None = None) -> None:
        """Generate the keys of this many identities ahead, as far as MAX_AHEAD allows.

        ``bits`` is None while the size is not known, because the profile was not read yet; then the size of the first
        requested key holds for all.
        """
        bits = bits or self._first_bits
        if bits is None:
            self._expected_sizeless += count
        else:
            self._expected[bits] = self._expected.get(bits, 0) + count
        self._make_ahead()

    async def made_ahead(self) -> None:
        """Wait for all keys that are generated ahead. A failed one raises where it is taken, not here."""
        for key in [key for ahead in self._ahead.values() for key in ahead]:
            with suppress(KeyNotMade):
                await key.wait()

    def take(self, bits: int) -> Deferred[rsa.RSAPrivateKey]:
        """A key of ``bits`` bits; fires when it is ready, with KeyNotMade where its process died."""
        if self._first_bits is None:
            self._first_bits = bits
            self._expected[bits] = self._expected.get(bits, 0) + self._expected_sizeless
        number = self._taken.get(bits, 0)
        self._taken[bits] = number + 1
        kept = self._kept.setdefault(bits, [])
        if self._pool is not None and number >= self._pool:
            self.reused += 1
            return self._timed(kept[number % self._pool])
        key = self._next(bits)
        if self._pool is not None:
            kept.append(key)
        waiting = self._timed(key)
        self._make_ahead()
        return waiting

    def close(self) -> None:
        """End the child processes; keys that are not ready are dropped."""
        executor, self._executor = self._executor, None
        if executor is not None:
            for child in self._children:  # the executor uses SIGTERM, which our children ignore
                child.kill()
            executor.shutdown(wait=True, cancel_futures=True)

    def _timed(self, key: _Key) -> Deferred[rsa.RSAPrivateKey]:
        """Wait for a key, and record how long."""
        waiting = key.wait()
        if not waiting.called:
            self.waits += 1
            self._waiting_since[waiting] = self._reactor.seconds()
            waiting.addBoth(self._waited, waiting)
        return waiting

    def _waited(self, outcome: ResultT, waiting: Deferred[rsa.RSAPrivateKey]) -> ResultT:
        seconds = float(self._reactor.seconds()) - self._waiting_since.pop(waiting)
        self._waited_s += seconds
        self._on_wait(seconds)
        return outcome

    def _next(self, bits: int) -> _Key:
        ahead = self._ahead.get(bits)
        if ahead:
            return ahead.popleft()
        if self._expected.get(bits):
            self._expected[bits] -= 1
        return self._make(bits)

    def _make_ahead(self) -> None:
        room = MAX_AHEAD - sum(map(len, self._ahead.values()))
        for bits, expected in self._expected.items():
            ahead = self._ahead.setdefault(bits, deque())
            left = min(expected, room)
            if self._pool is not None:
                left = min(left, self._pool - self._taken.get(bits, 0) - len(ahead))
            for _ in range(left):
                ahead.append(self._make(bits))
            room -= max(0, left)
            self._expected[bits] -= max(0, left)

    def _make(self, bits: int) -> _Key:
        from concurrent.futures import ProcessPoolExecutor  # as above
        from multiprocessing import active_children, get_context

        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                max_workers=self._processes, mp_context=get_context("spawn"), initializer=begin_key_process
            )
        key = _Key()
        before = set(active_children()) if len(self._children) < self._processes else None
        future = self._executor.submit(make_key, bits)
        if before is not None:
            self._children += set(active_children()) - before
        future.add_done_callback(lambda done: self._reactor.callFromThread(self._finished, key, done))
        return key

    def _finished(self, key: _Key, done: Future[bytes]) -> None:
        if done.cancelled() or self._executor is None:
            return
        error = done.exception()
        if error is not None:
            key.fail(KeyNotMade(f"an RSA key could not be generated: {error or type(error).__name__}"))
            return
        key.set(_loaded(done.result()))


class _Key:
    """A key that may still be in the making, and the requests that wait for it."""

    __slots__ = ("_error", "_key", "_waiting")

    def __init__(self) -> None:
        self._key: rsa.RSAPrivateKey | None = None
        self._error: Exception | None = None
        self._waiting: list[Deferred[rsa.RSAPrivateKey]] = []

    def wait(self) -> Deferred[rsa.RSAPrivateKey]:
        deferred: Deferred[rsa.RSAPrivateKey] = Deferred()
        if self._key is not None:
            deferred.callback(self._key)
        elif self._error is not None:
            deferred.errback(self._error)
        else:
            self._waiting.append(deferred)
        return deferred

    def set(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(key)

    def fail(self, error: Exception) -> None:
        self._error = error
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(error)


def _loaded(octets: bytes) -> rsa.RSAPrivateKey:
    key = load_der_private_key(octets, None, unsafe_skip_rsa_key_validation=True)  # generated by our own child process
    if not isinstance(key, rsa.RSAPrivateKey):
        raise MisuseError("expected an RSA key, found another kind")
    return key
