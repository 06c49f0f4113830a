"""The exchanges of real Macs with their lab, as the log has them."""

from __future__ import annotations

import json
import plistlib

from conftest import RunInReactor
from msgspec import structs
from scripted_mdm import closing, scripted_mdm
from servers import Talk, answer
from stack import stack

from agent.mdm.results import CONTENT_TYPE
from agent.measure.exchanges import ExchangeLog, as_shown


def test_an_enrollment_and_a_command_leave_their_exchanges(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        log = ExchangeLog()
        async with stack(scep=True, log=log) as running:
            client = running.fleet[0]
            mac = client.device.mac
            result = await running.command(client, "ProfileList")
            await running.until(lambda: len(log) == 9, "the end of the session")
            found = [
                (each.kind, each.method, each.message_type, each.request_type, each.answer_status, each.status)
                for each in log
            ]
            assert found == [
                ("enroll", "GET", "", "", "", 200),
                ("scep", "GET", "GetCACaps", "", "", 200),
                ("scep", "GET", "GetCACert", "", "", 200),
                ("scep", "POST", "PKIOperation", "", "", 200),
                ("checkin", "PUT", "Authenticate", "", "", 200),
                ("checkin", "PUT", "TokenUpdate", "", "", 200),
                ("checkin", "PUT", "SetBootstrapToken", "", "", 200),
                ("report", "PUT", "", "", "Idle", 200),
                ("report", "PUT", "", "ProfileList", "Acknowledged", 200),
            ]
            assert {(each.device, each.udid, each.error, each.rules) for each in log} == {(0, mac.udid, "", ())}
            assert [each.http for each in log] == ["HTTP/2", *["HTTP/1.1"] * 3, *["HTTP/2"] * 5]  # SCEP is without TLS
            assert all("?" not in each.url and each.url.startswith("http") for each in log)
            assert all(each.seconds > 0 for each in log)
            idle, report = log.of(mac.udid, 2)
            assert report.command_uuid == result["CommandUUID"]
            assert plistlib.loads(idle.response)["Command"] == {"RequestType": "ProfileList"}
            assert plistlib.loads(report.request)["Status"] == "Acknowledged"
            shown = json.dumps([as_shown(each) for each in log])
            assert mac.bootstrap_token.hex() not in shown
            assert '"BootstrapToken": "***"' in shown
            assert CONTENT_TYPE not in shown

    run_in_reactor(scenario())


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 307 R\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def test_redirects_and_broken_connections_are_exchanges_too(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm() as mdm:
        victim = mdm.macs[0]
        log = ExchangeLog()
        environment = mdm.running.environment
        structs.force_setattr(environment, "exchanges", log)

        def cut(talk: Talk) -> None:
            talk.send(answer(200, b"x" * 100)[:-50])
            talk.reset()

        async def scenario() -> None:
            async with closing(mdm):
                await mdm.enroll_all()
                log.clear()
                mdm.instead("Idle", lambda talk: talk.send(redirect("/elsewhere?secret=1")), cut)
                victim.wake()
                await mdm.running.until(lambda: len(log) == 3, "three exchanges")
                first, second, third = log
                assert (first.status, first.url.endswith("/elsewhere")) == (307, False)
                assert (second.status, second.url.endswith("/elsewhere")) == (None, True)
                assert "the connection ended before the end of the response" in second.error
                assert third.status == 200

        run_in_reactor(scenario())
