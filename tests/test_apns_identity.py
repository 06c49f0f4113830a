"""``lom-agent apns-identity``: the files that a server needs to push to the gateway."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from command import SECONDS, installed, lom_agent_here
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from debian import need

TOPIC = "com.apple.mgmt.External.0b6d2f5c-3f1e-4a55-9d3b-6a5a1e0a7c11"
FILES = {"ca.pem", "ca.key", "push.pem", "push.key"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_push_certificate_has_apples_form_and_its_key_is_private(tmp_path: Path) -> None:
    done = installed("apns-identity", "--out", str(tmp_path), "--topic", TOPIC)
    assert done.returncode == 0, done.stderr
    assert set(contents(tmp_path)) == FILES
    for name in ("ca.key", "push.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate((tmp_path / "push.pem").read_bytes())
    subject = [(each.oid, each.value) for each in certificate.subject]
    assert subject == [
        (NameOID.USER_ID, TOPIC),
        (NameOID.COMMON_NAME, f"APSP:{TOPIC.rpartition('.')[2]}"),
        (NameOID.COUNTRY_NAME, "US"),
    ]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    apples = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.2.840.113635.100.6.3.2"))
    assert not apples.critical
    assert apples.value.public_bytes() == b"\x05\x00"
    key_text = (tmp_path / "push.key").read_bytes()
    assert key_text.startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert load_pem_private_key(key_text, None).public_key() == certificate.public_key()
    verified = subprocess.run(
        [need("openssl", "openssl"), "verify", "-x509_strict", "-CAfile", "ca.pem", "push.pem"],
        cwd=tmp_path, capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr
    for text in (TOPIC, "push.pem", "push.key", "ca.pem", "docs/servers.md", "--apns-tls"):
        assert text.encode() in done.stdout


def test_default_topic_is_new_and_has_apples_form(tmp_path: Path) -> None:
    topics = set()
    for folder in ("a", "b"):
        assert lom_agent_here("apns-identity", "--out", str(tmp_path / folder)).returncode == 0
        certificate = x509.load_pem_x509_certificate((tmp_path / folder / "push.pem").read_bytes())
        (topic,) = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
        topics.add(str(topic.value))
    assert len(topics) == 2
    assert all(topic.startswith("com.apple.mgmt.External.") for topic in topics)


def test_only_overwrite_replaces_a_push_certificate_and_nothing_replaces_the_ca(tmp_path: Path) -> None:
    assert lom_agent_here("apns-identity", "--out", str(tmp_path)).returncode == 0
    before = contents(tmp_path)
    refused = lom_agent_here("apns-identity", "--out", str(tmp_path))
    assert refused.returncode == 2
    assert b"would be overwritten" in refused.stderr
    assert contents(tmp_path) == before
    assert lom_agent_here("apns-identity", "--out", str(tmp_path), "--overwrite").returncode == 0
    after = contents(tmp_path)
    assert {name for name in FILES if after[name] != before[name]} == {"push.pem", "push.key"}


@pytest.mark.parametrize("left", ["ca.pem", "ca.key"])
def test_ca_without_one_of_its_two_files_is_refused(left: str, tmp_path: Path) -> None:
    (tmp_path / left).write_bytes(b"somebody's")
    for arguments in (
        ("apns-identity", "--out", str(tmp_path)),
        ("run", "--devices", "1", "--apns", "127.0.0.1:0", "--apns-tls", str(tmp_path), "--quiet"),
    ):
        done = lom_agent_here(*arguments)
        assert done.returncode == 2
        assert f"found only {left}".encode() in done.stderr
        assert contents(tmp_path) == {left: b"somebody's"}


@pytest.mark.parametrize(
    "topic",
    ["com.example.app", "com.apple.mgmt.", "com.apple.mgmt.a b", "com.apple.mgmt.é", f"com.apple.mgmt.{'x' * 255}"],
)
def test_topic_outside_com_apple_mgmt_is_refused(topic: str, tmp_path: Path) -> None:
    done = lom_agent_here("apns-identity", "--out", str(tmp_path / "out"), "--topic", topic)
    assert done.returncode == 2
    assert b"Expected a topic" in done.stderr
    assert b"Traceback" not in done.stderr
