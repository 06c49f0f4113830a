"""SCEP with other programs: ``openssl`` by hand, the Go server and client, and strongSwan's client."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from debian import need
from scep_parties import (
    CA,
    CA_KEY,
    CA_NONCE,
    CSR,
    MAC_KEY,
    NONCE,
    NOW,
    SECRET,
    ask,
    grant,
    issue,
    openssl,
    write_files,
)
from scep_pending import cert_rep_pending

from agent.pki.identity import Identity
from agent.pki.scep import ca as ca_side
from agent.pki.scep import client, csr, messages
from agent.pki.scep.cacert import check_fingerprint, parse_ca_certificates, render_ca_certificates
from agent.pki.scep.caps import LAB_CAPABILITIES, Capabilities, parse_caps, render_caps
from agent.pki.scep.envelope import Cipher, open_envelope
from agent.pki.scep.errors import FailInfo, SCEPFailure
from agent.pki.scep.messages import MessageType, open_message

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path)


# The openssl command


@pytest.mark.parametrize("answer", [b"", b"AES\nSHA-256"], ids=["3DES SHA-1", "AES SHA-256"])
def test_openssl_reads_both_layers_of_a_message(files: Path, answer: bytes) -> None:
    """The inner layer is read with the key of the other side: the CA's for a question, the Mac's for a reply."""
    question = ask(parse_caps(answer))
    issued, reply = grant(question)
    inside: dict[str, bytes] = {}
    for name, message, who in (("question", question, "ca"), ("reply", reply, "mac")):
        (files / name).write_bytes(message)
        outer = openssl("cms", "-verify", "-binary", "-noverify", "-inform", "DER", "-in", files / name)
        (files / "envelope").write_bytes(outer.stdout)
        key = ("-inkey", files / f"{who}.key", "-recip", files / f"{who}.pem")
        inside[name] = openssl("cms", "-decrypt", "-inform", "DER", "-in", files / "envelope", *key).stdout
    assert inside["question"] == CSR
    (files / "certs").write_bytes(inside["reply"])
    shown = openssl("pkcs7", "-inform", "DER", "-in", files / "certs", "-print_certs").stdout
    assert x509.load_pem_x509_certificate(shown) == issued


@pytest.mark.parametrize("cipher", ["-aes-128-cbc", "-aes-256-cbc", "-des3"])
@pytest.mark.parametrize("options", [(), ("-stream",)], ids=["der", "ber"])
def test_envelope_of_openssl_is_decrypted(files: Path, cipher: str, options: tuple[str, ...]) -> None:
    encrypt = ("cms", "-encrypt", "-binary", "-outform", "DER", "-in", files / "csr", cipher, *options)
    closed = openssl(*encrypt, files / "ca.pem").stdout
    assert (closed[1] == 0x80) == bool(options)
    assert open_envelope(closed, CA_KEY, CA.certificate).content == CSR


@pytest.mark.parametrize(("cipher", "known"), [("-des-cbc", True), ("-rc2-cbc", False)])
def test_legacy_ciphers_of_openssl_are_decrypted(files: Path, cipher: str, known: bool) -> None:
    encrypt = ("cms", "-encrypt", "-binary", "-outform", "DER", "-in", files / "csr", cipher, "-provider", "legacy")
    closed = openssl(*encrypt, "-provider", "default", files / "ca.pem").stdout
    if known:
        assert open_envelope(closed, CA_KEY, CA.certificate).content == CSR
        return
    with pytest.raises(SCEPFailure, match="unknown cipher") as caught:
        open_envelope(closed, CA_KEY, CA.certificate)
    assert caught.value.fail_info is FailInfo.BAD_ALG


# Our client with the Go server (Debian package scep, the one that micromdm and nanomdm set-ups use)


@pytest.fixture(scope="module")
def go_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a scepserver whose challenge is SECRET."""
    command = need("scepserver", "scep")
    folder = tmp_path_factory.mktemp("scepserver")
    depot = ("-depot", str(folder / "depot"))
    subprocess.run([command, "ca", "-init", "-keySize", "2048", *depot], check=True, capture_output=True, timeout=60)
    log = folder / "log"
    server, port = start_server([command, *depot, "-challenge", SECRET, "-allowrenew", "0"], log)
    try:
        yield f"http://127.0.0.1:{port}/scep"
    finally:
        server.terminate()
        server.wait()


