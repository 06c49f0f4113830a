"""``lom-agent serve`` as other programs use it: each request, each kind of problem, streams and waits, two clients."""

from __future__ import annotations

import json
import plistlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from started_service import Service, started_service

from agent.service.api.problems import KINDS
from agent.service.api.routes import ROUTES
from agent.service.types import Event, Problem

pytestmark = pytest.mark.slow

LIST = "ProfileList"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a lab."""
    folder = tmp_path_factory.mktemp("service")
    with started_service(folder, "--lab", "--devices", "3", "--boot", "constant:0.1") as started:
        yield started
    assert (folder / "log").read_bytes() == b""


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """A client of the service as it was after its start."""
    with service.client() as client:
        yield client
        assert client.post("/v1/reset").status_code == 200


def queue(service: Service, udid: str, request_type: str = LIST) -> str:
    """Queue a command in the lab, which pushes; its CommandUUID."""
    lab = service.ready["lab"]
    response = httpx.post(
        f"{lab['url']}/api/v1/macs/{udid}/commands",
        content=plistlib.dumps({"RequestType": request_type}),
        headers={"Authorization": f"Bearer {lab['token']}"},
        verify=False,
        trust_env=False,
    )
    assert response.status_code == 201, response.text
    return str(response.json()["command_uuid"])


def refused(response: httpx.Response, status: int) -> Problem:
    """The problem details of a response with this status."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = msgspec.json.decode(response.content, type=Problem)
    assert (problem.status, problem.type) == (status, f"urn:lom-agent:{KINDS[status][0]}")
    return problem


