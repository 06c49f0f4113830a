"""Schemathesis against a real ``lom-agent serve``: each request of the OpenAPI document, valid and invalid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from command import SECONDS
from started_service import started_service

from agent.service.api.routes import ROUTES

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parent.parent / "support"
ENDLESS = ("events",)  # a response that does not end; tests/service/test_event_stream.py reads it
EXAMPLES = "5"  # random ones of each request, beside the systematic ones
PHASES = ("examples", "coverage", "fuzzing", "stateful")
PROGRAM = "from schemathesis.cli import schemathesis; schemathesis()"


def test_service_conforms_to_its_document(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    with started_service(tmp_path, "--lab", "--devices", "3", "--clock", "manual") as service:
        done = subprocess.run(
            [
                sys.executable, "-c", PROGRAM, "--config-file", str(SUPPORT / "schemathesis.toml"),
                "run", f"{service.url}/openapi.json", "-H", f"Authorization: Bearer {service.token}",
                *[word for name in ENDLESS for word in ("--exclude-operation-id", name)],
                "--checks", "all", "--phases", ",".join(PHASES), "--max-examples", EXAMPLES,
                "--generation-deterministic", "--no-color",
            ],
            capture_output=True, check=False, cwd=tmp_path, timeout=4 * SECONDS,
            env={
                **os.environ, "PYTHONPATH": str(SUPPORT), "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
                "CONTROL_URL": service.url, "CONTROL_TOKEN": service.token,
                "HYPOTHESIS_STORAGE_DIRECTORY": str(pytestconfig.rootpath / ".hypothesis"),  # with tables of Unicode
            },
        )  # fmt: skip
        output = done.stdout.decode()
        assert done.returncode == 0, output + done.stderr.decode()
        assert re.search(r"Tested: (\d+)", output)[1] == str(len(ROUTES) + 1 - len(ENDLESS))
        for phase in PHASES:
            assert f"✅ {phase.capitalize()}\n" in output
        with service.client() as client:
            assert client.get("/v1").status_code == 200
    assert (tmp_path / "log").read_bytes() == b""


def test_start_of_an_endless_response_conforms_to_the_document(tmp_path: Path) -> None:
    with (
        started_service(tmp_path, "--devices", "1") as service,
        service.client() as client,
        client.stream("GET", "/v1/events?after=0") as response,
    ):
        assert response.status_code == 200
        media = client.get("/openapi.json").json()["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]
        assert response.headers["Content-Type"] in media
        lines = response.iter_lines()
        assert [next(lines) for _ in range(4)] == ["retry: 1000", "", "id: 1", "event: added"]
        assert isinstance(response, httpx.Response)
