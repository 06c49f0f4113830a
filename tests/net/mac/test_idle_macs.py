"""The runtime state of a Mac that becomes idle is freed at once, without a garbage collection."""

from __future__ import annotations

import gc

import pytest
from conftest import RunInReactor
from stack import stack

from agent.net.mac.active import ActiveMac
from agent.net.mac.power.timer import LOMPresence, PowerTimer
from agent.net.mac.sessions.commands import Commands
from agent.net.mac.sessions.connection import SessionConnection
from agent.net.mac.sessions.sessions import Sessions

PARTS = (ActiveMac, Commands, LOMPresence, PowerTimer, SessionConnection, Sessions)


def parts() -> int:
    return sum(isinstance(one, PARTS) for one in gc.get_objects())


@pytest.mark.parametrize("connected", [True, False])
def test_parts_of_an_idle_mac_are_freed_without_a_garbage_collection(
    run_in_reactor: RunInReactor, connected: bool
) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
            await running.until(lambda: client.open_session is None, "the session's end")
            if not connected:
                client._parts.sessions.end("the server closed the connection")
            gc.collect()
            gc.disable()
            try:
                active = parts()
                assert client.make_idle()
                assert active - parts() == len(PARTS)
                assert client.connected is connected
            finally:
                gc.enable()

    run_in_reactor(scenario())
