"""`lom-device` and `lom-request` as processes, with each other: requests carried out and refused, files, and output."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, SECONDS, installed, lom_agent, lom_agent_here
from forked import Forked
from lom_by_hand import (
    CONTROLLER,
    CONTROLLERS,
    DEVICE,
    DEVICES,
    DOCS,
    EXPIRED,
    WORKED_ACKNOWLEDGEMENT,
    WORKED_ANSWER,
    WORKED_NAME,
    WORKED_REQUEST,
    WORKED_UUID,
    Running,
    event_of,
    files,
    lom_device,
    named,
    request,
)

from agent.pki.issuing.authority import CLIENT_USAGE, LOM_USAGE


@pytest.fixture(scope="module")
def seeded() -> Iterator[Running]:
    """Three Devices of a seed, whose boots take no time."""
    with lom_device("--seed", "by hand", "--devices", "3", "--boot", "0") as running:
        yield running


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One Device with files of its own, which boots for longer than any test takes."""
    folder = tmp_path_factory.mktemp("device")
    with lom_device(*files(folder, "device", DEVICE, CONTROLLERS), "--boot", "600") as running:
        yield running


@pytest.fixture
def controller(tmp_path: Path) -> list[str]:
    """The options of a Controller with files of its own."""
    return files(tmp_path, "controller", CONTROLLER, DEVICES)


# Both ends are ours


def test_request_with_seed_succeeds_and_is_printed_by_both_ends(seeded: Running) -> None:
    name = seeded.names[1]
    errors, done = request("Reset", name, seeded.address, "--seed", "by hand", "--uuid", "first")
    assert (done.stdout.decode(), errors) == (f"{name}: Reset done\n", "")
    assert event_of(seeded, "request") == {
        "event": "request",
        "device": name,
        "controller": seeded.names[0],
        "request": "Reset",
        "request_uuid": "first",
        "protocol_version": 2,
        "success": True,
        "error": "",
        "power": "booting",
    }
    assert seeded.event() == {"event": "boot_ended", "device": name, "power": "on"}


def test_power_state_persists_between_requests(seeded: Running) -> None:
    name, who = seeded.names[2], ["--seed", "by hand", "--controller", "7"]
    request("PowerOFF", name, seeded.address, *who)
    first = event_of(seeded, "request")
    assert first["power"] == "off"
    assert first["controller"] not in seeded.names
    errors, done = request("Reset", name, seeded.address, *who, status=1)
    assert (done.stdout, errors) == (b"", f"lom-agent: {name}: Reset refused: the Mac is off\n")
    refused = event_of(seeded, "request")
    assert (refused["success"], refused["error"], refused["power"]) == (False, "Reset refused: the Mac is off", "off")
    request("PowerON", name, seeded.address, *who)
    assert event_of(seeded, "request")["power"] == "booting"
    assert seeded.event()["event"] == "boot_ended"


def test_identity_from_files_and_json_output(own: Running, controller: list[str]) -> None:
    assert own.names == [WORKED_NAME]
    line = [*controller, "--json", "--uuid", "ours"]
    _, done = request("PowerON", WORKED_NAME, own.address, *line)
    outcome = json.loads(done.stdout)
    assert 0 < outcome.pop("seconds") < SECONDS
    assert outcome == {
        "device": WORKED_NAME,
        "to": own.address,
        "request": "PowerON",
        "request_uuid": "ours",
        "protocol_version": 2,
        "success": True,
        "kind": None,
        "error": "",
        "sent": True,
        "tls": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "peer": WORKED_NAME,
    }
    assert event_of(own, "request")["controller"] == "controller.example"


def test_verbose_prints_every_byte(own: Running, controller: list[str]) -> None:
    errors, done = request("Reset", WORKED_NAME, own.address, *controller, "--uuid", WORKED_UUID, "--verbose")
    steps = errors.split("\n")
    assert steps[:4] == [
        f"connecting to {own.address}",
        "TLS: TLSv1.3, TLS_AES_256_GCM_SHA384",
        f"Device's CommonName: {WORKED_NAME}",
        f"sent {len(WORKED_REQUEST)} bytes",
    ]
    sent, _, rest = errors.partition("received 103 bytes\n")
    received, _, acknowledged = rest.partition(f"sent {len(WORKED_ACKNOWLEDGEMENT)} bytes: the acknowledgement\n")
    assert bytes.fromhex("".join(re.findall(r"    (.*)\n", sent))) == WORKED_REQUEST
    assert bytes.fromhex("".join(re.findall(r"    (.*)\n", received))) == WORKED_ANSWER
    assert bytes.fromhex("".join(re.findall(r"    (.*)\n", acknowledged))) == WORKED_ACKNOWLEDGEMENT
    assert done.stdout.decode() == f"{WORKED_NAME}: Reset done\n"
    assert event_of(own, "request")["power"] == "booting"


