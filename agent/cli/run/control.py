"""The control API of ``lom-agent run --control``: where it listens, its token, and the file that names both."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.cli.tokens import control_token
from agent.files import write_file
from agent.load.conductor.conductor import Conductor
from agent.net.transport.addresses import parse_address
from agent.service.api.run_control import RunControlServer
from agent.service.api.run_requests import RunAPI

_CONTROL_PORT = 7780  # in the error about an address; ours


class RunControl:
    """The control API of one run. Raises OperatorError for a wrong address or token file."""

    def __init__(self, reactor: Any, conductor: Conductor, options: Mapping[str, Any]) -> None:
        host, port = parse_address(options["control"], "--control", _CONTROL_PORT)
        self._token_file = options["token_file"]
        self._ready_file = None if options["ready_file"] is None else Path(options["ready_file"])
        self._token = control_token(self._token_file)
        self._name = conductor.scenario.name
        self._server = RunControlServer(reactor, RunAPI(conductor), host, port, token=self._token)

    def open(self) -> str:
        """Listen; returns a line about it. Raises OperatorError."""
        self._server.listen()
        if self._ready_file is not None:
            ready = {"control": self._server.url, "token": self._token, "name": self._name, "pid": os.getpid()}
            write_file(self._ready_file, json.dumps(ready, indent=1).encode(), private=True)
        file = self._ready_file or self._token_file
        return f"Control API: {self._server.url}, token {self._token if file is None else f'in {file}'}"

    async def close(self) -> None:
        """Stop listening, and remove the file of ``--ready-file``."""
        if self._ready_file is not None:
            with suppress(OSError):  # it was never written, or somebody removed it
                os.unlink(self._ready_file)
        await self._server.close()
