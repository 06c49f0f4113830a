"""`lom-agent lab` as a process, with independent clients: curl as a Mac, OpenSSL, strongSwan's SCEP client."""

from __future__ import annotations

import base64
import json
import plistlib
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, SECONDS, lom_agent
from debian import need
from forked import Forked

from agent.profiles.making import TOPIC

UDID = "37CECCAB-99C1-5ADF-8A9A-2AFA3B6387B5"


class Lab:
    """A running lab: its URL, and the files that it wrote."""

    def __init__(self, folder: Path, printed: dict[str, str]) -> None:
        self.folder = folder
        self.printed = printed
        self.url = printed["MDM server"]
        self.token = (folder / "token").read_text().strip()

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run curl with the lab's CA; it fails if the lab answers with an error."""
        curl = need("curl", "curl")
        line = [curl, "--silent", "--show-error", "--cacert", str(self.folder / "ca.pem"), *arguments]
        return subprocess.run(line, capture_output=True, timeout=SECONDS, check=False, cwd=self.folder)

    def api(self, path: str, *arguments: str) -> Any:
        """Send an API request; returns the JSON of the answer."""
        done = self.curl("-H", f"Authorization: Bearer {self.token}", *arguments, f"{self.url}/api/v1/{path}")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def lab(folder: Path, running: Forked | subprocess.Popen[bytes]) -> Iterator[Lab]:
    """`lom-agent lab --out folder` in the background, ended by Ctrl-C."""
    with running:
        assert running.stdout is not None
        printed: dict[str, str] = {}
        for text in map(bytes.decode, running.stdout):
            key, _, value = text.partition(":")
            printed[key] = value.strip()
            if text.startswith("Ctrl-C"):
                break
        try:
            yield Lab(folder, printed)
        finally:
            running.send_signal(signal.SIGINT)
            _rest, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 130
    assert errors == b""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    line = [COMMAND, "lab", "--out", str(folder)]
    with lab(folder, subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)) as started:
        yield started


def test_secret_files_have_mode_0600(running: Lab) -> None:
    for name in ("token", "enrollment.mobileconfig"):
        assert stat.S_IMODE((running.folder / name).stat().st_mode) == 0o600


def test_macs_of_a_run_enroll_in_a_separate_lab(running: Lab) -> None:
    url, ca = running.printed["Enrollment profile"], str(running.folder / "ca.pem")
    done = lom_agent("run", "--devices", "3", "--seed", "visitors", "--workers", "1", "--enroll", url, "--ca", ca)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert b"first_session: finished in" in done.stdout
    assert sum(mac["device_name"].startswith("Mac") for mac in running.api("macs")) >= 3
    untrusted = lom_agent("run", "--devices", "1", "--enroll", url)
    assert untrusted.returncode == 1
    assert b"tls_untrusted" in untrusted.stdout
    careless = lom_agent("run", "--devices", "1", "--seed", "careless", "--enroll", url, "--insecure")
    assert careless.returncode == 0, careless.stdout


