"""A second MDM server for the conformance tests: plain, blocking, of the standard library's http.server and ssl.

It is written from Apple's pages and shares no code with lom-agent: identities are PKCS12, a Mac is known by its TLS
certificate, there is no push and no declarative management. ``FAULTS`` are mistakes that a first MDM server makes. A
``busy`` one makes none: it asks each Mac for an inventory after the enrollment, as most servers do.
"""

from __future__ import annotations

import ipaddress
import plistlib
import ssl
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FAULTS = {
    "error": "a result with the Status Error is answered with 500",
    "forgets": "NotNow ends a command",
    "refuses": "every report is answered with 403",
    "repeats": "a command is sent again after its result",
    "trusts": "the UDID in a message is believed, whatever the certificate",
}
INVENTORY = (
    {"RequestType": "DeviceInformation", "Queries": ["OSVersion", "SerialNumber"]},
    {"RequestType": "ProfileList"},
    {"RequestType": "NoSuchCommand"},
)
TOPIC = "com.apple.mgmt.External.0f3e7a52-plain"
KEY = "plain-key"
MOST_BYTES = 1024 * 1024
PASSWORD = "plain"


@dataclass
class Device:
    """An enrolled Mac."""

    certificate: bytes
    """In DER."""
    ready: bool = False
    """Whether a TokenUpdate came."""
    queue: dict[str, dict[str, Any]] = field(default_factory=dict)
    deferred: set[str] = field(default_factory=set)
    """The commands that it answered NotNow to in this session."""
    bootstrap_token: bytes = b""
    repeated: set[str] = field(default_factory=set)


