"""A running scenario, by the control API of ``lom-agent run --control``."""

from __future__ import annotations

import os
from typing import Self

import msgspec

from agent.client.connection import Connection
from agent.client.errors import ClientError
from agent.files import read_file
from agent.service.run_types import ChangeRate, RunState
from agent.service.types import Results

MOST_BYTES = 64 * 1024  # of a ready file


class _Ready(msgspec.Struct):
    control: str
    token: str


class Run:
    """A running scenario. A context manager: its end closes the connection, and the run goes on.

    Its methods block until the run has answered. Raises RequestRefused for what the run refuses, such as a second
    pause, NotFound for an unknown phase, and ClientError where the run has ended.
    """

    def __init__(self, url: str, token: str) -> None:
        self._connection = Connection(url, token)

    @classmethod
    def of(cls, ready_file: str | os.PathLike[str]) -> Self:
        """The run that wrote this file (``--ready-file``). Raises OperatorError and ClientError."""
        try:
            ready = msgspec.json.decode(read_file(ready_file, "the ready file", MOST_BYTES), type=_Ready)
        except msgspec.DecodeError as error:
            raise ClientError(
                f"Expected the file that lom-agent run --ready-file writes in {os.fspath(ready_file)}, found something "
                f"else: {error}. Name that file."
            ) from error
        return cls(ready.control, ready.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def state(self) -> RunState:
        """Its phases and changes now."""
        return self._connection.get("/v1/run", RunState)

    def results(self) -> Results:
        """The operations so far."""
        return self._connection.get("/v1/results", Results)

    def pause(self) -> RunState:
        """Start nothing more; returns when the run is paused."""
        return self._connection.post("/v1/run/pause", RunState)

    def resume(self) -> RunState:
        """Go on after a pause."""
        return self._connection.post("/v1/run/resume", RunState)

    def set_rate(self, phase: str, per_second: float | None = None, *, factor: float | None = None) -> RunState:
        """Change the rate of a phase in progress, or, for ramps and other shapes, by a factor of what is planned."""
        return self._connection.post("/v1/run/rate", RunState, ChangeRate(phase=phase, rate=per_second, factor=factor))

    def stop(self) -> None:
        """End the run, as Ctrl-C does."""
        self._connection.send("POST", "/v1/run/stop")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
