"""The probe of ACME: the certificate that a Mac gets with an ACME payload of its enrollment profile."""

from __future__ import annotations

from contextlib import suppress

from agent.conform.probes.probe import Probe
from agent.conform.stage.stage import Stage
from agent.errors import PeerError


async def enrollment(stage: Stage) -> None:
    """A Mac enrolls; what the ACME server answered until then is judged also where it cannot."""
    with suppress(PeerError):
        await stage.enrolled()


PROBES = (Probe("acme-enroll", "Enrolls with the ACME payload of the enrollment profile.", enrollment),)
