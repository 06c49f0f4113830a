"""The connections to a server's API: their number, the order of requests, and broken connections."""

from __future__ import annotations

import json
import threading

import pytest
from conftest import RunInReactor
from opened import COMMAND, MAC, SECRET, TRUSTED, answering, enqueue, opened, push
from servers import Talk, answer, serving, until, unused_port
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.web.resource import Resource
from twisted.web.server import Site

from agent.errors import OperatorError, PeerError
from agent.net.transport.errors import ConnectFailed, ConnectionBroken
from agent.pki.verify import PeerRejected
from agent.servers.configs import NanoMDMConfig, RequestTemplate, Trust, WebhookConfig
from agent.servers.server import RequestFailed, Server
from agent.servers.urls import base_of

FINE = json.dumps({"status": {MAC.udid: {"push_result": "x"}}}).encode()


def ask(server: Server, number: int) -> Deferred[None]:
    """Queue the command with this number."""
    return server.enqueue(MAC.udid, f"command-{number}", COMMAND)


def test_connections_are_limited_and_requests_keep_their_order(run_in_reactor: RunInReactor) -> None:
    gate = threading.Event()

    def script(talk: Talk) -> None:
        while True:
            talk.read_request()
            gate.wait(20.0)
            talk.send(answer(200, FINE))

    async def scenario(url: str) -> None:
        with opened(NanoMDMConfig(url, SECRET, trust=TRUSTED, connections=3)) as server:
            asked = [ask(server, number) for number in range(20)]
            await until(lambda: len(nanomdm.requests) == 3)
            assert not any(each.called for each in asked)
            gate.set()
            await gatherResults(asked)
            for number in range(20, 25):
                await ask(server, number)

    with serving(script) as nanomdm:
        run_in_reactor(scenario(nanomdm.url))
        assert nanomdm.connections == 3
        order = [request.body.partition(b"command-")[2].partition(b"<")[0] for request in nanomdm.requests]
    assert {int(number) for number in order[:3]} == {0, 1, 2}
    assert sorted(map(int, order)) == list(range(25))
    for connection in range(3):  # on each connection the numbers only rise
        numbers = [int(order[place]) for place, each in enumerate(nanomdm.requests) if each.connection == connection]
        assert numbers == sorted(numbers)


def test_broken_connection_fails_one_request(run_in_reactor: RunInReactor) -> None:
    def breaks(talk: Talk) -> None:
        talk.read_request()
        talk.reset()

    async def scenario(url: str) -> None:
        with opened(NanoMDMConfig(url, SECRET, trust=TRUSTED, connections=1)) as server:
            results = await DeferredList([ask(server, number) for number in range(3)], consumeErrors=True)
            assert [good for good, _result in results] == [False, True, True]
            assert isinstance(results[0][1].value, ConnectionBroken)

    with serving(breaks, answering((200, FINE))) as nanomdm:
        run_in_reactor(scenario(nanomdm.url))


def test_all_requests_to_a_closed_port_fail(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        url = f"https://127.0.0.1:{unused_port()}"
        with opened(NanoMDMConfig(url, SECRET, trust=TRUSTED, connections=2)) as server:
            results = await DeferredList([ask(server, number) for number in range(2000)], consumeErrors=True)
            assert all(not good and isinstance(result.value, ConnectFailed) for good, result in results)

    run_in_reactor(scenario())


def test_many_immediate_failures_do_not_recurse(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        # An IPv6 scope that is no interface: refused without a turn of the reactor.
        url = "https://[fe80::1%25nowhere0]:9000"
        with opened(NanoMDMConfig(url, SECRET, trust=TRUSTED, connections=1)) as server:
            results = await DeferredList([ask(server, number) for number in range(5000)], consumeErrors=True)
            assert not any(good for good, _result in results)
            assert all(isinstance(result.value, PeerError) for _good, result in results)

    run_in_reactor(scenario())


def test_closing_fails_open_and_waiting_requests(run_in_reactor: RunInReactor) -> None:
    def silent(talk: Talk) -> None:
        talk.read_request()
        talk.wait_for_end()

    async def scenario(url: str) -> None:
        with opened(NanoMDMConfig(url, SECRET, trust=TRUSTED, connections=1)) as server:
            asked = [ask(server, number) for number in range(3)]
            await until(lambda: len(nanomdm.requests) == 1)
            server.close()
            asked.append(ask(server, 3))
            for each in asked:
                with pytest.raises(RequestFailed, match="closed"):
                    await each

    with serving(silent) as nanomdm:
        run_in_reactor(scenario(nanomdm.url))


def test_untrusted_certificate_is_refused_unless_insecure(run_in_reactor: RunInReactor) -> None:
    async def scenario(url: str) -> None:
        with opened(NanoMDMConfig(url, SECRET)) as server, pytest.raises(PeerRejected):
            await enqueue(server)
        with opened(NanoMDMConfig(url, SECRET, trust=Trust(insecure=True))) as server:
            await enqueue(server)

    with serving(answering((200, FINE))) as nanomdm:
        run_in_reactor(scenario(nanomdm.url))
        assert len(nanomdm.requests) == 1  # an untrusted server does not get the key


def test_http_on_loopback(run_in_reactor: RunInReactor) -> None:
    class Page(Resource):  # type: ignore[misc]
        isLeaf = True

        def render_POST(self, request: object) -> bytes:
            """Fine."""
            return b"fine"

    async def scenario() -> None:
        port = reactor.listenTCP(0, Site(Page()), interface="127.0.0.1")
        template = RequestTemplate("POST", f"http://127.0.0.1:{port.getHost().port}/{{udid}}")
        try:
            with opened(WebhookConfig(template, template)) as server:
                await enqueue_and_push(server)
        finally:
            await port.stopListening()

    async def enqueue_and_push(server: Server) -> None:
        await enqueue(server)
        await push(server)

    run_in_reactor(scenario())


@pytest.mark.parametrize("url", ["https://mdm.test/api?key=hunter2", "http://mdm.test/api?key=hunter2"])
def test_an_error_about_a_url_does_not_show_its_query(url: str) -> None:
    with pytest.raises(OperatorError) as refused:
        base_of(url, plain=False)
    assert "mdm.test/api" in str(refused.value)
    assert "hunter2" not in str(refused.value)
