"""Probes of identity: messages in the name of another Mac."""

from __future__ import annotations

from agent.conform.probes.probe import Probe
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.stage import Stage
from agent.mdm import checkin


async def another_udid(stage: Stage) -> None:
    """A Mac sends a report and a TokenUpdate with the UDID of another one; then that one gets a command."""
    thief, victim = await stage.managed(), await stage.managed()
    await stage.raw.report(thief, {"Status": "Idle", "UDID": victim.udid}, says="another's report")
    topic = mac_enrollment(thief).topic
    token_update = checkin.token_update(victim.udid, topic, thief.mac.push_token, thief.mac.push_magic)
    await stage.raw.check_in(thief, token_update, says="another's TokenUpdate")
    await stage.deliver(victim)


PROBES = (Probe("identity-another-udid", "Sends messages with the UDID of another Mac.", another_udid),)
