"""The control API of `lom-agent run --control` on HTTP: the requests of `agent.service.api.run_routes`."""

from __future__ import annotations

from typing import Any

from agent.service.api.control import APIServer
from agent.service.api.routes import RUN_TITLE
from agent.service.api.run_requests import RunAPI
from agent.service.api.run_routes import RUN_ROUTES


class RunControlServer(APIServer):
    """Serves the control API of a run."""

    def __init__(self, reactor: Any, api: RunAPI, host: str, port: int, *, token: str) -> None:
        super().__init__(reactor, api, RUN_ROUTES, api.live, (host, port), token=token, title=RUN_TITLE)
