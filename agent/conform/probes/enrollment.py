"""Probes of enrollment: Macs fetch the enrollment profile and enroll with it."""

from __future__ import annotations

from contextlib import suppress

from twisted.internet.threads import deferToThread

from agent.conform.probes.probe import Probe
from agent.conform.reading.enrollment import IDENTITY_STEP, MDM, SERVER_URL, TRUST_STEP, fetched
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.handshakes import Offer, leads_to_system_anchor
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.stage import Stage
from agent.conform.trace.evidence import Evidence
from agent.errors import PeerError
from agent.pki.pem import certificate_pem
from agent.service.macs.groups import MacHandle


async def fetch(stage: Stage) -> None:
    """A Mac enrolls."""
    await _enrolled(stage)


async def two(stage: Stage) -> None:
    """Two Macs enroll; the second one tries it also where the first could not."""
    failures: list[PeerError] = []
    for _ in range(2):
        try:
            await _enrolled(stage)
        except PeerError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


async def handshake(stage: Stage) -> None:
    """A Mac enrolls; then, whether it could or not, a handshake with the server of ServerURL."""
    mac = stage.mac()
    with suppress(PeerError):
        await stage.enroll(mac)
    url = _server_url(stage, mac)
    agreed = await stage.raw.handshake(mac, url, Offer(), says=SERVER_URL)
    if agreed.chain:
        trusted = await deferToThread(leads_to_system_anchor, agreed.chain)
        stage.recorder.note(TRUST_STEP, udid=mac.udid, system=trusted)


async def _enrolled(stage: Stage) -> MacHandle:
    """A new Mac that is enrolled; a note has its certificate."""
    mac = await stage.enrolled()
    certificate = certificate_pem(mac_enrollment(mac).identity.certificate).decode("ascii")
    stage.recorder.note(IDENTITY_STEP, udid=mac.udid, certificate=certificate)
    return mac


def _server_url(stage: Stage, mac: MacHandle) -> str:
    """ServerURL of the profile that the Mac fetched, also where the Mac refuses it. Raises CannotProvoke."""
    for profile in fetched(Evidence(stage.recorder.trace.records)):
        for payload in profile.of_type(MDM) if profile.udid == mac.udid else ():
            url = payload.get("ServerURL")
            if isinstance(url, str) and url.startswith("https://"):
                return url
    raise CannotProvoke("No Mac fetched an enrollment profile with an https ServerURL.")


PROBES = (
    Probe("enrollment-fetch", "Fetches the enrollment profile and enrolls with it.", fetch),
    Probe("enrollment-tls", "Does a TLS handshake with the server of ServerURL.", handshake),
    Probe("enrollment-two", "Enrolls two Macs.", two),
)
