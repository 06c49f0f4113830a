"""Probes of SCEP: the certificate that a Mac gets with a SCEP payload of its enrollment profile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from agent import plists
from agent.conform.probes.probe import Probe
from agent.conform.reading.scep import PAYLOAD
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.stage import Stage
from agent.errors import PeerError
from agent.pki.cms import looks_signed, open_signed
from agent.pki.signatures import SHA1_ONLY

_WRONG = "lom-agent conform: no challenge of this CA"


async def enrollment(stage: Stage) -> None:
    """A Mac enrolls."""
    await stage.enrolled()


async def wrong_challenge(stage: Stage) -> None:
    """A Mac enrolls with its profile, in which only the challenge is another one."""
    mac = stage.mac()
    blob = await stage.profile(mac)
    profile = plists.load_dict(open_signed(blob, legacy=SHA1_ONLY).content if looks_signed(blob) else blob)
    challenged = [each for each in _settings(profile) if "Challenge" in each]
    if not challenged:
        raise CannotProvoke("The enrollment profile has no SCEP payload with a Challenge.")
    for each in challenged:
        each["Challenge"] = _WRONG
    with suppress(PeerError):
        await stage.enroll(mac, plists.dump_xml(profile))


def _settings(profile: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """PayloadContent of each SCEP payload."""
    content = profile.get("PayloadContent")
    for payload in content if isinstance(content, list) else ():
        if isinstance(payload, dict) and payload.get("PayloadType") == PAYLOAD:
            settings = payload.get("PayloadContent")
            if isinstance(settings, dict):
                yield settings


PROBES = (
    Probe("scep-enroll", "Enrolls with the SCEP payload of the enrollment profile.", enrollment),
    Probe("scep-wrong-challenge", "Asks the SCEP CA for a certificate with a wrong challenge.", wrong_challenge),
)
