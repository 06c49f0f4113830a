"""What each fault rule does to real Macs over real sockets: what their lab sees, and that they recover."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import RunInReactor
from push_service import PushService
from stack import Stack, stack
from twisted.internet import reactor

from agent.errors import PeerError
from agent.faults.decisions import Faults
from agent.faults.rules import Rule, RuleError
from agent.fleet.durations import Constant
from agent.load.conductor.gateway import APNsPlan
from agent.lom.power import Power
from agent.lom.requests import PowerRequest, RelayItem
from agent.mdm.timing import Timing
from agent.measure.exchanges import ExchangeLog, HTTPExchange
from agent.net.mac.client import MDMClient
from agent.net.mac.faults.injection import MacOffline
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.profiles.making import lom_profile

QUICK = FleetBehaviour(
    boot=Constant(0.02), shutdown=Constant(0.02), timing=Timing(retry_first=0.02, retry_longest=0.05, not_now=0.02)
)
POINTS = ["before_request", "in_request", "after_request", "in_response"]


def injecting(*rules: Rule) -> Faults:
    """These rules, from now on."""
    faults = Faults()
    for rule in rules:
        faults.add(rule, reactor.seconds())  # type: ignore[attr-defined]
    return faults


def add(running: Stack, **rule: Any) -> Rule:
    """Add a rule to those of a running stack."""
    faults = running.environment.faults
    assert faults is not None
    return faults.add(Rule(**rule), reactor.seconds())  # type: ignore[attr-defined]


def hits(running: Stack) -> list[int]:
    """The hits of each rule."""
    return [each.hits for each in running.environment.faults or ()]


def reports(log: ExchangeLog) -> list[HTTPExchange]:
    """The exchanges of reports on commands."""
    return [exchange for exchange in log if exchange.kind == "report" and exchange.command_uuid]


def commands(running: Stack, client: MDMClient) -> list[Any]:
    """The status of each command, as it was recorded, that the server has the result of."""
    return [
        exchange.facts.get("status")
        for exchange in running.exchanges
        if exchange.operation == "command" and exchange.device == client.index and exchange.cut_short is None
    ]


# Commands


def test_not_now_is_answered_the_first_times(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        rule = Rule(id="later", on="command", do="not_now", type="ProfileList", times=2)
        async with stack(2, behaviour=QUICK, faults=injecting(rule), log=log) as running:
            client = running.fleet[0]
            result = await running.command(client, "ProfileList")
            assert result["Status"] == "Acknowledged"
            await running.until(lambda: len(reports(log)) == 3, "the answer to the result")
            assert [each.answer_status for each in reports(log)] == ["NotNow", "NotNow", "Acknowledged"]
            assert [each.rules for each in reports(log)] == [("later",), ("later",), ()]
            assert {each.command_uuid for each in reports(log)} == {result["CommandUUID"]}
            assert (await running.command(client, "DeviceInformation", Queries=["UDID"]))["Status"] == "Acknowledged"
            assert hits(running) == [2]

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    ("rule", "status", "chain"),
    [
        (Rule(on="command", do="format_error", times=1), "CommandFormatError", None),
        (Rule(on="command", do="error", times=1), "Error", [("MCMDMErrorDomain", 12021)]),
        (
            Rule(on="command", do="error", times=1, errors=(RuleError(domain="Own", code=5), RuleError(code=6))),
            "Error",
            [("Own", 5), ("MCMDMErrorDomain", 6)],
        ),
    ],
)
def test_a_command_is_answered_with_an_error(
    run_in_reactor: RunInReactor, rule: Rule, status: str, chain: list[tuple[str, int]] | None
) -> None:
    async def scenario() -> None:
        async with stack(behaviour=QUICK, faults=injecting(rule)) as running:
            client = running.fleet[0]
            result = await running.command(client, "ProfileList")
            assert result["Status"] == status
            found = [(each["ErrorDomain"], each["ErrorCode"]) for each in result.get("ErrorChain", ())]
            assert found == (chain or [])
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            assert hits(running) == [1]

    run_in_reactor(scenario())


def test_a_command_is_carried_out_late(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        rule = Rule(on="command", do="delay", seconds=0.1, times=1)
        async with stack(behaviour=QUICK, faults=injecting(rule)) as running:
            assert (await running.command(running.fleet[0], "ProfileList"))["Status"] == "Acknowledged"
            await running.until(lambda: commands(running, running.fleet[0]) != [], "its record")
            (record,) = [exchange for exchange in running.exchanges if exchange.operation == "command"]
            assert record.seconds >= 0.1
            assert hits(running) == [1]

    run_in_reactor(scenario())


def test_a_power_cut_ends_a_delay_and_the_command_is_offered_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        rule = Rule(on="command", do="delay", seconds=3600.0, times=1)
        async with stack(behaviour=QUICK, faults=injecting(rule)) as running:
            client = running.fleet[0]
            arrived: list[Any] = []
            running.lab.enqueue(running.udid(client), {"RequestType": "ProfileList"}, arrived.append)
            client.wake()
            await running.until(lambda: hits(running) == [1], "the delay")
            client.cut_mains()
            client.restore_mains()
            await running.until(lambda: arrived != [], "the result after the boot")
            assert arrived[0]["Status"] == "Acknowledged"

    run_in_reactor(scenario())


def test_a_mac_crashes_in_mid_command_and_carries_it_out_after_its_boot(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        rule = Rule(on="command", do="crash", times=1)
        async with stack(behaviour=QUICK, faults=injecting(rule), log=log) as running:
            client = running.fleet[0]
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            assert client.boots == 1
            assert client.device.power.state is Power.ON
            await running.until(lambda: len(reports(log)) == 2, "the crash and the answer to the result")
            found = [(each.answer_status, each.error, each.rules) for each in reports(log)]
            assert found == [("", "a fault rule: crash", ("rule-1",)), ("Acknowledged", "", ())]
            assert len({connection for _udid, connection in running.reports}) == 2
            assert hits(running) == [1]

    run_in_reactor(scenario())


def test_a_mac_goes_offline_in_mid_command_and_comes_back(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        rule = Rule(on="command", do="offline", seconds=3600.0, times=1)
        async with stack(behaviour=QUICK, faults=injecting(rule)) as running:
            client = running.fleet[0]
            arrived: list[Any] = []
            running.lab.enqueue(running.udid(client), {"RequestType": "ProfileList"}, arrived.append)
            client.wake()
            await running.until(lambda: client.pushes.offline, "being offline")
            assert (client.connected, client.wake(), client.make_idle(), arrived) == (False, False, False, [])
            with pytest.raises(MacOffline):
                await running.enroll(client)
            client.come_back()
            await running.until(lambda: arrived != [], "the result")
            assert arrived[0]["Status"] == "Acknowledged"
            assert client.boots == 0
            client.go_offline(0.02)
            await running.until(lambda: not client.pushes.offline, "the end of the time")

    run_in_reactor(scenario())


# Reports, and the connection


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("on", ["command", "session", "connect"])
def test_a_connection_is_reset_at_the_point_and_the_result_still_arrives(
    run_in_reactor: RunInReactor, on: str, at: str
) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(behaviour=QUICK, faults=Faults(), log=log) as running:
            client = running.fleet[0]
            rule = add(running, on=on, do="drop", at=at, times=1)
            result = await running.command(client, "ProfileList")
            await running.until(lambda: commands(running, client) != [], "its record")
            assert commands(running, client) == ["Acknowledged"]
            assert running.failures("session") == ["fault"]
            broken = [each for each in log if each.kind == "report" and each.status is None]
            assert [f"({at})" in each.error for each in broken] == [True]
            assert hits(running) == [1]
            assert broken[0].rules == (rule.id,)
            if on == "command":
                sent_again = [each for each in reports(log) if each.status == 200]
                assert [each.command_uuid for each in sent_again] == [result["CommandUUID"]]
                assert sent_again[0].request == broken[0].request

    run_in_reactor(scenario())


@pytest.mark.parametrize("on", ["command", "session", "connect", "checkin", "enroll", "scep"])
def test_a_slow_request_arrives_whole(run_in_reactor: RunInReactor, on: str) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(scep=True, behaviour=QUICK, faults=Faults(), log=log, enrolled=False) as running:
            client = running.fleet[0]
            add(running, on=on, do="slow", bytes_per_s=2000.0, times=1)
            await running.enroll(client)
            await running.command(client, "ProfileList")
            assert hits(running) == [1]
            await running.until(lambda: any(each.rules for each in log), "the end of the slow exchange")
            (slow,) = [each for each in log if each.rules]
            assert slow.status == 200
            assert slow.seconds >= len(slow.request) / 4000.0
            assert running.failures("session") + running.failures("enroll") == []

    run_in_reactor(scenario())


@pytest.mark.parametrize("on", ["session", "connect", "checkin", "enroll", "scep"])
def test_an_operation_starts_late(run_in_reactor: RunInReactor, on: str) -> None:
    async def scenario() -> None:
        async with stack(scep=True, behaviour=QUICK, faults=Faults(), enrolled=False) as running:
            client = running.fleet[0]
            add(running, on=on, do="delay", seconds=0.1, times=1)
            await running.enroll(client)
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            assert hits(running) == [1]
            enroll = next(each for each in running.exchanges if each.operation == "enroll")
            assert on == "session" or enroll.seconds >= 0.1
            assert running.failures("session") + running.failures("enroll") == []

    run_in_reactor(scenario())


def test_a_delayed_session_is_opened_once(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(behaviour=QUICK, faults=Faults()) as running:
            client = running.fleet[0]
            add(running, on="session", do="delay", seconds=0.05)
            assert client.wake()
            assert client.open_session is None
            assert not client.make_idle()
            assert client.wake()  # a push meanwhile
            await running.until(lambda: running.reports != [], "the session")
            assert hits(running) == [1]

    run_in_reactor(scenario())


def test_a_session_that_is_not_opened_because_the_mac_goes_offline(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(behaviour=QUICK, faults=Faults()) as running:
            client = running.fleet[0]
            add(running, on="session", do="offline", seconds=0.02, times=1)
            assert not client.wake()
            assert client.pushes.offline
            await running.until(lambda: running.reports != [], "the session after it")
            assert hits(running) == [1]

    run_in_reactor(scenario())


@pytest.mark.parametrize("which", ["wrong", "expired"])
def test_another_certificate_is_shown_and_refused(run_in_reactor: RunInReactor, which: str) -> None:
    async def scenario() -> None:
        async with stack(behaviour=QUICK, faults=Faults()) as running:
            client = running.fleet[0]
            add(running, on="connect", do="certificate", which=which, times=1)
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            assert running.failures("session") == ["tls_refused"]
            assert hits(running) == [1]

    run_in_reactor(scenario())


@pytest.mark.parametrize("on", ["session", "command"])
def test_a_malformed_report_is_refused_and_the_next_one_is_good(run_in_reactor: RunInReactor, on: str) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(behaviour=QUICK, faults=Faults(), log=log) as running:
            client = running.fleet[0]
            add(running, id="cut", on=on, do="malformed", times=1)
            arrived: list[Any] = []
            running.lab.enqueue(running.udid(client), {"RequestType": "ProfileList"}, arrived.append)
            client.wake()
            await running.until(lambda: running.failures("session") != [], "the refusal")
            (cut,) = [each for each in log if each.rules]
            assert (cut.rules, cut.status) == (("cut",), 400)
            assert b"</plist>" not in cut.request
            client.wake()
            await running.until(lambda: arrived != [], "the result")
            assert arrived[0]["Status"] == "Acknowledged"

    run_in_reactor(scenario())


@pytest.mark.parametrize("on", ["session", "command"])
def test_a_report_with_another_udid_is_of_no_mac_that_the_server_knows(run_in_reactor: RunInReactor, on: str) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(behaviour=QUICK, faults=Faults(), log=log) as running:
            client = running.fleet[0]
            add(running, on=on, do="wrong_udid", times=1)
            running.lab.enqueue(running.udid(client), {"RequestType": "ProfileList"})
            client.wake()
            await running.until(lambda: client.left, "the end of the enrollment")
            (wrong,) = [each for each in log if each.rules]
            assert wrong.status == 401
            assert running.udid(client).encode() not in wrong.request
            assert b"UDID" in wrong.request

    run_in_reactor(scenario())


# Enrolling


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize(
    ("on", "type_"),
    [
        ("enroll", None),
        ("scep", "GetCACaps"),
        ("scep", "PKIOperation"),
        ("acme", "newOrder"),
        ("checkin", "TokenUpdate"),
    ],
)
def test_an_enrollment_fails_at_the_point_and_works_again(
    run_in_reactor: RunInReactor, on: str, type_: str | None, at: str
) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        acme = on == "acme"
        async with stack(
            scep=not acme, acme=acme, os="15.5", behaviour=QUICK, faults=Faults(), log=log, enrolled=False
        ) as running:
            client = running.fleet[0]
            add(running, on=on, do="drop", at=at, type=type_, times=1)
            with pytest.raises(PeerError, match="a fault rule reset the connection"):
                await running.enroll(client)
            assert [(each.kind, each.message_type) for each in log if each.rules] == [(on, type_ or "")]
            await running.enroll(client)
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            assert hits(running) == [1]

    run_in_reactor(scenario())


@pytest.mark.parametrize("do", ["malformed", "wrong_udid"])
def test_a_wrong_check_in_is_refused(run_in_reactor: RunInReactor, do: str) -> None:
    async def scenario() -> None:
        async with stack(behaviour=QUICK, faults=Faults(), enrolled=False) as running:
            client = running.fleet[0]
            add(running, on="checkin", do=do, type="TokenUpdate", times=1)
            with pytest.raises(PeerError, match="the server answered TokenUpdate with 40"):
                await running.enroll(client)
            await running.enroll(client)

    run_in_reactor(scenario())


# The LOM link


async def switched_off(running: Stack) -> str:
    """The first Mac switches the second one off: the error of the outcome."""
    controller, target = running.fleet
    mac = target.device.mac
    item = RelayItem("0001", mac.dns_name, PowerRequest.OFF, mac.primary_ipv6, mac.lom_protocol_version)
    (outcome,) = await running.network.relay(controller, [item])
    return outcome.error


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"do": "refuse"}, "a fault rule refuses the request"),
        ({"do": "drop"}, "reset"),
        ({"do": "delay", "seconds": 0.05}, ""),
    ],
)
def test_a_lom_request_is_refused_dropped_or_late(
    run_in_reactor: RunInReactor, rule: dict[str, Any], error: str
) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(2, behaviour=QUICK, faults=Faults(), log=log) as running:
            for client in running.fleet:
                name = client.device.mac.dns_name
                profile = lom_profile(running.server.authorities, name, device=True, controller=True)
                await running.command(client, "InstallProfile", Payload=profile)
            links = 2 if rule["do"] == "drop" else 1  # after the first the Controller connects again
            added = add(running, on="lom_link", role="device", times=links, **rule)
            target = running.fleet[1]
            found = await switched_off(running)
            assert error in found
            assert bool(found) is bool(error)
            assert target.device.power.state is (Power.ON if error else Power.OFF)
            exchange, *others = [each for each in log if each.kind == "lom_link"]
            assert len(others) == links - 1
            for each in (exchange, *others):
                assert (each.rules, each.request_type, each.device) == ((added.id,), "PowerOFF", 1)
            if error:
                assert await switched_off(running) == ""
                assert target.device.power.state is Power.OFF
            else:
                assert exchange.seconds >= 0.05

    run_in_reactor(scenario())


# Push


@pytest.mark.parametrize(
    ("rule", "counted"),
    [
        ({"do": "refuse"}, {"accepted": 1, "refused": {"ServiceUnavailable": 1}}),
        ({"do": "refuse", "reason": "TooManyRequests"}, {"accepted": 1, "refused": {"TooManyRequests": 1}}),
        ({"do": "drop"}, {"accepted": 1, "broken": 1}),
        ({"do": "lose"}, {"accepted": 2, "discarded": 1}),
        ({"do": "delay", "seconds": 0.05}, {"accepted": 1}),
        ({"do": "offline", "seconds": 0.05}, {"accepted": 1, "stored": 1}),
    ],
)
def test_a_push_is_refused_broken_lost_or_late(
    run_in_reactor: RunInReactor, rule: dict[str, Any], counted: dict[str, Any]
) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(behaviour=QUICK, faults=Faults(), log=log) as running:
            added = add(running, on="push", times=1, **rule)
            service = PushService(running.fleet, running.environment, APNsPlan(), running.server)
            service.listen()
            try:
                udid = running.udid(running.fleet[0])
                await service.push(udid)  # the lab tries again after a refusal and a broken connection
                if rule["do"] == "lose":
                    assert running.reports == []
                    await service.push(udid)
                await running.until(lambda: running.reports != [] and service.counts["delivered"] == 1, "the session")
                assert [each.rules for each in log if each.rules] == [(added.id,)]
                assert hits(running) == [1]
                counts = service.counts
                assert {name: counts[name] for name in counted} == counted
                assert counts["discarded"] == counted.get("discarded", 0)
            finally:
                await service.close()

    run_in_reactor(scenario())


# Without rules


def test_a_fleet_without_rules_has_plain_connections(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack(behaviour=QUICK) as running:
            client = running.fleet[0]
            await running.command(client, "ProfileList")
            connection = client._parts.connection._connection
            assert type(connection).__name__ == "HTTPConnection"

    run_in_reactor(scenario())
