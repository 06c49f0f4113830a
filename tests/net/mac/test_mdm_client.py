"""Sessions in which the server or the network goes wrong: the reason is recorded, and no Mac loses anything."""

from __future__ import annotations

import plistlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import RunInReactor
from scripted_mdm import NEVER, Act, ScriptedMDM, closing, failure, reply, scripted_mdm, udid
from servers import Talk, answer, until
from stack import stack

from agent.fleet.durations import Constant
from agent.lom.link import LinkRequest
from agent.lom.requests import PowerRequest
from agent.net.http.http1 import MAX_BODY_BYTES
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.plists import MAX_DEPTH

COMMAND = b"<key>CommandUUID</key><string>one</string>"
NESTED = b"<key>deep</key>" + b"<array>" * MAX_DEPTH + b"</array>" * MAX_DEPTH


def plist(inside: bytes, before: bytes = b"") -> bytes:
    return before + b'<plist version="1.0"><dict>' + inside + b"</dict></plist>"


def session_fails(
    run_in_reactor: RunInReactor, mdm: ScriptedMDM, kind: str, words: str, *, what: str = "Idle", act: Act | None = None
) -> None:
    """The first Mac's session ends like this, while the other one works; afterwards both work, and nothing is lost."""
    victim, other = mdm.macs

    async def scenario() -> None:
        async with closing(mdm):
            await mdm.enroll_all()
            if act is not None:
                mdm.instead(what, act)
            mdm.enqueue(other, "meanwhile")
            for client in mdm.macs:
                client.wake()
            await until(lambda: mdm.endings("session", victim) != [])
            found_kind, text = failure(mdm.records("session", victim)[0])
            assert (found_kind, words in text) == (kind, True), text
            await until(lambda: mdm.endings("command", other) == ["good"])
            await mdm.check_all_work()
            assert mdm.endings("session", other)[0] == "good"

    run_in_reactor(scenario())
    assert len(mdm.taken[udid(other), "meanwhile"]) == 1


# What the server answers


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 415])
def test_a_report_that_is_refused_ends_the_session(run_in_reactor: RunInReactor, status: int) -> None:
    with scripted_mdm(NEVER) as mdm:
        session_fails(run_in_reactor, mdm, "http_status", f"{status} instead of 200", act=reply(answer(status, b"no")))


REFUSED_TWICE = replace(NEVER, refused_retries=1)


PAGE = b"<!DOCTYPE html><title>Sign in</title>"


@pytest.mark.parametrize(
    ("response", "kind", "reported"),
    [(answer(400), "http_status", "400"), (answer(200, PAGE, "Content-Type: text/html"), "html_page", "“Sign in”")],
    ids=["400", "page"],
)
@pytest.mark.parametrize("request_type", ["ProfileList", "RestartDevice", "FlyToTheMoon"])
def test_a_result_that_is_refused_again_and_again_is_dropped_and_counted(
    run_in_reactor: RunInReactor, request_type: str, response: bytes, kind: str, reported: str
) -> None:
    with scripted_mdm(REFUSED_TWICE) as mdm:
        victim, _other = mdm.macs
        status = "Error" if request_type == "FlyToTheMoon" else "Acknowledged"

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead(status, *[reply(response)] * 2)
                mdm.enqueue(victim, "refused", {"RequestType": request_type})
                for number in (1, 2):
                    victim.wake()
                    await until(lambda: mdm.endings("session", victim) == [kind] * number)  # noqa: B023
                assert mdm.endings("command", victim) == ["result_refused"]
                (record,) = mdm.records("command", victim)
                assert request_type in failure(record)[1]
                assert reported in failure(record)[1]
                assert record.facts["command_uuid"] == "refused"
                assert not victim.device.session.owes_result
                assert victim.device.take_follow_ups() == []
                mdm.commands[udid(victim)].clear()
                await mdm.check_all_work()
                assert victim.boots == 0

        run_in_reactor(scenario())
        assert (mdm.victim, "refused") not in mdm.taken


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_is_down_is_asked_again_unwoken(run_in_reactor: RunInReactor, status: int) -> None:
    with scripted_mdm() as mdm:
        victim, other = mdm.macs

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead("Idle", *[reply(answer(status))] * 3)
                mdm.enqueue(victim, "waits")
                victim.wake()
                await until(lambda: mdm.endings("command", victim) == ["good"])
                await until(lambda: mdm.endings("session", victim) == ["http_status"] * 3 + ["good"])
                assert f"{status} instead of 200" in failure(mdm.records("session", victim)[0])[1]
                assert mdm.records("session", other) == []
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert len(mdm.taken[mdm.victim, "waits"]) == 1