class Refused(Exception):
    """A request is answered with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class CA:
    """Issues the certificates of the server and of the Macs."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Plain MDM CA")
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self.certificate = (
            _builder(name, name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, name: str, *, server: bool) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A certificate for 127.0.0.1, or for a Mac."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            _builder(_name(name), self.certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if server:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self.key, hashes.SHA256()), key


class PlainMDM:
    """The server, in threads of its own from ``start`` to ``stop``. ``folder`` gets its key; ``fault`` is of FAULTS."""

    def __init__(self, folder: Path, fault: str = "", *, busy: bool = False) -> None:
        if fault and fault not in FAULTS:
            raise ValueError(fault)
        self.fault = fault
        self.busy = busy
        self.ca = CA()
        self.devices: dict[str, Device] = {}
        self.lock = threading.Lock()
        self._certificate, self._key = self.ca.issue("127.0.0.1", server=True)
        self._http = _TLSServer(self._handler(), self._context(folder))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"https://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def profile(self) -> bytes:
        """A signed enrollment profile with a new identity."""
        certificate, key = self.ca.issue(f"Mac {uuid.uuid4()}", server=False)
        bundle = pkcs12.serialize_key_and_certificates(
            b"identity", key, certificate, None, BestAvailableEncryption(PASSWORD.encode())
        )
        identity = _payload("com.apple.security.pkcs12", "identity", PayloadContent=bundle, Password=PASSWORD)
        mdm = _payload(
            "com.apple.mdm",
            "mdm",
            ServerURL=f"{self.url}/mdm",
            CheckInURL=f"{self.url}/checkin",
            Topic=TOPIC,
            IdentityCertificateUUID=identity["PayloadUUID"],
            AccessRights=8191,
            CheckOutWhenRemoved=True,
            ServerCapabilities=["com.apple.mdm.per-user-connections"],
        )
        root = _payload(
            "com.apple.security.root", "root", PayloadContent=self.ca.certificate.public_bytes(Encoding.DER)
        )
        profile = _payload("Configuration", "enrollment", PayloadContent=[root, identity, mdm], PayloadScope="System")
        signing = pkcs7.PKCS7SignatureBuilder().set_data(plistlib.dumps(profile))
        signing = signing.add_signer(self._certificate, self._key, hashes.SHA256())
        return signing.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])

    def check_in(self, message: dict[str, Any], certificate: bytes) -> bytes:
        """The body of the answer to a check-in message."""
        kind, udid = message.get("MessageType"), _text(message, "UDID")
        if kind == "Authenticate":
            _text(message, "Topic")
            if any(each.certificate == certificate and name != udid for name, each in self.devices.items()):
                raise Refused(403)
            self.devices[udid] = Device(certificate)  # anew: nothing of an earlier enrollment is left
            return b""
        device = self._device(udid, certificate)
        match kind:
            case "TokenUpdate":
                if not isinstance(message.get("Token"), bytes):
                    raise Refused(400)
                _text(message, "PushMagic")
                if self.busy and not device.ready:
                    device.queue.update({str(uuid.uuid4()): dict(each) for each in INVENTORY})
                device.ready = True
            case "CheckOut":
                del self.devices[udid]
            case "SetBootstrapToken":
                device.bootstrap_token = message.get("BootstrapToken", b"")
            case "GetBootstrapToken":
                return plistlib.dumps({"BootstrapToken": device.bootstrap_token})
            case "UserAuthenticate":
                raise Refused(410)
            case _:
                raise Refused(400)
        return b""

    def report(self, message: dict[str, Any], certificate: bytes) -> bytes:
        """The next command, or nothing."""
        device = self._device(_text(message, "UDID"), certificate)
        status, command_uuid = _text(message, "Status"), message.get("CommandUUID")
        if self.fault == "refuses":
            raise Refused(403)
        if not device.ready:
            raise Refused(400)
        match status:
            case "Idle":
                device.deferred.clear()
            case "NotNow":
                if self.fault == "forgets":
                    device.queue.pop(str(command_uuid), None)
                device.deferred.add(str(command_uuid))
            case "Acknowledged" | "Error" | "CommandFormatError":
                if status == "Error" and self.fault == "error":
                    raise Refused(500)
                if self.fault == "repeats" and command_uuid not in device.repeated:
                    device.repeated.add(str(command_uuid))
                    device.deferred.add(str(command_uuid))  # until the next session
                else:
                    device.queue.pop(str(command_uuid), None)
            case _:
                raise Refused(400)
        following = next((name for name in device.queue if name not in device.deferred), None)
        if following is None:
            return b""
        return plistlib.dumps({"CommandUUID": following, "Command": device.queue[following]})

    def enqueue(self, udid: str, command: dict[str, Any]) -> None:
        """Queue a command: a dictionary with Command and CommandUUID."""
        device, inner = self.devices.get(udid), command.get("Command")
        if device is None:
            raise Refused(404)
        if not isinstance(inner, dict):
            raise Refused(400)
        device.queue[_text(command, "CommandUUID")] = inner

    def _device(self, udid: str, certificate: bytes) -> Device:
        device = self.devices.get(udid)
        if device is None:
            raise Refused(401)
        if device.certificate != certificate and self.fault != "trusts":
            raise Refused(403)
        return device

    def _context(self, folder: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        chain = folder / "plain.pem"
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain.write_bytes(key + self._certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(chain)
        context.verify_mode = ssl.CERT_OPTIONAL  # the profile is fetched without a certificate
        context.load_verify_locations(cadata=self.ca.certificate.public_bytes(Encoding.DER))
        return context

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        class Handler(_Handler):
            mdm = self

        return Handler


class _TLSServer(ThreadingHTTPServer):
    """Each connection is wrapped after it was accepted, so that it is closed also where the client reset it before."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._context = context

    def get_request(self) -> tuple[ssl.SSLSocket, Any]:
        """Accept a connection; the handshake is left to its thread."""
        plain, address = super().get_request()
        try:
            plain.getpeername()  # an error where the client has reset it: wrap_socket would leave it open
        except OSError:
            plain.close()
            raise
        return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address


class _Handler(BaseHTTPRequestHandler):
    mdm: PlainMDM
    protocol_version = "HTTP/1.1"
    server_version = "PlainMDM/1.0"
    timeout = 60

    def handle(self) -> None:
        """Serve a connection, until the client breaks it or does not finish its handshake."""
        try:
            super().handle()
        except OSError:  # also an error of TLS: the client is gone
            self.close_connection = True

    def finish(self) -> None:
        """End a connection, which may be broken."""
        try:
            super().finish()
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        """The enrollment profile, at any path."""
        self._answer(200, self.mdm.profile(), "application/x-apple-aspen-config")

    def do_PUT(self) -> None:
        """A check-in message, a report, or a command to queue."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            self.close_connection = True
            self._answer(413 if length.isdigit() else 411, b"")
            return
        octets = self.rfile.read(int(length))
        if len(octets) < int(length):
            self.close_connection = True  # the request broke off
            return
        try:
            with self.mdm.lock:
                body = self._put(_plist(octets))
        except Refused as refused:
            self._answer(refused.status, b"")
        else:
            self._answer(200, body)

    def _put(self, message: dict[str, Any]) -> bytes:
        if self.path.startswith("/queue/"):
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                raise Refused(401)
            self.mdm.enqueue(self.path.removeprefix("/queue/"), message)
            return b""
        certificate = self.connection.getpeercert(binary_form=True)  # type: ignore[attr-defined]
        if not certificate:
            raise Refused(403)
        take = {"/checkin": self.mdm.check_in, "/mdm": self.mdm.report}.get(self.path)
        if take is None:
            raise Refused(404)
        return take(message, certificate)

    def _answer(self, status: int, body: bytes, content_type: str = "application/xml") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if body:
            self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the standard library
        """Nothing is logged."""


def _plist(octets: bytes) -> dict[str, Any]:
    try:
        value = plistlib.loads(octets.lstrip(b"\xef\xbb\xbf \t\r\n"))
    except Exception as error:  # plistlib raises errors of many types for bytes that are no property list
        raise Refused(400) from error
    if not isinstance(value, dict):
        raise Refused(400)
    return value


def _text(message: dict[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not value:
        raise Refused(400)
    return value


def _payload(payload_type: str, name: str, **keys: Any) -> dict[str, Any]:
    identifier = "com.example.plain" if payload_type == "Configuration" else f"com.example.plain.{name}"
    common = {"PayloadType": payload_type, "PayloadVersion": 1, "PayloadIdentifier": identifier}
    return {**common, "PayloadUUID": str(uuid.uuid4()).upper(), "PayloadDisplayName": f"Plain {name}", **keys}


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now, serial = datetime.now(UTC), x509.random_serial_number()
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(serial)
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