def following(service: Service, query: str, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """The events of a stream up to ``enough``."""
    found: list[Event] = []
    with service.client() as client, client.stream("GET", f"/v1/events?{query}") as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(msgspec.json.decode(line[6:], type=Event))
                if enough(found):
                    break
    return found


# The requests


def test_a_mac_is_enrolled_asked_and_let_go(service: Service, client: httpx.Client) -> None:
    mac = client.get("/v1/macs?limit=1").json()[0]
    path = f"/v1/macs/{mac['udid']}"
    assert (mac["state"], mac["enrolled"]) == ("new", False)
    assert client.post(f"{path}/enroll").json()["enrolled"]
    uuid = queue(service, mac["udid"])
    wait = {"kind": "delivered", "command_uuid": uuid, "timeout": 60}
    assert client.post("/v1/wait", json=wait).json()["status"] == "Acknowledged"

    (answer,) = client.get(f"{path}/answers", params={"command_uuid": uuid}).json()
    assert (answer["request_type"], answer["status"], answer["delivered"]) == (LIST, "Acknowledged", True)
    detail = client.get(path).json()
    assert detail["profiles"]
    assert detail["exchanges"][-1]["answer_status"] in ("Acknowledged", "Idle")
    found = client.get("/v1/exchanges", params={"mac": mac["serial_number"], "text": uuid}).json()
    assert {each["udid"] for each in found} == {mac["udid"]}
    assert any(each["command_uuid"] == uuid for each in found)
    assert client.get("/v1/results").json()["operations"]["enroll"]["count"] == 1

    assert client.delete("/v1/exchanges", params={"mac": mac["udid"]}).status_code == 204
    assert client.get("/v1/exchanges", params={"mac": mac["udid"]}).json() == []
    assert client.post(f"{path}/connect").status_code == 200
    assert not client.post(f"{path}/unenroll").json()["enrolled"]
    assert client.post("/v1/wait", json={"kind": "unenrolled", "udid": mac["udid"]}).status_code == 200


def test_macs_are_added_found_reset_and_removed(client: httpx.Client) -> None:
    added = client.post("/v1/macs", json={"count": 4, "segment_size": 2, "os": "26.4", "seed": "added"})
    assert added.status_code == 201
    assert [mac["os_version"] for mac in added.json()] == ["26.4"] * 4
    first, *_, last = added.json()
    assert first["number"] == 3
    assert [mac["number"] for mac in client.get(f"/v1/macs?segment={last['segment']}").json()] == [5, 6]
    assert [mac["udid"] for mac in client.get("/v1/macs?role=controller&after=2").json()] == [
        mac["udid"] for mac in added.json() if "controller" in mac["roles"]
    ]
    client.post(f"/v1/macs/{last['udid']}/enroll")
    assert not client.post(f"/v1/macs/{last['udid']}/reset").json()["enrolled"]
    assert client.delete(f"/v1/macs/{last['udid']}").status_code == 204
    refused(client.get(f"/v1/macs/{last['udid']}"), 404)
    assert client.delete("/v1/macs").status_code == 204
    assert client.get("/v1/macs").json() == []
    assert client.post("/v1/reset").json()["macs"] == 3


def test_the_power_and_the_network_of_macs_are_changed(client: httpx.Client) -> None:
    def until(number: int, **wanted: Any) -> None:
        assert client.post(f"/v1/macs/{number}/wait", json={**wanted, "timeout": 60}).status_code == 200

    client.post("/v1/macs/0/power", json={"action": "off"})
    until(0, power="off")
    client.post("/v1/macs/0/power", json={"action": "on"})
    until(0, power="on")
    changed = client.post("/v1/segments/0/mains", json={"action": "cut_mains"}).json()
    assert {mac["power"] for mac in changed} == {"no_mains"}
    refused(client.post("/v1/macs/1/power", json={"action": "on"}), 409)
    client.post("/v1/segments/0/mains", json={"action": "restore_mains"})
    assert not client.post("/v1/macs/1/network", json={"online": False}).json()["online"]
    assert client.post("/v1/macs/1/network", json={"online": True}).json()["online"]
    profile = plistlib.loads(client.get("/v1/macs/1/lom-profile").content)
    assert profile["PayloadType"] == "Configuration"


def test_a_rule_makes_a_mac_answer_not_now_twice(service: Service, client: httpx.Client) -> None:
    client.post("/v1/macs/1/enroll")
    udid = client.get("/v1/macs/1").json()["udid"]
    rule = {"id": "busy", "on": "command", "do": "not_now", "type": LIST, "times": 2, "macs": [udid]}
    assert client.post("/v1/rules", json=rule).status_code == 201
    uuid = queue(service, udid)
    wait = {"kind": "answered", "command_uuid": uuid, "timeout": 60}
    number = client.post("/v1/wait", json={**wait, "status": "NotNow"}).json()["number"]
    for _ in range(2):  # a Mac that was not ready connects again later: here at once
        ended = {"kind": "session_ended", "udid": udid, "after": number, "timeout": 60}
        number = client.post("/v1/wait", json=ended).json()["number"]
        client.post("/v1/macs/1/connect")
    assert client.post("/v1/wait", json={**wait, "status": "Acknowledged"}).status_code == 200
    answers = client.get("/v1/macs/1/answers", params={"command_uuid": uuid}).json()
    assert [answer["status"] for answer in answers] == ["NotNow", "NotNow", "Acknowledged"]
    assert client.get("/v1/rules").json()[0]["hits"] == 2
    assert client.get("/v1/rules/busy").json()["exhausted"]
    assert client.post("/v1/wait", json={"kind": "rule_hit", "udid": udid}).json()["rules"] == ["busy"]
    assert client.delete("/v1/rules/busy").status_code == 204
    client.post("/v1/rules", json={**rule, "id": "again"})
    assert client.delete("/v1/rules").status_code == 204
    assert client.get("/v1/rules").json() == []


def test_service_describes_itself(service: Service, client: httpx.Client) -> None:
    info = client.get("/v1").json()
    assert (info["macs"], info["pid"], info["lab"]) == (3, service.process.pid, service.ready["lab"])
    assert client.get("/v1/clock").json()["kind"] == "real"
    refused(client.post("/v1/clock", json={"advance": 1}), 409)
    families = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert "lom_agent_macs" in families
    assert len(client.get("/openapi.json").json()["paths"]) > len({route.path for route in ROUTES})


def test_a_manual_clock_stands_until_it_is_moved(tmp_path: Path) -> None:
    with (
        started_service(tmp_path, "--devices", "1", "--clock", "manual", "--boot", "constant:30") as service,
        service.client() as client,
    ):
        client.post("/v1/macs/0/power", json={"action": "cut_mains"})
        client.post("/v1/macs/0/power", json={"action": "restore_mains"})
        client.post("/v1/macs/0/power", json={"action": "on"})
        assert client.get("/v1/macs/0").json()["power"] == "booting"
        assert client.post("/v1/clock", json={"advance": 29.5}).json()["seconds"] == pytest.approx(29.5)
        assert client.get("/v1/macs/0").json()["power"] == "booting"
        client.post("/v1/clock", json={"advance": 0.5})
        assert client.get("/v1/macs/0").json()["power"] == "on"


# The problems


def test_each_kind_of_problem_comes_from_the_real_service(service: Service, client: httpx.Client) -> None:
    assert "`speed`" in refused(client.post("/v1/macs/0/enroll", json={"speed": 1}), 400).detail
    assert "both" in refused(client.post("/v1/macs/0/enroll", json={"url": "https://x", "profile": "eA=="}), 400).detail
    refused(client.get("/v1", headers={"Authorization": "Bearer wrong"}), 401)
    refused(client.get("/v1", headers={"Host": "evil.example"}), 403)
    for path in ("/v1/macs/17", "/v1/rules/none", "/v2"):
        refused(client.get(path), 404)
    refused(client.put("/v1/macs"), 405)
    assert "enrolled" in refused(client.post("/v1/macs/0/unenroll"), 409).detail
    refused(client.post("/v1/macs", content=b" " * 4_200_000), 413)
    nothing = f"{service.ready['lab']['url']}/nothing"
    client.post("/v1/macs/0/network", json={"online": False})
    assert "offline" in refused(client.post("/v1/macs/0/enroll", json={"url": nothing}), 409).detail
    client.post("/v1/macs/0/network", json={"online": True})
    problem = refused(client.post("/v1/macs/0/enroll", json={"url": nothing}), 502)
    assert "404" in problem.detail
    udid = client.get("/v1/macs/0").json()["udid"]
    assert {exchange.udid for exchange in problem.exchanges} <= {udid}
    wait = {"kind": "enrolled", "udid": udid, "timeout": 0.01}
    late = refused(client.post("/v1/wait", json=wait), 504)
    assert "enroll_failed" in {event.kind for event in late.nearest}
    refused(client.post("/v1/macs/0/wait", json={"enrolled": True, "timeout": 0.01}), 504)


def test_a_server_that_does_not_answer_is_a_timeout(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/enroll"
        refused(client.post("/v1/macs/0/enroll", json={"url": url, "timeout": 0.2}), 504)


# Two clients


def test_two_clients_follow_and_wait_while_a_third_acts(service: Service, client: httpx.Client) -> None:
    after = client.get("/v1").json()["last_event"]
    udid = client.get("/v1/macs/2").json()["udid"]

    def wait() -> int:
        with service.client() as other:
            body = {"kind": "enrolled", "udid": udid, "after": after, "timeout": 60}
            return int(other.post("/v1/wait", json=body).json()["number"])

    def follow() -> list[Event]:
        return following(service, f"after={after}&mac=2", lambda events: events[-1].kind == "enrolled")

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(follow) for _ in range(2)]
        waits = [pool.submit(wait) for _ in range(2)]
        assert client.post("/v1/macs/2/enroll").status_code == 200
        assert client.post("/v1/macs/1/enroll").status_code == 200
        first, second = (each.result() for each in streams)
        numbers = {each.result() for each in waits}
    assert first == second
    assert {event.udid for event in first} == {udid}
    assert numbers == {first[-1].number}


def test_a_stream_continues_where_it_was_lost(service: Service, client: httpx.Client) -> None:
    after = client.get("/v1").json()["last_event"]
    client.post("/v1/macs/0/network", json={"online": False})
    (lost,) = following(service, f"after={after}", lambda events: len(events) == 1)
    client.post("/v1/macs/0/network", json={"online": True})
    with client.stream("GET", "/v1/events", headers={"Last-Event-ID": str(lost.number)}) as response:
        line = next(line for line in response.iter_lines() if line.startswith("data: "))
    assert json.loads(line[6:])["number"] == lost.number + 1
    assert json.loads(line[6:])["status"] == "online"


def test_curl_is_a_client(service: Service, client: httpx.Client) -> None:
    done = subprocess.run(
        [
            "curl", "-sS", "--noproxy", "*", "-H", f"Authorization: Bearer {service.token}", f"{service.url}/v1/macs",
            "-d", '{"count": 2}', "-w", "%{http_code}",
        ],
        capture_output=True, check=True,
    )  # fmt: skip
    body, status = done.stdout[:-3], done.stdout[-3:]
    assert status == b"201"
    assert [mac["number"] for mac in json.loads(body)] == [3, 4]
