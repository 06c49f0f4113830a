"""The ready-made scenarios, each run small against the lab, from the installed command to its files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from command import lom_agent, lom_agent_here

from agent.load.phases.checkin import STILL_IN_SESSION
from agent.measure.limits import parse_limit
from agent.scenario.reading import read_scenario

SCENARIOS = Path(__file__).parent.parent / "fixtures" / "scenarios"
MACS = 4  # two segments, one for each worker
SMALL = (f"fleet.devices={MACS}", "fleet.segment_size=2", "load.tail=10")
QUICK_BOOT = "fleet.boot=uniform:0.2,0.5"
# What makes hours into seconds, and the operations that have to have happened.
RUNS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "enrollment-day": (
        ("server.keys=pool:2", "phase.enroll.duration=1", "phase.enroll.rate=10", "phase.enroll.to_rate=20"),
        {"enroll", "session"},
    ),
    "steady-fleet": (
        ("load.rate=4", "phase.look.duration=2", "phase.inventory.duration=2", "phase.profiles.duration=2"),
        {"enroll", "session", "enqueue", "delivery", "command", "push"},
    ),
    "patch-push": (("phase.patch.burst=3", "phase.patch.every=0.5"), {"enroll", "enqueue", "delivery", "push"}),
    "power-cut": ((QUICK_BOOT, "phase.outage.seconds=0.5", "phase.outage.spread=0.2"), {"return", "delivery", "push"}),
    "lom-reset-wave": ((QUICK_BOOT,), {"lom_setup", "lom_device", "lom_link", "return"}),
    "not-now-morning": (("fleet.not_now_for=1.5", "fleet.not_now_retry=0.3"), {"delivery", "command"}),
    "soak": (
        (
            QUICK_BOOT, "load.rate=10", "phase.look.duration=3", "phase.inventory.duration=3",
            "phase.resets.duration=3", "phase.resets.rate=0.5", "phase.cut.start_at=2", "phase.cut.seconds=0.5",
            "phase.cut.segments=1",
        ),
        {"lom_setup", "lom_device", "return", "session", "delivery"},
    ),
}  # fmt: skip


def test_every_ready_made_scenario_is_covered() -> None:
    assert {path.stem for path in SCENARIOS.glob("*.toml")} == set(RUNS)


@pytest.mark.parametrize("name", ["nanomdm", "micromdm"])
def test_server_scenario_is_valid_and_equals_the_documented_one(name: str) -> None:
    file = SCENARIOS.parent / "servers" / f"{name}.toml"
    assert read_scenario(file).server.adapter == name
    documented = (SCENARIOS.parent.parent / "docs" / "servers.md").read_text(encoding="utf-8")
    assert f"```toml\n{file.read_text(encoding='utf-8').partition(chr(10) * 2)[2]}```" in documented


QUEUE_NOTHING = {"enrollment-day"}
NANOMDM = (
    "--apns", "127.0.0.1:0", "--set", "server.adapter=nanomdm",
    "--set", "server.nanomdm.url=https://mdm.test", "--set", "server.nanomdm.api_key_env=NO_SUCH_VARIABLE",
)  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_ready_made_scenario_accepts_another_server(name: str, tmp_path: Path) -> None:
    file, profile = SCENARIOS / f"{name}.toml", tmp_path / "none.mobileconfig"
    elsewhere = ("run", str(file), "--quiet", "--enroll", str(profile))
    without_adapter = lom_agent_here(*elsewhere)
    assert without_adapter.returncode == 2
    text = file.read_text(encoding="utf-8")
    if name in QUEUE_NOTHING:
        assert f"the enrollment profile {profile} cannot be read".encode() in without_adapter.stderr  # all else is good
        assert f"lom-agent run {name}.toml --enroll" in text
        return
    assert b'set it to "nanomdm", "micromdm" or "webhook"' in without_adapter.stderr
    with_adapter = lom_agent_here(*elsewhere, "--apns-tls", str(tmp_path / "apns"), *NANOMDM)
    assert with_adapter.returncode == 2
    assert b"NO_SUCH_VARIABLE" in with_adapter.stderr  # all but the API key is there
    assert "server.adapter=nanomdm" in text


def is_of_time(limit: str, dropped: list[dict[str, Any]]) -> bool:
    """Whether a limit is about how long something took, or began too late: a busy machine does not keep those.

    So is one of what was ``dropped`` where each Mac's session before lasted until then.
    """
    metric = parse_limit(limit).metric
    if metric == "dropped":
        return all((drop["operation"], drop["reason"]) == ("session", STILL_IN_SESSION) for drop in dropped)
    return metric not in ("errors", "count")


@pytest.mark.parametrize("name", RUNS)
def test_ready_made_scenario_passes_its_limits_in_the_lab(name: str, tmp_path: Path) -> None:
    overrides, operations = RUNS[name]
    junit = tmp_path / "junit.xml"
    done = lom_agent(
        "run", str(SCENARIOS / f"{name}.toml"), "--out", str(tmp_path), "--junit", str(junit), "--workers", "2",
        *(word for override in (*SMALL, *overrides) for word in ("--set", override)),
    )  # fmt: skip
    document = json.loads((tmp_path / "results.json").read_bytes())
    broken = [limit for limit in document["limits"] if not limit["ok"]]
    assert all(not limit["reliable"] or is_of_time(limit["limit"], document["dropped"]) for limit in broken), (
        done.stdout.decode()
    )
    # A limit on a time is a statement about this machine, which the lab shares: it may fail, but nothing else may, and
    # each that fails is told.
    assert done.returncode == (1 if broken else 0), done.stdout.decode()
    assert document["outcome"]["reasons"] == [limit["sentence"] for limit in broken]
    assert [each.get("message") for each in ET.parse(junit).findall(".//failure")] == document["outcome"]["reasons"]
    assert done.stderr == b""
    assert document["complete"]
    assert document["name"] == name
    assert document["workers"] == 2
    assert operations <= set(document["operations"])
    assert document["errors"] == []
    assert document["limits"]
    assert all(limit["found"] is not None for limit in document["limits"])
    assert all(phase["ended_s"] is not None for phase in document["phases"])
    assert {sum(row["macs"].values()) for row in document["timeline"]} == {MACS}
    assert len(ET.parse(junit).findall(".//testcase")) >= len(document["limits"])
    assert (tmp_path / "report.html").read_bytes().startswith(b"<!doctype html>")
