"""The main job from outside: the installed command, its output, its files, its exit status."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from command import COMMAND, SECONDS, installed, lom_agent, lom_agent_here
from forked import Forked

from agent.processes import FORKS
from agent.report.results import read_results

DEVICES, SEGMENTS = 6, 3
Start = Callable[..., subprocess.CompletedProcess[bytes]]
OWN_CAUSES = ("overloaded", "worker_lost", "shutdown", "connections")
QUICK = ("--boot", "constant:0.1")
CUT_OFF = 1  # the Macs of the segment that loses its power, without its Controller


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[bytes], Path]:
    """One whole run of 6 Macs in 3 segments, and the folder with its files."""
    folder = tmp_path_factory.mktemp("run")
    done = installed(
        "run", "--devices", str(DEVICES), "--segment-size", "2", "--seed", "end to end", "--workers", "2",
        "--out", str(folder / "out"), "--trace", str(folder / "trace.jsonl"),
    )  # fmt: skip
    return done, folder


def test_default_run_succeeds(finished: tuple[subprocess.CompletedProcess[bytes], Path]) -> None:
    done, _folder = finished
    assert done.returncode == 0, done.stderr
    assert b"All good" in done.stdout
    assert b"Connections to the server: " in done.stdout
    assert done.stderr == b""
    for phase in (b"enroll", b"lom_setup", b"reset", b"power_off", b"while_off", b"power_on"):
        assert b"%s: finished in" % phase in done.stdout


def test_results_have_the_documented_shape(finished: tuple[subprocess.CompletedProcess[bytes], Path]) -> None:
    _done, folder = finished
    document = json.loads((folder / "out" / "results.json").read_bytes())
    assert document["schema"] == "lom-agent.results/2"
    assert (document["seed"], document["devices"], document["workers"]) == ("end to end", DEVICES, 2)
    assert datetime.fromisoformat(document["started"]).utcoffset() is not None
    assert document["complete"] is True
    assert document["errors"] == document["dropped"] == document["limits"] == []
    assert "changed" not in document
    assert [phase["name"] for phase in document["phases"]] == [
        "enroll", "lom_setup", "reset", "power_off", "while_off", "off", "power_on",
    ]  # fmt: skip
    assert all(phase["done"] == phase["planned"] for phase in document["phases"])
    assert set(document["stages"]) == {"connect", "handshake", "first_byte", "request"}
    assert set(document["connections"]) == {"HTTP/2"}
    assert document["connections"]["HTTP/2"] == document["stages"]["handshake"]["count"]
    assert document["timeline"][-1]["macs"]["idle"] == DEVICES
    assert document["scenario"]["fleet"]["seed"] == "end to end"
    assert [worker["worker"] for worker in document["generator"]["workers"]] == [0, 1]
    page = (folder / "out" / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert len(page) < 1_500_000


def test_every_mac_completes_every_step(finished: tuple[subprocess.CompletedProcess[bytes], Path]) -> None:
    _done, folder = finished
    operations = json.loads((folder / "out" / "results.json").read_bytes())["operations"]
    counts = {name: operation["count"] for name, operation in operations.items()}
    assert counts["enroll"] == DEVICES
    assert counts["checkin"] == 3 * DEVICES  # Authenticate, TokenUpdate, SetBootstrapToken
    # InstallProfile, LOMSetupRequest; LOMDeviceRequest for Reset, PowerOFF, PowerON; ProfileList, which waited
    assert counts["command"] == counts["enqueue"] == counts["delivery"] == 2 * DEVICES + SEGMENTS + 2 + CUT_OFF + 1
    assert counts["lom_setup"] == DEVICES
    assert counts["lom_device"] == counts["lom_link"] == DEVICES + 2 * CUT_OFF
    assert counts["return"] == DEVICES + CUT_OFF
    assert counts["session"] >= DEVICES  # at the least the one after the reset


def test_every_push_is_sent_over_http2(finished: tuple[subprocess.CompletedProcess[bytes], Path]) -> None:
    _done, folder = finished
    document = json.loads((folder / "out" / "results.json").read_bytes())
    commands = document["operations"]["command"]["count"]
    assert document["push"] == {
        "accepted": commands, "refused": {}, "own": dict.fromkeys(OWN_CAUSES, 0), "broken": 0,
        "stored": CUT_OFF, "replaced": 0, "expired": 0, "discarded": 0,
        "delivered": commands, "ignored": 0, "waiting": 0,
    }  # fmt: skip
    pushes = [line for line in (folder / "trace.jsonl").read_text().splitlines() if '"operation":"push"' in line]
    assert len(pushes) == commands == document["operations"]["push"]["count"]
    assert len({json.loads(line)["apns_id"] for line in pushes}) == commands


def test_trace_has_every_exchange_and_no_secret(
    finished: tuple[subprocess.CompletedProcess[bytes], Path],
) -> None:
    _done, folder = finished
    path = folder / "trace.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    operations = json.loads((folder / "out" / "results.json").read_bytes())["operations"]
    assert len(lines) == sum(operation["count"] for operation in operations.values())
    links = [line for line in lines if line["operation"] == "lom_link"]
    assert len({line["device_dns_name"] for line in links}) == DEVICES
    assert all(line["peer"] == line["device_dns_name"] and line["tls"] == "TLSv1.3" for line in links)
    assert all(line["address"].startswith("fe80::") for line in links)
    assert all(line["controller"] == line["device"] and line["verdict"] == "done" for line in links)
    assert all(line["controller_name"].startswith("mac-") for line in links)
    assert all(0 <= line[f"{part}_ms"] <= line["ms"] for line in links for part in ("connect", "handshake", "answer"))
    allowed = {
        "time", "operation", "device", "ms", "ok", "udid", "message", "request_type", "command_uuid", "request",
        "request_uuid", "address", "device_dns_name", "tls", "cipher", "peer", "status",
        "controller", "controller_name", "verdict", "connect_ms", "handshake_ms", "answer_ms", "apns_id",
    }  # fmt: skip
    assert {key for line in lines for key in line} <= allowed


def test_wrong_commonname_fails_one_mac_only(tmp_path: Path) -> None:
    patch = """
