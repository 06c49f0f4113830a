"""Probes of TLS: what the server agrees to."""

from __future__ import annotations

from agent.conform.probes.probe import Probe
from agent.conform.stage.handshakes import Offer
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.stage import Stage


async def versions(stage: Stage) -> None:
    """Handshakes with the server of ServerURL: as a Mac, up to TLS 1.2, and up to TLS 1.1."""
    mac = await stage.enrolled(os="27")
    url = mac_enrollment(mac).server_url
    await stage.raw.handshake(mac, url, Offer(), says="as a Mac")
    await stage.raw.handshake(mac, url, Offer(highest="TLSv1.2"), says="up to TLS 1.2")
    await stage.raw.handshake(mac, url, Offer(lowest="TLSv1", highest="TLSv1.1"), says="up to TLS 1.1")


PROBES = (Probe("tls-versions", "Does TLS handshakes with the MDM server: as a Mac, and with old versions.", versions),)
