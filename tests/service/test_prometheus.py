"""What a Prometheus server gets of a run, over a real connection and read with its own client library's parser."""

import re
from email.parser import BytesHeaderParser
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ClientCreator, Protocol

from agent import __version__
from agent.errors import OperatorError
from agent.measure.live import LiveView, OperationView, PhaseState, PhaseView
from agent.service.prometheus import MAX_CONNECTIONS, PrometheusExporter

HOSTILE = 'a "phase"\\ with\nlines, {braces="x"} 1 und Umlaute \u00e4\u202e'
VIEW = LiveView(
    elapsed=61.5,
    phases=(
        PhaseView("enroll", "enroll", PhaseState(100, 100, 98, 3, 2, 1, True), 0.0, 50.0),
        PhaseView(HOSTILE, "command", PhaseState(1000, 10, 7), 50.0),
        PhaseView("later", "idle", PhaseState()),
    ),
    operations={
        "enroll": OperationView(count=100, errors=3, rate_per_s=0.0, p50_ms=None, p99_ms=None),
        "session": OperationView(count=2000, errors=0, rate_per_s=41.5, p50_ms=12.5, p99_ms=250.0),
    },
    macs={"idle": 90, "session": 10},
    connections=12,
    pushes_waiting=4,
    lag_ms=2.5,
    cpu=0.75,
)


class Reading(Protocol):
    """Everything that comes until the connection is closed."""

    def __init__(self) -> None:
        self.octets = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.octets += data

    def connectionLost(self, reason: object = None) -> None:
        self.closed.callback(self.octets)


async def connected(exporter: PrometheusExporter) -> Reading:
    port = int(re.search(r":(\d+)/", exporter.url)[1])
    return await ClientCreator(reactor, Reading).connectTCP("127.0.0.1", port)


async def ask(exporter: PrometheusExporter, request: bytes) -> tuple[int, Any, str]:
    """Status, headers and body of the answer to ``request``, after which the server closes the connection."""
    reading = await connected(exporter)
    reading.transport.write(request)
    head, _, body = (await reading.closed).partition(b"\r\n\r\n")
    status, _, headers = head.partition(b"\r\n")
    return int(status.split()[1]), BytesHeaderParser().parsebytes(headers), body.decode()


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]).encode()


def answer(run_in_reactor, request: bytes, *views: LiveView) -> tuple[int, Any, str]:
    """What an exporter that was shown ``views`` answers."""

    async def test() -> tuple[int, Any, str]:
        exporter = PrometheusExporter(reactor)
        exporter.listen()
        try:
            for view in views:
                exporter.look(view)
            return await ask(exporter, request)
        finally:
            await exporter.close()

    return run_in_reactor(test())


def families(text: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Any) -> dict[Any, float]:
    """Samples by the values of their labels, in the labels' order."""
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_scrape_returns_the_latest_values(run_in_reactor):
    status, headers, text = answer(run_in_reactor, get("/metrics"), LiveView(1.0), VIEW)

    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = families(text)
    assert values(found["lom_agent_build_info"]) == {(__version__,): 1.0}
    assert values(found["lom_agent_run_seconds"]) == {(): 61.5}
    assert found["lom_agent_operations"].type == "counter"
    assert {sample.name for sample in found["lom_agent_operations"].samples} == {"lom_agent_operations_total"}
    assert values(found["lom_agent_operations"]) == {
        ("enroll", "ok"): 97.0,
        ("enroll", "error"): 3.0,
        ("session", "ok"): 2000.0,
        ("session", "error"): 0.0,
    }
    assert values(found["lom_agent_operation_rate"]) == {("enroll",): 0.0, ("session",): 41.5}
    assert values(found["lom_agent_operation_latency_seconds"]) == {
        ("session", "0.5"): 0.0125,
        ("session", "0.99"): 0.25,
    }
    assert values(found["lom_agent_connections"]) == {(): 12.0}
    assert values(found["lom_agent_pushes_waiting"]) == {(): 4.0}
    assert values(found["lom_agent_generator_lag_seconds"]) == {(): 0.0025}
    assert values(found["lom_agent_generator_cpu_share"]) == {(): 0.75}


def test_a_pause_and_the_rate_that_a_phase_is_to_have_are_gauges(run_in_reactor):
    running = PhaseView("look", "checkin", PhaseState(), 1.0, rate=50.0)
    for paused in (False, True):
        _, _, text = answer(
            run_in_reactor, get("/metrics"), replace(VIEW, phases=(running, *VIEW.phases), paused=paused)
        )
        assert values(families(text)["lom_agent_run_paused"]) == {(): float(paused)}
        assert values(families(text)["lom_agent_phase_target_rate"]) == {("look",): 50.0}


def test_every_mac_state_is_exported_even_if_zero(run_in_reactor):
    _, _, text = answer(run_in_reactor, get("/metrics"), VIEW)
    macs = values(families(text)["lom_agent_macs"])
    assert macs == {("new",): 0, ("idle",): 90, ("session",): 10, ("booting",): 0, ("off",): 0, ("left",): 0}


