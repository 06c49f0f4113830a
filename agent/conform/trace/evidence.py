"""What a check sees: the records that the probes of one requirement left, in their order. No I/O.

Every list is in the order of the trace. Arguments narrow it: ``evidence.results("LOMSetupRequest", udid=mac.udid)``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent.conform.trace.bodies import plain
from agent.conform.trace.records import ExchangeRecord, MacRecord, NoteRecord, PushRecord, Record, TLSRecord


class DeliveredCommand(msgspec.Struct, frozen=True):
    """A command that the server sent as the answer to a report. It has the number of that exchange."""

    exchange: ExchangeRecord
    command_uuid: str
    request_type: str
    """Empty where it has none."""
    command: Mapping[str, Any]
    """The dictionary ``Command``, plain."""
    body: Mapping[str, Any]
    """The whole answer, plain."""

    @property
    def number(self) -> int:
        """The number of the exchange."""
        return self.exchange.number

    @property
    def udid(self) -> str:
        """The Mac that got it."""
        return self.exchange.udid


class SentProfile(msgspec.Struct, frozen=True):
    """A profile that a Mac got: its enrollment profile, or the Payload of InstallProfile."""

    exchange: ExchangeRecord
    content: Mapping[str, Any]
    """Plain; empty if it is no profile."""
    signers: tuple[str, ...] = ()
    command_uuid: str = ""
    """Of InstallProfile; empty for an enrollment profile."""

    @property
    def number(self) -> int:
        """The number of the exchange."""
        return self.exchange.number

    @property
    def udid(self) -> str:
        """The Mac that got it."""
        return self.exchange.udid

    @property
    def payloads(self) -> list[Mapping[str, Any]]:
        """Its payloads that are dictionaries."""
        content = self.content.get("PayloadContent")
        return [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []

    def of_type(self, payload_type: str) -> list[Mapping[str, Any]]:
        """The payloads of a type."""
        return [each for each in self.payloads if each.get("PayloadType") == payload_type]

    def payload(self, uuid: object) -> Mapping[str, Any] | None:
        """The payload with this PayloadUUID, in any case; None if there is none."""
        wanted = uuid.upper() if isinstance(uuid, str) else None
        return next((each for each in self.payloads if str(each.get("PayloadUUID", "")).upper() == wanted), None)


@dataclass(slots=True)
class Evidence:
    """The records of some probes. ``stopped`` says why one of them did not come to its end; empty if all did."""

    records: list[Record]
    os: str | None = None
    stopped: str = ""
    _commands: list[DeliveredCommand] | None = field(default=None, repr=False)

    @property
    def macs(self) -> list[MacRecord]:
        """The Macs of the probes."""
        return [each for each in self.records if isinstance(each, MacRecord)]

    def mac(self, udid: str) -> MacRecord:
        """The Mac with this UDID, which is one of the probes'. Raises KeyError."""
        found = next((each for each in self.macs if each.udid == udid), None)
        if found is None:
            raise KeyError(udid)
        return found

    def exchanges(
        self,
        *kinds: str,
        udid: str | None = None,
        message_type: str | None = None,
        request_type: str | None = None,
        command_uuid: str | None = None,
        answer_status: str | Collection[str] | None = None,
        after: int = 0,
    ) -> list[ExchangeRecord]:
        """The exchanges of these kinds (none: of all) with these properties, and a number above ``after``."""
        statuses = (answer_status,) if isinstance(answer_status, str) else answer_status
        return [
            each
            for each in self.records
            if isinstance(each, ExchangeRecord)
            and each.number > after
            and (not kinds or each.kind in kinds)
            and (udid is None or each.udid == udid)
            and (message_type is None or each.message_type == message_type)
            and (request_type is None or each.request_type == request_type)
            and (command_uuid is None or each.command_uuid == command_uuid)
            and (statuses is None or each.answer_status in statuses)
        ]

    def commands(
        self,
        request_type: str | None = None,
        *,
        udid: str | None = None,
        command_uuid: str | None = None,
        after: int = 0,
    ) -> list[DeliveredCommand]:
        """The commands that Macs got, each as often as it was sent."""
        if self._commands is None:
            found = [_command_in(each) for each in self.exchanges("report", "raw")]
            self._commands = [each for each in found if each is not None]
        return [
            each
            for each in self._commands
            if each.number > after
            and (request_type is None or each.request_type == request_type)
            and (udid is None or each.udid == udid)
            and (command_uuid is None or each.command_uuid == command_uuid)
        ]

    def results(
        self, request_type: str | None = None, *, udid: str | None = None, command_uuid: str | None = None
    ) -> list[ExchangeRecord]:
        """The reports of Macs on commands, each as often as it was sent: every ``report`` but Idle."""
        found = self.exchanges("report", udid=udid, request_type=request_type, command_uuid=command_uuid)
        return [each for each in found if each.answer_status not in ("", "Idle")]

    def answer(self, request_type: str, udid: str, before: int | None = None) -> Mapping[str, Any]:
        """The last ``Acknowledged`` result of a Mac that the server accepted, plain; empty if there is none."""
        for each in reversed(self.results(request_type, udid=udid)):
            accepted = each.answer_status == "Acknowledged" and each.status == 200
            if accepted and (before is None or each.number < before):
                return each.request.dictionary
        return {}

    def pushes(self, udid: str | None = None) -> list[PushRecord]:
        """The pushes that the gateway got."""
        return [each for each in self.records if isinstance(each, PushRecord) and udid in (None, each.udid)]

    def handshakes(self, says: str | None = None) -> list[TLSRecord]:
        """The TLS handshakes of the probes; ``says`` is the probe's word for what it offered."""
        return [each for each in self.records if isinstance(each, TLSRecord) and says in (None, each.says)]

    def notes(self, step: str, udid: str | None = None) -> list[NoteRecord]:
        """What the probes did."""
        return [
            each
            for each in self.records
            if isinstance(each, NoteRecord) and each.step == step and udid in (None, each.udid)
        ]

    def profiles(self, udid: str | None = None) -> list[SentProfile]:
        """The profiles that Macs got: enrollment profiles, and those of InstallProfile."""
        found: list[SentProfile] = []
        for each in self.exchanges("enroll", "report", udid=udid):
            if each.kind == "enroll":
                found.append(SentProfile(each, each.response.dictionary, each.response.signers))
            else:
                command = _command_in(each)
                if command is not None and command.request_type == "InstallProfile":
                    found.append(_installed(each, command))
        return found

    def by_server(self, command_uuid: str, *, form: bool = False) -> bool:
        """Whether the server composed this command; otherwise it only passed on what lom-agent had written.

        With ``form`` also whether the server chose its form, the keys and types, for values that lom-agent gave it.
        """
        return not any(
            each.command_uuid == command_uuid
            for each in self.notes("queued")
            if not (each.data["by_server"] or (form and each.data.get("encoded")))
        )

    def asked(self, request_type: str) -> list[NoteRecord]:
        """The times when the server was asked to compose such a command: it queued it, or refused to."""
        notes = [*self.notes("refused"), *self.notes("queued")]
        return [each for each in notes if each.request_type == request_type and each.data.get("by_server", True)]


def _command_in(exchange: ExchangeRecord) -> DeliveredCommand | None:
    """The command in the response to a report; None where there is none."""
    if exchange.response.form != "plist":
        return None
    body = exchange.response.dictionary
    command = body.get("Command")
    uuid = body.get("CommandUUID")
    if not isinstance(command, dict) or not isinstance(uuid, str):
        return None
    request_type = command.get("RequestType")
    return DeliveredCommand(exchange, uuid, request_type if isinstance(request_type, str) else "", command, body)


def _installed(exchange: ExchangeRecord, command: DeliveredCommand) -> SentProfile:
    kept = exchange.response.value["Command"].get("Payload")
    content = plain(kept)
    signers = tuple(kept.get("$signers", ())) if isinstance(kept, dict) else ()
    return SentProfile(exchange, content if isinstance(content, dict) else {}, signers, command.command_uuid)
