"""The pytest plugin, in test suites of its own: the two examples of the docs, failures, the marker, xdist."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = """
from agent.client import NotNow

def test_not_now_is_offered_again(lom_fleet, lom_lab):
    mac = lom_fleet.mac(os="15.5").enroll(lom_lab.enroll_url)
    mac.on("ProfileList").answer(NotNow, times=1)
    uuid = lom_lab.queue(mac.udid, "ProfileList")
    mac.wait_event("answered", command_uuid=uuid, status="NotNow")
    lom_lab.push(mac.udid)
    mac.wait_for(uuid, status="Acknowledged", timeout=60)
    assert [answer.status for answer in mac.answers(uuid)] == ["NotNow", "Acknowledged"]

def test_power_on(lom_fleet, lom_lab):
    rack = lom_fleet.segment(devices=1).enroll(lom_lab.enroll_url).set_up_lom(lom_lab)
    lom_lab.lom(rack.controller.udid, "PowerOFF", [rack.devices[0].udid])
    rack.devices[0].wait_until("off", timeout=60)
    lom_lab.lom(rack.controller.udid, "PowerON", [rack.devices[0].udid])
    rack.devices[0].wait_until("on", timeout=60)
    lom_fleet.assert_no_protocol_errors()
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-q", *arguments)


def test_the_examples_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(EXAMPLES)
    run(pytester).assert_outcomes(passed=2)


def test_they_pass_in_four_processes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**{f"test_{number}": EXAMPLES.partition("def test_power_on")[0] for number in range(4)})
    run(pytester, "-n", "4").assert_outcomes(passed=4)


def test_a_failed_test_shows_seed_rules_and_exchanges(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_fails(lom_fleet, lom_lab):
            mac = lom_fleet.mac().enroll(lom_lab.enroll_url)
            mac.on("ProfileList").drop()
            assert mac.power == "off"
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    lines = ["*lom-agent*", "*seed: *test_fails*", "*drop on command ProfileList*", "*TokenUpdate*"]
    result.stdout.fnmatch_lines(lines)


def test_the_marker_chooses_macs_seed_and_clock(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.lom(devices=2, seed="chosen", clock="manual", os="15.5")
        def test_marker(lom_fleet, lom_device):
            assert len(lom_fleet) == 2
            assert lom_fleet.clock.kind == "manual"
            assert lom_device.os_version == "15.5"
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_an_unknown_argument_of_the_marker_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.lom(macs=2)
        def test_marker(lom_fleet):
            pass
        """
    )
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*macs*"])


def test_an_idle_plugin_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_modules():
            assert not [name for name in sys.modules if name.startswith(("agent.client", "twisted", "httpx"))]
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_service_that_was_killed_is_replaced_and_leaves_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pathlib, signal

        folders = []

        def test_killed(lom_fleet):
            os.kill(lom_fleet.info.pid, signal.SIGKILL)
            folders.append(pathlib.Path(lom_fleet._process._folder.name))
            lom_fleet.mac()

        def test_after(lom_fleet):
            assert len(lom_fleet.add(1)) == 1
            assert not folders[0].exists()
        """
    )
    run(pytester).assert_outcomes(passed=1, failed=1)
