"""The lab's state and protocol logic: enrolled Macs with their certificates, queued commands, results. No I/O.

The lab checks what a real server checks: the keys of each message, its topic, Content-Type and Mdm-Signature, and that
each UDID uses the certificate that it enrolled with.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from agent import plists
from agent.errors import PeerError
from agent.lab.defects import NONE, Defects
from agent.lab.enrollment.renewal import renews
from agent.lab.mdm.declarations import Declarations
from agent.lab.mdm.losing import Losing
from agent.lab.mdm.messages import (
    NOBODY,
    Message,
    Refused,
    certificate_of,
    check_authenticate,
    check_topic,
    plist_of,
    push_keys_of,
    text_of,
)
from agent.lab.mdm.result_defects import ResultDefects
from agent.lab.mdm.users import LabUsers, is_user, token_of
from agent.lab.stored.state import EnrolledMac, LabState, NoStorage, QueuedCommand, StoredResult
from agent.mdm import checkin, results

MAX_MACS = 1_000_000
MAX_QUEUED = 10_000  # queued commands per Mac
MAX_RESULTS = 200  # default number of stored results per Mac; the oldest are dropped first
_STATUSES = {status.value for status in results.Status}
_BINARY_PLIST = b"bplist"


class NotQueued(PeerError):
    """A command cannot be queued: its CommandUUID is in use for this Mac, or the queue is full."""

    kind = "not_queued"


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
        self._udids = {mac.fingerprint: mac.udid for mac in self.macs.values() if not is_user(mac.udid)}
        self.users = LabUsers(self.macs, self._state)
        self._waiting: dict[tuple[str, str], OnResult] = {}
        self._result_defects = ResultDefects(defects)
        self._losing = Losing(defects, self.forget)
        self.issued: Mapping[str, bytes] = {}  # SHA-256 of the certificates issued for renewals, by their challenge
        self.replaced: dict[str, EnrolledMac] = {}  # enrollments that a defect pushes to after a new Authenticate

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
        fingerprint = certificate_of(put, self.defects)
        message = plist_of(put.body)
        if "survive-xml-refused" in self.defects and not put.body.startswith(b"<?xml"):
            raise Refused(400, "the body does not begin with an XML declaration")
        if "UserID" in message:
            mac = self._known(text_of(message, "UDID"), fingerprint)
            return self.users.check_in(mac, message, self._declarative_management)
        unnamed = message.get("MessageType") in _UNNAMED and "UDID" not in message
        udid = self._owner(fingerprint) if unnamed else text_of(message, "UDID")
        match message.get("MessageType"):
            case "Authenticate":
                check_topic(message)
                self._authenticate(udid, fingerprint, message)
            case "TokenUpdate":
                check_topic(message)
                self._token_update(udid, fingerprint, message)
            case "CheckOut":
                check_topic(message)
                self._check_out(udid, fingerprint)
            case "SetBootstrapToken":
                self._set_bootstrap_token(udid, fingerprint, message)
            case "GetBootstrapToken":
                return self._get_bootstrap_token(udid, fingerprint)
            case "DeclarativeManagement":
                return self._declarative_management(self._known(udid, fingerprint), message)
            case "GetToken":
                self._known(udid, fingerprint)
                return token_of(message)
            case other:
                status = 500 if "checkin-unknown-500" in self.defects else 400
                raise Refused(status, f"the lab does not support the MessageType {str(other)[:80]!r}")
        return b""

    def report(self, put: Message) -> bytes:
        """Process a report and return the plist of the next command, or empty bytes. Raises Refused."""
        if put.content_type != results.CONTENT_TYPE:
            raise Refused(415, f"the Content-Type of a report is {results.CONTENT_TYPE}, not {put.content_type[:80]!r}")
        fingerprint = certificate_of(put, self.defects)
        message = self._report(put.body)
        bound = "identity-reports-unbound" not in self.defects
        if put.resumed and "identity-resumption-unbound" in self.defects:
            bound = False
        mac = self._known(text_of(message, "UDID"), fingerprint, bound=bound)
        if "UserID" in message:
            mac = self.users.of_message(mac, message)
        if not mac.enrolled and "checkin-early-command" not in self.defects:
            raise Refused(500 if "survive-early-500" in self.defects else 403, "a report before TokenUpdate")
        status = text_of(message, "Status")
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
            message = plist_of(body)
        except Refused as refused:
            if ("session-malformed-fails" if body else "survive-empty-500") in self.defects:
                raise Refused(500, "the body cannot be read") from refused
            raise
        if "survive-types-500" in self.defects and not isinstance(message.get("Status"), str):
            raise Refused(500, "the Status is no string")
        return message

    def _authenticate(self, udid: str, fingerprint: bytes, message: Mapping[str, Any]) -> None:
        check_authenticate(message, self.defects)
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
            self.users.forget(udid)
            self._udids.pop(before.fingerprint, None)
            if "checkin-early-push" in self.defects:
                self.replaced[udid] = before
            if "identity-queue-kept" in self.defects:
                mac.queue = before.queue
        self._udids[fingerprint] = udid
        self.macs[udid] = mac
        if "checkin-authenticate-202" in self.defects:
            raise Refused(202, "the Mac may enroll")

    def _token_update(self, udid: str, fingerprint: bytes, message: Mapping[str, Any]) -> None:
        mac = self._known(udid, fingerprint, bound="identity-check-ins-unbound" not in self.defects)
        token, magic = push_keys_of(message)
        if mac.enrolled and "checkin-token-once" in self.defects and mac.token == token:
            raise Refused(400, "the push token came before")
        if mac.enrolled and "push-token-old" in self.defects:
            token = mac.token
        if mac.enrolled and "push-magic-old" in self.defects:
            magic = mac.push_magic
        self._update(mac, token=token, push_magic=magic, unregistered=False)
        if message.get("AwaitingConfiguration") is True and not self._asks(mac, "DeviceConfigured"):
            self.enqueue(udid, {"RequestType": "DeviceConfigured"})
        if "checkin-token-202" in self.defects:
            raise Refused(202, "the Mac is enrolled")

    def _asks(self, mac: EnrolledMac, request_type: str) -> bool:
        return any(each.request_type == request_type for each in mac.queue.values())

    def _update(self, mac: EnrolledMac, **reported: Any) -> None:
        """Write new values of a Mac to the stored state, then set them."""
        self._state.update(replace(mac, **reported))
        for name, value in reported.items():
            setattr(mac, name, value)

    def _check_out(self, udid: str, fingerprint: bytes) -> None:
        bound = "identity-check-out-unbound" not in self.defects
        mac = self._known(udid, fingerprint, bound=bound)
        if "checkin-out-ignored" not in self.defects:
            self._forget(mac)
        if "checkin-out-refused" in self.defects:
            raise Refused(500, "the Mac has left")

    def _forget(self, mac: EnrolledMac) -> None:
        self._state.check_out(mac.udid)
        del self.macs[mac.udid]
        del self._udids[mac.fingerprint]
        self.users.forget(mac.udid)

    def _set_bootstrap_token(self, udid: str, fingerprint: bytes, message: Mapping[str, Any]) -> None:
        token = message.get("BootstrapToken", b"")
        if not isinstance(token, bytes):
            raise Refused(400, f"BootstrapToken: expected data, found {plists.type_name(token)}")
        mac = self._known(udid, fingerprint)
        if token and mac.bootstrap_token and "checkin-bootstrap-refused" in self.defects:
            raise Refused(400, "the Mac already has a bootstrap token")
        if token or "checkin-bootstrap-stays" not in self.defects:
            self._update(mac, bootstrap_token=token)

    def _get_bootstrap_token(self, udid: str, fingerprint: bytes) -> bytes:
        """The answer to GetBootstrapToken: without a token it has no BootstrapToken."""
        token = self._known(udid, fingerprint).bootstrap_token
        if not token and "checkin-bootstrap-404" in self.defects:
            raise Refused(404, "the Mac has no bootstrap token")
        if "checkin-bootstrap-other" in self.defects:
            token = token[::-1]
        return plists.dump_xml({"BootstrapToken": token} if token else {})

    def _declarative_management(self, mac: EnrolledMac, message: Mapping[str, Any]) -> bytes:
        endpoint = text_of(message, "Endpoint")
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

    def asset(self, name: str, fingerprint: bytes | None) -> bytes:
        """A file that a declaration refers to, for a Mac with this certificate. Raises Refused."""
        self._owner(fingerprint or NOBODY)
        found = self.declarations.assets.get(name)
        if found is None:
            raise Refused(404, f"there is no asset {name[:200]!r}")
        return found

    def _owner(self, fingerprint: bytes) -> str:
        """The UDID enrolled with this certificate, for messages of bootstrap tokens, which may lack a UDID."""
        udid = self._udids.get(fingerprint)
        if udid is None:
            raise Refused(401, "this certificate belongs to no Mac that is enrolled here")
        return udid

    def _known(self, udid: str, fingerprint: bytes, *, bound: bool = True) -> EnrolledMac:
        mac = self.macs.get(udid)
        if mac is None:
            raise Refused(401, "this Mac is not enrolled here")
        if mac.fingerprint != fingerprint and bound and fingerprint != NOBODY and not self._renew(mac, fingerprint):
            if "identity-victim-unenrolled" in self.defects:
                self._forget(mac)
            raise Refused(403, "the certificate is not the one that this Mac enrolled with")
        return mac

    def _renew(self, mac: EnrolledMac, fingerprint: bytes) -> bool:
        """Take a certificate as the Mac's new one if it is that of a renewal; returns whether it is."""
        if fingerprint in self._udids or "renew-refused" in self.defects:
            return False
        if not renews(mac, fingerprint, self.issued):
            return False
        before = mac.fingerprint
        self._update(mac, fingerprint=fingerprint)
        del self._udids[before]
        self._udids[fingerprint] = mac.udid
        return True

    def _result(self, mac: EnrolledMac, status: str, message: Mapping[str, Any], body: bytes) -> None:
        command_uuid = text_of(message, "CommandUUID")
        self._result_defects.check(mac, status, command_uuid, message)
        if command_uuid in mac.queue:
            if status == results.Status.NOT_NOW.value and not self._result_defects.drops(mac.queue[command_uuid]):
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
            if self.defects and self._result_defects.repeats(mac, message, command_uuid, queued.request_type):
                mac.queue[command_uuid] = queued
                mac.not_now.add(command_uuid)  # so that it is sent in the next session
            for each in dropped:
                del mac.results[each]
        on_result = self._waiting.pop((mac.udid, command_uuid), None)
        if on_result is not None:
            on_result(message)


_NO_COMMAND = plists.dump_xml({})
_UNNAMED = ("SetBootstrapToken", "GetBootstrapToken")

__all__ = ["Lab", "Message", "NotQueued", "Refused"]
