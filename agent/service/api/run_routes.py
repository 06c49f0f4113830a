"""The requests of the control API of a run, `lom-agent run --control`, as data."""

from __future__ import annotations

from agent.service.api.routes import Route
from agent.service.run_types import ChangeRate, RunState
from agent.service.types import Results

RUN_ROUTES: tuple[Route, ...] = (
    Route("run", "GET", "/v1/run", "The run: its phases, their progress and rates, and its changes.", answer=RunState),
    Route(
        "pause",
        "POST",
        "/v1/run/pause",
        "Start nothing more. Operations in progress go on. Answers when the run is paused.",
        answer=RunState,
        problems=(401, 409),
    ),
    Route(
        "resume",
        "POST",
        "/v1/run/resume",
        "Go on after a pause. What was due is due later by the length of the pause. Answers when the run goes on.",
        answer=RunState,
        problems=(401, 409),
    ),
    Route(
        "rate",
        "POST",
        "/v1/run/rate",
        "Change the rate of a phase in progress. Answers when it applies.",
        body=ChangeRate,
        answer=RunState,
        problems=(400, 401, 404, 409),
    ),
    Route("stop", "POST", "/v1/run/stop", "End the run, as Ctrl-C does. Its results say that it was interrupted."),
    Route("results", "GET", "/v1/results", "The operations so far.", answer=Results),
)
