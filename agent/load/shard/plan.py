"""The input and the result of a shard: plain data, encoded as bytes, so that any executor can transfer it."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.errors import OperatorError
from agent.fleet.population import Population
from agent.load.machine.overload import Span
from agent.measure.live import PhaseState
from agent.measure.summaries import RuleSummary
from agent.net.apns.behaviour import PushBehaviour
from agent.scenario.types import Scenario
from agent.servers.configs import LabConfig, MicroMDMConfig, NanoMDMConfig, ServerConfig, WebhookConfig


def cut(population: Population, shards: int) -> list[range]:
    """The Macs of each shard: at most ``shards`` ranges of whole segments, as equal in segments as possible."""
    segments = population.segments
    count = max(1, min(shards, segments))
    starts = [population.segment(segments * shard // count)[0] for shard in range(count)]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(population)], strict=True)]


class EnrollAt(msgspec.Struct, frozen=True, tag="url"):
    """Each Mac fetches an enrollment profile from this URL."""

    url: str


class EnrollWith(msgspec.Struct, frozen=True, tag="profile"):
    """All Macs use this enrollment profile."""

    profile: bytes


class EnrollAutomatically(msgspec.Struct, frozen=True, tag="ade"):
    """Each Mac posts its signed MachineInfo to this URL for its enrollment profile."""

    url: str
    ca: bytes
    """The CA of the Macs' own identities, certificate and key in PEM."""
    awaiting: bool = True
    """Whether the Macs stay in Setup Assistant until DeviceConfigured."""

    def __repr__(self) -> str:
        return f"EnrollAutomatically({self.url!r})"


class ShardPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One shard: whole segments of the fleet."""

    shard: int
    """Its number."""
    shards: int
    """The number of shards of the run."""
    first: int
    """The index of its first Mac."""
    stop: int
    """One more than the index of its last Mac."""
    scenario: Scenario
    enroll: EnrollAt | EnrollWith | EnrollAutomatically
    anchors: tuple[bytes, ...] = ()
    """CA certificates of the server, DER."""
    lab_anchors_only: bool = False
    """Whether the system's CA certificates are not trusted, as with the embedded lab."""
    server: dict[str, Any] | None = None
    """The configuration of the server's API (``server_data``); None if no commands can be queued."""
    push: PushBehaviour | None = None
    """The behaviour of the push gateway; None without one."""
    trace: str | None = None
    """The file of this shard's trace."""
    trace_home: bool = False
    """Whether the shard sends its trace over the control link at its end, instead of writing that file."""
    cores: int = 1
    """How many processes may make its RSA keys; 0: as many as its machine has cores."""
    state: str | None = None
    """The file of this shard's state; None: it ends with its process."""
    run: str = ""
    """The name of the run in that file."""
    elapsed: float = 0.0
    """Seconds that the run took in earlier processes."""
    known: bool = False
    """Whether an earlier process made that file."""
    controlled: bool = False
    """Whether somebody may change the rate of a phase until its end."""

    def __repr__(self) -> str:
        return f"ShardPlan(shard={self.shard}, shards={self.shards}, first={self.first}, stop={self.stop})"


class ShardResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a shard."""

    shard: int
    metrics: dict[str, Any]
    """A snapshot of its metrics."""
    lag: str | None = None
    """The event loop's lag, an encoded histogram."""
    cpu_s: float = 0.0
    cpu_by_second: list[float] = []
    """The share of a core in each second."""
    spans: list[Span] = []
    """What the process measured of itself in each phase."""
    max_rss_kib: int = 0
    keys_reused: int = 0
    signatures_made: int = 0
    """Of messages, by the header Mdm-Signature."""
    signatures_reused: int = 0
    key_waits: int = 0
    """How often its Macs waited for an RSA key."""
    key_wait_s: float = 0.0
    """The sum of these waits."""
    phases: dict[int, PhaseState] = {}
    """The final state of each phase that started, by its number."""
    rules: list[RuleSummary] = []
    """What each fault rule did."""
    push: dict[str, Any] | None = None
    """The counts of its push endpoint; None without a gateway."""
    problem: str | None = None
    """Why it could not start, or ended early."""


_SERVERS: dict[str, type[ServerConfig]] = {
    "lab": LabConfig,
    "nanomdm": NanoMDMConfig,
    "micromdm": MicroMDMConfig,
    "webhook": WebhookConfig,
}


def server_data(config: ServerConfig) -> dict[str, Any]:
    """A server's configuration as plain data, for a ShardPlan."""
    name = next(name for name, kind in _SERVERS.items() if isinstance(config, kind))
    return {"adapter": name, **msgspec.to_builtins(config)}


def server_config(data: dict[str, Any]) -> ServerConfig:
    """The inverse of ``server_data``. Raises OperatorError for invalid data."""
    try:
        rest = dict(data)
        return msgspec.convert(rest, _SERVERS[rest.pop("adapter")])
    except (KeyError, msgspec.ValidationError) as error:
        raise OperatorError(f"Expected a server configuration in the shard's plan, found: {error}") from error


_plan_decoder = msgspec.msgpack.Decoder(ShardPlan)
_result_decoder = msgspec.msgpack.Decoder(ShardResult)


def encode(plan_or_result: ShardPlan | ShardResult) -> bytes:
    """A plan or a result as bytes."""
    return msgspec.msgpack.encode(plan_or_result)


def decode_plan(octets: bytes) -> ShardPlan:
    """The plan in the bytes of ``encode``. Raises OperatorError for invalid bytes."""
    try:
        return _plan_decoder.decode(octets)
    except msgspec.DecodeError as error:
        raise OperatorError(f"Expected an encoded ShardPlan, found invalid data: {error}") from error


def decode_result(octets: bytes) -> ShardResult:
    """The result in the bytes of ``encode``. Raises OperatorError for invalid bytes."""
    try:
        return _result_decoder.decode(octets)
    except msgspec.DecodeError as error:
        raise OperatorError(f"Expected an encoded ShardResult, found invalid data: {error}") from error
