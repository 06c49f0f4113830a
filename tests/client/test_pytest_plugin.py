"""The pytest plugin, in test suites of its own: failures, the marker, xdist, Ctrl-C, kill -9, a service that dies.

Most of them get one service, which is forked. docs/testing.md has the examples: see test_testing_page.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import SECONDS
from forked_service import connected, forked_service

from agent.client import Fleet
from agent.client.http import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
LOOK_SECONDS = 0.02
NOTES_ITS_PID = """
import os, time

def test_one(lom_fleet):
    lom_fleet.mac()
    assert lom_fleet.info.seed.endswith(".py::test_one")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    with open(f"{worker}.tmp", "w") as file:
        file.write(str(lom_fleet.info.pid))
    os.replace(f"{worker}.tmp", f"{worker}.pid")
    lom_fleet.wait(kind="unenrolled", timeout=600)
"""
load()  # before pytester does, which forgets again what is imported in it: httpx's errors are those of one httpcore
OTHER_PLUGINS = ("-p", "no:schemathesis", "-p", "no:hypothesispytest")  # take a second of CPU
OUTSIDE = ("-p", "no:cacheprovider", *OTHER_PLUGINS, "-q")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with forked_service(tmp_path_factory.mktemp("service"), "--clock=manual") as ready:
        yield ready


@pytest.fixture
def started(ready: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """With what each service was started; it is always the one of this file."""
    options: list[dict[str, Any]] = []

    def start(**chosen: Any) -> Fleet:
        options.append(chosen)
        return connected(ready)

    monkeypatch.setattr(Fleet, "start", start)
    return options


@pytest.mark.usefixtures("started")
def test_a_replaced_transport_ends_no_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import httpx, pytest

        @pytest.fixture
        def mocked(monkeypatch):
            def refuse(transport, request):
                raise AssertionError(f"{request} is not mocked")

            monkeypatch.setattr(httpx.HTTPTransport, "handle_request", refuse)

        def test_fails(lom_fleet, mocked):
            lom_fleet.mac()

        def test_another(lom_fleet):
            lom_fleet.mac()
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*- lom-agent -*", "AssertionError: *is not mocked"])


def test_a_failed_test_shows_seed_rules_and_exchanges(pytester: pytest.Pytester, started: list[dict[str, Any]]) -> None:
    pytester.makepyfile(
        """
        def test_fails(lom_fleet, lom_lab):
            mac = lom_fleet.mac().enroll(lom_lab.enroll_url)
            mac.on("ProfileList").drop()
            assert mac.power == "off"

        def test_another(lom_fleet):
            assert lom_fleet.rules == []
            assert len(lom_fleet) == 0
        """
    )
    result = pytester.runpytest_inprocess(*OTHER_PLUGINS)
    result.assert_outcomes(failed=1, passed=1)
    lines = ["*lom-agent*", "seed: *test_fails", "*drop on command ProfileList*", "*TokenUpdate*"]
    result.stdout.fnmatch_lines(lines)
    assert started == [{"lab": True, "apns": True, "clock": "real"}]


def test_the_marker_chooses_macs_seed_and_clock(pytester: pytest.Pytester, started: list[dict[str, Any]]) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.lom(devices=2, seed="chosen", clock="manual", os="15.5")
        def test_marker(lom_fleet, lom_device):
            assert len(lom_fleet) == 2
            assert lom_fleet.clock.kind == "manual"
            assert lom_device.os_version == "15.5"
            assert lom_fleet.info.seed == "chosen"

        @pytest.mark.lom(apns=False)
        def test_no_gateway(lom_device):
            assert lom_device.number == 0
        """
    )
    pytester.runpytest_inprocess(*OTHER_PLUGINS).assert_outcomes(passed=2)
    assert [(each["clock"], each["apns"]) for each in started] == [("manual", True), ("real", False)]


def test_the_lab_needs_the_gateway(pytester: pytest.Pytester, started: list[dict[str, Any]]) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.lom(apns=False)
        def test_no_lab(lom_lab):
            pass
        """
    )
    result = pytester.runpytest_inprocess(*OTHER_PLUGINS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*Expected a test with a gateway for lom_lab, found apns=False*"])
    assert [each["apns"] for each in started] == [False]


def test_a_suite_sets_options_of_its_services(pytester: pytest.Pytester, started: list[dict[str, Any]]) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def lom_options():
            return {"insecure": True, "boot": "constant:5"}

        @pytest.fixture(scope="session")
        def server(lom_services):
            return lom_services.apns.url

        def test_it(server, lom_fleet):
            assert server == lom_fleet.apns.url
        """
    )
    pytester.runpytest_inprocess(*OTHER_PLUGINS).assert_outcomes(passed=1)
    assert started == [{"lab": True, "apns": True, "clock": "real", "insecure": True, "boot": "constant:5"}]