def test_phase_names_are_escaped_in_labels(run_in_reactor):
    _, _, text = answer(run_in_reactor, get("/metrics"), VIEW)
    operations = families(text)["lom_agent_phase_operations"]
    of = {
        (sample.labels["phase"], sample.labels["kind"], sample.labels["state"]): sample.value
        for sample in operations.samples
    }
    assert of["enroll", "enroll", "dropped"] == 1
    assert [of[HOSTILE, "command", state] for state in ("planned", "started", "done")] == [1000, 10, 7]
    assert of["later", "idle", "planned"] == 0
    assert len(of) == 3 * 7


def test_every_metric_has_help_and_type(run_in_reactor):
    _, _, text = answer(run_in_reactor, get("/metrics"), VIEW)
    for name, family in families(text).items():
        assert name.startswith("lom_agent_")
        assert family.documentation
        assert f"# TYPE {name}" in text
    assert "last 10 seconds" in families(text)["lom_agent_operation_latency_seconds"].documentation


def test_scrape_before_the_first_values_succeeds(run_in_reactor):
    status, _, text = answer(run_in_reactor, get("/metrics"))
    assert status == 200
    assert values(families(text)["lom_agent_run_seconds"]) == {(): 0.0}


def test_query_string_is_ignored(run_in_reactor):
    assert answer(run_in_reactor, get("/metrics?name[]=up"), VIEW)[0] == 200


def test_head_has_no_body(run_in_reactor):
    status, headers, text = answer(run_in_reactor, get("/metrics", method="HEAD"), VIEW)
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/x", "/%00", "/favicon.ico"])
def test_other_paths_name_the_metrics_path(run_in_reactor, path):
    status, _, text = answer(run_in_reactor, get(path), VIEW)
    assert (status, text) == (404, "The metrics are at /metrics\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_refused(run_in_reactor, method):
    status, headers, _ = answer(run_in_reactor, get("/metrics", method=method), VIEW)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "request_with_body",
    [
        get("/metrics", "Content-Length: 5") + b"hello",
        get("/metrics", "Content-Length: 999999999999"),
        get("/metrics", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        get("/metrics", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhel",
    ],
)
def test_request_body_is_not_awaited(run_in_reactor, request_with_body):
    status, _, text = answer(run_in_reactor, request_with_body, VIEW)
    assert (status, text) == (413, "")


def test_endless_headers_close_the_connection(run_in_reactor):
    async def test() -> bytes:
        exporter = PrometheusExporter(reactor)
        exporter.listen()
        try:
            reading = await connected(exporter)
            reading.transport.write(get("/metrics")[:-2] + b"X: " + b"x" * 100_000)
            return await reading.closed
        finally:
            await exporter.close()

    assert b"lom_agent" not in run_in_reactor(test())


def test_open_connections_are_closed_at_the_end(run_in_reactor):
    async def test() -> None:
        exporter = PrometheusExporter(reactor)
        exporter.listen()
        silent = await connected(exporter)
        keeping = await connected(exporter)
        keeping.transport.write(get("/metrics").replace(b"Connection: close\r\n", b""))
        assert await ask(exporter, get("/metrics"))
        await exporter.close()
        await gatherResults([silent.closed, keeping.closed])
        await exporter.close()

    run_in_reactor(test())


def test_connection_above_the_limit_is_closed(run_in_reactor):
    async def test() -> None:
        exporter = PrometheusExporter(reactor)
        exporter.listen()
        try:
            others = [await connected(exporter) for _ in range(MAX_CONNECTIONS)]
            assert await (await connected(exporter)).closed == b""
            others[0].transport.write(get("/metrics"))
            assert b"200 OK" in await others[0].closed
            assert (await ask(exporter, get("/metrics")))[0] == 200
        finally:
            await exporter.close()
        await gatherResults([other.closed for other in others[1:]])

    run_in_reactor(test())


def test_prometheus_port_in_use_raises_operator_error(run_in_reactor):
    async def test() -> None:
        first = PrometheusExporter(reactor)
        first.listen()
        port = int(re.search(r":(\d+)/metrics", first.url)[1])
        second = PrometheusExporter(reactor, "127.0.0.1", port)
        try:
            with pytest.raises(OperatorError, match=rf"exporter cannot listen on 127\.0\.0\.1:{port}: .*another"):
                second.listen()
        finally:
            await second.close()
            await first.close()

    run_in_reactor(test())


def test_ipv6_address_is_printed_in_brackets(run_in_reactor):
    async def test() -> str:
        exporter = PrometheusExporter(reactor, "::1")
        exporter.listen()
        await exporter.close()
        return exporter.url

    assert re.fullmatch(r"http://\[::1\]:[0-9]+/metrics", run_in_reactor(test()))


def test_global_registry_of_prometheus_client_is_unchanged():
    PrometheusExporter(reactor).look(VIEW)
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("lom_agent")]
