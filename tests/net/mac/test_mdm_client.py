"""Sessions in which the server or the network goes wrong: the reason is recorded, and no Mac loses anything.

What the session makes of each response is tested in tests/mdm/test_session.py; here is one of each kind, over TLS.
"""

from __future__ import annotations

import plistlib
from collections.abc import Mapping
from typing import Any

import pytest
from conftest import RunInReactor
from msgspec.structs import replace
from scripted_mdm import NEVER, Act, ScriptedMDM, closing, failure, reply, scripted_mdm, udid
from servers import Talk, answer, until
from stack import stack

from agent.fleet.durations import Constant
from agent.lom.link import LinkRequest
from agent.lom.requests import PowerRequest
from agent.net.http.http1 import MAX_BODY_BYTES
from agent.net.mac.fleet.macs import FleetBehaviour

ENTITIES = (
    b'<!DOCTYPE plist [<!ENTITY a "b">]><plist version="1.0"><dict><key>a</key><string>&a;</string></dict></plist>'
)

Row = tuple[Act, str, str]  # what the server does instead of answering, the kind of the failure, and its words


def sessions_fail(run_in_reactor: RunInReactor, mdm: ScriptedMDM, rows: Mapping[str, Row]) -> None:
    """For each row a session of the first Mac ends like this, while the other one works; then both work again.

    The rows have one fleet, since an enrollment takes longer than a row.
    """

    async def scenario() -> None:
        async with closing(mdm):
            await mdm.enroll_all()
            for name, row in rows.items():
                await session_fails(mdm, name, *row)

    run_in_reactor(scenario())


async def session_fails(mdm: ScriptedMDM, name: str, act: Act, kind: str, words: str) -> None:
    victim, other = mdm.macs
    before, befores_of_other = (len(mdm.endings("session", client)) for client in mdm.macs)
    commands = len(mdm.endings("command", other))
    mdm.instead("Idle", act)
    mdm.enqueue(other, f"meanwhile {name}")
    for client in mdm.macs:
        client.wake()
    await until(lambda: len(mdm.endings("session", victim)) > before)
    found_kind, text = failure(mdm.records("session", victim)[before])
    assert (found_kind, words in text) == (kind, True), f"{name}: {text}"
    await until(lambda: mdm.endings("command", other)[commands:] == ["good"])
    await mdm.check_all_work()
    assert mdm.endings("session", other)[befores_of_other] == "good", name
    assert len(mdm.taken[udid(other), f"meanwhile {name}"]) == 1, name


# What the server answers


