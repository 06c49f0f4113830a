"""The client's requests: how long an answer is awaited, what is said without one, and which connections are kept."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from msgspec import structs

from agent.client import ClientError, Device, Fleet
from agent.client.connection import ANSWER_SECONDS, WORK_SECONDS, Connection
from agent.client.connection import path as path_of
from agent.client.http import HTTPClient, NoAnswer, Response
from agent.client.lab import Lab
from agent.service.types import LabInfo, Mac, ServiceInfo

LONG = 60.0
MAC = Mac(
    number=0, udid="UDID-0", serial_number="S", name="n", model="m", os_version="26", segment=0, roles=["device"],
    state="idle", power="on", enrolled=True, connected=False, online=True, lom=False, boots=0,
)  # fmt: skip


@contextmanager
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Quick(BaseHTTPRequestHandler):
    """Answers with its connection's port; ``/close`` says so and closes, ``/lines`` goes on for three lines."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        if self.path == "/lines":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write("one\ntw\u2028o\r\ndata:".encode())
            self.close_connection = True
            return
        body = b"%s %d" % (self.path.encode(), self.client_address[1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.path == "/p/close"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Print nothing."""


@pytest.fixture
def quick() -> Iterator[str]:
    """The URL of a server that answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Quick) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda fleet: fleet.info, r"to GET /v1 within 0\.05 s, found none after \d+\.\d s"),
        (lambda fleet: fleet.wait(kind="enrolled", timeout=0.1), r"to POST /v1/wait within 0\.15 s, found none after"),
        (lambda fleet: next(fleet.follow(after=3)), r"to GET /v1/events within 0\.05 s, found none after"),
    ],
    ids=["info", "wait", "follow"],
)
def test_a_silent_service_is_reported(call: Callable[[Fleet], object], said: str) -> None:
    with silent() as url:
        fleet = Fleet(Connection(url, "token", patience=0.05))
        with pytest.raises(
            ClientError, match=rf"^Expected an answer from the service at {url} {said}.*Check that it still"
        ):
            call(fleet)
        fleet.close()


def test_a_silent_lab_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.client.lab._ANSWER_SECONDS", 0.05)
    with silent() as url:
        lab = Lab(LabInfo(url=url, enroll_url=url, token="t", ca=""), Connection(url, "token"))
        with pytest.raises(
            ClientError, match=rf"from the lab at {url} to POST /api/v1/macs/U/push within 0\.05 s, found none"
        ):
            lab.push("U")
        lab.close()


def test_a_service_that_has_ended_is_reported() -> None:
    with silent() as url:
        pass
    with pytest.raises(ClientError, match=r"to GET /v1 within 10 s, found \[Errno \d+\] Connection refused after"):
        Fleet.connect(url, "token")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "127.0.0.1:7780",
            "Expected a URL with http:// or https:// and a host, found '127.0.0.1:7780'. The URL of the",
        ),
        ("http://127.0.0.1:99999", "Expected a URL with a valid port, found 'http://127.0.0.1:99999'. The URL of the"),
    ],
)
def test_what_is_no_url_is_reported(url: str, said: str) -> None:
    with pytest.raises(ClientError, match=f"^{re.escape(said)}"):
        Fleet.connect(url, "token")


def test_an_answer_is_awaited_for_what_the_request_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def request(_client: HTTPClient, method: str, path: str, *_body: Any, seconds: float, **_more: Any) -> Response:
        limits.append(seconds)
        raise NoAnswer

    monkeypatch.setattr(HTTPClient, "request", request)
    fleet = Fleet(Connection("http://127.0.0.1:1", "token"))
    mac = Device(fleet._connection, MAC)
    calls: list[Callable[[], object]] = [
        lambda: fleet.info,
        mac.connect,
        lambda: mac.enroll(timeout=60.0),
        lambda: mac.wait_until("on", timeout=5.0),
        lambda: fleet.wait(timeout=0.0),
        fleet.reset,
        fleet.remove_macs,
        lambda: fleet.add(20_000),
        lambda: fleet.advance(1e8),
    ]
    for call in calls:
        with pytest.raises(ClientError):
            call()
    extra = ANSWER_SECONDS
    assert limits == [extra, extra, 60.0 + extra, 5.0 + extra, extra, *[WORK_SECONDS + extra] * 4]


def test_what_is_asked_after_the_end_is_reported() -> None:
    fleet = Fleet(Connection("http://127.0.0.1:1", "token"))
    mac, began = Device(fleet._connection, MAC), fleet.follow(after=0)
    fleet.close()
    fleet.close()
    calls: list[Callable[[], object]] = [
        lambda: fleet.info, lambda: mac.power, lambda: fleet.lab, lambda: next(began),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ClientError, match=r"found that the connection is closed\. Use it before"):
            call()
    assert repr(mac) == "<Device 0 m UDID-0>"


def test_a_request_that_is_open_at_the_end_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        fleet = Fleet(Connection(f"http://127.0.0.1:{server.getsockname()[1]}", "token"))
        found: list[BaseException] = []

        def ask() -> None:
            try:
                fleet.wait()
            except ClientError as error:
                found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        accepted, _ = server.accept()
        accepted.recv(4096)
        fleet.close()
        accepted.close()
        thread.join()
    assert "Use it before it is closed" in str(found[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda fleet: fleet.find("x" * 70_000),
        lambda fleet: fleet.select(text="x" * 70_000),
        lambda fleet: fleet.wait(timeout=float("inf")),
        lambda fleet: fleet.wait(timeout=float("nan")),
        lambda fleet: fleet.wait(timeout=-100.0),
    ],
    ids=["path", "query", "inf", "nan", "negative"],
)
def test_what_cannot_be_asked_is_the_clients_error(call: Callable[[Fleet], object]) -> None:
    with silent() as url:
        pass
    fleet = Fleet(Connection(url, "token"))
    with pytest.raises(ClientError, match="Expected an answer from the service") as raised:
        call(fleet)
    assert len(str(raised.value)) < 500
    fleet.close()


