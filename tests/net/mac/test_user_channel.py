"""The user channel against the lab: the login of a user, the user's commands, and what ends the channel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from apple_schema import problems
from msgspec.structs import replace
from profile_parts import lom, pkcs12, profile_dict, root
from stack import SECONDS, Stack, stack
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent import plists
from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.fleet.durations import Constant
from agent.fleet.population import Population
from agent.lab.mdm.declarations import Declarations
from agent.lab.mdm.users import UserAuthentication, name_of
from agent.mdm.facts import message
from agent.measure.exchanges import ExchangeLog, HTTPExchange
from agent.measure.records import Exchange
from agent.net.apns.behaviour import PushBehaviour
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.keeping import MacRecord
from agent.net.mac.fleet.macs import Fleet, FleetBehaviour
from agent.net.mac.fleet.push_endpoint import fleet_push_endpoint
from agent.net.mac.push import GatewaySide
from agent.profiles.errors import ProfileError
from agent.profiles.making import TOPIC
from agent.push.broker import Presence
from agent.push.requests import Provider
from agent.push.wire import RoutedPush

Run = Callable[[Any], Any]
LOCAL = FleetBehaviour(users=1.0)
SOON = FleetBehaviour(users=1.0, boot=Constant(0.01), shutdown=Constant(0.01))
NETWORK = FleetBehaviour(users=1.0, network_users=1.0)


async def answer_of(running: Stack, name: str, client: MDMClient, request_type: str, **body: Any) -> dict[str, Any]:
    """The result of a command on the channel with this name."""
    arrived: Deferred[Any] = Deferred()
    running.lab.enqueue(name, {"RequestType": request_type, **body}, arrived.callback)
    client.wake()
    return dict(await arrived.addTimeout(SECONDS, reactor))


async def logged_in(running: Stack, client: MDMClient) -> str:
    """The name of the user in the lab, once the Mac has sent the user's push token."""
    user = client.device.user
    assert user is not None
    await running.until(lambda: client.user_name in running.lab.macs, "the user logs in")
    assert client.user_name == name_of(user.mac.udid, user.account.user_id)
    return client.user_name


def test_a_user_has_profiles_and_commands_of_his_own(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, behaviour=LOCAL, os="27.0") as running:
            client = running.fleet[0]
            name = await logged_in(running, client)
            mac = client.device.mac
            user, user_id = running.lab.macs[name], name.partition(":")[2]
            assert (user.token, user.push_magic) == (mac.user_push_token, mac.user_push_magic)
            assert user.token != running.lab.macs[mac.udid].token

            profile = plists.dump_xml(profile_dict(root()))
            installed = await answer_of(running, name, client, "InstallProfile", Payload=profile)
            listed = (await answer_of(running, mac.udid, client, "UserList"))["Users"]
            assert [each["UserGUID"] for each in listed if each["IsLoggedIn"]] == [user_id]
            assert (installed["Status"], installed["UserID"]) == ("Acknowledged", user_id)
            own = await answer_of(running, name, client, "ProfileList")
            assert [each["PayloadIdentifier"] for each in own["ProfileList"]] == ["com.example.profile"]
            others = await answer_of(running, mac.udid, client, "ProfileList")
            assert "com.example.profile" not in str(others)
            assert "UserID" not in others

            asked = await answer_of(running, mac.udid, client, "DeviceInformation", Queries=["ActiveManagedUsers"])
            assert asked["QueryResponses"] == {"ActiveManagedUsers": [user_id]}
            restart = await answer_of(running, name, client, "RestartDevice")
            assert (restart["Status"], restart["ErrorChain"][0]["ErrorCode"]) == ("Error", 12021)
            assert "user channel" in restart["ErrorChain"][0]["LocalizedDescription"]
            for channel, status in ((name, "Acknowledged"), (mac.udid, "Error")):
                token = {"AppleCareToken": "test-token-normal"}
                logs = await answer_of(running, channel, client, "TriggerEnhancedLogCollection", **token)
                assert logs["Status"] == status
            refused = plists.dump_xml(profile_dict(pkcs12(), root(), lom()))
            answer = await answer_of(running, name, client, "InstallProfile", Payload=refused)
            assert "may not be installed on the user channel" in str(answer["ErrorChain"])

            def of_user() -> list[Exchange]:
                return [each for each in running.exchanges if each.facts.get("channel") == "user"]

            expected = {"checkin", "session", "command"}
            await running.until(lambda: {each.operation for each in of_user()} == expected, "records name the channel")
            assert of_user()[0].facts["message"] == "TokenUpdate"

            client.unenroll()
            await running.until(lambda: not running.lab.macs, "CheckOut removes the users too")
            assert client.device.user is not None
            assert (client.device.user.managed, list(client.device.user.profiles)) == (None, [])

    run_in_reactor(work())


