"""Probes of identity: certificates that are not the server's, signatures that are not the Mac's, and replaced Macs."""

from __future__ import annotations

import time
from contextlib import suppress

from agent.conform.probes.checkin import authenticate, offline, token_update
from agent.conform.probes.probe import Probe
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.stage import INFORMATION, Stage
from agent.mdm import checkin, results
from agent.net.http.resumption import Resumption
from agent.net.mac.sessions.headers import message_headers
from agent.pki.issuing.invalid import expired, of_another_ca
from agent.plists import dump_xml
from agent.servers.server import RequestFailed
from agent.service.macs.groups import MacHandle

_CLOSE = {"Connection": "close"}  # then the client keeps the TLS session


async def certificates(stage: Stage) -> None:
    """With three certificates that the server did not issue, or none: a report of a Mac, and Authenticate of a new one.

    At last the Mac gets a command.
    """
    mac = await stage.managed()
    own = mac_enrollment(mac).identity
    offers = (
        ("another CA", {"identity": of_another_ca(own)}),
        ("expired and self-signed", {"identity": expired(own)}),
        ("no certificate", {"anonymous": True}),
    )
    for says, offer in offers:
        await stage.raw.report(mac, _idle(mac), says=says, **offer)
        new = checkin.authenticate(stage.mac().client.device.announcement, mac_enrollment(mac).topic)
        await stage.raw.check_in(mac, new, says=says, **offer)
    await stage.deliver(mac)


async def signatures(stage: Stage) -> None:
    """Reports with the signature of another body, of another Mac, and without one, and the report of another Mac with
    its signature; then both Macs get a command.
    """
    mac, other = await stage.managed(), await stage.managed()
    if not mac_enrollment(mac).sign_message:
        raise CannotProvoke("The enrollment profile does not set SignMessage.")
    idle = dump_xml(_idle(mac))
    await stage.raw.report(mac, idle, signed=dump_xml(_idle(other)), says="another body")
    await stage.raw.report(mac, idle, headers={"Mdm-Signature": None}, says="no signature")
    for says, body in (("another signer", idle), ("replayed", dump_xml(_idle(other)))):
        signature = message_headers(mac_enrollment(other), results.CONTENT_TYPE, body)["Mdm-Signature"]
        await stage.raw.report(mac, body, headers={"Mdm-Signature": signature}, says=says)
    for each in (mac, other):
        await stage.deliver(each)


async def resumed(stage: Stage) -> None:
    """A Mac sends a report, and in a resumed TLS session its own and that of another Mac; that one gets a command."""
    mac, other = await stage.managed(), await stage.managed()
    resumption = Resumption(1.0, lambda: 0.0, time.time)
    for says, named in (("full", mac), ("own, resumed", mac), ("another's, resumed", other)):
        await stage.raw.report(mac, _idle(named), headers=_CLOSE, resumption=resumption, says=says)
    await stage.deliver(other)


async def check_out(stage: Stage) -> None:
    """A Mac sends CheckOut with the UDID of another one; then that one gets a command."""
    mac, other = await stage.managed(), await stage.managed()
    message = checkin.check_out(other.udid, mac_enrollment(mac).topic)
    await stage.raw.check_in(mac, message, says="another's CheckOut")
    await stage.deliver(other)


async def replaced(stage: Stage) -> None:
    """A command is queued for a Mac. Its UDID enrolls with the identity of a Mac that has checked out, and reports.

    Then a command is queued for a third Mac, which gets it.
    """
    mac, other, third = await stage.managed(), await stage.managed(), await stage.managed()
    identity = mac_enrollment(other).identity
    for each in (mac, other):
        await offline(stage, each)
    await stage.raw.check_in(other, checkin.check_out(other.udid, mac_enrollment(other).topic), says="CheckOut")
    with suppress(RequestFailed):
        await stage.queue(mac, INFORMATION)
    for message in (authenticate(mac), token_update(mac)):
        await stage.raw.check_in(mac, message, identity=identity, says="another identity")
    await stage.raw.report(mac, _idle(mac), identity=identity, says="another identity")
    await stage.result(await stage.queue(third, INFORMATION))


def _idle(mac: MacHandle) -> dict[str, str]:
    return {"Status": "Idle", "UDID": mac.udid}


PROBES = (
    Probe("identity-certificates", "Uses certificates that the server did not issue, and none.", certificates),
    Probe("identity-check-out", "Sends CheckOut with the UDID of another Mac.", check_out),
    Probe("identity-replaced", "Enrolls a UDID again with another identity.", replaced),
    Probe("identity-resumed", "Sends the report of another Mac in a resumed TLS session.", resumed),
    Probe("identity-signatures", "Sends reports with signatures of others.", signatures),
)