from agent.pki.issuing.authorities import Authorities
issue = Authorities.lom_device_identity
wrong = []
def lom_device_identity(self, dns_name, *others, **named):
    wrong.append(dns_name)
    return issue(self, "impostor.lom.test" if len(wrong) == 3 else dns_name, *others, **named)
Authorities.lom_device_identity = lom_device_identity
"""
    done = lom_agent(
        "run", "--devices", "4", "--segment-size", "2", "--workers", "1", *QUICK, "--out", str(tmp_path), patch=patch
    )
    assert done.returncode == 1, done.stderr
    document = json.loads((tmp_path / "results.json").read_bytes())
    failed = {(error["operation"], error["kind"]): error for error in document["errors"]}
    link = failed["lom_link", "tls_wrong_name"]
    assert "impostor.lom.test" in link["example"]
    assert "expected a certificate with CommonName mac-" in link["example"]
    lom_device = document["operations"]["lom_device"]
    assert lom_device["errors"] == link["count"]
    assert lom_device["count"] == 4 + 2 * 1
    assert b"impostor.lom.test" in done.stdout


@pytest.fixture(scope="module")
def pooled_and_busy(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[bytes], Path]:
    """A run of 4 Macs that share one SCEP key and answer NotNow at random, and the folder with its files."""
    folder = tmp_path_factory.mktemp("pooled")
    done = lom_agent(
        "run", "--devices", "4", "--segment-size", "2", "--identity", "scep", "--keys", "pool:1", "--workers", "1",
        "--not-now", "0.4", "--not-now-retry", "0.1", *QUICK,
        "--out", str(folder), "--trace", str(folder / "trace.jsonl"),
    )  # fmt: skip
    return done, folder


def test_key_pool_reports_how_many_keys_were_reused(
    pooled_and_busy: tuple[subprocess.CompletedProcess[bytes], Path],
) -> None:
    done, folder = pooled_and_busy
    assert done.returncode == 0, done.stdout
    document = json.loads((folder / "results.json").read_bytes())
    assert document["keys"] == {"pool": 1, "reused": 3}
    assert document["operations"]["lom_device"] == {**document["operations"]["lom_device"], "count": 6, "errors": 0}


def test_run_with_random_notnow_completes(pooled_and_busy: tuple[subprocess.CompletedProcess[bytes], Path]) -> None:
    done, folder = pooled_and_busy
    assert done.returncode == 0, done.stdout
    statuses = [json.loads(line).get("status") for line in (folder / "trace.jsonl").read_text().splitlines()]
    assert statuses.count("NotNow") > 0
    assert statuses.count("Acknowledged") == 2 * 4 + 2 + 2 + 2


def test_run_with_notnow_for_a_time_completes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    done = lom_agent(
        "run", "--devices", "2", "--segment-size", "2", "--not-now-for", "10", "--not-now-retry", "0.3", *QUICK,
        "--trace", str(trace),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    commands = [json.loads(line) for line in trace.read_text().splitlines() if '"operation":"command"' in line]
    statuses = [command["status"] for command in commands]
    assert statuses[0] == "NotNow"
    assert statuses[-1] == "Acknowledged"
    assert statuses == sorted(statuses, reverse=True)  # NotNow first, and then no more


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[bytes], Path]:
    """A quiet run of 4 Macs, 20 a second, whose LOM network is in memory, and the folder with its files."""
    folder = tmp_path_factory.mktemp("memory")
    done = lom_agent(
        "run", "--devices", "4", "--segment-size", "2", "--workers", "1", "--lom-network", "memory", *QUICK,
        "--rate", "20", "--quiet", "--trace", str(folder / "trace.jsonl"),
        "--set", "mdm_signature.reuse=600", "--out", str(folder),
    )  # fmt: skip
    return done, folder


def test_memory_network_gives_the_same_counts_as_loopback(
    in_memory: tuple[subprocess.CompletedProcess[bytes], Path],
) -> None:
    done, folder = in_memory
    assert done.returncode == 0, done.stdout
    document = json.loads((folder / "results.json").read_bytes())
    signatures, operations = document["signatures"], document["operations"]
    assert signatures["reuse_s"] == 600
    assert signatures["reused"] >= operations["session"]["count"] - 2 * 4  # Idle of each Mac is signed once, or twice
    assert signatures["made"] >= operations["command"]["count"]
    assert operations["lom_link"]["count"] == operations["lom_device"]["count"] == 4 + 2 * 1


def test_power_setting_changes_the_outcome_of_a_request(tmp_path: Path) -> None:
    scenario = tmp_path / "twice.toml"
    off = '[[phase]]\nname = "{}"\nkind = "lom"\nrequest = "PowerOFF"\ncontrollers = false\n'
    scenario.write_text(
        '[fleet]\ndevices = 2\n[[phase]]\nkind = "enroll"\n[[phase]]\nkind = "lom_setup"\n'
        + off.format("once")
        + off.format("again")
    )
    arguments = ["run", str(scenario), "--quiet"]
    assert lom_agent(*arguments).returncode == 0
    refused = lom_agent(*arguments, "--power", "power_off_while_off=refuse")
    assert refused.returncode == 1
    assert b"PowerOFF refused: the Mac is off" in refused.stdout


def test_rate_option_sets_the_enrollment_rate(in_memory: tuple[subprocess.CompletedProcess[bytes], Path]) -> None:
    done, folder = in_memory
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    starts = sorted(datetime.fromisoformat(line["time"]) for line in lines if line["operation"] == "enroll")
    assert len(starts) == 4
    assert (starts[-1] - starts[0]).total_seconds() >= 0.14  # three gaps of 50 ms, which no noise can shorten


def test_enroll_retries_option_sets_the_number_of_retries(tmp_path: Path) -> None:
    profile = tmp_path / "broken.mobileconfig"
    profile.write_bytes(b"no profile")
    done = lom_agent(
        "run", "--devices", "2", "--enroll", str(profile), "--enroll-retries", "1", "--out", str(tmp_path), "--quiet"
    )
    assert done.returncode == 1
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert document["operations"]["enroll"]["count"] == 4
    (error,) = document["errors"]
    assert (error["operation"], error["kind"], error["count"]) == ("enroll", "plist", 4)
    assert "not a property list" in error["example"]


def test_interrupted_run_writes_its_results(tmp_path: Path) -> None:
    with Forked("run", "--devices", "4", "--set", "phase.off.seconds=300", "--out", str(tmp_path)) as running:
        output = b""
        while b"enroll: finished" not in output:
            line = running.stdout.readline()
            assert line, output
            output += line
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=SECONDS)
        assert running.returncode == 130, errors
    assert errors == b""
    assert b"enroll" in rest  # the table with what was measured so far
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert document["operations"]["enroll"]["count"] == 4
    assert document["complete"] is False
    assert "interrupted" in document["incomplete_because"]


def started(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A long run, once the results that it writes meanwhile have all four enrollments."""
    arguments = [
        COMMAND, "run", "--devices", "4", "--workers", "1", "--out", str(tmp_path),
        "--set", "phase.off.seconds=300",
    ]  # fmt: skip
    running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while enrolled_in(tmp_path) < 4:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    return running