def test_a_link_over_a_link_local_address_of_an_interface() -> None:
    table = Path("/proc/net/if_inet6")
    here = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    ours = [
        (row[0], row[5]) for row in here if row[3] == "20" and not int(row[4], 16) & 0x40
    ]  # link scope, not tentative
    if not ours:
        pytest.skip("no interface here has a link-local address")
    octets, interface = ours[0]
    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(octets))
    with lom_device("--listen", f"[{address}%{interface}]:0") as running:
        assert running.address.startswith(f"[{address}%{interface}]:")
        request("Reset", running.names[0], running.address)
        assert running.event()["power"] == "booting"


def test_documented_output_is_the_real_output() -> None:
    document = (DOCS / "lom-by-hand.md").read_text()
    line = [COMMAND, "lom-device", "--seed", "trial", "--boot", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = [process.stdout.readline().rstrip("\n") for _ in range(4)]  # all that comes before the first request
        address, name = (text.split()[1] for text in shown[:2])
        for uuid, (kind, status) in enumerate([("Reset", 0), ("PowerOFF", 0), ("Reset", 1), ("PowerON", 0)], 1):
            errors, done = request(
                kind, name, address, "--seed", "trial", "--uuid", f"{uuid:04}", "--verbose", status=status
            )
            shown.append((done.stdout.decode() or errors).splitlines()[-1])
        shown += errors.splitlines()[1:5]
        shown += request("Reset", name, address, "--seed", "other", status=1)[0].splitlines()
        process.send_signal(signal.SIGINT)
        rest, problems = process.communicate(timeout=SECONDS)
    assert (process.returncode, problems) == (130, "")
    shown += rest.splitlines()
    assert len(shown) == 20
    for text in shown:
        text = re.sub(r"^\[::1\]:\d+:", "[::1]:41626:", text)  # the port of a peer
        assert text.replace(address, "[::1]:6230") in document.splitlines(), text


def test_lom_device_ends_when_its_output_is_closed() -> None:
    with Forked("lom-device") as process:
        address, name = [process.stdout.readline().decode().split()[1] for _ in range(4)][:2]
        process.stdout.close()
        request("Reset", name, address)
        assert process.wait() == 1
        assert process.communicate() == (b"", b"")


# Refusals


def test_controller_refuses_a_device_with_another_name(own: Running, controller: list[str]) -> None:
    errors, done = request("Reset", "other.example", own.address, *controller, "--json", status=1)
    outcome = json.loads(done.stdout)
    assert (outcome["success"], outcome["kind"], outcome["sent"]) == (False, "tls_wrong_name", False)
    assert f"expected a certificate with CommonName other.example, found {WORKED_NAME}" in errors
    assert event_of(own, "no_link")["kind"] == "tls"


def test_controller_refuses_a_device_of_another_ca(own: Running, tmp_path: Path) -> None:
    stranger = files(tmp_path, "controller", CONTROLLER, CONTROLLERS)
    errors, _ = request("Reset", WORKED_NAME, own.address, *stranger, status=1)
    assert "issued by CN=Devices, does not lead to a trusted CA" in errors
    assert "unknown ca" in event_of(own, "no_link")["error"]


@pytest.mark.parametrize(
    ("identity", "kind", "words"),
    [
        (DEVICES.issue("controller.example", LOM_USAGE), "tls_untrusted", "does not lead to a trusted CA"),
        (CONTROLLERS.issue("controller.example", LOM_USAGE, **EXPIRED), "tls_expired", "expired at"),
        (CONTROLLERS.issue("controller.example", CLIENT_USAGE), "tls_wrong_usage", "Key Usage dataEncipherment"),
    ],
)
def test_device_prints_why_it_refuses_a_controller(
    own: Running, tmp_path: Path, identity: Any, kind: str, words: str
) -> None:
    bad = files(tmp_path, "bad", identity, DEVICES)
    errors, done = request("Reset", WORKED_NAME, own.address, *bad, "--json", status=1)
    outcome = json.loads(done.stdout)
    assert (outcome["success"], outcome["kind"]) == (False, "tls_refused")
    assert "the peer refused our certificate" in errors
    refused = event_of(own, "no_link")
    assert (refused["kind"], refused["controller"]) == (kind, "")
    assert words in refused["error"]


def test_controller_refuses_an_expired_device_certificate(tmp_path: Path, controller: list[str]) -> None:
    expired = DEVICES.issue(WORKED_NAME, LOM_USAGE, **EXPIRED)
    with lom_device(*files(tmp_path, "expired", expired, CONTROLLERS)) as running:
        errors, _ = request("Reset", WORKED_NAME, running.address, *controller, status=1)
        assert f"the certificate CN={WORKED_NAME} expired at" in errors
        assert running.event()["event"] == "no_link"


def test_unsupported_protocol_version_is_answered_with_an_error(own: Running, controller: list[str]) -> None:
    errors, _ = request("Reset", WORKED_NAME, own.address, *controller, "--protocol-version", "3", status=1)
    assert errors == f"lom-agent: {WORKED_NAME}: LOMProtocolVersion: expected 1 or 2, found 3\n"
    event = event_of(own, "declined")
    assert event["error"] == "LOMProtocolVersion: expected 1 or 2, found 3"


def test_sni_selects_one_of_several_devices(seeded: Running) -> None:
    request("Reset", "nobody.lom.test", seeded.address, "--seed", "by hand", status=1)
    event = event_of(seeded, "no_link")
    assert event["kind"] == "lom_no_such_device"
    assert "a name of these Devices in the TLS hello (SNI), but it has 'nobody.lom.test'" in event["error"]


def test_connection_refused_is_reported() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
    errors, _ = request("Reset", "mac.lom.test", f"[::1]:{port}", status=1)
    assert "Connection refused" in errors


# Files and usage


def refused(*arguments: str) -> str:
    """What a command prints that ends with status 2 before it does anything."""
    done = lom_agent_here(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    return done.stderr.decode()


def test_written_identity_is_private_and_deterministic(tmp_path: Path) -> None:
    written = []
    for folder in (tmp_path / "once", tmp_path / "twice"):
        for role, elsewhere in (("device", installed), ("controller", lom_agent)):
            start = elsewhere if folder.name == "once" else lom_agent_here
            out = folder / role
            out.mkdir(parents=True)
            (out / "key.pem").write_text("an older one")  # which anyone could read
            line = ["lom-identity", "--seed", "s", "--index", "4", "--role", role, "--out", str(out)]
            done = start(*line)
            assert done.returncode == 0, done.stderr
            assert f"Key:         {out}/key.pem" in done.stdout.decode()
            assert stat.S_IMODE((out / "key.pem").stat().st_mode) == 0o600
            written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[:2] == written[2:]
    assert sorted(written[0]) == ["ca.pem", "cert.pem", "key.pem"]
    assert written[0]["ca.pem"] != written[1]["ca.pem"]


TO = ["--to", "[::1]:1"]
RESET = ["lom-request", "Reset", "mac.lom.test"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lom-request", "Restart", "mac.lom.test", *TO], "'PowerON', 'PowerOFF', 'Reset'"),
        ([*RESET], "--to"),
        ([*RESET, "--to", "127.0.0.1:623"], "such as [::1]:623"),
        ([*RESET, "--to", "[127.0.0.1]:623"], "TCP over IPv6"),
        ([*RESET, "--to", "[::1]:65536"], "0 to 65535"),
        ([*RESET, "--to", "[::1]:0"], "the port that the Device listens on"),
        ([*RESET, "--to", "[fe80::1]:623"], "[fe80::1%eth0]:623"),
        ([*RESET, "--to", "[fe80::1%nowhere0]:623"], "no interface 'nowhere0'; it has "),
        ([*RESET, *TO, "--uuid", ""], "Expected 1 to 256 printable characters for --uuid"),
        (["lom-request", "Reset", "x" * 254, *TO], "Expected 1 to 253 printable characters for NAME"),
        ([*RESET, *TO, "--cert", "cert.pem"], "found no --key and no --ca"),
        ([*RESET, *TO, "--cert", "c", "--key", "k", "--ca", "a", "--seed", "s"], "one or the other"),
        ([*RESET, *TO, "--cert", "c", "--key", "k", "--ca", "a", "--controller", "1"], "--controller needs --seed"),
        ([*RESET, *TO, "--cert", "c", "--key", "k", "--ca", "a"], "file c cannot be read: No such file"),
        (["lom-device", "--listen", "[2001:db8::1]:0"], "The LOM Device cannot listen on [2001:db8::1]:0: "),
        (["lom-device", "--listen", "::1:0"], "such as [::1]:623"),
        (["lom-device", "--cert", "c", "--key", "k", "--ca", "a", "--devices", "2"], "--devices needs --seed"),
        (["lom-device", "--cert", "c", "--key", "k", "--ca", "a", "--segment-size", "2"], "--segment-size needs"),
        (["lom-identity", "--role", "device"], "--out"),
        (["lom-identity", "--role", "device", "--out", "/proc/none"], "cannot be made"),
    ],
)
def test_wrong_usage_of_lom_commands_is_reported(arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


@pytest.mark.parametrize("command", [["lom-device"], [*RESET, *TO]])
def test_invalid_identity_files_are_reported(tmp_path: Path, command: list[str]) -> None:
    mine, other = files(tmp_path, "mine", CONTROLLER, DEVICES), files(tmp_path, "other", DEVICE, DEVICES)
    rows = [
        (["--key", named(other, "--key")], "expected the key of the first certificate, CN=controller.example"),
        (["--cert", named(mine, "--key")], "expected a certificate in PEM"),
        (["--key", named(mine, "--cert")], "expected a private key in PEM"),
        (["--ca", named(mine, "--key")], "has no certificate in PEM or DER"),
    ]
    for change, words in rows:
        assert words in refused(*command, *mine, *change)
