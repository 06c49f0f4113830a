"""The RSA keys that a shard's enrollments need, made ahead of them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from agent.errors import PeerError
from agent.load.phases.run import Part
from agent.load.shard.plan import EnrollAt, EnrollAutomatically, ShardPlan
from agent.net.mac.fleet.keys import KeyPool
from agent.profiles.acme import ACME, RSA, acme_of
from agent.profiles.profile import Payload, read_profile
from agent.profiles.scep import SCEP, scep_of
from agent.scenario.targets import chosen_macs
from agent.scenario.types import EnrollPhase

SCEP_KEY_BITS = 2048  # of the lab's SCEP payload; assumed for other servers of which only `identity = "scep"` is known
KEYS_AHEAD_SECONDS = 10.0  # our choice: how long a run waits for its first RSA keys before it starts


def expect_keys(keys: KeyPool, plan: ShardPlan, part: Part, enrolled: int = 0) -> None:
    """Start making the keys for all enrollments of this shard, of which ``enrolled`` are done."""
    enrollments = sum(
        len(part.places(chosen_macs(phase, part.population)))
        for phase in plan.scenario.phases
        if isinstance(phase, EnrollPhase)
    )
    for bits in key_sizes(plan):
        keys.expect(max(0, enrollments - enrolled), bits)


async def keys_made_ahead(reactor: Any, keys: KeyPool, finished: Deferred[None]) -> None:
    """Wait for the keys that ``expect_keys`` ordered, until KEYS_AHEAD_SECONDS have passed or ``finished`` fires."""
    made = Deferred.fromCoroutine(keys.made_ahead())
    made.addTimeout(KEYS_AHEAD_SECONDS, reactor, lambda _outcome, _seconds: None)
    await DeferredList([made, finished], fireOnOneCallback=True)
    made.addErrback(lambda _: None).cancel()


def key_sizes(plan: ShardPlan) -> list[int | None]:
    """The bits of each RSA key of an enrollment by SCEP or ACME; None if only the fetched profile will state them."""
    if isinstance(plan.enroll, EnrollAt | EnrollAutomatically):
        if plan.scenario.server.identity == "scep":
            return [SCEP_KEY_BITS]
        return [] if plan.lab_anchors_only else [None]
    try:
        payloads = read_profile(plan.enroll.profile).payloads
        return [size for payload in payloads if (size := _rsa_bits(payload)) is not None]
    except PeerError:  # the enrollments will fail with this error
        return []


def _rsa_bits(payload: Payload) -> int | None:
    """The size of the RSA key that this payload needs; None if it needs none. Raises ProfileError."""
    if payload.payload_type == SCEP:
        return scep_of(payload).key_size
    if payload.payload_type == ACME:
        wanted = acme_of(payload)
        return wanted.key_size if wanted.key_type == RSA else None
    return None
