"""Whole runs against servers that are not the run's own: a lab elsewhere, NanoMDM's API, any API by webhook.

The Macs enroll in a real lab. The APIs hand what they are asked to that lab, whose pushes go through the run's gateway.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from load_runs import ENROLL, counts, dropped, failed, load_run, never_late
from outside_servers import (
    API,
    KEY,
    KEY_VARIABLE,
    AnyAPI,
    MicroMDMAPI,
    NanoMDMAPI,
    Outside,
    micromdm,
    nanomdm,
    outside_lab,
    webhook,
)
from servers import unused_port
from twisted.internet import reactor
from twisted.web.server import NOT_DONE_YET

from agent.errors import OperatorError
from agent.load.conductor.conductor import Conductor

MACS = 4
SEGMENTS = 2
SMALL: dict[str, Any] = {"devices": MACS, "fleet": {"segment_size": MACS // SEGMENTS}}
# Enroll; InstallProfile and LOMSetupRequest; a command by push; a session by push; a LOMDeviceRequest a segment.
PHASES: tuple[dict[str, Any], ...] = (
    ENROLL,
    {"kind": "lom_setup", "concurrency": 4},
    {"kind": "command", "request": {"RequestType": "ProfileList"}, "rate": 40},
    {"kind": "checkin", "by": "push", "rate": 40},
    {"kind": "lom", "request": "Reset", "per_request": 0, "controllers": False},
)
COMMANDS = MACS + MACS + MACS + SEGMENTS
COMMAND = {"kind": "command", "request": {"RequestType": "ProfileList"}, "rate": 40}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def check_whole_way(conductor: Conductor, outside: Outside) -> None:
    """Everything went well, and the lab has every result."""
    metrics = conductor.metrics()
    assert failed(metrics) == {}
    assert dropped(metrics) == {}
    assert conductor.incomplete_because is None
    found = counts(metrics)
    assert found["enroll"] == found["lom_setup"] == MACS
    assert found["command"] == COMMANDS
    assert found["delivery"] == found["enqueue"] == COMMANDS + MACS  # the pushes of checkin
    assert found["lom_device"] == found["return"] == MACS - SEGMENTS
    assert found["push"] == COMMANDS + MACS
    results = [result.status for mac in outside.lab.macs.values() for result in mac.results.values()]
    assert results == ["Acknowledged"] * COMMANDS
    assert [phase.state.failed for phase in conductor.phases] == [0] * len(PHASES)


@pytest.mark.parametrize(("api", "tables"), [(NanoMDMAPI, nanomdm), (MicroMDMAPI, micromdm), (AnyAPI, webhook)])
def test_run_through_the_api_of_each_server(
    run_in_reactor: RunInReactor, tmp_path: Path, api: type[API], tables: Callable[[str], dict[str, Any]]
) -> None:
    async def scenario() -> None:
        async with outside_lab(tmp_path, api) as (outside, front):
            run = load_run(
                *PHASES,
                **SMALL,
                onlooker=outside.onlooker,
                trace=lambda shard: str(tmp_path / f"trace.{shard}"),
                **outside.tables(**tables(front.url)),
            )
            check_whole_way(await run, outside)
            pushes_on_enqueue = [path for path in front.asked if "push" in path or "wake" in path]
            assert len(pushes_on_enqueue) == (COMMANDS + MACS if api is AnyAPI else MACS)

    run_in_reactor(scenario())
    traces = [path.read_text() for path in sorted(tmp_path.glob("trace.*"))]
    assert len(traces) == 2
    assert all(trace and KEY not in trace for trace in traces)


def test_run_through_a_separate_lab(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with outside_lab(tmp_path) as (outside, _gateway):
            token = tmp_path / "token"
            token.write_text(f"{outside.server.token}\n")

            def started(conductor: Conductor) -> None:
                def look() -> None:  # as soon as the gateway listens
                    if conductor.elapsed or outside.onlooker.notes:
                        outside.server.push = outside.pusher()
                    else:
                        reactor.callLater(0.01, look)

                look()

            lab = {"url": outside.server.url, "token_file": str(token)}
            tables = outside.tables(adapter="lab", lab=lab)
            del tables["server"]["enroll"]  # a lab's is where it always is
            run = load_run(*PHASES, **SMALL, onlooker=outside.onlooker, started=started, **tables)
            check_whole_way(await run, outside)

    run_in_reactor(scenario())


def refused(status: int, body: bytes) -> Callable[[Any], bytes]:
    """An API that answers this to everything."""

    def refuse(request: Any) -> bytes:
        request.setResponseCode(status)
        return body

    return refuse


BASIC = b64encode(f"nanomdm:{KEY}".encode())


# By the RequestType that is refused. Of lom_setup it is the InstallProfile, without which no LOMSetupRequest follows.
API_ERRORS = {
    "ProfileList": (500, b"database is locked", "server_status"),
    "SecurityInfo": (500, b'{"command_error": "no such table"}', "server_command"),
    "CertificateList": (500, b'{"status": {"x": {"push_error": "expired"}}}', "server_push"),
    "InstallProfile": (401, b"who are you? " + KEY.encode() + b" " + BASIC, "server_status"),
    "DeviceInformation": (200, b"<html>welcome</html>", "server_answer"),
}


def test_api_errors_are_counted_and_the_run_continues(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    def refuse(request: Any) -> bytes:
        text = request.content.read()
        (named,) = (name for name in API_ERRORS if name.encode() in text)
        status, body, _ = API_ERRORS[named]
        return refused(status, body)(request)

    commands = [
        {**COMMAND, "name": name, "request": {"RequestType": name, **more}}
        for name, more in (
            ("ProfileList", {}), ("SecurityInfo", {}), ("CertificateList", {}),
            ("DeviceInformation", {"Queries": ["UDID"]}),
        )
    ]  # fmt: skip

    async def scenario() -> Conductor:
        async with outside_lab(tmp_path) as (outside, front):
            front.refuse = refuse
            later = {"kind": "checkin", "by": "self", "rate": 40}
            phases = (ENROLL, *commands, {"kind": "lom_setup", "concurrency": 8}, later)
            return await load_run(*phases, **SMALL, onlooker=outside.onlooker, **outside.tables(**nanomdm(front.url)))

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    # A command that is queued has been enqueued: that nobody pushed is the push's failure.
    expected: Counter[tuple[str, str]] = Counter()
    for _, _, kind in API_ERRORS.values():
        expected["push" if kind == "server_push" else "enqueue", kind] += MACS
        expected["delivery", kind] += MACS
    assert failed(metrics) == expected
    assert counts(metrics)["enqueue"] == len(API_ERRORS) * MACS
    assert counts(metrics)["session"] == MACS
    assert dropped(metrics) == {}
    assert [phase.state.failed for phase in conductor.phases] == [0, *[MACS] * len(API_ERRORS), 0]
    assert conductor.incomplete_because is None
    text = " ".join(failure.example for failure in metrics.failures())
    assert KEY not in text
    assert BASIC.decode() not in text


def hang(_request: Any) -> int:
    """Never answer."""
    return NOT_DONE_YET


def test_silent_api_delays_a_phase_by_its_timeout_only(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    never_late(monkeypatch)

    async def scenario() -> Conductor:
        async with outside_lab(tmp_path) as (outside, front):
            front.refuse = hang
            phases = (
                ENROLL,
                {**COMMAND, "timeout": 0.3},
                {"kind": "checkin", "by": "push", "timeout": 0.3},
                {"kind": "checkin", "name": "by_itself", "by": "self"},
            )
            return await load_run(*phases, **SMALL, onlooker=outside.onlooker, **outside.tables(**nanomdm(front.url)))

    metrics = run_in_reactor(scenario()).metrics()
    kind = "server_timeout"
    assert failed(metrics) == {("enqueue", kind): 2 * MACS, ("delivery", kind): 2 * MACS}
    assert counts(metrics)["session"] == MACS


def test_unreachable_api_is_counted(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> Conductor:
        async with outside_lab(tmp_path) as (outside, _gateway):
            url = f"http://127.0.0.1:{unused_port()}"
            return await load_run(ENROLL, COMMAND, **SMALL, onlooker=outside.onlooker, **outside.tables(**nanomdm(url)))

    metrics = run_in_reactor(scenario()).metrics()
    assert failed(metrics) == {("enqueue", "connect"): MACS, ("delivery", "connect"): MACS}


def test_server_that_never_pushes_gives_no_result(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    never_late(monkeypatch)

    async def scenario() -> tuple[Conductor, int]:
        async with outside_lab(tmp_path) as (outside, front):
            front.push = lambda request, udid, answer: answer("never")  # type: ignore[assignment, method-assign]
            run = load_run(
                ENROLL,
                {**COMMAND, "timeout": 2.0},  # in which the API has answered
                **SMALL,
                onlooker=outside.onlooker,
                **outside.tables(**nanomdm(front.url)),
            )
            conductor = await run
            return conductor, sum(len(mac.queue) for mac in outside.lab.macs.values())

    conductor, queued = run_in_reactor(scenario())
    assert failed(conductor.metrics()) == {("delivery", "no_result"): MACS}
    assert counts(conductor.metrics())["enqueue"] == MACS
    assert queued == MACS


def test_mac_polls_for_a_queued_command_without_a_gateway(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> Conductor:
        async with outside_lab(tmp_path) as (outside, front):
            front.push = lambda request, udid, answer: answer("sent")  # type: ignore[assignment, method-assign]
            tables = outside.tables(**nanomdm(front.url))
            del tables["push"]
            return await load_run(ENROLL, COMMAND, **SMALL, **tables)

    metrics = run_in_reactor(scenario()).metrics()
    assert failed(metrics) == {}
    assert counts(metrics)["command"] == counts(metrics)["delivery"] == MACS


def expect_error(run_in_reactor: RunInReactor, words: str, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """The run does not start, and reports the reason."""

    async def trial() -> None:
        with pytest.raises(OperatorError, match=words):
            await scenario()

    run_in_reactor(trial())


def test_missing_api_key_is_reported_before_the_run(
    run_in_reactor: RunInReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)

    async def nano() -> None:
        async with outside_lab(tmp_path) as (outside, front):
            await load_run(ENROLL, **outside.tables(**nanomdm(front.url)))

    async def hook() -> None:
        async with outside_lab(tmp_path) as (outside, front):
            await load_run(ENROLL, **outside.tables(**webhook(front.url)))

    async def token() -> None:
        async with outside_lab(tmp_path) as (outside, _gateway):
            lab = {"url": outside.server.url, "token_file": str(tmp_path / "nowhere")}
            await load_run(ENROLL, **outside.tables(adapter="lab", lab=lab))

    expect_error(run_in_reactor, KEY_VARIABLE, nano)
    expect_error(run_in_reactor, KEY_VARIABLE, hook)
    expect_error(run_in_reactor, "nowhere cannot be read", token)
