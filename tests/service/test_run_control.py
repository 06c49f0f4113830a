"""The control API of a run, asked over HTTP while a conductor and two shards run a scenario against a real lab."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from conftest import RunInReactor
from load_runs import load_run
from openapi_spec_validator import OpenAPIV31SpecValidator
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from agent.load.conductor.conductor import Conductor
from agent.load.conductor.facts import INTERRUPTED
from agent.service.api.openapi import openapi
from agent.service.api.routes import RUN_TITLE
from agent.service.api.run_control import RunControlServer
from agent.service.api.run_requests import RunAPI
from agent.service.api.run_routes import RUN_ROUTES

TOKEN = "the-token-of-a-run"
SLOWLY = {"kind": "enroll", "rate": 0.01}  # 8 Macs in 700 s: the test makes it faster


class Client:
    """Asks in a thread, as another process does."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        response = await deferToThread(self.http.request, method, path, json=body)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def state(self) -> Any:
        return await self.ask("GET", "/v1/run")

    async def until(self, state: str) -> Any:
        while (found := await self.state())["phases"][0]["state"] != state:
            pass
        return found


async def controlled_run(steps: Any, *phases: dict[str, Any], **tables: Any) -> Conductor:
    """A run of these phases, which ``steps`` controls over HTTP."""
    servers: list[RunControlServer] = []
    watching: list[Any] = []

    def started(conductor: Conductor) -> None:
        server = RunControlServer(reactor, RunAPI(conductor), "127.0.0.1", 0, token=TOKEN)
        server.listen()
        servers.append(server)

        async def control() -> None:
            client = Client(server.url)
            try:
                await steps(client)
            finally:
                client.http.close()
                conductor.interrupt()

        watching.append(Deferred.fromCoroutine(control()))

    try:
        conductor = await load_run(*phases, started=started, controlled=True, **tables)
    finally:
        await servers[0].close()
    await watching[0]
    return conductor


def test_a_run_is_paused_made_faster_and_resumed(run_in_reactor: RunInReactor) -> None:
    async def steps(client: Client) -> None:
        await client.until("running")
        paused = await client.ask("POST", "/v1/run/pause")
        assert paused["paused"]
        again = await client.ask("POST", "/v1/run/pause", status=409)
        assert again["type"] == "urn:lom-agent:conflict"
        assert "paused" in again["detail"]
        await client.ask("POST", "/v1/run/rate", {"phase": "enrol", "rate": 9}, status=404)
        await client.ask("POST", "/v1/run/rate", {"phase": "enroll"}, status=400)
        faster = await client.ask("POST", "/v1/run/rate", {"phase": "enroll", "rate": 1000})
        assert faster["phases"][0]["rate"] == pytest.approx(1000)
        assert faster["paused"]
        resumed = await client.ask("POST", "/v1/run/resume")
        assert not resumed["paused"]
        await client.ask("POST", "/v1/run/resume", status=409)
        state = await client.until("ended")
        assert [change["what"] for change in state["changes"]] == ["pause", "rate", "resume"]
        results = await client.ask("GET", "/v1/results")
        assert "operations" in results
        await client.ask("POST", "/v1/run/rate", {"phase": "enroll", "factor": 2}, status=409)

    conductor = run_in_reactor(controlled_run(steps, SLOWLY, {"kind": "idle", "seconds": 600}))
    state = conductor.phases[0].state
    assert (state.started, state.done, state.failed, state.dropped) == (8, 8, 0, 0)
    assert conductor.metrics().summary("enroll").count == 8
    pause, rate, resume = conductor.changes_made
    assert {each.by for each in conductor.changes_made} == {"control"}
    assert (rate.phase, rate.rate, rate.factor) == ("enroll", 1000, None)
    (phase, _) = conductor.phase_summaries()
    assert phase.paused_s == pytest.approx(resume.at_s - pause.at_s)


def test_a_run_is_stopped(run_in_reactor: RunInReactor) -> None:
    async def steps(client: Client) -> None:
        await client.until("running")
        await client.ask("POST", "/v1/run/stop", status=204)

    conductor = run_in_reactor(controlled_run(steps, SLOWLY))
    assert conductor.incomplete_because == INTERRUPTED


def test_a_scenario_makes_its_changes_itself(run_in_reactor: RunInReactor) -> None:
    changes = [
        {"at": 0.2, "what": "rate", "phase": "enroll", "rate": 1000},
        {"at": 0.1, "what": "pause"},
        {"at": 0.3, "what": "resume"},
    ]
    conductor = run_in_reactor(load_run(SLOWLY, change=changes))
    assert conductor.phases[0].state.done == 8
    made = conductor.changes_made
    assert sorted(change.what for change in made) == ["pause", "rate", "resume"]
    assert {change.by for change in made} == {"scenario"}
    assert next(change.phase_s for change in made if change.what == "rate") == 0.2


def test_the_openapi_document_of_a_run_is_valid_and_has_every_request() -> None:
    document = openapi(RUN_ROUTES, RUN_TITLE)
    OpenAPIV31SpecValidator(document).validate()
    found = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    assert found == {"run", "pause", "resume", "rate", "stop", "results", "metrics"}


def test_only_the_token_controls_a_run_and_metrics_are_served(run_in_reactor: RunInReactor) -> None:
    async def steps(client: Client) -> None:
        url = str(client.http.base_url)
        refused = await deferToThread(httpx.post, f"{url}/v1/run/stop")
        assert refused.status_code == 401
        document = await deferToThread(httpx.get, f"{url}/openapi.json")
        assert document.json() == msgspec.json.decode(msgspec.json.encode(openapi(RUN_ROUTES, RUN_TITLE)))
        metrics = await deferToThread(client.http.get, "/metrics")
        assert "lom_agent_phase_operations" in metrics.text

    run_in_reactor(controlled_run(steps, SLOWLY))
