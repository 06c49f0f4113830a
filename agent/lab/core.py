"""The lab's state and protocol logic: enrolled Macs with their certificates, queued commands, results. No I/O.

The lab checks what a real server checks: the keys of each message, its topic, Content-Type and Mdm-Signature, and that
each UDID uses the certificate that it enrolled with.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives import hashes

from agent import plists
from agent.errors import PeerError
from agent.lab.declarations import Declarations
from agent.lab.defects import NONE, Defects
from agent.lab.losing import Losing
from agent.lab.state import EnrolledMac, LabState, NoStorage, QueuedCommand, StoredResult
from agent.mdm import checkin, results
from agent.net.http.server import MAX_BODY_BYTES
from agent.pki.cms import CMSError, mdm_signature_signer
from agent.profiles.making import TOPIC

MAX_MACS = 1_000_000
MAX_QUEUED = 10_000  # queued commands per Mac
MAX_RESULTS = 200  # default number of stored results per Mac; the oldest are dropped first
_STATUSES = {status.value for status in results.Status}
_AUTHENTICATE_KEYS = ("DeviceName", "Model", "ModelName", "SerialNumber", "OSVersion", "BuildVersion")
_TOKEN_BYTES = 32
_BINARY_PLIST = b"bplist"


class Refused(PeerError):
    """The lab rejects a message of a Mac; ``status`` is the HTTP status of the answer."""

    kind = "refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotQueued(PeerError):
    """A command cannot be queued: its CommandUUID is in use for this Mac, or the queue is full."""

    kind = "not_queued"


@dataclass(frozen=True, slots=True)
class Message:
    """A PUT request of a Mac."""

    body: bytes
    content_type: str
    """In lower case, without parameters."""
    fingerprint: bytes | None
    """SHA-256 of the TLS client certificate; None if there is none."""
    signature: str | None
    """The header Mdm-Signature; None if there is none."""
    connection: int
    """A number unique for each connection."""


OnResult = Callable[[Mapping[str, Any]], None]
OnReport = Callable[[str, int], None]


class Lab:
    """The state of one lab. ``on_report`` is called with UDID and connection number for each report of a Mac.

    ``kept_results`` is the number of stored results per Mac. With ``reenrollment`` a UDID may enroll again with a new
    identity of the lab, as a Mac does that was erased without a CheckOut; this clears its queue and results. Without it
    such an Authenticate is refused. ``state`` stores the lab's state and provides its initial content. ``defects`` are
    behaviours that are wrong on purpose (`agent.lab.defects`).
    """

    def __init__(
        self,
        declarations: Declarations | None = None,
        *,
        kept_results: int = MAX_RESULTS,
        reenrollment: bool = True,
        state: LabState | None = None,
        defects: Defects = NONE,
    ) -> None:
        self.defects = defects
        self._state = state or NoStorage()
        self.macs: dict[str, EnrolledMac] = {mac.udid: mac for mac in self._state.macs()}
        self.on_report: OnReport | None = None
        self.declarations = declarations or Declarations(defects=defects)
        self._kept_results = kept_results
        self._reenrollment = reenrollment
        self._udids = {mac.fingerprint: mac.udid for mac in self.macs.values()}
        self._waiting: dict[tuple[str, str], OnResult] = {}
        self._repeated: set[tuple[str, str]] = set()  # commands that a defect has sent once more
        self._losing = Losing(defects, self.forget)

    def enqueue(
        self,
        udid: str,
        command: Mapping[str, Any],
        on_result: OnResult | None = None,
        *,
        command_uuid: str | None = None,
    ) -> str:
        """Queue a command for an enrolled Mac and return its CommandUUID; ``on_result`` is called with the result.

        Raises NotQueued if ``command_uuid`` is already queued or has a stored result, or if the queue is full; Refused
        if the state cannot be written.
        """
        mac = self.macs[udid]
        if command_uuid is None:
            command_uuid = str(uuid.uuid4()).upper()
        elif command_uuid in mac.queue or command_uuid in mac.results:
            raise NotQueued(f"the Mac already has a command {command_uuid}")
        if len(mac.queue) >= MAX_QUEUED:
            raise NotQueued(f"{MAX_QUEUED} commands are already queued for this Mac")
        body = plists.dump_xml({"Command": command, "CommandUUID": command_uuid})
        queued = QueuedCommand(str(command.get("RequestType", "")), body)
        self._losing.queued(mac, queued.request_type)
        if "session-command-lost" in self.defects and queued.request_type == "ProfileList":
            return command_uuid
        self._state.queue(udid, command_uuid, queued)
        mac.queue[command_uuid] = queued
        if on_result is not None:
            self._waiting[udid, command_uuid] = on_result
        return command_uuid

    def declare(self, udid: str) -> str:
        """Queue DeclarativeManagement with the current tokens and return its CommandUUID; raises as ``enqueue``."""
        endpoint = "declaration-items" if "ddm-command-data" in self.defects else "tokens"
        data = self.declarations.answer(endpoint)
        return self.enqueue(udid, {"RequestType": "DeclarativeManagement", "Data": data})

    def forget(self, udid: str, command_uuid: str) -> None:
        """Remove a command from the queue, and its ``on_result``."""
        self._waiting.pop((udid, command_uuid), None)
        mac = self.macs[udid]
        self._state.unqueue(udid, command_uuid)
        mac.queue.pop(command_uuid, None)
        mac.not_now.discard(command_uuid)

    def forget_owner(self, fingerprint: bytes) -> None:
        """Remove the Mac that enrolled with this certificate, if there is one."""
        udid = self._udids.get(fingerprint)
        if udid is not None:
            self._forget(self.macs[udid])

    def forget_macs(self) -> None:
        """Remove every Mac with its queue and results, as if none had ever enrolled."""
        for udid in self.macs:
            self._state.check_out(udid)
        self.macs.clear()
        self._udids.clear()
        self._waiting.clear()

    def check_in(self, put: Message) -> bytes:
        """Process a check-in message and return the body of the answer. Raises Refused."""
        if put.content_type != checkin.CONTENT_TYPE:
            raise Refused(
                415, f"the Content-Type of a check-in is {checkin.CONTENT_TYPE}, not {put.content_type[:80]!r}"
            )
        fingerprint = _certificate(put)
        message = _plist(put.body)
        if "survive-xml-refused" in self.defects and not put.body.startswith(b"<?xml"):
            raise Refused(400, "the body does not begin with an XML declaration")
        unnamed = message.get("MessageType") == "SetBootstrapToken" and "UDID" not in message
        udid = self._owner(fingerprint) if unnamed else _text(message, "UDID")
        match message.get("MessageType"):
            case "Authenticate":
                _check_topic(message)
                self._authenticate(udid, fingerprint, message)
            case "TokenUpdate":
                _check_topic(message)
                self._token_update(udid, fingerprint, message)
            case "CheckOut":
                _check_topic(message)
                self._check_out(udid, fingerprint)
            case "SetBootstrapToken":
                self._set_bootstrap_token(udid, fingerprint, message)
            case "DeclarativeManagement":
                return self._declarative_management(udid, fingerprint, message)
            case other:
                raise Refused(400, f"the lab does not support the MessageType {str(other)[:80]!r}")
        return b""

    def report(self, put: Message) -> bytes:
        """Process a report and return the plist of the next command, or empty bytes. Raises Refused."""
        if put.content_type != results.CONTENT_TYPE:
            raise Refused(415, f"the Content-Type of a report is {results.CONTENT_TYPE}, not {put.content_type[:80]!r}")
        fingerprint = _certificate(put)
        message = self._report(put.body)
        bound = "identity-reports-unbound" not in self.defects
        mac = self._known(_text(message, "UDID"), fingerprint, bound=bound)
        if not mac.enrolled:
            raise Refused(403, "a report before TokenUpdate")
        status = _text(message, "Status")
        if status not in _STATUSES:
            code = 500 if "survive-status-500" in self.defects else 400
            raise Refused(code, f"the Status {status[:80]!r} is unknown")
        if self.on_report is not None:
            self.on_report(mac.udid, put.connection)
        if status == results.Status.IDLE.value:
            mac.not_now.clear()
            self._losing.asked(mac)
        else:
            self._result(mac, status, message, put.body)
        command = mac.next_command()
        return _NO_COMMAND if not command and "session-never-empty" in self.defects else command

    def _report(self, body: bytes) -> dict[str, Any]:
        try:
            message = _plist(body)
        except Refused as refused:
            if ("session-malformed-fails" if body else "survive-empty-500") in self.defects:
                raise Refused(500, "the body cannot be read") from refused
            raise
        if "survive-types-500" in self.defects and not isinstance(message.get("Status"), str):
            raise Refused(500, "the Status is no string")
        return message

    def _authenticate(self, udid: str, fingerprint: bytes, message: Mapping[str, Any]) -> None:
        for key in _AUTHENTICATE_KEYS:
            _text(message, key)
        if self._udids.get(fingerprint, udid) != udid:
            raise Refused(403, "this certificate belongs to another Mac")
        before = self.macs.get(udid)
        if before is not None and before.fingerprint != fingerprint and not self._reenrollment:
            raise Refused(
                403, "this Mac is enrolled with another identity; it has to check out before it enrolls again"
            )
        if before is None and len(self.macs) >= MAX_MACS:
            raise Refused(503, f"{MAX_MACS:,} Macs are enrolled already")
        mac = EnrolledMac(udid, fingerprint, message)
        self._state.enroll(mac)
        if before is not None:
            self._udids.pop(before.fingerprint, None)
        self._udids[fingerprint] = udid
        self.macs[udid] = mac

    def _token_update(self, udid: str, fingerprint: bytes, message: Mapping[str, Any]) -> None:
        mac = self._known(udid, fingerprint, bound="identity-check-ins-unbound" not in self.defects)
        token = message.get("Token")
        if not isinstance(token, bytes) or len(token) != _TOKEN_BYTES:
            found = len(token) if isinstance(token, bytes) else plists.type_name(token)
            raise Refused(400, f"Token: expected {_TOKEN_BYTES} bytes of data, found {found}")
        magic = _text(message, "PushMagic")
        if mac.enrolled and "push-token-old" in self.defects:
            token = mac.token
        if mac.enrolled and "push-magic-old" in self.defects:
            magic = mac.push_magic
        self._update(mac, token=token, push_magic=magic, unregistered=False)

    def _update(self, mac: EnrolledMac, **reported: Any) -> None:
        """Write new values of a Mac to the stored state, then set them."""
        self._state.update(replace(mac, **reported))
        for name, value in reported.items():
            setattr(mac, name, value)

    def _check_out(self, udid: str, fingerprint: bytes) -> None:
        self._forget(self._known(udid, fingerprint))

    def _forget(self, mac: EnrolledMac) -> None:
        self._state.check_out(mac.udid)
        del self.macs[mac.udid]
        del self._udids[mac.fingerprint]

    def _set_bootstrap_token(self, udid: str, fingerprint: bytes, message: Mapping[str, Any]) -> None:
        token = message.get("BootstrapToken", b"")
        if not isinstance(token, bytes):
            raise Refused(400, f"BootstrapToken: expected data, found {plists.type_name(token)}")
        self._update(self._known(udid, fingerprint), bootstrap_token=token)

    def _declarative_management(self, udid: str, fingerprint: bytes, message: Mapping[str, Any]) -> bytes:
        mac = self._known(udid, fingerprint)
        endpoint = _text(message, "Endpoint")
        if endpoint == "status":
            report = message.get("Data")
            if not isinstance(report, bytes):
                raise Refused(400, f"Data of a status report: expected data, found {plists.type_name(report)}")
            self._update(mac, status_report=report)
            return b"{}" if "ddm-status-body" in self.defects else b""
        answer = self.declarations.answer(endpoint)
        if answer is None:
            fails = "ddm-endpoint-500" in self.defects and "/" not in endpoint
            raise Refused(500 if fails else 404, f"there is no declarative management endpoint {endpoint[:200]!r}")
        return answer

    def _owner(self, fingerprint: bytes) -> str:
        """The UDID enrolled with this certificate, for SetBootstrapToken, the only message that may lack a UDID."""
        udid = self._udids.get(fingerprint)
        if udid is None:
            raise Refused(401, "this certificate belongs to no Mac that is enrolled here")
        return udid

    def _known(self, udid: str, fingerprint: bytes, *, bound: bool = True) -> EnrolledMac:
        mac = self.macs.get(udid)
        if mac is None:
            raise Refused(401, "this Mac is not enrolled here")
        if mac.fingerprint != fingerprint and bound:
            if "identity-victim-unenrolled" in self.defects:
                self._forget(mac)
            raise Refused(403, "the certificate is not the one that this Mac enrolled with")
        return mac

    def _result(self, mac: EnrolledMac, status: str, message: Mapping[str, Any], body: bytes) -> None:
        command_uuid = _text(message, "CommandUUID")
        self._check_defects(mac, status, command_uuid, message)
        if command_uuid in mac.queue:
            if status == results.Status.NOT_NOW.value and not self._drops(mac.queue[command_uuid]):
                if "session-not-now-at-once" not in self.defects:
                    mac.not_now.add(command_uuid)
                return
            xml = plists.dump_xml(message) if body.startswith(_BINARY_PLIST) else body
            result = StoredResult(status, xml)
            dropped = list(mac.results)[: max(0, len(mac.results) + 1 - self._kept_results)]
            self._state.answer(mac.udid, command_uuid, result, dropped)
            queued = mac.queue.pop(command_uuid)
            mac.not_now.discard(command_uuid)
            mac.results[command_uuid] = result
            if self.defects and self._repeats(mac, message, command_uuid, queued.request_type):
                mac.queue[command_uuid] = queued
                mac.not_now.add(command_uuid)  # so that it is sent in the next session
            for each in dropped:
                del mac.results[each]
        on_result = self._waiting.pop((mac.udid, command_uuid), None)
        if on_result is not None:
            on_result(message)

    # Defects.

    def _drops(self, queued: QueuedCommand) -> bool:
        """Whether a defect ends this command at NotNow."""
        setup = queued.request_type == "LOMSetupRequest"
        return ("lom-setup-not-now-dropped" if setup else "session-not-now-dropped") in self.defects

    def _check_defects(self, mac: EnrolledMac, status: str, command_uuid: str, message: Mapping[str, Any]) -> None:
        """Refuse a result that a defect does not survive. Raises Refused."""
        if "ResponseData" in message and "lom-example-refused" in self.defects:
            raise Refused(500, "the result has ResponseData")
        known = command_uuid in mac.queue
        if known and status == results.Status.ERROR.value and "session-error-refused" in self.defects:
            raise Refused(500, "the result is an Error")
        format_error = status == results.Status.COMMAND_FORMAT_ERROR.value
        if known and format_error and "session-format-error-refused" in self.defects:
            raise Refused(500, "the result is a CommandFormatError")
        if command_uuid in mac.results and "session-second-result-refused" in self.defects:
            raise Refused(400, "the result came before")
        if known and "survive-bare-500" in self.defects and message.get("QueryResponses") == {}:
            raise Refused(500, "QueryResponses is empty")
        unknown = not known and command_uuid not in mac.results
        if unknown and "session-unknown-result-refused" in self.defects:
            raise Refused(500, "the command is unknown")

    def _repeats(self, mac: EnrolledMac, message: Mapping[str, Any], command_uuid: str, request_type: str) -> bool:
        """Whether a defect sends this command again although its result is there; once for each command."""
        status, items = message["Status"], message.get("ResponseList")
        if request_type != "LOMDeviceRequest":
            wanted = "session-command-repeated" in self.defects and status == results.Status.ACKNOWLEDGED.value
        elif status == results.Status.ERROR.value:
            wanted = "lom-request-error-repeated" in self.defects
        elif items is None:
            wanted = "lom-example-repeated" in self.defects
        else:
            failed = any(item["DeviceRequestSuccess"] is False for item in items)
            wanted = failed and "lom-partial-repeated" in self.defects
        if not wanted or (mac.udid, command_uuid) in self._repeated:
            return False
        self._repeated.add((mac.udid, command_uuid))
        return True


_NO_COMMAND = plists.dump_xml({})


def _plist(body: bytes) -> dict[str, Any]:
    try:
        return plists.load_dict(body, max_bytes=MAX_BODY_BYTES)
    except plists.PlistError as error:
        raise Refused(400, str(error)) from error


def _check_topic(message: Mapping[str, Any]) -> None:
    topic = _text(message, "Topic")
    if topic != TOPIC:
        raise Refused(400, f"Topic: expected {TOPIC}, found {topic[:80]!r}")


def _certificate(put: Message) -> bytes:
    """SHA-256 of the TLS certificate, which must also be the signer of the Mdm-Signature. Raises Refused."""
    if put.fingerprint is None:
        raise Refused(401, "the Mac presented no client certificate")
    if put.signature is None:
        raise Refused(400, "the Mdm-Signature is missing, but the enrollment profile has SignMessage")
    try:
        signer = mdm_signature_signer(put.signature, put.body)
    except CMSError as error:
        raise Refused(400, f"the Mdm-Signature is invalid: {error}") from error
    if signer.fingerprint(hashes.SHA256()) != put.fingerprint:
        raise Refused(403, "the Mdm-Signature has another signer than the TLS certificate")
    return put.fingerprint


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{key}: expected a string, found {plists.type_name(value)}")
    return value