def enrolled_in(out: Path) -> int:
    """The finished enrollments in the results of a run that may not have written them yet."""
    if not (out / "results.json").exists():
        return 0
    operations = read_results(out).operations
    return operations["enroll"].count if "enroll" in operations else 0


def children_of(pid: int) -> list[int]:
    """The worker processes of a run: its only children on Linux; elsewhere there is multiprocessing's tracker, too."""
    workers = [] if FORKS else ["-f", "spawn_main"]
    found = subprocess.run(["pgrep", "-P", str(pid), *workers], capture_output=True, check=True)
    return [int(line) for line in found.stdout.split()]


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended may remain until its new parent reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_run_leaves_readable_results_and_no_process(tmp_path: Path) -> None:
    with started(tmp_path) as running:
        workers = children_of(running.pid)
        running.kill()
        running.communicate(timeout=SECONDS)
    assert len(workers) == 1
    document = read_results(tmp_path)
    assert document.complete is False
    assert document.operations["enroll"].count == 4
    until = time.monotonic() + SECONDS
    while any(map(lives, workers)):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_quiet_prints_only_the_summary(in_memory: tuple[subprocess.CompletedProcess[bytes], Path]) -> None:
    done, _folder = in_memory
    assert done.returncode == 0, done.stderr
    assert b"listens on" not in done.stdout
    assert b": finished" not in done.stdout
    assert b"All good" in done.stdout
    assert b"Connections to the server: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--devices", "0"], b"--devices"),
        (["run", "--devices", "ten"], b"--devices"),
        (["run", "--segment-size", "0"], b"--segment-size"),
        (["run", "--bogus"], b"--bogus"),
        (["run", "--keys", "some"], b"pool:N"),
        (["run", "--keys", "pool:0"], b"pool:N"),
        (["run", "--insecure"], b"--enroll"),
        (["run", "--poll", "5"], b"--poll needs --enroll"),
        (["run", "--enroll", "https://127.0.0.1:9/enroll", "--poll", "5"], b"--poll needs --stay"),
        (["run", "--keys", "pool:2"], b"--identity scep"),
        (["lab", "--scep-port", "4711"], b"--identity scep"),
        (["run", "--junit", "/dev/null/junit.xml"], b"/dev/null"),
        (["run", "--junit", "/proc/junit.xml"], b"/proc/junit.xml cannot be written"),
        (["run", "--out", "/proc"], b"/proc/results.json cannot be written"),
        (["run", "--ca", "/etc/hosts"], b"--enroll"),
        (["run", "--enroll", "/nonexistent/profile"], b"/nonexistent/profile"),
        (["run", "--enroll", "http://mdm.example/enroll"], b"https://"),
        (["run", "--enroll", "https://mdm.example/", "--ca", "/etc/hosts"], b"/etc/hosts"),
        (["run", "--enroll", "https://mdm.example/", "--identity", "scep"], b"--identity"),
        (["run", "--rate", "0"], b"--rate"),
        (["run", "--workers", "-1"], b"--workers"),
        (["run", "--workers", "2", "--lom-network", "interface:lo"], b"Expected load.workers = 1"),
        (["run", "--set", "fleet.divices=3"], b'did you mean "devices"?'),
        (["run", "--prometheus", "nonsense"], b"127.0.0.1:9464"),
        (["run", "/nonexistent.toml"], b"/nonexistent.toml"),
        (["run", "/nonexistent.toml", "--rate", "3"], b"--set phase.NAME.rate"),
        (["run", "--junit", "/proc/nowhere/junit.xml"], b"/proc/nowhere"),
        (["run", "--boot", "soon"], b"constant:SECONDS"),
        (["run", "--power", "x=y"], b"reset_while_off"),
        (["run", "--lom-network", "pigeons"], b"loopback"),
        (["run", "--not-now", "2"], b"--not-now"),
        (["run", "--devices", "9000000"], b"open files"),
        (["run", "--devices", "99999999"], b"99999999"),
        (["run", "--trace", "/nonexistent/folder/file"], b"/nonexistent/folder/file"),
        (["run", "--out", "/proc/nowhere"], b"/proc/nowhere"),
        (["fleet", "show", "--devices", "-1"], b"--devices"),
        (["answer", "/nonexistent.plist"], b"/nonexistent.plist"),
        (["nonsense"], b"nonsense"),
    ],
)
def test_wrong_usage_exits_with_2_and_an_error(arguments: list[str], words: bytes) -> None:
    done = lom_agent_here(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("start", "arguments", "words"),
    [
        (installed, ["lab", "--identity", "none"], b"--identity"),
        (lom_agent, ["run", "--lom-network", "interface:nowhere0"], b"nowhere0"),
    ],
    ids=["before the reactor runs", "in the reactor"],
)
def test_wrong_usage_of_a_process(start: Start, arguments: list[str], words: bytes) -> None:
    done = start(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "agent", "--help"], capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0
    assert done.stdout.replace(b"python -m agent", b"lom-agent") == lom_agent("--help").stdout


def test_fleet_show_prints_the_same_bytes_in_every_process() -> None:
    arguments = [COMMAND, "fleet", "show", "--devices", "50", "--seed", "same", "--json"]
    outputs = [
        subprocess.run(
            arguments, capture_output=True, timeout=SECONDS, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    macs = json.loads(outputs[0])
    assert [mac["index"] for mac in macs] == list(range(50))
    assert list(macs[0]) == [
        "index", "udid", "serial_number", "model", "model_name", "os_version", "build_version", "host_name", "dns_name",
        "macs", "primary_ipv6", "secondary_ipv6", "lom_protocol_version", "segment", "roles",
    ]  # fmt: skip


def test_fleet_show_prints_a_table() -> None:
    done = lom_agent("fleet", "show", "--devices", "3")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    assert b"LOM name" in done.stdout
