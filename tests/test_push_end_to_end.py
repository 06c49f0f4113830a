"""Push from outside: a fleet that waits for pushes, a server in another process, curl and openssl as its provider."""

from __future__ import annotations

import json
import plistlib
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from command import SECONDS, lom_agent, lom_agent_here
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from debian import need
from forked import Forked
from servers import unused_port

from agent.fleet.population import Population
from agent.net.apns.gateway import NAMES
from agent.pki.issuing.authority import SERVER_USAGE, Authority
from agent.profiles.making import TOPIC

SEED = "push from outside"


@contextmanager
def running(*arguments: str) -> Iterator[Forked]:
    """The command, until the end of the block; then Ctrl-C."""
    with Forked(*arguments, mixed=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def line_with(output: IO[bytes], words: bytes) -> str:
    """Read until a line has these words."""
    read = b""
    while words not in (line := output.readline()):
        read += line
        assert line, read
    return line.decode().strip()


def curl(*arguments: str) -> str:
    """What curl prints."""
    done = subprocess.run(
        [need("curl", "curl"), "--silent", "--show-error", "--max-time", "20", *arguments],
        capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_push_from_another_process_gets_its_command_answered(tmp_path: Path) -> None:
    lab_folder, tls, out = tmp_path / "lab", tmp_path / "apns", tmp_path / "out"
    mac = Population(SEED, 2)[1]
    made = lom_agent("apns-identity", "--out", str(tls), "--topic", TOPIC)
    assert made.returncode == 0, made.stderr
    identity = ["--cert", str(tls / "push.pem"), "--key", str(tls / "push.key")]
    with running("lab", "--out", str(lab_folder)) as lab:
        server = line_with(lab.stdout, b"MDM server:").split()[-1]
        line_with(lab.stdout, b"Ctrl-C")
        api = ["--cacert", str(lab_folder / "ca.pem"), "--oauth2-bearer", (lab_folder / "token").read_text().strip()]
        with running(
            "run", "--devices", "2", "--seed", SEED, "--enroll", f"{server}/enroll", "--ca", str(lab_folder / "ca.pem"),
            "--apns", "127.0.0.1:0", "--apns-tls", str(tls), "--apns-strict", "--apns-provider-ca", str(tls / "ca.pem"),
            "--stay", "600", "--out", str(out),
        ) as fleet:  # fmt: skip
            gateway = line_with(fleet.stdout, b"APNs gateway").split()[-1]
            line_with(fleet.stdout, b"enroll: finished")
            command = plistlib.dumps({"RequestType": "ProfileList"}).decode()
            url = f"{server}/api/v1/macs/{mac.udid}/commands"
            queued = json.loads(curl(*api, "--data-binary", command, url))
            port = gateway.rpartition(":")[2]
            push = [
                "--http2", "--cacert", str(tls / "ca.pem"), *identity, "--connect-to",
                f"api.push.apple.com:443:127.0.0.1:{port}", "--header", f"apns-topic: {TOPIC}",
                f"https://api.push.apple.com/3/device/{mac.push_token.hex()}",
            ]  # fmt: skip
            magic = json.dumps({"mdm": mac.push_magic})
            assert json.loads(curl("--data", magic, *push)) == {"reason": "InvalidPushType"}
            assert curl("--header", "apns-push-type: mdm", "--data", '{"mdm":"wrong"}', *push) == ""
            assert curl("--header", "apns-push-type: mdm", "--data", magic, *push) == ""
            for _ in range(1000):
                answer = curl(*api, f"{url}/{queued['command_uuid']}")
                if "Acknowledged" in answer:
                    break
            assert "Acknowledged" in answer
    document = json.loads((out / "results.json").read_bytes())
    assert document["push"] == {
        **document["push"], "accepted": 2, "refused": {"InvalidPushType": 1}, "delivered": 1, "ignored": 1,
    }  # fmt: skip
    assert document["operations"]["push"]["count"] == 1
    assert document["operations"]["session"]["count"] == 1  # nobody polled


def test_separate_lab_pushes_to_the_gateway_of_a_run(tmp_path: Path) -> None:
    lab_folder, tls, out = tmp_path / "lab", tmp_path / "apns", tmp_path / "out"
    mac, port = Population(SEED, 2)[1], unused_port()
    gateway_ca = Authority.create("a gateway's CA")
    gateway = gateway_ca.issue("gateway", SERVER_USAGE, names=["127.0.0.1", NAMES[0]])
    tls.mkdir()
    (tls / "ca.pem").write_bytes(gateway_ca.certificate.public_bytes(Encoding.PEM))
    (tls / "own.pem").write_bytes(gateway.certificate.public_bytes(Encoding.PEM))
    (tls / "own.key").write_bytes(gateway.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with running(
        "lab", "--out", str(lab_folder), "--apns", f"https://127.0.0.1:{port}", "--apns-ca", str(tls / "ca.pem"),
    ) as lab:  # fmt: skip
        server = line_with(lab.stdout, b"MDM server:").split()[-1]
        line_with(lab.stdout, b"Ctrl-C")
        topic = x509.load_pem_x509_certificate((lab_folder / "push.pem").read_bytes()).subject
        assert topic.get_attributes_for_oid(NameOID.USER_ID)[0].value == TOPIC
        api = ["--cacert", str(lab_folder / "ca.pem"), "--oauth2-bearer", (lab_folder / "token").read_text().strip()]
        with running(
            "run", "--devices", "2", "--seed", SEED, "--enroll", f"{server}/enroll", "--ca", str(lab_folder / "ca.pem"),
            "--apns", f"127.0.0.1:{port}", "--apns-cert", str(tls / "own.pem"), "--apns-key", str(tls / "own.key"),
            "--apns-strict", "--apns-provider-ca", str(lab_folder / "ca.pem"), "--stay", "600", "--out", str(out),
        ) as fleet:  # fmt: skip
            line_with(fleet.stdout, b"enroll: finished")
            url = f"{server}/api/v1/macs/{mac.udid}"
            command = plistlib.dumps({"Command": {"RequestType": "ProfileList"}, "CommandUUID": "mine"}).decode()
            queued = json.loads(curl(*api, "--data-binary", command, f"{url}/commands"))
            assert queued["command_uuid"] == "mine"
            assert set(queued["push"]) == {"apns_id"}
            quiet = json.loads(curl(*api, "--data-binary", command.replace("mine", "2"), f"{url}/commands?push=0"))
            assert quiet == {"command_uuid": "2", "push": None}
            assert set(json.loads(curl(*api, "--data", "", f"{url}/push"))["push"]) == {"apns_id"}
            for _ in range(1000):
                answers = [curl(*api, f"{url}/commands/{command_uuid}") for command_uuid in ("mine", "2")]
                if all("Acknowledged" in answer for answer in answers):
                    break
            assert all("Acknowledged" in answer for answer in answers)
    push = json.loads((out / "results.json").read_bytes())["push"]
    assert (push["accepted"], push["delivered"], push["refused"]) == (2, 2, {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--apns-ca", "/etc/hosts"], b"--apns"),
        (["--apns", "https://127.0.0.1:2197", "--apns-ca", "/nonexistent"], b"/nonexistent"),
        (["--apns", "https://127.0.0.1:2197/3/device"], b"without a path"),
        (["--apns", "https://nobody.invalid"], b"nobody.invalid"),
        (["--apns", "127.0.0.1:2197"], b"https://"),
    ],
)
def test_separate_lab_reports_what_is_wrong_with_its_gateway(arguments: list[str], words: bytes) -> None:
    done = lom_agent_here("lab", *arguments)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_gateway_ca_is_created_once_with_a_private_key_file(tmp_path: Path) -> None:
    tls, scenario = tmp_path / "apns", tmp_path / "one.toml"
    scenario.write_text('[fleet]\ndevices = 1\n[[phase]]\nkind = "enroll"\n')
    made = []
    for _ in range(2):
        done = lom_agent("run", str(scenario), "--apns", "127.0.0.1:0", "--apns-tls", str(tls), "--quiet")
        assert done.returncode == 0, done.stdout
        made.append({path.name: path.read_bytes() for path in tls.iterdir()})
    assert set(made[0]) == {"ca.pem", "ca.key"}
    assert made[0] == made[1]
    assert (tls / "ca.key").stat().st_mode & 0o777 == 0o600


def test_run_completes_despite_gateway_faults(tmp_path: Path) -> None:
    done = lom_agent(
        "run", "--devices", "6", "--segment-size", "3", "--apns-delay", "uniform:0.001,0.05",
        "--rule", 'on = "push", do = "refuse", reason = "TooManyRequests", times = 2, macs = ["0"]',
        "--rule", 'on = "push", do = "drop", times = 1, macs = ["1"]',
        "--rule", 'on = "push", do = "refuse", times = 1, macs = ["2"]',
        "--rule", 'on = "push", do = "store", until = 1.5, macs = ["4"]',
        "--rule", 'id = "outage", on = "push", do = "away", until = 0.5', "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "results.json").read_bytes())
    push = results["push"]
    assert push["refused"] == {"ServiceUnavailable": 1, "TooManyRequests": 2}
    assert push["broken"] == 1
    assert push["delivered"] + push["replaced"] == push["accepted"]
    hits = {rule["id"]: rule["hits"] for rule in results["rules"]}
    assert hits.pop("rule-4") <= push["stored"]
    assert hits == {"rule-1": 2, "rule-2": 1, "rule-3": 1, "outage": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--apns", "nonsense"], b"ADDRESS:PORT"),
        (["--apns", "127.0.0.1:99999"], b"ADDRESS:PORT"),
        (["--apns-rule", "429 share=0.1"], b"--rule is; write each as a fault rule"),
        (["--rule", "nonsense"], b"expected the keys of a fault rule as an inline table"),
        (["--rule", 'on = "push", do = "away"'], b'Expected until with do = "away" in a rule, found none'),
        (["--apns-delay", "soon"], b"lognormal"),
        (["--apns-cert", "/etc/hosts"], b"push.key"),
        (["--apns-cert", "/etc/hosts", "--apns-key", "/etc/hosts"], b"/etc/hosts"),
        (["--apns-provider-ca", "/nonexistent"], b"/nonexistent"),
        (["--enroll", "https://mdm.example/", "--apns-strict"], b"push.strict is for the gateway"),
        (["--enroll", "https://mdm.example/", "--apns", "127.0.0.1:0"], b"push needs tls"),
    ],
)
def test_wrong_push_usage_is_reported(arguments: list[str], words: bytes) -> None:
    done = lom_agent_here("run", "--devices", "1", *arguments)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_gateway_that_cannot_listen_exits_with_2() -> None:
    done = lom_agent("run", "--devices", "1", "--apns", "192.0.2.1:2197")
    assert done.returncode == 2, done.stdout
    assert b"cannot listen" in done.stderr
    assert b"Traceback" not in done.stderr
