"""Conformance runs in the tests' reactor, against a lab of this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from twisted.internet import reactor

from agent.conform.judge import Judgement, judge
from agent.conform.probes import needed_by
from agent.conform.recorder import Recorder
from agent.conform.requirement import Requirement
from agent.conform.run import Run
from agent.conform.stage import Stage
from agent.conform.target import Target, embedded_lab
from agent.conform.trace import Header, ServerFacts, Trace
from agent.lab.defects import NONE, Defects
from agent.pki.authorities import Authorities

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


async def played_in_lab(requirements: Sequence[Requirement], defects: Defects = NONE) -> Trace:
    """The same against a lab with these defects."""
    return await played(embedded_lab(reactor, authorities(), defects=defects), requirements, patience=1.0)


async def judged_in_lab(requirements: Sequence[Requirement], defects: Defects = NONE) -> Judgement:
    """The verdicts of such a trace."""
    return judge(await played_in_lab(requirements, defects), requirements, {})
