"""What a shard is given and what it gives back: plain data, as bytes, so that any executor can carry it."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.errors import OperatorError
from agent.fleet.population import Population
from agent.load.overload import Span
from agent.measure.live import PhaseState
from agent.net.apns.behaviour import PushBehaviour
from agent.scenario.types import Scenario
from agent.servers.configs import LabConfig, MicroMDMConfig, NanoMDMConfig, ServerConfig, WebhookConfig


def cut(population: Population, shards: int) -> list[range]:
    """The Macs of each shard: at most ``shards`` ranges of whole segments, as equal in segments as possible."""
    segments = population.segments
    count = max(1, min(shards, segments))
    starts = [population.segment(segments * shard // count)[0] for shard in range(count)]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(population)], strict=True)]


class EnrolAt(msgspec.Struct, frozen=True, tag="url"):
    """Each Mac fetches an enrolment profile from this URL."""

    url: str


class EnrolWith(msgspec.Struct, frozen=True, tag="profile"):
    """All Macs have the same enrolment profile."""

    profile: bytes


class ShardPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One shard: Macs ``first`` up to but not including ``stop``, whole segments.

    ``conductor`` is the numeric address of the control link, ``ca`` its CA's certificate (DER), ``secret`` what the
    shard shows there. ``anchors`` are CA certificates for the server (DER). ``server`` is how commands are queued, None
    where nobody can be asked. ``push`` is None where there is no gateway, ``push_began`` the date of its
    start by the clock of the run.
    ``trace`` is the file of this shard's trace. ``cores`` is how many processes may make its RSA keys.
    """

    shard: int
    shards: int
    first: int
    stop: int
    scenario: Scenario
    conductor: tuple[str, int]
    ca: bytes
    secret: str
    enrol: EnrolAt | EnrolWith
    anchors: tuple[bytes, ...] = ()
    lab_anchors_only: bool = False
    server: dict[str, Any] | None = None
    push: PushBehaviour | None = None
    push_began: float = 0.0
    trace: str | None = None
    cores: int = 1

    def __repr__(self) -> str:
        return f"ShardPlan(shard={self.shard}, shards={self.shards}, first={self.first}, stop={self.stop})"


class ShardResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard came to.

    ``metrics`` is a snapshot, ``lag`` the event loop's lag as an encoded histogram, ``cpu_by_second`` the share of a
    core in each second, ``spans`` what the worker measured of itself in each phase, ``key_waits`` and ``key_wait_s``
    how often and how long its Macs waited for RSA keys. ``phases`` are how far those came that began. ``problem`` says
    why the shard could not begin, or ended early.
    """

    shard: int
    metrics: dict[str, Any]
    lag: str | None = None
    cpu_s: float = 0.0
    cpu_by_second: list[float] = []
    spans: list[Span] = []
    max_rss_kib: int = 0
    keys_reused: int = 0
    key_waits: int = 0
    key_wait_s: float = 0.0
    phases: dict[int, PhaseState] = {}
    push: dict[str, Any] | None = None
    problem: str | None = None


_SERVERS: dict[str, type[ServerConfig]] = {
    "lab": LabConfig,
    "nanomdm": NanoMDMConfig,
    "micromdm": MicroMDMConfig,
    "webhook": WebhookConfig,
}


def server_data(config: ServerConfig) -> dict[str, Any]:
    """A server's configuration as plain data, for a plan."""
    name = next(name for name, kind in _SERVERS.items() if isinstance(config, kind))
    return {"adapter": name, **msgspec.to_builtins(config)}


def server_config(data: dict[str, Any]) -> ServerConfig:
    """The configuration that ``server_data`` gave. Raises OperatorError for anything else."""
    try:
        rest = dict(data)
        return msgspec.convert(rest, _SERVERS[rest.pop("adapter")])
    except (KeyError, msgspec.ValidationError) as error:
        raise OperatorError(f"the shard's plan has no server that could be used: {error}") from error


_plan_decoder = msgspec.msgpack.Decoder(ShardPlan)
_result_decoder = msgspec.msgpack.Decoder(ShardResult)


def encode(plan_or_result: ShardPlan | ShardResult) -> bytes:
    """A plan or a result as bytes."""
    return msgspec.msgpack.encode(plan_or_result)


def decode_plan(octets: bytes) -> ShardPlan:
    """The plan that ``encode`` made. Raises OperatorError for anything else."""
    try:
        return _plan_decoder.decode(octets)
    except msgspec.DecodeError as error:
        raise OperatorError(f"what was to be a shard's plan is none: {error}") from error


def decode_result(octets: bytes) -> ShardResult:
    """The result that ``encode`` made. Raises OperatorError for anything else."""
    try:
        return _result_decoder.decode(octets)
    except msgspec.DecodeError as error:
        raise OperatorError(f"what was to be a shard's result is none: {error}") from error
