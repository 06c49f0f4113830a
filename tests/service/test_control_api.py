"""The control API over real connections: every route, who may ask, what is refused and how."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from control_clients import TOKEN, Party, with_server
from fake_service import REFUSED, FakeService
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.web.server import Request

from agent.errors import MisuseError, OperatorError
from agent.service.api import control
from agent.service.api.control import MAX_CONNECTIONS, ControlServer
from agent.service.api.problems import KINDS
from agent.service.api.requests import API
from agent.service.api.route_examples import BODIES
from agent.service.api.routes import ROUTES
from agent.service.types import Problem

pytestmark = pytest.mark.slow

PATHS = {"mac": "1", "segment": "0", "rule": "flaky"}
FLAKY = {"id": "flaky", "on": "command", "do": "not_now"}


def problem(response: httpx.Response) -> Problem:
    """Its problem details, which agree with its status."""
    assert response.headers["Content-Type"] == "application/problem+json"
    found = msgspec.json.decode(response.content, type=Problem)
    assert found.status == response.status_code
    assert found.type == f"urn:lom-agent:{KINDS[found.status][0]}"
    return found


# The table


def test_each_route_has_a_method_of_the_api_and_the_reverse() -> None:
    methods = {name for name, each in inspect.getmembers(API, inspect.isfunction) if not name.startswith("_")}
    assert methods == {route.name for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_each_method_takes_the_parameters_of_its_route(route) -> None:
    parameters = list(inspect.signature(getattr(API, route.name)).parameters)[1:]
    declared = [*re.findall(r"<(\w+)>", route.path), *(query.name for query in route.query)]
    if route.body is not None:
        declared.append("body")
    assert set(parameters) == set(declared) or (parameters[-1] == "wanted" and set(parameters[:-1]) <= set(declared))


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.name not in ("events", "wait_state")], ids=lambda route: route.name
)
def test_each_route_answers_with_its_type(run_in_reactor, route) -> None:
    async def test(party: Party) -> None:
        await party.ask("POST", "/v1/rules", json=FLAKY)
        await party.ask("POST", "/v1/macs/1/enroll")
        path = re.sub(r"<(\w+)>", lambda found: PATHS[found[1]], route.path)
        body = dict(BODIES.get(route.name, {}))
        if route.name == "wait":
            body = {"kind": "enrolled"}
        response = await party.ask(route.method, path, **({"json": body} if route.body else {}))
        if route.answer is None:
            assert (response.status_code, response.content) == (204, b"")
            return
        assert response.status_code == route.status
        assert response.headers["Content-Type"] == route.media
        if route.answer is bytes:
            assert response.content == b"<plist/>"
        else:
            msgspec.json.decode(response.content, type=route.answer)

    with_server(run_in_reactor, test)


# What the routes do


def test_macs_are_listed_by_their_properties_and_in_parts(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        async def numbers(query: str) -> list[int]:
            return [mac["number"] for mac in (await party.ask("GET", f"/v1/macs?{query}")).json()]

        await party.ask("POST", "/v1/macs/2/enroll")
        assert await numbers("") == [0, 1, 2]
        assert await numbers("limit=2") == [0, 1]
        assert await numbers("after=0&limit=1") == [1]
        assert await numbers("segment=1") == [2]
        assert await numbers("role=controller") == [0]
        assert await numbers("os=26") == [0, 2]
        assert await numbers("os=26.4") == [0, 2]
        assert await numbers("os=2") == []
        assert await numbers("enrolled=true") == [2]
        assert await numbers("enrolled=false&text=mac%201") == [1]
        assert await numbers("text=serial2") == [2]
        assert await numbers("state=idle") == [2]

    with_server(run_in_reactor, test)


def test_a_fleet_of_many_macs_is_listed_as_a_whole(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        await party.ask("POST", "/v1/macs", json={"count": 1200, "segment_size": 100})
        found = (await party.ask("GET", "/v1/macs?limit=10000")).json()
        assert [mac["number"] for mac in found] == [*range(1203)]

    with_server(run_in_reactor, test)


def test_a_mac_goes_by_udid_serial_number_and_number(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        for name in ("UDID-1", "SERIAL1", "1"):
            assert (await party.ask("GET", f"/v1/macs/{name}")).json()["udid"] == "UDID-1"
        assert (await party.ask("DELETE", "/v1/macs/UDID-1")).status_code == 204
        assert problem(await party.ask("GET", "/v1/macs/UDID-1")).status == 404

    with_server(run_in_reactor, test)


def test_the_mains_of_a_segment_are_those_of_its_macs(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        changed = (await party.ask("POST", "/v1/segments/0/mains", json={"action": "cut_mains"})).json()
        assert [(mac["number"], mac["power"]) for mac in changed] == [(0, "no_mains"), (1, "no_mains")]
        assert (await party.ask("GET", "/v1/macs/2")).json()["power"] == "on"
        for segment in ("7", "x", "-1", "0x0", "\u0661"):
            assert problem(await party.ask("POST", f"/v1/segments/{segment}/mains", json={"action": "cut_mains"}))

    with_server(run_in_reactor, test)


def test_a_rule_is_added_once_counted_and_removed(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        assert (await party.ask("POST", "/v1/rules", json=FLAKY)).json()["id"] == "flaky"
        assert "twice" in problem(await party.ask("POST", "/v1/rules", json=FLAKY)).detail
        assert [each["rule"]["id"] for each in (await party.ask("GET", "/v1/rules")).json()] == ["flaky"]
        assert (await party.ask("GET", "/v1/rules/flaky")).json()["hits"] == 0
        assert (await party.ask("DELETE", "/v1/rules/flaky")).status_code == 204
        assert problem(await party.ask("DELETE", "/v1/rules/flaky")).status == 404

    with_server(run_in_reactor, test)


def test_an_enrollment_that_the_server_refuses_has_the_last_exchanges(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        found = problem(await party.ask("POST", "/v1/macs/1/enroll", json={"url": REFUSED}))
        assert (found.status, found.detail) == (502, "Expected HTTP status 200, found 403. Check the URL.")
        assert [each.udid for each in found.exchanges] == ["UDID-1"] * 10

    with_server(run_in_reactor, test)


def test_an_enrollment_goes_on_when_its_client_leaves(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("POST", "/v1/macs/1/enroll", body=b'{"url": "slow"}')
        while not party.service.enrolling:
            await party.ask("GET", "/v1")
        client.transport.loseConnection()
        await client.closed
        await party.ask("GET", "/v1")
        party.service.enrolling[0].callback(None)
        assert (await party.ask("GET", "/v1/macs/1")).json()["enrolled"]

    with_server(run_in_reactor, test)


def test_queries_reach_the_service_as_they_are(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        query = {"mac": "UDID-1", "kind": "push", "text": "a&b \u00e4", "after": 3, "limit": 2}
        found = (await party.ask("GET", "/v1/exchanges", params=query)).json()
        assert [(each["number"], each["udid"], each["kind"], each["error"]) for each in found] == [
            (18, "UDID-1", "push", "a&b \u00e4"),
            (19, "UDID-1", "push", "a&b \u00e4"),
        ]
        await party.ask("DELETE", "/v1/exchanges?mac=1")
        assert party.service.find("1").changes == ["cleared"]
        answers = (await party.ask("GET", "/v1/macs/1/answers?command_uuid=7")).json()
        assert [each["command_uuid"] for each in answers] == ["7"]
        assert len((await party.ask("GET", "/v1/macs/1/answers")).json()) == 100

    with_server(run_in_reactor, test)


# Waits


def test_a_wait_answers_with_an_event_of_the_past_or_to_come(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        wait = {"kind": "enrolled", "udid": "UDID-1", "timeout": 60}
        waiting = gatherResults([ensureDeferred(party.ask("POST", "/v1/wait", json=wait)) for _ in range(2)])
        assert (await party.ask("POST", "/v1/macs/1/enroll")).status_code == 200
        numbers = {response.json()["number"] for response in await waiting}
        assert numbers == {(await party.ask("POST", "/v1/wait", json=wait)).json()["number"]}

    with_server(run_in_reactor, test)


def test_a_wait_that_times_out_shows_what_came_closest_and_the_last_exchanges(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        wait = {"kind": "enrolled", "udid": "UDID-1", "timeout": 0.01}
        found = problem(await party.ask("POST", "/v1/wait", json=wait))
        assert found.status == 504
        assert found.nearest[0].udid == "UDID-1"
        assert [each.udid for each in found.exchanges] == ["UDID-1"] * 10
        assert problem(await party.ask("POST", "/v1/wait", json={**wait, "udid": "no Mac"})).exchanges == []

    with_server(run_in_reactor, test)


@pytest.mark.parametrize("path", ["/v1/wait", "/v1/macs/1/wait"])
def test_a_wait_ends_when_its_client_leaves(run_in_reactor, path) -> None:
    """Nothing is left: the fixture fails on a timer, and on an error that is logged."""

    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("POST", path, body=b'{"timeout": 600}' if path != "/v1/wait" else b'{"timeout": 600, "after": 99}')
        await party.ask("GET", "/v1")
        client.transport.loseConnection()
        await client.closed
        await party.ask("GET", "/v1")

    with_server(run_in_reactor, test)


def test_a_wait_is_ended_with_the_server(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("POST", "/v1/wait", body=b'{"timeout": 600, "after": 99}')
        await party.ask("GET", "/v1")
        await party.server.close()
        assert await client.closed == b""

    with_server(run_in_reactor, test)


# Who may ask


@pytest.mark.parametrize(
    "values",
    [[], ["Bearer wrong"], ["Bearer"], [f"Basic {TOKEN}"], [TOKEN], [f"Bearer {TOKEN}", f"Bearer {TOKEN}"], ["\u00ff"]],
)
def test_without_the_token_nothing_is_returned_or_changed(run_in_reactor, values) -> None:
    async def test(party: Party) -> None:
        party.client.headers.pop("Authorization")
        headers = [(b"Authorization", value.encode("latin-1")) for value in values]
        for method, path in (("DELETE", "/v1/macs"), ("GET", "/metrics"), ("GET", "/nothing"), ("PATCH", "/v1")):
            response = await party.ask(method, path, headers=headers)
            assert problem(response).status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        assert len(list(party.service.macs())) == 3

    with_server(run_in_reactor, test)


def test_there_is_no_server_without_a_token() -> None:
    with pytest.raises(MisuseError, match="expected a token"):
        ControlServer(reactor, FakeService(), token="")


def test_a_body_without_the_token_is_not_kept(run_in_reactor, monkeypatch) -> None:
    kept: list[bytes] = []
    monkeypatch.setattr(Request, "handleContentChunk", lambda _request, chunk: kept.append(chunk))

    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("POST", "/v1/macs", "Connection: close", body=b" " * 1_000_000, token="wrong")
        assert b" 401 " in await client.closed
        assert kept == []
        client = await party.raw()
        client.send("POST", "/v1/macs", "Connection: close", body=b" " * 1_000_000)
        await client.closed
        assert len(b"".join(kept)) == 1_000_000

    with_server(run_in_reactor, test)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("127.0.0.2", 403),
        ("", 403),
        ("[", 403),
        ("\u00ff", 403),
    ],
)
def test_only_names_of_this_host_are_answered(run_in_reactor, host, status) -> None:
    async def test(party: Party) -> None:
        for path in ("/v1", "/openapi.json"):
            response = await party.ask("GET", path, headers=[(b"Host", host.encode("latin-1"))])
            assert response.status_code == status
            if status != 200:
                problem(response)

    with_server(run_in_reactor, test)


@pytest.mark.parametrize("hosts", [[], ["Host: localhost", "Host: localhost"]])
def test_a_request_has_one_host(run_in_reactor, hosts) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        lines = ["GET /v1 HTTP/1.1", *hosts, f"Authorization: Bearer {TOKEN}", "Connection: close", "", ""]
        client.transport.write("\r\n".join(lines).encode())
        assert b" 403 " in await client.closed

    with_server(run_in_reactor, test)


def test_a_service_that_listens_on_every_address_is_reached_by_any_of_them(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        url = f"http://127.0.0.1:{party.port}/v1"
        for host, status in (
            ("192.0.2.7:80", 200),
            ("[2001:db8::1]", 200),
            ("0.0.0.0", 200),
            ("fleet:7780", 200),
            ("evil.example", 403),
            ("", 403),
            (":7780", 403),
        ):
            assert (await party.ask("GET", url, headers={"Host": host})).status_code == status

    with_server(run_in_reactor, test, host="0.0.0.0")
    with_server(run_in_reactor, test, host="")


def test_it_is_reached_by_ipv6(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        assert party.server.url.startswith("http://[::1]:")
        assert (await party.ask("GET", "/v1/macs/1")).status_code == 200

    with_server(run_in_reactor, test, host="::1")


def test_no_other_site_may_read_an_answer(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for method in ("GET", "OPTIONS"):
            response = await party.ask(method, "/v1/macs", headers=origin)
            assert not [name for name in response.headers if name.startswith("access-control")]
            assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert problem(response).status == 405

    with_server(run_in_reactor, test)


# What is refused


@pytest.mark.parametrize(
    ("method", "path", "content", "reason"),
    [
        ("POST", "/v1/macs", b"{", "truncated"),
        ("POST", "/v1/macs", b"\xff", "malformed"),
        ("POST", "/v1/macs", b"[]", "Expected `object`"),
        ("POST", "/v1/macs", b'{"mode": 1}', "unknown field `mode`"),
        ("POST", "/v1/macs", b'{"count": 0}', ">= 1"),
        ("POST", "/v1/macs", b'{"count": 1000000}', "<= 100000"),
        ("POST", "/v1/macs", b'{"seed": "\\ud800"}', "truncated"),
        ("POST", "/v1/macs", b"[" * 100_000, "nested"),
        ("POST", "/v1/macs", b'{"x":' + b"[" * 100_000, "nested"),
        ("POST", "/v1/macs/1/power", b"", "missing required field `action`"),
        ("POST", "/v1/rules", b'{"on": "push", "do": "not_now"}', 'Expected on = "command"'),
        ("POST", "/v1/clock", b'{"advance": NaN}', "malformed"),
        ("POST", "/v1/macs", b'{"count": 1.5}', "got `float`"),
        ("POST", "/v1/macs", b'{"count": 1e300}', "got `float`"),
        ("POST", "/v1/macs", b'{"count": 1e999}', "range"),
        ("POST", "/v1/macs", b'{"count": "2"}', "got `str`"),
        ("GET", "/v1?x=1", b"", "Expected no query"),
        ("GET", "/v1/macs?limit=x", b"", "limit"),
        ("GET", "/v1/macs?limit=-1", b"", ">= 0"),
        ("GET", "/v1/macs?limit=", b"", "limit"),
        ("GET", "/v1/macs?limit=99999999999999999999999999", b"", "limit"),
        ("GET", "/v1/macs?enrolled=yes", b"", "enrolled"),
        ("GET", "/v1/macs?enrolled=null", b"", "enrolled"),
        ("GET", "/v1/macs?state=tired", b"", "state"),
        ("GET", "/v1/macs?text=a&text=b", b"", "twice"),
        ("GET", "/v1/macs?text=%ff", b"", "UTF-8"),
        ("GET", "/v1/macs?" + "text=a&" * 100, b"", "at most 32"),
        ("GET", "/v1/events?kind=x", b"", "kind"),
        ("GET", "/v1/%ff", b"", "UTF-8"),
        ("POST", "/v1/reset", b'{"seed": "\xff"}', "a body in UTF-8"),
    ],
)
def test_invalid_request_is_answered_with_the_reason(run_in_reactor, method, path, content, reason) -> None:
    async def test(party: Party) -> None:
        found = problem(await party.ask(method, path, content=content))
        assert found.status == 400
        assert reason in found.detail

    with_server(run_in_reactor, test)


def test_only_the_macs_after_a_number_are_looked_at(run_in_reactor, monkeypatch) -> None:
    async def test(party: Party) -> None:
        looked_at = []
        view = party.service.view
        monkeypatch.setattr(party.service, "view", lambda handle: looked_at.append(handle.number) or view(handle))
        found = (await party.ask("GET", "/v1/macs?after=7")).json()
        assert looked_at == [mac["number"] for mac in found] == [8, 9]

    with_server(run_in_reactor, test, FakeService(10))


def test_a_number_with_a_fraction_of_zero_is_an_integer(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        assert len((await party.ask("POST", "/v1/macs", content=b'{"count": 2.0}')).json()) == 2
        assert len((await party.ask("GET", "/v1/macs?limit=4.0")).json()) == 4
        rule = {**FLAKY, "times": 2.0, "errors": [], "seconds": None}
        assert (await party.ask("POST", "/v1/rules", json=rule)).json()["times"] == 2
        enrolled = await party.ask("POST", "/v1/macs/1/enroll", json={"profile": "PHBsaXN0Lz4=", "timeout": 3.0})
        assert enrolled.status_code == 200

    with_server(run_in_reactor, test)


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v1/", "/v1/macs/", "/v1//macs", "/v1/macs/1/", "/v1/macs/../macs", "/v1/macs/1%2Fpower", "/v1/%00", "/x"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
def test_nothing_is_done_at_other_paths(run_in_reactor, method, path) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send(method, path, "Connection: close")
        octets = await client.closed
        assert b" 404 " in octets.partition(b"\r\n")[0]
        assert len(list(party.service.macs())) == 3

    with_server(run_in_reactor, test)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/macs", "DELETE, GET, HEAD, POST"),
        ("GET", "/v1/wait", "POST"),
        ("TRACE", "/v1", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("BREW", "/metrics", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_refused_with_those_that_it_has(
    run_in_reactor, method, path, allowed
) -> None:
    async def test(party: Party) -> None:
        response = await party.ask(method, path)
        assert problem(response).status == 405
        assert response.headers["Allow"] == allowed

    with_server(run_in_reactor, test)


def test_a_long_body_is_refused(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        assert problem(await party.ask("POST", "/v1/macs", content=b" " * 4_194_305)).status == 413
        assert (await party.ask("POST", "/v1/macs", content=b" " * 4_194_302 + b"{}")).status_code == 201

    with_server(run_in_reactor, test)


def test_conflict_is_reported(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        found = problem(await party.ask("POST", "/v1/macs/1/connect"))
        assert (found.status, found.detail) == (409, "Expected an enrolled Mac, found one that is not. Enroll it.")

    with_server(run_in_reactor, test)


def test_head_has_the_header_alone(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        for path in ("/v1", "/v1/events", "/openapi.json", "/v1/nothing"):
            response = await party.ask("HEAD", path)
            assert response.content == b""
            assert response.status_code == (404 if path == "/v1/nothing" else 200)

    with_server(run_in_reactor, test)


def test_one_connection_too_many_is_closed_at_once(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        others = [await party.raw() for _ in range(MAX_CONNECTIONS)]
        assert await (await party.raw()).closed == b""
        for other in others:
            other.transport.loseConnection()
        await gatherResults([other.closed for other in others])
        assert (await party.ask("GET", "/v1")).status_code == 200

    with_server(run_in_reactor, test)


def test_a_port_that_is_taken_is_the_operators_to_change(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        second = ControlServer(reactor, party.service, "127.0.0.1", party.port, token=TOKEN)
        with pytest.raises(OperatorError, match=r"The control API cannot listen on 127\.0\.0\.1"):
            second.listen()
        await second.close()

    with_server(run_in_reactor, test)


# A defect of ours


def test_a_defect_is_a_problem_and_is_logged(run_in_reactor) -> None:
    from twisted.logger import globalLogPublisher

    logged: list[Any] = []

    async def test(party: Party) -> None:
        def fail() -> None:
            raise KeyError("a secret")

        party.service.results = fail
        found = problem(await party.ask("GET", "/v1/results"))
        assert (found.status, "KeyError" in found.detail, "a secret" in found.detail) == (500, True, False)
        assert (await party.ask("GET", "/v1")).status_code == 200

    observers = list(globalLogPublisher._observers)
    globalLogPublisher._observers[:] = [logged.append]
    try:
        with_server(run_in_reactor, test)
    finally:
        globalLogPublisher._observers[:] = observers
    assert [each["log_failure"].type for each in logged if each.get("log_failure")] == [KeyError]


# The metrics and the page


def test_the_metrics_are_those_of_the_service(run_in_reactor) -> None:
    async def test(party: Party) -> None:
        response = await party.ask("GET", "/metrics")
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(response.text)}
        samples = {sample.labels["state"]: sample.value for sample in families["lom_agent_macs"].samples}
        assert samples["idle"] == 3

    with_server(run_in_reactor, test)


def with_page(monkeypatch: pytest.MonkeyPatch, folder: Path, **contents: str) -> None:
    """Let ``folder`` be where the package's files are, with these files of the page."""
    (folder / "page").mkdir()
    for name, text in contents.items():
        (folder / "page" / name.replace("_", ".")).write_text(text, encoding="utf-8")
    (folder / "secret.js").write_text("secret", encoding="utf-8")
    monkeypatch.setattr("agent.service.api.control.files", lambda _package: folder)
    monkeypatch.setattr(control, "_application", control._application.__wrapped__)  # that of other tests has the page