def test_lab_accepts_check_ins_from_curl(running: Lab) -> None:
    """The enrollment, a command and its result by curl and OpenSSL only: the lab is the only part of this project."""
    openssl = need("openssl", "openssl")
    folder = running.folder

    def ssl(*arguments: str, **options: Any) -> bytes:
        done = subprocess.run([openssl, *arguments], capture_output=True, check=False, cwd=folder, **options)
        assert done.returncode == 0, done.stderr
        return bytes(done.stdout)

    signed = running.curl(running.printed["Enrollment profile"]).stdout
    (folder / "profile.cms").write_bytes(signed)
    profile = plistlib.loads(
        ssl("cms", "-verify", "-inform", "DER", "-in", "profile.cms", "-CAfile", "ca.pem", "-purpose", "any")
    )
    payloads = {payload["PayloadType"]: payload for payload in profile["PayloadContent"]}
    identity = payloads["com.apple.security.pkcs12"]
    (folder / "identity.p12").write_bytes(identity["PayloadContent"])
    pem = ssl("pkcs12", "-in", "identity.p12", "-passin", f"pass:{identity['Password']}", "-nodes")
    (folder / "identity.pem").write_bytes(pem)
    urls = payloads["com.apple.mdm"]

    def put(url: str, content_type: str, message: dict[str, Any], *, sign: bool = True) -> tuple[int, bytes]:
        (folder / "body").write_bytes(plistlib.dumps(message))
        line = ["--cert", "identity.pem", "-X", "PUT", "--data-binary", "@body", "-H", f"Content-Type: {content_type}"]
        if sign:
            signature = ssl("cms", "-sign", "-binary", "-in", "body", "-signer", "identity.pem", "-outform", "DER")
            line += ["-H", f"Mdm-Signature: {base64.b64encode(signature).decode()}"]
        done = running.curl(*line, "-w", "\n%{http_code}", url)
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status), body

    checkin, report = "application/x-apple-aspen-mdm-checkin", "application/x-apple-aspen-mdm"
    announcement = {
        "MessageType": "Authenticate", "Topic": TOPIC, "UDID": UDID, "DeviceName": "curl", "Model": "Mac14,3",
        "ModelName": "Mac mini", "SerialNumber": "CURL000001", "OSVersion": "15.2", "BuildVersion": "24C101",
    }  # fmt: skip
    token = {"MessageType": "TokenUpdate", "Topic": TOPIC, "UDID": UDID, "Token": bytes(32), "PushMagic": "magic"}
    assert put(urls["CheckInURL"], report, announcement)[0] == 415
    assert put(urls["CheckInURL"], checkin, announcement, sign=False)[0] == 400
    assert put(urls["CheckInURL"], checkin, {**announcement, "Topic": "com.apple.mgmt.Other"})[0] == 400
    assert put(urls["CheckInURL"], checkin, token)[0] == 401  # before Authenticate
    assert put(urls["CheckInURL"], checkin, announcement)[0] == 200
    assert put(urls["ServerURL"], report, {"Status": "Idle", "UDID": UDID})[0] == 403  # before TokenUpdate
    assert put(urls["CheckInURL"], checkin, {**token, "Token": b"short"})[0] == 400
    assert put(urls["CheckInURL"], checkin, token)[0] == 200

    (folder / "command").write_bytes(plistlib.dumps({"RequestType": "ProfileList"}))
    queued = running.api(f"macs/{UDID}/commands", "--data-binary", "@command")
    where = f"macs/{UDID}/commands/{queued['command_uuid']}"
    assert running.api(where)["state"] == "queued"
    status, body = put(urls["ServerURL"], report, {"Status": "Idle", "UDID": UDID})
    assert status == 200
    command = plistlib.loads(body)
    assert command == {"CommandUUID": queued["command_uuid"], "Command": {"RequestType": "ProfileList"}}
    result = {"Status": "Acknowledged", "UDID": UDID, "CommandUUID": command["CommandUUID"], "ProfileList": []}
    assert put(urls["ServerURL"], report, result) == (200, b"")
    kept = running.curl("-H", f"Authorization: Bearer {running.token}", f"{running.url}/api/v1/{where}").stdout
    assert plistlib.loads(kept) == result
    assert running.api(f"macs/{UDID}")["commands"] == [
        {"command_uuid": command["CommandUUID"], "state": "answered", "status": "Acknowledged"}
    ]

    assert put(urls["ServerURL"], report, {"Status": "Idle", "UDID": UDID.replace("3", "4")})[0] == 401
    assert put(urls["CheckInURL"], checkin, {**announcement, "UDID": UDID.replace("3", "4")})[0] == 403
    (folder / "body").write_bytes(b"no plist")
    assert put_raw(running, urls["ServerURL"], report) == 400
    (folder / "body").write_bytes(b"x" * (5 * 1024 * 1024))
    assert put_raw(running, urls["ServerURL"], report) == 413


