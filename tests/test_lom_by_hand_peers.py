"""`lom-device` and `lom-request` with another other end: OpenSSL, and plain Python without any of ours."""

from __future__ import annotations

import contextlib
import json
import plistlib
import signal
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, SECONDS, lom_agent_here
from debian import need
from lom_by_hand import (
    CONTROLLER,
    CONTROLLERS,
    DEVICE,
    DEVICES,
    WORKED_ANSWER,
    WORKED_NAME,
    WORKED_REFUSAL,
    WORKED_REQUEST,
    WORKED_UUID,
    Running,
    event_of,
    files,
    lom_device,
    named,
    request,
)
from lom_peers import check_no_ticket_was_sent

from agent.lom.link import LinkAnswer


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


# Controllers that are not ours


def s_client(folder: Path, port: int, octets: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """OpenSSL as a Controller: sends ``octets``, and closes once it has read as much as the answer has.

    The TLS messages of both ends are in the file ``messages``.
    """
    line = [need("openssl", "openssl"), "s_client", "-quiet", "-no_ign_eof", "-connect", f"[::1]:{port}", *arguments]
    line += ["-msg", "-msgfile", "messages"]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(octets)
        process.stdin.flush()
        answer = process.stdout.read(len(WORKED_ANSWER))
        _, errors = process.communicate(timeout=SECONDS)
    return subprocess.CompletedProcess(line, process.returncode, answer, errors)


def test_openssl_sends_the_documented_bytes_as_controller(tmp_path: Path) -> None:
    device = files(tmp_path, "device", DEVICE, CONTROLLERS)
    mine = files(tmp_path, "controller", CONTROLLER, DEVICES)
    identity = ["-cert", named(mine, "--cert"), "-key", named(mine, "--key"), "-CAfile", named(mine, "--ca")]
    with lom_device(*device) as running:  # a new one: it has not answered this UUID before
        done = s_client(tmp_path, running.port, WORKED_REQUEST, *identity, "-verify_return_error", "-noservername")
        assert done.stdout == WORKED_ANSWER, done.stderr
        check_no_ticket_was_sent(tmp_path / "messages")
        event = running.event()
        assert (event["device"], event["controller"]) == (WORKED_NAME, "controller.example")


def test_openssl_uses_a_seeded_identity(seeded: Running, tmp_path: Path) -> None:
    done = lom_agent_here("lom-identity", "--seed", "by hand", "--role", "controller", "--out", str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    identity = ["-cert", "c/cert.pem", "-key", "c/key.pem", "-CAfile", "c/ca.pem"]
    name = ["-servername", seeded.names[1], "-verify_hostname", seeded.names[1], "-verify_return_error"]
    for extra in ([], ["-tls1_2"]):
        octets = WORKED_REQUEST if extra else WORKED_REQUEST.replace(b"T0001", b"T0002")
        answer = s_client(tmp_path, seeded.port, octets, *identity, *name, *extra)
        assert len(answer.stdout) == len(WORKED_ANSWER), answer.stderr
        assert event_of(seeded, "request")["success"]
        check_no_ticket_was_sent(tmp_path / "messages")


def test_a_controller_without_a_certificate_is_refused(own: Running, tmp_path: Path) -> None:
    done = s_client(tmp_path, own.port, WORKED_REQUEST)
    assert done.stdout == b""
    assert b"certificate required" in done.stderr
    event = event_of(own, "no_link")
    assert "peer did not return a certificate" in event["error"]


def frame(message: dict[str, Any]) -> bytes:
    body = plistlib.dumps(message, fmt=plistlib.FMT_BINARY)
    return struct.pack(">I", len(body)) + body


def read_frame(link: ssl.SSLSocket) -> dict[str, Any]:
    stream = link.makefile("rb")
    (length,) = struct.unpack(">I", stream.read(4))
    message: dict[str, Any] = plistlib.loads(stream.read(length))
    return message


def test_documented_python_program_works_as_controller(own: Running, controller: list[str]) -> None:
    context = ssl.create_default_context(cafile=named(controller, "--ca"))
    context.load_cert_chain(named(controller, "--cert"), named(controller, "--key"))
    plain = socket.create_connection(("::1", own.port), timeout=SECONDS)
    with context.wrap_socket(plain, server_hostname=WORKED_NAME) as link:
        message = {"LOMProtocolVersion": 1, "DeviceDNSName": WORKED_NAME, "DeviceRequestType": "PowerOFF"}
        for uuid in ("one", "two\u202e"):
            link.sendall(frame({**message, "DeviceRequestUUID": uuid}))
            assert read_frame(link) == {"DeviceRequestUUID": uuid, "DeviceRequestSuccess": True}
            assert event_of(own, "request")["power"] == "off"
        link.sendall(b"\xff" * 8)
        event = event_of(own, "hung_up")
        assert (event["controller"], event["kind"]) == ("controller.example", "lom_frame_too_long")
        assert link.recv(1) == b""


# Devices that are not ours


class PlainDevice:
    """A Device made of the standard library, for one link: ``script`` gets it after the handshake."""

    def __init__(self, folder: Path, script: Callable[[ssl.SSLSocket], None]) -> None:
        options = files(folder, "plain-device", DEVICE, CONTROLLERS)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=named(options, "--ca"))
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(named(options, "--cert"), named(options, "--key"))
        self._script = script
        self._listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        self.address = f"[::1]:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> PlainDevice:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # nobody may have come
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            plain, _ = self._listener.accept()
        except OSError:
            return
        plain.settimeout(SECONDS)
        with self._context.wrap_socket(plain, server_side=True) as link:
            self._script(link)


def test_standard_library_device_answers_lom_request(tmp_path: Path, controller: list[str]) -> None:
    asked = []

    def answer(link: ssl.SSLSocket) -> None:
        asked.append(read_frame(link))
        link.sendall(frame({"DeviceRequestUUID": "7", "DeviceRequestSuccess": True}))

    with PlainDevice(tmp_path, answer) as device:
        request("PowerON", WORKED_NAME, device.address, *controller, "--uuid", "7", "--protocol-version", "3")
    assert asked == [
        {
            "LOMProtocolVersion": 3,
            "DeviceRequestUUID": "7",
            "DeviceDNSName": WORKED_NAME,
            "DeviceRequestType": "PowerON",
        }
    ]


@pytest.mark.parametrize(
    ("octets", "kind", "words"),
    [
        (LinkAnswer("7", "no \u202e today").encode(), "lom_refused", r"no \u202e today"),
        (LinkAnswer("8").encode(), "lom_link_broken", "the link ended before the Device answered"),  # a repeated answer
        (b"\0\0\0\x08no plist", "lom_frame_malformed", "expected a binary plist"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "lom_frame_too_long", "expected a LOM frame of 1 to 4096 bytes"),
        (b"", "lom_link_broken", "the link ended before the Device answered"),
    ],
)
def test_invalid_answer_of_a_device_is_reported(
    tmp_path: Path, controller: list[str], octets: bytes, kind: str, words: str
) -> None:
    def answer(link: ssl.SSLSocket) -> None:
        read_frame(link)
        link.sendall(octets)

    with PlainDevice(tmp_path, answer) as device:
        errors, done = request("Reset", WORKED_NAME, device.address, *controller, "--uuid", "7", "--json", status=1)
    outcome = json.loads(done.stdout)
    assert (outcome["kind"], outcome["success"], outcome["sent"]) == (kind, False, True)
    assert words in errors
    assert "\u202e" not in errors


def test_silent_device_times_out(tmp_path: Path, controller: list[str]) -> None:
    def be_silent(link: ssl.SSLSocket) -> None:
        read_frame(link)
        assert link.recv(1) == b""  # the Controller hangs up in good order

    with PlainDevice(tmp_path, be_silent) as device:
        errors, _ = request("Reset", WORKED_NAME, device.address, *controller, "--timeout", "2", status=1)
    assert "the Device did not answer within 2 s" in errors


def test_ctrl_c_ends_a_waiting_request(tmp_path: Path, controller: list[str]) -> None:
    asked = threading.Event()

    def be_silent(link: ssl.SSLSocket) -> None:
        read_frame(link)
        asked.set()
        assert link.recv(1) == b""

    with PlainDevice(tmp_path, be_silent) as device:
        line = [COMMAND, "lom-request", "Reset", WORKED_NAME, "--to", device.address, *controller]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert asked.wait(SECONDS)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output) == (130, "")
    assert errors == f"lom-agent: {WORKED_NAME}: stopped before the Device responded\n"


def test_openssl_server_works_as_device(tmp_path: Path, controller: list[str]) -> None:
    options = files(tmp_path, "device", DEVICE, CONTROLLERS)
    line = [
        need("openssl", "openssl"), "s_server", "-accept", "[::1]:0", "-cert", named(options, "--cert"),
        "-key", named(options, "--key"), "-CAfile", named(options, "--ca"), "-Verify", "1", "-verify_return_error",
        "-naccept", "1", "-no_ticket",
    ]  # fmt: skip
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        accept = next(text for text in process.stdout if text.startswith(b"ACCEPT")).split()[1].decode()
        process.stdin.write(WORKED_REFUSAL)  # sent as soon as there is a link
        process.stdin.flush()
        errors, _ = request("Reset", WORKED_NAME, accept, *controller, "--uuid", WORKED_UUID, status=1)
        process.communicate(timeout=SECONDS)
    assert errors == f"lom-agent: {WORKED_NAME}: Reset refused: the Mac is off\n"