def test_the_page_needs_no_token_and_may_load_nothing_from_elsewhere(run_in_reactor, monkeypatch, tmp_path) -> None:
    async def test(party: Party) -> None:
        party.client.headers.pop("Authorization")
        for path, media, text in (
            ("/", "text/html; charset=utf-8", "<p>\u00e4</p>"),
            ("/page/index.html", "text/html; charset=utf-8", "<p>\u00e4</p>"),
            ("/page/page.js", "text/javascript; charset=utf-8", "'use strict'"),
            ("/page/page.css", "text/css; charset=utf-8", "p {}"),
        ):
            response = await party.ask("GET", path)
            assert (response.status_code, response.headers["Content-Type"], response.text) == (200, media, text)
            assert ("Content-Security-Policy" in response.headers) == media.startswith("text/html")
        policy = (await party.ask("GET", "/")).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy

    with_page(monkeypatch, tmp_path, index_html="<p>\u00e4</p>", page_js="'use strict'", page_css="p {}", note_txt="no")
    with_server(run_in_reactor, test)


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/note.txt",
        "/page/../secret.js",
        "/page/%2e%2e/secret.js",
        "/page/..%2fsecret.js",
        "/page/%2fetc%2fpasswd",
        "/page//etc/passwd",
        "/page/page.js/",
        "/page/page.js%00",
        "/page/../v1/macs",
    ],
)
def test_nothing_else_of_the_file_system_is_served(run_in_reactor, monkeypatch, tmp_path, path) -> None:
    async def test(party: Party) -> None:
        client = await party.raw()
        client.send("GET", path, "Connection: close", token=None)
        octets = await client.closed
        assert b" 404 " in octets.partition(b"\r\n")[0]
        assert b"secret" not in octets.replace(path.encode(), b"")

    with_page(monkeypatch, tmp_path, index_html="x", page_js="y", note_txt="secret")
    with_server(run_in_reactor, test)
