"""RSA keys, made in parallel by processes of their own: a key takes tens of milliseconds of a core.

``unique`` makes one for each identity. ``pool:N`` makes N and hands them out again and again, for fleets in which the
keys are not what is tested; the results say so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from twisted.internet.defer import Deferred

from agent.errors import LomAgentError, MisuseError, OperatorError

MAX_POOL = 100_000


def parse_keys(text: str) -> int | None:
    """What ``--keys`` says: None for ``unique``, N for ``pool:N``. Raises OperatorError."""
    if text == "unique":
        return None
    kind, _, number = text.partition(":")
    if kind == "pool" and number.isascii() and number.isdigit() and 0 < int(number) <= MAX_POOL:
        return int(number)
    raise OperatorError(f"--keys should be unique or pool:N with N from 1 to {MAX_POOL}, but is {text!r}")


class KeyNotMade(LomAgentError):
    """The process that makes RSA keys died."""

    kind = "key"


class KeyPool:
    """The RSA keys of one process's fleet. ``reused`` counts the keys that were handed out more than once.

    ``on_key`` is called each time a key was made. The processes start with the first key that is asked for.
    """

    def __init__(self, reactor: Any, pool: int | None = None, on_key: Callable[[], None] = lambda: None) -> None:
        self.reused = 0
        self._reactor = reactor
        self._pool = pool
        self._on_key = on_key
        self._executor: ProcessPoolExecutor | None = None
        self._made: dict[int, list[_Key]] = {}
        self._taken: dict[int, int] = {}

    def take(self, bits: int) -> Deferred[rsa.RSAPrivateKey]:
        """A key of ``bits`` bits, as soon as it is made."""
        if self._pool is None:
            return self._make(bits).wait()
        keys = self._made.setdefault(bits, [])
        number = self._taken.get(bits, 0)
        self._taken[bits] = number + 1
        if number < self._pool:
            keys.append(self._make(bits))
        else:
            self.reused += 1
        return keys[number % self._pool].wait()

    def close(self) -> None:
        """End the processes; keys that are not made yet are given up."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def _make(self, bits: int) -> _Key:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                max_workers=os.cpu_count(), mp_context=get_context("spawn"), initializer=_ignore_interrupts
            )
        key = _Key()
        future = self._executor.submit(_make_key, bits)
        future.add_done_callback(lambda done: self._reactor.callFromThread(self._finished, key, done))
        return key

    def _finished(self, key: _Key, done: Future[bytes]) -> None:
        if done.cancelled() or self._executor is None:
            return
        error = done.exception()
        if error is not None:
            key.fail(KeyNotMade(f"an RSA key could not be made: {error or type(error).__name__}"))
            return
        self._on_key()
        loaded = load_der_private_key(done.result(), None, unsafe_skip_rsa_key_validation=True)  # made by ourselves
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise MisuseError("the key that was made is no RSA key")
        key.set(loaded)


class _Key:
    """A key that is being made, for everybody who waits for it."""

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


def _ignore_interrupts() -> None:
    """Ctrl-C goes to the whole process group; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_key(bits: int) -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
