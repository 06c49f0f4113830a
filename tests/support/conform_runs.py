"""Conformance runs in the tests' reactor, against a lab of this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from twisted.internet import reactor

from agent.conform.probes import needed_by
from agent.conform.stage.run import Run
from agent.conform.stage.stage import Stage
from agent.conform.stage.target import Target, embedded_lab
from agent.conform.trace.recorder import Recorder
from agent.conform.trace.records import Header, ServerFacts, Trace
from agent.conform.verdicts.requirement import Requirement
from agent.lab.defects import NONE, Defects
from agent.pki.issuing.authorities import Authorities

SECONDS = 20.0  # for what a correct lab does: far beyond what it takes
BRIEF = 10.0  # for what a lab with a defect may never do
STARTED = 1_790_000_000.0  # 2026-09-21


@cache
def authorities() -> Authorities:
    """Of every lab of this process."""
    return Authorities()


def header(seed: str = "conform") -> Header:
    """The header of a trace."""
    return Header(started=STARTED, seed=seed, profile="all", server=ServerFacts("lab"))


async def played(target: Target, requirements: Sequence[Requirement], **options: Any) -> Trace:
    """The trace of the probes of these requirements against a server."""
    recorder = Recorder(header())
    stage = Stage(reactor, target, recorder, seed="conform", **options)
    stage.open()
    try:
        await Run(reactor, stage, needed_by(requirements)).play()
    finally:
        await stage.close()
    return recorder.trace


async def played_in_lab(
    requirements: Sequence[Requirement], defects: Defects = NONE, *, identity: str = "pkcs12"
) -> Trace:
    """The same against a lab with these defects. What it must do and does not is waited for briefly.

    Except for an identity whose key is generated in the probe, which takes long on a busy machine.
    """
    patience = BRIEF if defects and identity == "pkcs12" else SECONDS
    return await played(
        embedded_lab(reactor, authorities(), scep=identity == "scep", acme=identity == "acme", defects=defects),
        requirements,
        patience=patience,
    )