def test_a_server_that_forgot_the_mac_can_have_it_enroll_again(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead("Idle", reply(answer(401)))
                victim.wake()
                await until(lambda: victim.device.enrollment is None)
                assert mdm.endings("enroll", victim) == ["good", "unenrolled"]
                victim.wake()
                await victim.enroll_at(mdm.url)
                await mdm.check_all_work()

        run_in_reactor(scenario())


NOT_A_COMMAND = [
    pytest.param(b"OK", "plist", "not a property list", id="text"),
    pytest.param(b"<html><body>Sign in</body></html>", "html_page", "found an HTML page (status 200)", id="a web page"),
    pytest.param(b"bplist00" + b"\xff" * 40, "plist", "property list", id="broken binary"),
    pytest.param(plistlib.dumps([]), "plist", "to be a dictionary", id="an array"),
    pytest.param(plist(COMMAND + NESTED), "plist", "nested deeper", id="nested too deep"),
    pytest.param(
        plist(b"<key>a</key><string>&a;</string>", b'<!DOCTYPE plist [<!ENTITY a "b">]>'),
        "plist",
        "entities",
        id="entities",
    ),
    pytest.param(plist(b"<key>a</key><array>" + b"<true/>" * 250_000 + b"</array>"), "plist", "values", id="too many"),
    pytest.param(plist(b""), "command_dropped", "CommandUUID", id="no CommandUUID"),
    pytest.param(
        plistlib.dumps({"CommandUUID": "", "Command": {"RequestType": "ProfileList"}}),
        "command_dropped",
        "CommandUUID",
        id="empty CommandUUID",
    ),
    pytest.param(
        plistlib.dumps({"CommandUUID": 7, "Command": {"RequestType": "ProfileList"}}),
        "command_dropped",
        "found an integer",
        id="a number as CommandUUID",
    ),
]


@pytest.mark.parametrize(("body", "kind", "words"), NOT_A_COMMAND)
def test_what_is_no_command_ends_the_session(run_in_reactor: RunInReactor, body: bytes, kind: str, words: str) -> None:
    with scripted_mdm(NEVER) as mdm:
        session_fails(run_in_reactor, mdm, kind, words, act=reply(answer(200, body)))


OVER_THE_LIMIT = [
    pytest.param(f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode(), id="announced"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (MAX_BODY_BYTES + 1), id="chunked"),
    pytest.param(b"\r\n" + b" " * (MAX_BODY_BYTES + 1), id="without a length"),
]


@pytest.mark.parametrize("rest", OVER_THE_LIMIT)
def test_a_command_over_the_size_limit_ends_the_session(run_in_reactor: RunInReactor, rest: bytes) -> None:
    with scripted_mdm(NEVER) as mdm:
        octets = b"HTTP/1.1 200 OK\r\n" + rest
        session_fails(run_in_reactor, mdm, "http_too_long", str(MAX_BODY_BYTES), act=reply(octets))


def test_an_answer_that_is_no_http_ends_the_session(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(NEVER) as mdm:
        session_fails(run_in_reactor, mdm, "http", "SSH-2.0", act=reply(b"SSH-2.0-OpenSSH\r\n"))


@pytest.mark.parametrize(
    "body", [answer(200), answer(204), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
def test_the_empty_answer_ends_a_session_in_good_order_unless_its_status_is_another(
    run_in_reactor: RunInReactor, body: bytes
) -> None:
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> str:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead("Idle", reply(body))
                victim.wake()
                await until(lambda: mdm.endings("session", victim) != [])
                ending = mdm.endings("session", victim)[0]
                await mdm.check_all_work()
                return ending

        assert run_in_reactor(scenario()) == ("http_status" if b" 204 " in body else "good")


MALFORMED = [
    pytest.param({"CommandUUID": "bad"}, id="no Command"),
    pytest.param({"CommandUUID": "bad", "Command": "ProfileList"}, id="Command is text"),
    pytest.param({"CommandUUID": "bad", "Command": {}}, id="no RequestType"),
    pytest.param({"CommandUUID": "bad", "Command": {"RequestType": 7}}, id="RequestType is a number"),
    pytest.param({"CommandUUID": "bad", "Command": {"RequestType": "InstallProfile"}}, id="no Payload"),
]


@pytest.mark.parametrize("command", MALFORMED)
def test_a_malformed_command_is_answered_with_command_format_error(
    run_in_reactor: RunInReactor, command: dict[str, Any]
) -> None:
    """The session goes on: the command after it is carried out in the same one."""
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead("Idle", reply(answer(200, plistlib.dumps(command))))
                mdm.enqueue(victim, "next")
                victim.wake()
                await until(lambda: mdm.endings("session", victim) == ["good"])
                (result,) = mdm.taken[mdm.victim, "bad"]
                assert result["Status"] == "CommandFormatError"
                assert [each["Status"] for each in mdm.taken[mdm.victim, "next"]] == ["Acknowledged"]
                await mdm.check_all_work()

        run_in_reactor(scenario())


def test_a_command_that_fails_is_recorded_with_its_reason(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.enqueue(victim, "unknown", {"RequestType": "MakeCoffee"})
                mdm.enqueue(victim, "junk", {"RequestType": "InstallProfile", "Payload": b"junk"})
                victim.wake()
                await until(lambda: mdm.endings("session", victim) == ["good"])
                assert mdm.endings("command", victim) == ["command", "command"]
                texts = [failure(record)[1] for record in mdm.records("command", victim)]
                assert "MakeCoffee" in texts[0]
                assert "InstallProfile: Error" in texts[1]
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert mdm.taken[mdm.victim, "unknown"][0]["Status"] == "Error"
        assert mdm.taken[mdm.victim, "junk"][0]["ErrorChain"]


# What the network does

ENDS = pytest.mark.parametrize("end", [Talk.close, Talk.drop, Talk.reset], ids=["close_notify", "end of TCP", "reset"])


@ENDS
def test_a_new_connection_that_breaks_ends_the_session_and_is_tried_again(
    run_in_reactor: RunInReactor, end: Act
) -> None:
    with scripted_mdm() as mdm:
        session_fails(run_in_reactor, mdm, "broken", "the peer", act=end)


def takes_and(mdm: ScriptedMDM, end: Act) -> Act:
    """The server accepts the result, and the connection ends before the response."""

    def act(talk: Talk) -> None:
        assert mdm.server is not None
        mdm.take(plistlib.loads(mdm.server.requests[-1].body))
        end(talk)

    return act


def part_of_an_answer(then: Act) -> Act:
    def act(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        then(talk)

    return act


@ENDS
@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("wrap", [lambda end: end, part_of_an_answer], ids=["without a word", "in its answer"])
def test_a_result_whose_delivery_broke_is_delivered_again(
    run_in_reactor: RunInReactor, end: Act, attempts: int, wrap: Callable[[Act], Act]
) -> None:
    """The server has it each time; the Mac sends the same until it hears so, and counts the command once."""
    with scripted_mdm() as mdm:
        victim, other = mdm.macs

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.enqueue(victim, "one")
                mdm.enqueue(victim, "two")
                mdm.enqueue(other, "beside")
                mdm.instead("Acknowledged", *[takes_and(mdm, wrap(end))] * attempts)
                for client in mdm.macs:
                    client.wake()
                await until(lambda: len(mdm.endings("command", victim)) == 2)
                await until(lambda: mdm.endings("session", victim)[-1:] == ["good"])
                await mdm.check_all_work()

        run_in_reactor(scenario())
        ones = mdm.taken[mdm.victim, "one"]
        assert len(ones) == attempts + 1
        assert all(result == ones[0] for result in ones)
        assert len(mdm.taken[mdm.victim, "two"]) == 1
        uuids = [record.facts["command_uuid"] for record in mdm.records("command", victim)]
        assert uuids[:2] == ["one", "two"]
        assert set(mdm.endings("command", victim)) == {"good"}
        assert len(mdm.taken[udid(other), "beside"]) == 1
        broken = [ending for ending in mdm.endings("session", victim) if ending != "good"]
        assert set(broken) <= {"broken"}


def test_a_result_is_delivered_before_the_mac_reports_idle_again(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.enqueue(victim, "one")
                mdm.instead("Acknowledged", reply(answer(500)), reply(answer(503)))
                for sessions in (1, 2, 3):
                    victim.wake()
                    await until(lambda: len(mdm.endings("session", victim)) == sessions)  # noqa: B023
                await mdm.check_all_work()

        run_in_reactor(scenario())
        reports = [what for who, what in mdm.seen if who == mdm.victim and what in ("Idle", "Acknowledged")]
        assert reports[:5] == ["Idle", "Acknowledged", "Acknowledged", "Acknowledged", "Idle"]
        assert mdm.endings("session", victim)[:3] == ["http_status", "http_status", "good"]


def test_a_push_during_a_session_is_not_lost(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()

                def wakes_meanwhile(talk: Talk) -> None:
                    mdm.enqueue(victim, "late")
                    talk.send(answer(200))

                mdm.instead("Idle", wakes_meanwhile)
                victim.wake()
                victim.wake()
                await until(lambda: mdm.endings("command", victim) == ["good"])
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert len(mdm.taken[mdm.victim, "late"]) == 1


def test_the_server_may_close_after_every_answer(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                for number in range(3):
                    mdm.enqueue(victim, f"{number}")
                command = mdm.commands[mdm.victim][0]
                mdm.instead("Idle", reply(answer(200, command, "Connection: close")))
                victim.wake()
                await until(lambda: mdm.endings("session", victim) == ["good"])
                await mdm.check_all_work()

        run_in_reactor(scenario())
        assert [len(mdm.taken[mdm.victim, f"{number}"]) for number in range(3)] == [1, 1, 1]


# In the lab


def test_a_mac_that_is_reset_while_its_result_is_taken_delivers_it_again_and_it_counts_once(
    run_in_reactor: RunInReactor,
) -> None:
    async def scenario() -> None:
        async with stack(2, behaviour=FleetBehaviour(boot=Constant(0.02))) as running:
            client, other = running.fleet
            reset = LinkRequest("0001", client.device.mac.dns_name, PowerRequest.RESET)
            results: list[Any] = []

            def on_result(result: Any) -> None:
                """The lab has the result; the Mac goes down before it hears so."""
                results.append(result)
                client.receive_lom_request(reset, "a Controller")

            running.lab.enqueue(udid(client), {"RequestType": "ProfileList"}, on_result)
            client.wake()
            await running.until(lambda: bool(results), "a result")
            assert (await running.command(other, "ProfileList"))["Status"] == "Acknowledged"
            await running.until(lambda: client.boots == 1, "a boot")
            assert (await running.command(client, "DeviceInformation", Queries=["UDID"]))["Status"] == "Acknowledged"

            def recorded() -> list[object]:
                return [
                    exchange.facts["request_type"]
                    for exchange in running.exchanges
                    if exchange.operation == "command" and exchange.device == client.index
                ]

            await running.until(lambda: recorded() == ["ProfileList", "DeviceInformation"], "one record for each")
            assert len(results) == 1
            assert running.failures("command") == []

    run_in_reactor(scenario())