def put_raw(running: Lab, url: str, content_type: str) -> int:
    done = running.curl(
        "--cert", "identity.pem", "-X", "PUT", "--data-binary", "@body", "-H", f"Content-Type: {content_type}",
        "-o", "/dev/null", "-w", "%{http_code}", url,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], "401", "Authorization"),
        (["-H", "Authorization: Bearer wrong"], "401", "token"),
        (["-H", "Authorization: Bearer {token}", "-X", "DELETE"], "404", "docs/lab-api.md"),
    ],
)
def test_api_errors_say_what_was_expected(running: Lab, arguments: list[str], status: str, words: str) -> None:
    filled = [argument.replace("{token}", running.token) for argument in arguments]
    done = running.curl(*filled, "-w", "\n%{http_code}", f"{running.url}/api/v1/macs")
    body, _, code = done.stdout.decode().rpartition("\n")
    assert code == status
    assert words in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("macs/nobody", None, "404"),
        ("macs/nobody/commands", b"", "404"),
        ("elsewhere", None, "404"),
    ],
)
def test_api_refuses_unknown_paths_and_invalid_bodies(running: Lab, path: str, body: bytes | None, status: str) -> None:
    arguments = [] if body is None else ["--data-binary", body.decode()]
    done = running.curl(
        "-H", f"Authorization: Bearer {running.token}", *arguments, "-w", "\n%{http_code}",
        f"{running.url}/api/v1/{path}",
    )  # fmt: skip
    assert done.stdout.decode().rpartition("\n")[2] == status


def test_the_profile_leads_to_the_labs_acme_server(tmp_path: Path) -> None:
    openssl = need("openssl", "openssl")
    with lab(tmp_path, Forked("lab", "--out", str(tmp_path), "--identity", "acme")) as running:
        (tmp_path / "profile.cms").write_bytes(running.curl(running.printed["Enrollment profile"]).stdout)
        line = [openssl, "cms", "-verify", "-noverify", "-inform", "DER", "-in", "profile.cms"]
        opened = subprocess.run(line, capture_output=True, check=True, cwd=tmp_path)
        payloads = {payload["PayloadType"]: payload for payload in plistlib.loads(opened.stdout)["PayloadContent"]}
        directory = json.loads(running.curl(payloads["com.apple.security.acme"]["DirectoryURL"]).stdout)
        head = running.curl("--head", directory["newNonce"]).stdout
        assert head.startswith(b"HTTP/2 200")
        assert b"replay-nonce: " in head


def test_strongswan_gets_a_certificate_from_the_labs_scep(tmp_path: Path) -> None:
    pki = need("pki", "strongswan-pki")
    openssl = need("openssl", "openssl")
    with lab(tmp_path, Forked("lab", "--out", str(tmp_path), "--identity", "scep")) as running:
        signed = running.curl(running.printed["Enrollment profile"]).stdout
        (tmp_path / "profile.cms").write_bytes(signed)
        opened = subprocess.run(
            [openssl, "cms", "-verify", "-noverify", "-inform", "DER", "-in", "profile.cms"],
            capture_output=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        payloads = {payload["PayloadType"]: payload for payload in plistlib.loads(opened.stdout)["PayloadContent"]}
        scep = payloads["com.apple.security.scep"]["PayloadContent"]
        assert scep["URL"] == running.printed["SCEP"]

        def run_pki(*arguments: str) -> bytes:
            done = subprocess.run([pki, *arguments], capture_output=True, check=False, cwd=tmp_path, timeout=SECONDS)
            assert done.returncode == 0, done.stderr
            return bytes(done.stdout)

        (tmp_path / "key.der").write_bytes(run_pki("--gen", "--type", "rsa", "--size", "2048"))
        run_pki("--scepca", "--url", scep["URL"], "--caout", "scep-ca.der")
        certificate = run_pki(
            "--scep", "--url", scep["URL"], "--in", "key.der", "--dn", "O=Example, CN=strongswan", "--san",
            "strongswan.example", "--password", scep["Challenge"], "--cacert-enc", "scep-ca.der", "--cacert-sig",
            "scep-ca.der", "--cacert", "scep-ca.der",
        )  # fmt: skip
        (tmp_path / "issued.der").write_bytes(certificate)
        shown = subprocess.run(
            [openssl, "x509", "-inform", "DER", "-in", "issued.der", "-noout", "-subject", "-issuer"],
            capture_output=True, check=True, cwd=tmp_path,
        ).stdout.decode()  # fmt: skip
        assert "CN = strongswan" in shown
        assert "lom-agent lab SCEP CA" in shown


def test_port_in_use_is_reported(running: Lab) -> None:
    port = running.url.rpartition(":")[2]
    done = lom_agent("lab", "--port", port)
    assert done.returncode == 2
    assert port.encode() in done.stderr
    assert b"Traceback" not in done.stderr