def unconforming(check_in: dict[str, Any]) -> list[str]:
    """What Apple's schema does not have of a message on the user channel; AuthToken is in its notes only."""
    keys = message("check-in", check_in["MessageType"]).request
    sent = {name: value for name, value in check_in.items() if name != "AuthToken"}
    return [each for each in problems(sent, keys, channel="user") if each != "DigestResponse is required and absent"]


@pytest.mark.parametrize("policy", ["digest", "none", "refuse"])
def test_the_server_authenticates_a_network_user(run_in_reactor: Run, policy: Any) -> None:
    async def work() -> None:
        seen: list[HTTPExchange] = []
        async with stack(1, behaviour=NETWORK, enrolled=False, log=ExchangeLog(seen.append)) as running:
            running.lab.users.authentication.policy = policy
            client = running.fleet[0]
            await running.enroll(client)
            user = client.device.user
            assert user is not None
            await running.until(lambda: user.managed is not None, "the server has answered")
            messages = [plists.load_dict(each.request) for each in seen if each.kind == "checkin"]
            of_user = [each for each in messages if "UserID" in each]
            kinds = [each["MessageType"] for each in of_user]
            if policy == "refuse":
                assert (kinds, user.managed) == (["UserAuthenticate"], False)
                assert running.failures("checkin") == []  # 410 is an answer of the protocol
                assert client.device.user is user
            else:
                twice = ["UserAuthenticate"] * (2 if policy == "digest" else 1)
                assert (kinds, user.managed) == ([*twice, "TokenUpdate"], True)
                asked = next(each for each in messages if each["MessageType"] == "GetBootstrapToken")
                assert set(asked) == {"AwaitingConfiguration", "MessageType", "UDID"}  # of the device channel
                update = of_user[-1]
                for each in of_user:
                    assert unconforming(each) == []
                assert (update["UserShortName"], "AwaitingConfiguration" in update) == (user.account.short_name, False)
                assert bool(update.get("AuthToken")) == (policy == "digest")
                name = await logged_in(running, client)
                listed = await answer_of(running, name, client, "ProfileList")
                assert listed.get("AuthToken") == update.get("AuthToken")
                users = (await answer_of(running, client.device.mac.udid, client, "UserList"))["Users"]
                assert [(each["UserGUID"], each["MobileAccount"]) for each in users if each["IsLoggedIn"]] == [
                    (user.account.user_id, True)
                ]

    run_in_reactor(work())


