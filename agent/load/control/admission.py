"""Which shards may join a run, and each of them once: a Mac of a shard that joined twice would enroll twice. No I/O."""

from __future__ import annotations

import hashlib
import secrets

from agent import __version__
from agent.errors import OperatorError
from agent.load.control.messages import ANY_SHARD, Hello

_MOST_ANNOUNCED = 8  # secrets of one shard: a scheduler may start its task again


class Refusal(OperatorError):
    """A shard may not join. The text is for the operator of its worker."""

    kind = "refused"


def digest_of(secret: str) -> bytes:
    """What identifies a join secret without disclosing it. A secret has 256 random bits, so no salt is needed."""
    return hashlib.sha256(secret.encode()).digest()


class Admission:
    """Admits ``shards`` shards to one run. ``run`` is its epoch: a random name that no other run has."""

    def __init__(self, shards: int) -> None:
        self.run = secrets.token_urlsafe(16)
        self.shards = shards
        self._joined: set[int] = set()
        self._invited: dict[bytes, int] = {}  # by the digest of the secret
        self._announced = [0] * shards

    def invite(self, shard: int = ANY_SHARD) -> str:
        """A new join secret for one shard, or for each of them."""
        secret = secrets.token_urlsafe(32)
        self._invited[digest_of(secret)] = shard
        return secret

    def announce(self, shard: int, digest: bytes) -> bool:
        """Accept the join secret with this digest, which was made elsewhere; False if there are too many of a shard."""
        if not 0 <= shard < self.shards or self._announced[shard] >= _MOST_ANNOUNCED:
            return False
        self._announced[shard] += 1
        self._invited[digest] = shard
        return True

    def knows(self, hello: Hello) -> bool:
        """Whether the secret is one of this run."""
        return digest_of(hello.secret) in self._invited

    def admit(self, hello: Hello) -> int:
        """The number of the shard that a Hello with a known secret is for. Raises Refusal."""
        if hello.version != __version__:
            raise Refusal(f"Expected lom-agent {__version__}, found {hello.version[:32]!r}. Install the same version.")
        if hello.run != self.run:
            raise Refusal("Expected a worker of this run, found one of an earlier run. Use the join file of this run.")
        shard = self._shard(hello, self._invited[digest_of(hello.secret)])
        self._joined.add(shard)
        return shard

    @property
    def missing(self) -> list[int]:
        """The shards that have not joined."""
        return [shard for shard in range(self.shards) if shard not in self._joined]

    def _shard(self, hello: Hello, invited: int) -> int:
        wanted = hello.shard if invited == ANY_SHARD else invited
        if wanted == ANY_SHARD:
            if not self.missing:
                raise Refusal(
                    f"Expected a run that lacks a worker, found one that all {self.shards} workers have joined. A lost "
                    "worker is not replaced, because its Macs would enroll twice."
                )
            return self.missing[0]
        if not 0 <= wanted < self.shards:
            raise Refusal(f"Expected a worker from 0 to {self.shards - 1}, found {wanted}. Start fewer workers.")
        if wanted in self._joined:
            raise Refusal(
                f"Expected worker {wanted} to join once, found a second one. It is not accepted, because its Macs "
                "would enroll twice."
            )
        return wanted