@pytest.mark.parametrize("token", ["", "secret\n", "sécret", "se cret"])
def test_what_is_no_token_is_reported_without_it(token: str) -> None:
    with pytest.raises(ClientError, match=r"^Expected a token of printable") as raised:
        Fleet.connect("http://127.0.0.1:1", token)
    assert "cret" not in str(raised.value)


def test_a_refused_connection_is_closed(quick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Connection] = []
    close = Connection.close
    monkeypatch.setattr(Connection, "close", lambda connection: (close(connection), closed.append(connection)))
    with pytest.raises(ClientError, match="Use the same version"):
        Fleet.connect(quick, "token")
    assert len(closed) == 1


@pytest.mark.parametrize("name", [".", "..", "a/b", "100%", "%2E", "ü ?#&"])
def test_any_name_is_one_segment_of_a_path(quick: str, name: str) -> None:
    connection = Connection(quick, "token")
    asked = connection.content(path_of("macs", name)).decode().split()[0]
    assert asked.count("/") == 3
    assert unquote(asked) == f"/v1/macs/{name}"
    assert asked.split("/")[-1] not in (".", "..")
    connection.close()


def test_a_fork_uses_connections_of_its_own(quick: str) -> None:
    client = HTTPClient(quick, {})
    before = client.request("GET", "/a", seconds=LONG)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, client.request("GET", "/a", seconds=LONG).content)
            client.close()
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    of_the_child = os.read(reading, 100)
    os.close(reading)
    assert of_the_child.startswith(b"/a ")
    assert of_the_child != before.content
    assert client.request("GET", "/a", seconds=LONG) == before
    client.close()


def test_what_a_client_needs_is_loaded_before() -> None:
    code = (
        "import sys; from agent.client import http; assert 'httpx' not in sys.modules; http.load(); "
        "loaded = set(sys.modules); http.HTTPClient('http://127.0.0.1:1', {}); print(sorted(set(sys.modules) - loaded))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_connection_is_kept_until_the_server_closes_it(quick: str) -> None:
    client = HTTPClient(f"{quick}/p", {})
    asked = ["/a", "/a", "/close", "/a", "/a"]
    ports = []
    for path in asked:
        status, content = client.request("GET", path, seconds=LONG, query={"b c": "ü"} if path == "/a" else None)
        found = re.fullmatch(rf"/p{path}(?:\?b\+c=%C3%BC)? (\d+)", content.decode())
        assert status == 200
        assert found is not None
        ports.append(found[1])
        if path == "/close":
            pool = client._transport._pool  # type: ignore[attr-defined]
            while any(not kept.has_expired() for kept in pool.connections):  # until the server has closed it
                time.sleep(0.001)
    assert ports[0] == ports[1] == ports[2] != ports[3] == ports[4]
    (kept,) = client._transport._pool.connections  # type: ignore[attr-defined]
    client.close()
    assert kept.is_closed()


def test_requests_are_not_in_the_log_of_a_test(quick: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client = HTTPClient(quick, {})
    client.request("GET", "/a", seconds=LONG)
    client.close()
    assert not caplog.records


def test_the_token_is_in_no_log(quick: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    connection = Connection(quick, "secret")
    connection.content("/a")
    connection.close()
    assert caplog.records
    assert "secret" not in caplog.text


def test_a_stream_has_its_lines(quick: str) -> None:
    client = HTTPClient(quick, {})
    with client.stream("/lines", {}, seconds=LONG) as (status, lines):
        assert (status, list(lines)) == (200, [b"one\n", "tw\u2028o\r\n".encode(), b"data:"])
    client.close()


def test_what_is_no_event_is_reported(quick: str) -> None:
    connection = Connection(quick, "token")
    with pytest.raises(ClientError, match=r"^Expected GET /lines of .* Use the same version"):
        list(connection.events("/lines"))
    connection.close()


def test_all_macs_are_read_in_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def get(_connection: Connection, _path: str, _kind: type[list[Mac]], *, after: int, limit: int) -> list[Mac]:
        asked.append((after, limit))
        return [structs.replace(MAC, number=number) for number in range(after + 1, min(after + 1 + limit, 5))]

    monkeypatch.setattr(Connection, "get", get)
    monkeypatch.setattr("agent.client.fleet._MACS_A_PAGE", 3)
    fleet = Fleet(Connection("http://127.0.0.1:1", "token"))
    assert [mac.number for mac in fleet.macs] == [0, 1, 2, 3, 4]
    assert asked == [(-1, 3), (2, 3)]
    fleet.close()


def test_two_threads_that_ask_for_the_lab_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    both = threading.Event()

    def get(_connection: Connection, _path: str, _kind: type[ServiceInfo], **_query: Any) -> Any:
        asked.append(1)
        both.set() if len(asked) == 2 else both.wait(0.1)  # time for the other one
        return ServiceInfo(
            version="1", seed="", macs=0, enrolled=0, rules=0, last_event=0, clock="real", pid=1, apns=None,
            state_file=None, lab=LabInfo(url="http://127.0.0.1:1", enroll_url="e", token="t", ca=""),
        )  # fmt: skip

    monkeypatch.setattr(Connection, "get", get)
    fleet = Fleet(Connection("http://127.0.0.1:1", "token"))
    found: list[Lab] = []
    threads = [threading.Thread(target=lambda: found.append(fleet.lab)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]
    assert len(asked) == 1
    fleet.close()