def test_a_challenge_that_cannot_be_answered_is_told(run_in_reactor: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def challenge(_users: UserAuthentication, _name: str, _message: object) -> bytes:
        return plists.dump_xml({"DigestChallenge": "Basic"})

    async def work() -> None:
        monkeypatch.setattr(UserAuthentication, "answer", challenge)
        async with stack(1, behaviour=NETWORK) as running:
            assert [each for each in running.warnings if "expected a challenge of HTTP Digest, found 'Basic'" in each]
            user = running.fleet[0].device.user
            assert user is not None
            assert user.managed is None
            assert running.fleet[0].enrolled

    run_in_reactor(work())


def test_a_user_has_declarations_of_his_own(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, behaviour=LOCAL) as running:
            client = running.fleet[0]
            name = await logged_in(running, client)
            running.lab.declare(name)
            client.wake()
            await running.until(lambda: bool(running.lab.macs[name].status_report), "the user reports its status")
            user = client.device.user
            assert user is not None
            assert user.declared.declarations
            assert not client.device.declared.declarations
            assert not running.lab.macs[client.device.mac.udid].status_report

    run_in_reactor(work())


def test_a_push_to_a_user_opens_a_session_of_the_user_alone(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, behaviour=LOCAL, enrolled=False) as running:
            endpoint = fleet_push_endpoint(running.fleet, running.environment, PushBehaviour())
            endpoint.open()
            try:
                client = running.fleet[0]
                mac = client.device.mac

                def push(token: bytes, magic: str) -> str:
                    fields = [(":method", "POST"), (":path", f"/3/device/{token.hex()}"), ("apns-topic", TOPIC)]
                    body = json.dumps({"mdm": magic}).encode()
                    answer = endpoint.receive(
                        RoutedPush(1, running.environment.wall_clock(), fields, body, Provider(TOPIC, certified=True))
                    )
                    return f"{answer.status} {answer.body.decode()}"

                assert "BadDeviceToken" in push(mac.user_push_token, mac.user_push_magic)
                await running.enroll(client)
                name = await logged_in(running, client)
                user = client.device.user
                assert user is not None

                def quiet() -> bool:
                    started = name in [reported for reported, _ in running.reports]
                    return started and user.quiet and client.device.quiet

                await running.until(quiet, "the first session of the user")
                running.reports.clear()
                assert push(mac.user_push_token, mac.user_push_magic).startswith("200")
                await running.until(lambda: bool(running.reports), "a session of the user")
                assert [reported for reported, _ in running.reports] == [name]
                assert push(mac.push_token, mac.push_magic).startswith("200")
                await running.until(lambda: len(running.reports) == 2, "a session of the device")
                assert running.reports[1][0] == mac.udid
                client.unenroll()
                await running.until(lambda: not running.lab.macs, "the Mac has left")
                assert push(mac.user_push_token, mac.user_push_magic).startswith("410")
            finally:
                endpoint.close()

    run_in_reactor(work())


@pytest.mark.parametrize("behaviour", [LOCAL, NETWORK])
def test_a_user_survives_idleness_and_a_record(run_in_reactor: Run, behaviour: FleetBehaviour) -> None:
    async def work() -> None:
        async with stack(2, behaviour=behaviour) as running:
            client, other = running.fleet[0], running.fleet[1]
            name = await logged_in(running, client)
            profile = plists.dump_xml(profile_dict(root()))
            await answer_of(running, name, client, "InstallProfile", Payload=profile)
            user = client.device.user
            assert user is not None
            token = user.auth_token
            await running.until(lambda: client.device.quiet and user.quiet, "the sessions end")
            client._parts.connection.hang_up()
            client._parts.user.connection.hang_up()  # type: ignore[union-attr]
            await running.until(client.make_idle, "the Mac is idle")
            again = client.device.user
            assert again is not None
            assert again is not user
            assert (again.auth_token, again.managed, len(list(again.profiles))) == (token, True, 1)
            assert again.device is client.device
            assert again.power is client.device.power

            installed, record = client.record()
            running.fleet.renew(0).restore(installed, record)
            restored = running.fleet[0].device.user
            assert restored is not None
            assert (restored.auth_token, restored.managed, len(list(restored.profiles))) == (token, True, 1)
            assert running.fleet[0].user_name == name
            assert other.device.user is not None

    run_in_reactor(work())


class _Killed:
    """A Keeper whose process is killed when a report of the user channel of Mac 0 is written, and not yet sent."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.kept: tuple[bytes, MacRecord] | None = None

    def changed(self, _index: int) -> None:
        pass

    def when_kept(self, index: int, then: Callable[[], object]) -> None:
        found = self._fleet[index].record()
        session = found[1].activity.user_session
        if self.kept is None and session is not None and session.result:
            self.kept = found
        elif self.kept is None:
            reactor.callLater(0, then)  # type: ignore[attr-defined]


def test_what_a_command_of_the_user_leads_to_outlives_the_process(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, behaviour=LOCAL, os="27.0", enrolled=False) as running:
            killed = _Killed(running.fleet)
            environment = replace(running.environment, keeper=killed)
            fleet = Fleet(Population("stack", 1, os="27.0"), environment, LOCAL)
            killed._fleet = fleet
            try:
                await running.enroll(fleet[0])
                name = await logged_in(running, fleet[0])
                kind = "com.apple.configuration.account.caldav"
                configuration = {"Type": kind, "Identifier": kind, "Payload": {"HostName": "example.com"}}
                running.lab.declarations = Declarations((configuration,))
                running.lab.enqueue(name, {"RequestType": "DeclarativeManagement"}, lambda _result: None)
                fleet[0].wake()
                await running.until(lambda: killed.kept is not None, "the result is kept")
            finally:
                fleet.close()
            assert killed.kept is not None
            again = running.fleet[0]
            again.restore(*killed.kept)
            again.carry_on(in_session=False)
            await running.until(lambda: bool(running.lab.macs[name].status_report), "the user's declarations are there")
            done = [each.facts for each in running.exchanges if each.operation == "command" and each.failure is None]
            assert [each["request_type"] for each in done] == ["DeclarativeManagement"]

    run_in_reactor(work())


def test_the_user_of_a_mac_that_is_offline_logs_in_when_it_is_back(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, behaviour=SOON) as running:
            client = running.fleet[0]
            name = await logged_in(running, client)

            def check_ins() -> list[Any]:
                return [each.facts["message"] for each in running.exchanges if each.operation == "checkin"]

            await running.until(lambda: client._parts.background.quiet, "nothing runs")
            user = client._parts.user
            assert user is not None
            await running.until(lambda: user.background.quiet, "nothing runs")
            before = check_ins()
            client.leave_network()
            client.crash()
            await running.until(lambda: client.boots == 1, "the Mac boots")
            assert (user.presence, user.wake(), user.background.quiet) == (Presence.OFFLINE, False, True)
            kept = client.record()
            again = running.fleet.renew(0)
            again.restore(*kept)
            again.carry_on(in_session=False)
            restored = again._parts.user
            assert restored is not None
            assert (restored.presence, restored.wake(), restored.background.quiet) == (Presence.OFFLINE, False, True)
            assert check_ins() == before
            again.come_back()
            await running.until(lambda: restored.background.quiet, "the user is logged in")
            assert (await answer_of(running, name, again, "ProfileList"))["Status"] == "Acknowledged"

    run_in_reactor(work())


def test_a_user_asks_again_for_a_command_that_was_lost_with_the_network(run_in_reactor: Run) -> None:
    async def work() -> None:
        faults = Faults()
        faults.add(Rule(id="lost", on="command", do="offline", seconds=0.05, times=1), 0.0)
        async with stack(1, behaviour=LOCAL, faults=faults) as running:
            client = running.fleet[0]
            client._gateway = GatewaySide(on_back=lambda _index: None)  # only pushes open sessions
            name = await logged_in(running, client)
            user = client._parts.user
            assert user is not None
            await running.until(lambda: user.background.quiet, "nothing runs")
            arrived: list[Any] = []
            running.lab.enqueue(name, {"RequestType": "ProfileList"}, arrived.append)
            user.wake()
            await running.until(lambda: bool(arrived), "the result")
            cut_short = [each.cut_short for each in running.exchanges if each.operation == "command"]
            assert cut_short[0] == "the Mac went offline"

    run_in_reactor(work())


def test_a_boot_without_network_is_a_login_once_it_is_back(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, behaviour=SOON) as running:
            client = running.fleet[0]
            await logged_in(running, client)
            user = client._parts.user
            assert user is not None
            await running.until(lambda: user.background.quiet, "nothing runs")
            updates = [each for each in running.exchanges if each.facts.get("message") == "TokenUpdate"]
            client.leave_network()
            client.crash()
            await running.until(lambda: client.boots == 1, "the Mac boots")
            assert user.background.quiet
            client.come_back()
            await running.until(lambda: user.background.quiet and user.presence is Presence.ONLINE, "the login")
            found = [each for each in running.exchanges if each.facts.get("message") == "TokenUpdate"]
            assert [each.facts.get("channel") for each in found[len(updates) :]] == ["user"]

    run_in_reactor(work())


def test_a_check_out_that_fails_is_not_sent_again(run_in_reactor: Run) -> None:
    async def work() -> None:
        seen: list[HTTPExchange] = []
        async with stack(1, log=ExchangeLog(seen.append)) as running:
            client = running.fleet[0]
            running.lab.defects = frozenset({"checkin-out-ignored", "checkin-out-refused"})

            def check_outs() -> list[int | None]:
                return [each.status for each in seen if each.kind == "checkin" and b"CheckOut" in each.request]

            client.unenroll()
            await running.until(lambda: bool(check_outs()), "CheckOut is answered")
            assert not client.wake()
            client.crash()
            await running.until(lambda: client.boots == 1, "the Mac boots")
            await running.until(lambda: client._parts.background.quiet, "nothing runs")
            assert (check_outs(), client.enrolled) == ([500], False)
            await running.enroll(client)
            assert check_outs() == [500]
            client.go_offline(60.0)
            client.unenroll()
            client.come_back()
            await running.until(lambda: client._parts.background.quiet, "nothing runs")
            assert check_outs() == [500]  # offline, it sends none

    run_in_reactor(work())


def test_a_user_has_declarations_and_status_of_his_own(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, behaviour=LOCAL, enrolled=False) as running:
            client = running.fleet[0]
            client.device.mac = client.device.mac.with_release("27.0", "26A428")
            await running.enroll(client)
            name = await logged_in(running, client)
            items = [{"Name": "enhanced-logging.status"}, {"Name": "softwareupdate.install-state"}]
            kinds = "com.apple.configuration.account.caldav", "com.apple.configuration.management.status-subscriptions"
            payloads: list[dict[str, Any]] = [{"HostName": "example.com"}, {"StatusItems": items}]
            configurations = [
                {"Type": kind, "Identifier": kind, "Payload": payload}
                for kind, payload in zip(kinds, payloads, strict=True)
            ]
            payload = {"StandardConfigurations": list(kinds)}
            activation = {"Type": "com.apple.activation.simple", "Identifier": "activation", "Payload": payload}
            running.lab.declarations = Declarations((*configurations, activation))

            def reported(of: str) -> dict[str, Any]:
                octets = running.lab.macs[of].status_report
                return json.loads(octets) if octets else {"StatusItems": {}}

            for channel, valid, unknown in (
                (name, "valid", "softwareupdate.install-state"),
                (client.device.mac.udid, "invalid", "enhanced-logging.status"),
            ):
                assert (await answer_of(running, channel, client, "DeclarativeManagement"))["Status"] == "Acknowledged"
                await running.until(lambda channel=channel: reported(channel)["StatusItems"], "a report")  # type: ignore[misc]
                states = reported(channel)["StatusItems"]["management"]["declarations"]["configurations"]
                assert [each["valid"] for each in states] == [valid, "valid"]
                assert [error["StatusItem"] for error in reported(channel)["Errors"]] == [unknown]
            before = reported(client.device.mac.udid)
            await answer_of(running, name, client, "TriggerEnhancedLogCollection", AppleCareToken="test-token-normal")
            await running.until(lambda: "management" not in reported(name)["StatusItems"], "a report of the change")
            assert reported(name)["StatusItems"] == {"enhanced-logging": {"status": "finished"}}
            assert reported(client.device.mac.udid) == before

    run_in_reactor(work())


def test_a_profile_without_user_connections_has_a_way_out(run_in_reactor: Run) -> None:
    async def work() -> None:
        async with stack(1, os="26.4", enrolled=False) as running:
            running.server._profiles.defects = frozenset({"enroll-no-per-user"})
            with pytest.raises(ProfileError, match="--per-user-connections optional"):
                await running.enroll(running.fleet[0])
            behaviour = FleetBehaviour(users=1.0, per_user_connections="optional")
            lenient = Fleet(Population("stack", 1, os="26.4"), running.environment, behaviour)
            try:
                await running.enroll(lenient[0])
                assert [each for each in running.warnings if "com.apple.mdm.per-user-connections" in each]
                user = lenient[0].device.user
                assert user is not None
                assert user.managed is None  # the server has no user channel
            finally:
                lenient.close()

    run_in_reactor(work())