def start_server(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server that listens, and its port; fails with what it logged. A port that another took is not tried again."""
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with log.open("wb") as file:
            server = subprocess.Popen([*command, "-port", str(port)], stdout=file, stderr=file)
        if listens(server, port):
            return server, port
        server.kill()
        server.wait()
    pytest.fail(f"scepserver does not listen on port {port}; it logged: {log.read_text()!r}")


def listens(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until ``server`` listens on ``port``; whether it does."""
    deadline = time.monotonic() + 120  # far beyond what a server takes to listen
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def fetch(url: str, operation: str, message: bytes | None = None, *, post: bool = False) -> bytes:
    query = {"operation": operation}
    if message is not None and not post:
        query["message"] = messages.to_query(message)
    body = message if post else None
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", body, timeout=20) as answer:
        return bytes(answer.read())


def enroll(
    url: str,
    key: rsa.RSAPrivateKey,
    capabilities: Capabilities,
    challenge: str = SECRET,
    renewed: Identity | None = None,
) -> client.Granted | client.Pending:
    ca = parse_ca_certificates(fetch(url, "GetCACert"))
    check_fingerprint(ca, ca.issuer.fingerprint(hashes.SHA256()))
    request = csr.build_csr(
        key,
        [[["O", "Example"]], [["CN", "mac-2"]]],
        subject_alt_name={"dNSName": "mac-2.example"},
        challenge=challenge,
        key_usage=csr.SIGN | csr.ENCRYPT,
    )
    transaction = client.transaction_id(key.public_key())
    kind = MessageType.RENEWAL_REQ if renewed else MessageType.PKCS_REQ
    question = client.build_pki_message(
        request, key, ca, capabilities, transaction, NONCE, now=NOW, message_type=kind, renewed=renewed
    )
    answer = fetch(url, "PKIOperation", question, post=capabilities.post)
    signing_key = renewed.key if renewed else key
    assert isinstance(signing_key, rsa.RSAPrivateKey)
    return client.parse_cert_rep(answer, request, signing_key, ca, transaction, NONCE)


@pytest.mark.parametrize("words", [None, b"", b"AES\nSHA-1", b"SHA-512\nDES3", b"AES\nSHA-256\nPOSTPKIOperation"])
def test_go_scep_server_grants_every_cipher_choice(go_server: str, words: bytes | None) -> None:
    """Its answers are encrypted with single DES, whatever the request's cipher."""
    capabilities = parse_caps(fetch(go_server, "GetCACaps") if words is None else words)
    granted = enroll(go_server, MAC_KEY, capabilities)
    assert isinstance(granted, client.Granted)
    assert granted.certificate.public_key() == MAC_KEY.public_key()
    names = granted.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mac-2.example"]


def test_go_scep_server_refuses_a_wrong_challenge(go_server: str) -> None:
    with pytest.raises(SCEPFailure) as caught:
        enroll(go_server, MAC_KEY, LAB_CAPABILITIES, challenge="wrong")
    assert caught.value.fail_info is FailInfo.BAD_REQUEST


def test_go_scep_server_renews(go_server: str) -> None:
    old = enroll(go_server, MAC_KEY, LAB_CAPABILITIES)
    assert isinstance(old, client.Granted)
    renewed = enroll(go_server, CA_KEY, LAB_CAPABILITIES, renewed=Identity(old.certificate, MAC_KEY))
    assert isinstance(renewed, client.Granted)
    assert renewed.certificate.public_key() == CA_KEY.public_key()


# Other clients with our CA


class SCEPService(ThreadingHTTPServer):
    """Our CA's side behind plain HTTP; ``decide`` answers a request that could be read."""

    def __init__(self, capabilities: bytes, decide: Callable[[ca_side.SCEPRequest], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), SCEPHandler)
        self.capabilities = capabilities
        self.decide = decide
        self.seen: list[messages.PKIMessage] = []
        self.requests: list[ca_side.SCEPRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/scep"

    def answer(self, question: bytes) -> bytes:
        message = open_message(question)
        self.seen.append(message)
        request = ca_side.read_request(message, CA)
        self.requests.append(request)
        return self.decide(request)


class SCEPHandler(BaseHTTPRequestHandler):
    server: SCEPService

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if query["operation"] == ["GetCACaps"]:
            self.reply("text/plain", self.server.capabilities)
        elif query["operation"] == ["GetCACert"]:
            self.reply(*render_ca_certificates([CA.certificate]))
        else:
            self.reply(messages.CONTENT_TYPE, self.server.answer(messages.from_query(query["message"][0])))

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(messages.CONTENT_TYPE, self.server.answer(question))

    def reply(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing: the requests are in ``seen``."""


@contextlib.contextmanager
def serving(
    decide: Callable[[ca_side.SCEPRequest], bytes], capabilities: bytes = render_caps(LAB_CAPABILITIES)
) -> Iterator[SCEPService]:
    with SCEPService(capabilities, decide) as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


def granting(request: ca_side.SCEPRequest) -> bytes:
    assert request.csr is not None
    return ca_side.cert_rep_success(request, CA, CA_NONCE, issue(request.csr), [CA.certificate])


def refusing(request: ca_side.SCEPRequest) -> bytes:
    return ca_side.cert_rep_failure(request.message, CA, CA_NONCE, FailInfo.BAD_TIME, "come back tomorrow")


def go_client(service: SCEPService, folder: Path) -> subprocess.CompletedProcess[bytes]:
    files = ("-private-key", folder / "go.key", "-certificate", folder / "go.pem")
    names = ("-cn", "go-mac", "-challenge", SECRET)
    command = [need("scepclient", "scep"), "-server-url", service.url, *map(str, files), *names]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, cwd=folder)


@pytest.mark.parametrize("words", [render_caps(LAB_CAPABILITIES), b"SHA-1\n"], ids=["POST", "GET"])
def test_go_scep_client_gets_its_certificate(tmp_path: Path, words: bytes) -> None:
    with serving(granting, words) as service:
        run = go_client(service, tmp_path)
    assert run.returncode == 0, run.stderr + run.stdout
    issued = x509.load_pem_x509_certificate((tmp_path / "go.pem").read_bytes())
    (request,) = service.requests
    assert request.csr is not None
    assert (request.csr.challenge, request.csr.public_key) == (SECRET, issued.public_key())


def test_go_scep_client_reads_a_refusal(tmp_path: Path) -> None:
    with serving(refusing) as service:
        run = go_client(service, tmp_path)
    assert run.returncode != 0
    assert b"badTime" in run.stderr + run.stdout


# strongSwan 5.9.8 takes some capabilities for others; with SHA-384 and DES3 named too, it finds what it looks for.
STRONGSWAN_CAPABILITIES = render_caps(LAB_CAPABILITIES) + b"SHA-384\n"


def strongswan(service: SCEPService, folder: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = need("pki", "strongswan-pki, with libstrongswan-extra-plugins")
    (folder / "ca.der").write_bytes(CA.certificate.public_bytes(serialization.Encoding.DER))
    key = MAC_KEY.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / "key.der").write_bytes(key)
    files = ("--in", "key.der", "--cacert-enc", "ca.der", "--cacert-sig", "ca.der", "--cacert", "ca.der")
    names = ("--dn", "O=Example, CN=mac-3", "--san", "mac-3.example", "--password", SECRET)
    wait = ("--interval", "1", "--maxpolltime", "20")
    return subprocess.run(
        [command, "--scep", "--url", service.url, *files, *names, *wait, *options],
        capture_output=True,
        check=False,
        timeout=60,
        cwd=folder,
    )


@pytest.mark.parametrize(
    ("options", "cipher", "digest"),
    [((), Cipher.AES_128_CBC, "sha256"), (("--cipher", "des3", "--digest", "sha512"), Cipher.DES3_CBC, "sha512")],
    ids=["AES", "3DES"],
)
def test_strongswan_gets_its_certificate(tmp_path: Path, options: tuple[str, ...], cipher: Cipher, digest: str) -> None:
    with serving(granting, STRONGSWAN_CAPABILITIES) as service:
        run = strongswan(service, tmp_path, *options)
    assert run.returncode == 0, run.stderr
    (request,) = service.requests
    assert (request.cipher, request.message.digest.name) == (cipher, digest)
    assert request.csr is not None
    assert request.signer.public_key() == request.csr.public_key
    assert request.csr.challenge == SECRET
    assert request.csr.subject_alternative_name is not None
    assert x509.load_der_x509_certificate(run.stdout).public_key() == MAC_KEY.public_key()


def test_strongswan_polls_and_reads_a_refusal(tmp_path: Path) -> None:
    def later(request: ca_side.SCEPRequest) -> bytes:
        if request.csr is not None:
            return cert_rep_pending(request.message, CA, CA_NONCE)
        return refusing(request)

    with serving(later, STRONGSWAN_CAPABILITIES) as service:
        run = strongswan(service, tmp_path)
    assert run.returncode != 0
    assert b"badTime" in run.stderr
    first, poll = service.requests
    assert [message.header.message_type for message in service.seen] == [MessageType.PKCS_REQ, MessageType.CERT_POLL]
    assert poll.issuer == CA.certificate.subject.public_bytes()
    assert first.csr is not None
    assert poll.subject == first.csr.subject.public_bytes()
