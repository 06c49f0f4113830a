"""What a phase waits for: it learns at once when the server refuses the result of its command for the last time."""

from __future__ import annotations

import pytest
from conftest import RunInReactor
from msgspec.structs import replace
from scripted_mdm import NEVER, closing, reply, scripted_mdm
from servers import answer, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.load.phases.waits import MacWaits
from agent.mdm.refusals import ResultRefused
from agent.net.mac.sessions.commands import CurrentCommand
from agent.net.timing import Stalls

LIMIT = 10_000.0  # seconds: beyond what a test may take


def test_dropped_result_fails_its_wait_at_once(run_in_reactor: RunInReactor) -> None:
    with scripted_mdm(replace(NEVER, refused_retries=1)) as mdm:
        victim, other = mdm.macs

        async def scenario() -> None:
            mac_waits = MacWaits(reactor, Stalls(reactor))  # type: ignore[arg-type]

            def wait(command_uuid: str) -> Deferred[CurrentCommand]:
                return Deferred.fromCoroutine(mac_waits.result(command_uuid, LIMIT))

            async with closing(mdm):
                await mdm.enroll_all()
                refused, accepted = wait("refused"), wait("accepted")
                for client in mdm.macs:
                    client.observer = mac_waits
                mdm.instead("Acknowledged", *[reply(answer(400))] * 2)
                mdm.enqueue(victim, "refused")
                for number in (1, 2):
                    assert not refused.called
                    victim.wake()
                    await until(lambda: mdm.endings("session", victim) == ["http_status"] * number)  # noqa: B023
                with pytest.raises(ResultRefused, match="is dropped"):
                    await refused
                mdm.enqueue(other, "accepted")
                other.wake()
                assert (await accepted).command.uuid == "accepted"
                mac_waits.close()

        run_in_reactor(scenario())
