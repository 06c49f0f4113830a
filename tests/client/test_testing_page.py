"""docs/testing.md: each of its examples is run."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import unittest
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import SECONDS
from forked_service import connected, forked_service

from agent.client import Fleet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
RUNS: list[tuple[str, str]] = re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
FILES: dict[str, str] = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
PROGRAMS = {  # file, command
    "sh": ("example.sh", ("bash", "example.sh")),
    "node": ("example.mjs", ("node", "--test", "example.mjs")),
    "java": ("Example.java", ("java", "-XX:TieredStopAtLevel=1", "Example.java")),
    "go": ("example.go", ("go", "run", "example.go")),
}
SERVER = f"""#!{sys.executable}
import runpy, sys
sys.path[:0] = [{str(ROOT / "tests" / "support")!r}, {str(ROOT / "tests")!r}]
runpy.run_path({str(ROOT / "tests" / "support" / "mdm_process.py")!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def ready(folder: Path) -> Iterator[dict[str, Any]]:
    with forked_service(folder) as ready:
        yield ready


def blocks(*kinds: str) -> list[Any]:
    return [
        pytest.param(kind, text, id=f"{kind}-{number}") for number, (kind, text) in enumerate(RUNS) if kind in kinds
    ]


def test_every_block_is_run_or_is_checked_otherwise() -> None:
    fences = re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)
    others = {"yaml": 2, "text": 1, "sh": 1}  # `sh`: the service that the other examples use
    assert len(fences) == len(RUNS) + len(FILES) + sum(others.values())
    assert {kind for kind, _ in RUNS} == {"python", "django", "trial", *PROGRAMS}


@pytest.mark.parametrize(("kind", "text"), blocks("python", "django", "trial"))
def test_the_test_cases_pass(kind: str, text: str, ready: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "django":
        _set_up_django()
    monkeypatch.setattr(Fleet, "start", lambda **_options: connected(ready))
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text.replace("timeout=10", "timeout=60"), "docs/testing.md", "exec"), names)
    cases = [value for value in names.values() if isinstance(value, type) and value.__module__ == "example"]
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)
    output = io.StringIO()
    result = unittest.TextTestRunner(output).run(suite)
    assert result.testsRun == 1
    assert result.wasSuccessful(), output.getvalue()


def _set_up_django() -> None:
    if find_spec("django") is None:
        pytest.skip("Django is not installed")
    from django.conf import settings  # type: ignore[import-not-found]

    settings.configure()


@pytest.mark.parametrize(("kind", "text"), blocks(*PROGRAMS))
@pytest.mark.usefixtures("ready")
def test_the_programs_pass(kind: str, text: str, folder: Path) -> None:
    file, command = PROGRAMS[kind]
    if shutil.which(command[0]) is None:
        pytest.skip(f"the machine has no {command[0]}")
    (folder / file).write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_pytest_files_pass_without_twisted(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        text = text.replace("timeout=10", "timeout=60")  # this machine may be busy
        (pytester.path / name).write_text(text, encoding="utf-8")
    pytester.makepyfile(
        test_z_last="import sys\n\ndef test_no_twisted():\n"
        "    assert 'agent.client' in sys.modules\n    assert 'twisted' not in sys.modules\n"
    )
    server = pytester.path / "bin" / "my-server"
    server.parent.mkdir()
    server.write_text(SERVER, encoding="utf-8")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(server.parent), prepend=os.pathsep)
    others = ("-p", "no:schemathesis", "-p", "no:hypothesispytest")  # take a second of CPU
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *others, "-q")
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_recipes_are_valid(text: str) -> None:
    recipe = yaml.safe_load(text)
    job = recipe.get("jobs", recipe)["macs"]
    commands = job["script"] if "script" in job else [step.get("run", "") for step in job["steps"]]
    assert any(command.startswith("pytest -n auto") for command in commands)