def test_a_report_that_is_refused_ends_the_session(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(NEVER) as mdm:
        refused = reply(answer(403, b"no"))
        sessions_fail(run_in_reactor, mdm, {"403": (refused, "http_status", "403 instead of 200")})


REFUSED_TWICE = replace(NEVER, refused_retries=1)


PAGE = b"<!DOCTYPE html><title>Sign in</title>"


REFUSED_RESULTS = [  # the command, the response to its result, the kind of the failure, and what is reported of it
    ("RestartDevice", answer(400), "http_status", "400"),
    ("FlyToTheMoon", answer(200, PAGE, "Content-Type: text/html"), "html_page", "“Sign in”"),
]


def test_a_result_that_is_refused_again_and_again_is_dropped_and_counted(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(REFUSED_TWICE) as mdm:

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                for refused in REFUSED_RESULTS:
                    await result_is_refused(mdm, *refused)

        run_in_reactor(scenario())


async def result_is_refused(mdm: ScriptedMDM, request_type: str, response: bytes, kind: str, reported: str) -> None:
    victim = mdm.macs[0]
    command_uuid = f"refused {request_type} {kind}"
    sessions, commands = (len(mdm.endings(operation, victim)) for operation in ("session", "command"))
    mdm.instead("Error" if request_type == "FlyToTheMoon" else "Acknowledged", *[reply(response)] * 2)
    mdm.enqueue(victim, command_uuid, {"RequestType": request_type})
    for number in (1, 2):
        victim.wake()
        await until(lambda: mdm.endings("session", victim)[sessions:] == [kind] * number)  # noqa: B023
    assert mdm.endings("command", victim)[commands:] == ["result_refused"]
    record = mdm.records("command", victim)[-1]
    assert request_type in failure(record)[1]
    assert reported in failure(record)[1]
    assert record.facts["command_uuid"] == command_uuid
    assert not victim.device.session.owes_result
    assert victim.device.take_follow_ups() == []
    mdm.commands[udid(victim)].clear()
    await mdm.check_all_work()
    assert victim.boots == 0
    assert (mdm.victim, command_uuid) not in mdm.taken


def test_a_server_that_is_down_is_asked_again_unwoken(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:
        victim, other = mdm.macs

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead("Idle", *[reply(answer(502))] * 3)
                mdm.enqueue(victim, "waits")
                victim.wake()
                await until(lambda: mdm.endings("command", victim) == ["good"])
                await until(lambda: mdm.endings("session", victim) == ["http_status"] * 3 + ["good"])
                assert "502 instead of 200" in failure(mdm.records("session", victim)[0])[1]
                assert mdm.records("session", other) == []
                await mdm.check_all_work()
                assert len(mdm.taken[mdm.victim, "waits"]) == 1

        run_in_reactor(scenario())


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


NOT_A_COMMAND = {  # the body, the kind of the failure, and its words
    "a web page": (b"<html><body>Sign in</body></html>", "html_page", "found an HTML page (status 200)"),
    "entities": (ENTITIES, "plist", "entities"),
    "no CommandUUID": (plistlib.dumps({}), "command_dropped", "CommandUUID"),
}


def test_what_is_no_command_ends_the_session(run_in_reactor: RunInReactor) -> None:
    rows = {name: (reply(answer(200, body)), kind, words) for name, (body, kind, words) in NOT_A_COMMAND.items()}
    with scripted_mdm(NEVER) as mdm:
        sessions_fail(run_in_reactor, mdm, rows)


NO_RESPONSE = {  # the octets, the kind of the failure, and its words
    "too long, announced": (
        f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode(),
        "http_too_long",
        str(MAX_BODY_BYTES),
    ),
    "too long, chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (MAX_BODY_BYTES + 1),
        "http_too_long",
        str(MAX_BODY_BYTES),
    ),
    "too long, without a length": (
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_BODY_BYTES + 1),
        "http_too_long",
        str(MAX_BODY_BYTES),
    ),
    "another protocol": (b"SSH-2.0-OpenSSH\r\n", "http", "SSH-2.0"),
}


def test_a_command_over_the_size_limit_or_no_http_ends_the_session(run_in_reactor: RunInReactor) -> None:
    rows = {name: (reply(octets), kind, words) for name, (octets, kind, words) in NO_RESPONSE.items()}
    with scripted_mdm(NEVER) as mdm:
        sessions_fail(run_in_reactor, mdm, rows)


def test_the_empty_answer_ends_a_session_in_good_order_unless_its_status_is_another(
    run_in_reactor: RunInReactor,
) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                for body, ending in ((answer(200), "good"), (answer(204), "http_status"), (chunked, "good")):
                    before = len(mdm.endings("session", victim))
                    mdm.instead("Idle", reply(body))
                    victim.wake()
                    await until(lambda: len(mdm.endings("session", victim)) > before)  # noqa: B023
                    assert mdm.endings("session", victim)[before] == ending, body
                    await mdm.check_all_work()

        run_in_reactor(scenario())


def test_a_malformed_command_is_answered_with_command_format_error(run_in_reactor: RunInReactor) -> None:
    """The session goes on: the command after it is carried out in the same one."""
    with scripted_mdm(NEVER) as mdm:
        victim = mdm.macs[0]

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                mdm.instead("Idle", reply(answer(200, plistlib.dumps({"CommandUUID": "no type", "Command": {}}))))
                mdm.enqueue(victim, "no Payload", {"RequestType": "InstallProfile"})
                mdm.enqueue(victim, "after")
                victim.wake()
                await until(lambda: mdm.endings("session", victim) == ["good"])
                for name in ("no type", "no Payload"):
                    (result,) = mdm.taken[mdm.victim, name]
                    assert result["Status"] == "CommandFormatError", name
                assert [each["Status"] for each in mdm.taken[mdm.victim, "after"]] == ["Acknowledged"]
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

ENDS: dict[str, Act] = {"close_notify": Talk.close, "end of TCP": Talk.drop, "reset": Talk.reset}


@pytest.mark.parametrize("end", ENDS)
def test_a_new_connection_that_breaks_ends_the_session_and_is_tried_again(
    run_in_reactor: RunInReactor, end: str
) -> None:
    """Each in a fleet of its own: of a kept connection that breaks, the report is sent once more."""
    with scripted_mdm() as mdm:
        sessions_fail(run_in_reactor, mdm, {end: (ENDS[end], "broken", "the peer")})


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


def test_a_result_whose_delivery_broke_is_delivered_again(run_in_reactor: RunInReactor) -> None:
    """The server has it each time; the Mac sends the same until it hears so, and counts the command once."""
    ways = [
        ("without a word 1", Talk.close, 1),
        ("in its answer 1", part_of_an_answer(Talk.drop), 1),
        ("without a word 3", Talk.reset, 3),
        ("in its answer 2", part_of_an_answer(Talk.close), 2),
    ]
    with scripted_mdm() as mdm:

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                for way in ways:
                    await delivery_breaks(mdm, *way)

        run_in_reactor(scenario())


async def delivery_breaks(mdm: ScriptedMDM, name: str, end: Act, attempts: int) -> None:
    victim, other = mdm.macs
    sessions, commands = (len(mdm.endings(operation, victim)) for operation in ("session", "command"))
    one, two, beside = (f"{each} {name}" for each in ("one", "two", "beside"))
    mdm.enqueue(victim, one)
    mdm.enqueue(victim, two)
    mdm.enqueue(other, beside)
    mdm.instead("Acknowledged", *[takes_and(mdm, end)] * attempts)
    for client in mdm.macs:
        client.wake()
    await until(lambda: len(mdm.endings("command", victim)) == commands + 2)
    await until(lambda: mdm.endings("session", victim)[sessions:][-1:] == ["good"])
    await mdm.check_all_work()
    ones = mdm.taken[mdm.victim, one]
    assert len(ones) == attempts + 1, name
    assert all(result == ones[0] for result in ones), name
    assert len(mdm.taken[mdm.victim, two]) == 1, name
    uuids = [record.facts["command_uuid"] for record in mdm.records("command", victim)[commands:]]
    assert uuids[:2] == [one, two]
    assert set(mdm.endings("command", victim)) == {"good"}
    assert len(mdm.taken[udid(other), beside]) == 1, name
    broken = [ending for ending in mdm.endings("session", victim) if ending != "good"]
    assert set(broken) <= {"broken"}, name


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