def test_collecting_and_a_wrong_marker_start_nothing(pytester: pytest.Pytester, started: list[dict[str, Any]]) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.lom(macs=2)
        def test_marker(lom_fleet):
            pass
        """
    )
    assert pytester.runpytest_inprocess(*OTHER_PLUGINS, "--collect-only").ret == 0
    result = pytester.runpytest_inprocess(*OTHER_PLUGINS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*macs*"])
    assert started == []


def test_an_idle_plugin_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_modules():
            assert not [name for name in sys.modules if name.startswith(("agent.client", "twisted"))]
        """
    )
    pytester.runpytest_subprocess(*OUTSIDE).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("number", "arguments", "processes"),
    [(signal.SIGINT, (), 1), (signal.SIGKILL, ("-n", "2", "--dist", "loadgroup"), 2)],
    ids=["ctrl-c", "kill two processes"],
)
def test_nothing_is_left_of_services_of_their_own(
    number: int, arguments: tuple[str, ...], processes: int, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    for file in range(processes):
        group = f"import pytest\n\n@pytest.mark.xdist_group('g{file}')\ndef test_one"  # goes into the node id
        pytester.makepyfile(**{f"test_{file}": NOTES_ITS_PID.replace("def test_one", group)})
    command = [sys.executable, "-m", "pytest", *OUTSIDE, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            wait_until(lambda: len([*pytester.path.glob("*.pid")]) == processes or process.poll() is not None)
            process.send_signal(number)
            output, _ = process.communicate(timeout=SECONDS)
        finally:
            process.kill()  # else the context would wait for it without a limit
    assert process.returncode == (-number if number == signal.SIGKILL else pytest.ExitCode.INTERRUPTED), output
    services = {int(file.read_text()) for file in pytester.path.glob("*.pid")}
    assert len(services) == processes
    for group_of in (*services, process.pid):  # a service leads a group of its own
        wait_until(lambda group_of=group_of: not group_exists(group_of))
    assert [file.name for file in folder.iterdir() if not file.name.startswith("pytest-of-")] == []


def test_service_that_ends_is_replaced_and_the_report_has_its_exit_status(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, signal, time
        import pytest

        pytestmark = pytest.mark.lom(apns=False)

        def test_dies(lom_fleet):
            os.kill(lom_fleet.info.pid, signal.SIGKILL)
            while lom_fleet.running:
                time.sleep(0.01)
            lom_fleet.mac()

        def test_next(lom_fleet):
            lom_fleet.mac()
        """
    )
    result = pytester.runpytest_inprocess(*OTHER_PLUGINS)
    result.assert_outcomes(failed=1, passed=1)
    lines = ["*ClientError: Expected an answer from the service*", "*The service ended with status -9.*"]
    result.stdout.fnmatch_lines(lines)


def test_a_typed_suite_passes_strict_mypy(tmp_path: Path) -> None:
    file = tmp_path / "test_typed.py"
    file.write_text(
        """
from agent.client import Device, Error, Fleet, Lab, NotNow, Start


def options() -> Start:
    return {"ca": ["ca.pem"], "boot": "constant:1"}


def test_typed(lom_fleet: Fleet, lom_lab: Lab, lom_device: Device) -> None:
    rack = lom_fleet.segment(devices=2).enroll(lom_lab.enroll_url).set_up_lom(lom_lab)
    with rack.controller.on("ProfileList").answer(NotNow, times=2) as rule:
        assert rule.hits == 0
    lom_device.on("ProfileList").answer(Error("no", code=1)).remove()
    uuid: str = lom_lab.queue(lom_device.udid, "ProfileList")
    status: str = lom_device.wait_for(uuid).status
    assert lom_device.wait_until("on").power == status
    with Fleet.start(**options()) as other:
        other.mac(os=1)  # type: ignore[arg-type]
        lom_device.on("ProfileList").answer(NotNow, time=2)  # type: ignore[call-arg]
"""
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout


def group_exists(pid: int) -> bool:
    """Whether a process of this group runs."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(happened: Any) -> None:
    """Wait for something that happens soon on an idle machine."""
    ends = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < ends
        time.sleep(LOOK_SECONDS)
