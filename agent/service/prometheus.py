"""The metrics of a run in progress for Prometheus: ``GET /metrics``.

The conductor provides an `agent.measure.live.LiveView` once a second; each scrape gets the last one. The client
library's global registry is not used, so that its process metrics are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.web.resource import Resource

from agent import __version__
from agent.measure.live import RECENT_SECONDS, LiveView, OperationView, PhaseView
from agent.measure.timeline import MACS
from agent.net.http.server import BoundedSite, LimitedConnections, listen
from agent.net.transport.addresses import address_text

HOST = "127.0.0.1"
PATH = b"/metrics"
# https://prometheus.io/docs/instrumenting/exposition_formats/, "Basic info"
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS = 32  # our choice: some Prometheus servers, and a browser
IDLE_SECONDS = 150  # a Prometheus server scrapes once a minute by default and keeps its connection

_LAST = f"over the last {RECENT_SECONDS} seconds"
_MS = 1e-3
_COUNTS = ("planned", "started", "done", "failed", "cut_short", "late", "dropped")


class PrometheusExporter:
    """Serves the last view.

    ``url`` is set by ``listen``; port 0 selects any free port.
    """

    def __init__(self, reactor: Any, host: str = HOST, port: int = 0) -> None:
        self.url = ""
        self._reactor = reactor
        self._address = host, port
        self._view = _View()
        self._connections = LimitedConnections(_site(reactor, self._view), MAX_CONNECTIONS)
        self._port: Any = None

    def look(self, view: LiveView) -> None:
        """Serve this view from now on."""
        self._view.now = view

    def listen(self) -> None:
        """Listen. Raises OperatorError."""
        host, port = self._address
        self._port = listen(self._reactor, self._connections, host, port, what="The Prometheus exporter")
        self.url = f"http://{address_text(host, self._port.getHost().port)}{PATH.decode('ascii')}"

    def close(self) -> Deferred[Any]:
        """Stop listening and abort the connections; fires when the port is free."""
        port, self._port = self._port, None
        self._connections.abort_all()
        return gatherResults([] if port is None else [port.stopListening() or succeed(None)])


def exposition(view: LiveView) -> bytes:
    """The metrics of a view, in Prometheus' text format: CONTENT_TYPE."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ViewMetrics(view))
    return generate_latest(registry)


class _View:
    """The last view, ``now``."""

    def __init__(self) -> None:
        self.now = LiveView(0.0)


class _ViewMetrics(Collector):
    """The metrics of one view."""

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view = self._view
        yield InfoMetricFamily("lom_agent_build", "The version of lom-agent.", {"version": __version__})
        yield _gauge("lom_agent_run_seconds", "Seconds since the run began.", view.elapsed)
        yield _gauge("lom_agent_run_paused", "1 while the run is paused, otherwise 0.", float(view.paused))
        yield from _operations(view)
        yield from _macs(view)
        if view.workers:
            yield _workers(view)
        yield _phases(view.phases)
        yield _targets(view.phases)
        yield _gauge(
            "lom_agent_generator_lag_seconds",
            "The largest lag of any worker's event loop in the last second.",
            view.lag_ms * _MS,
        )
        yield _gauge(
            "lom_agent_generator_cpu_share",
            "The largest share of a core, from 0 to 1, that any worker took in the last second.",
            view.cpu,
        )


def _operations(view: LiveView) -> Iterator[Metric]:
    total = CounterMetricFamily(
        "lom_agent_operations", "Operations that ended, by how they ended.", labels=("operation", "result")
    )
    rate = GaugeMetricFamily(
        "lom_agent_operation_rate", f"Operations that ended, per second {_LAST}.", labels=("operation",)
    )
    latency = GaugeMetricFamily(
        "lom_agent_operation_latency_seconds",
        f"Latency of the operations that succeeded {_LAST}, from when each was due; missing where none did.",
        labels=("operation", "quantile"),
    )
    for name, operation in view.operations.items():
        total.add_metric((name, "ok"), operation.count - operation.errors)
        total.add_metric((name, "error"), operation.errors)
        rate.add_metric((name,), operation.rate_per_s)
        for quantile, ms in _quantiles(operation):
            latency.add_metric((name, quantile), ms * _MS)
    yield from (total, rate, latency)


def _quantiles(operation: OperationView) -> Iterator[tuple[str, float]]:
    for quantile, ms in (("0.5", operation.p50_ms), ("0.99", operation.p99_ms)):
        if ms is not None:
            yield quantile, ms


def _macs(view: LiveView) -> Iterator[Metric]:
    macs = GaugeMetricFamily("lom_agent_macs", "Simulated Macs by what they do.", labels=("state",))
    for state, number in (dict.fromkeys(MACS, 0) | dict(view.macs)).items():
        macs.add_metric((state,), number)
    yield macs
    yield _gauge("lom_agent_connections", "Open connections to the server.", view.connections)
    yield _gauge("lom_agent_pushes_waiting", "Pushes that wait for their Mac.", view.pushes_waiting)


def _workers(view: LiveView) -> Metric:
    there = GaugeMetricFamily(
        "lom_agent_worker_up", "1 while a worker of the service is there, 0 once it is lost.", labels=("worker",)
    )
    for number, up in view.workers.items():
        there.add_metric((number,), float(up))
    return there


def _phases(phases: tuple[PhaseView, ...]) -> Metric:
    operations = GaugeMetricFamily(
        "lom_agent_phase_operations",
        "The progress of a phase: operations planned, started, done (including failed ones), failed, cut short, "
        "started late, and dropped (due, but never started).",
        labels=("phase", "kind", "state"),
    )
    for phase in phases:
        for state in _COUNTS:
            operations.add_metric((phase.name, phase.kind, state), getattr(phase.state, state) or 0)
    return operations


def _targets(phases: tuple[PhaseView, ...]) -> Metric:
    rates = GaugeMetricFamily(
        "lom_agent_phase_target_rate",
        "Arrivals per second that a running phase with constant or Poisson arrivals is to have, outside of pauses.",
        labels=("phase",),
    )
    for phase in phases:
        if phase.rate is not None:
            rates.add_metric((phase.name,), phase.rate)
    return rates


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _site(reactor: Any, view: _View) -> Any:
    return BoundedSite(_Metrics(view), max_body=0, timeout=IDLE_SECONDS, reactor=reactor)


class _Metrics(Resource):
    """Every path; only PATH has content."""

    isLeaf = True

    def __init__(self, view: _View) -> None:
        super().__init__()
        self._view = view

    def render(self, request: Any) -> bytes:
        """The metrics, or an error that names their path."""
        request.setHeader(b"server", b"lom-agent")
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _refused(request, 405, b"The metrics are only for reading")
        if request.path != PATH:
            return _refused(request, 404, b"The metrics are at " + PATH)
        request.setHeader(b"content-type", CONTENT_TYPE)
        return exposition(self._view.now)


def _refused(request: Any, status: int, why: bytes) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return why + b"\n"
