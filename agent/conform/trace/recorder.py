"""Makes the records of a trace while the probes run: from the exchanges of the Macs, the pushes, and notes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from agent.conform.stage.handshakes import Agreed, Offer
from agent.conform.trace.bodies import Redacted, body_of, fingerprint
from agent.conform.trace.records import (
    MOST_RECORDS,
    ExchangeRecord,
    Header,
    MacRecord,
    NoteRecord,
    ProbeOutcome,
    ProbeRecord,
    PushRecord,
    Record,
    TLSRecord,
    Trace,
)
from agent.errors import OperatorError
from agent.fleet.population import Mac
from agent.measure.exchanges import HTTPExchange
from agent.net.apns.connection import Router
from agent.net.http.http1 import without_query
from agent.push.broker import Answer, PushOutcome, Reply
from agent.push.reasons import PushRefused
from agent.push.requests import NOBODY, Provider, token_of

# Whose values are kept: a server may put a secret in any other.
_SHOWN_HEADERS = (
    *("accept", "allow", "cache-control", "connection", "content-encoding", "content-length", "content-type", "date"),
    *("expect", "host", "keep-alive", "retry-after", "server", "transfer-encoding", "upgrade", "user-agent", "vary"),
    "via",
)
_URL_HEADERS = ("content-location", "location")  # kept without a query
_MOST_HEADER = 500  # characters that are kept of a header


class Recorder:
    """``probe`` is the name of the probe that runs. ``on_record`` is called with each record."""

    def __init__(self, header: Header, clock: Callable[[], float] = time.time) -> None:
        self.trace = Trace(header)
        self.probe = ""
        self._clock = clock
        self._probes: dict[str, str] = {}  # of each Mac, by UDID
        self._tokens: dict[str, str] = {}  # by the fingerprint of a push token, the Mac that has sent it

    @property
    def last(self) -> int:
        """The number of the last record; 0 before the first."""
        return len(self.trace.records)

    def mac(self, mac: Mac, segment: int) -> None:
        """The running probe has a new Mac."""
        self._probes[mac.udid] = self.probe
        self._tokens[fingerprint(mac.push_token)] = mac.udid
        self._add(
            MacRecord(
                number=self.last + 1,
                probe=self.probe,
                udid=mac.udid,
                serial_number=mac.serial_number,
                os=mac.os_version,
                model=mac.model,
                roles=tuple(mac.roles),
                dns_name=mac.dns_name,
                segment=segment,
            )
        )

    def exchange(self, exchange: HTTPExchange) -> None:
        """An exchange of a Mac has ended. Pushes are recorded where the gateway gets them."""
        if exchange.kind == "push":
            return
        request = body_of(exchange.request)
        token = request.dictionary.get("Token") if exchange.kind == "raw" else None
        if isinstance(token, Redacted) and token.fingerprint:
            self._tokens.setdefault(token.fingerprint, exchange.udid)
        self._add(
            ExchangeRecord(
                number=self.last + 1,
                probe=self._probes.get(exchange.udid, self.probe),
                at=exchange.at,
                seconds=exchange.seconds,
                udid=exchange.udid,
                kind=exchange.kind,
                method=exchange.method,
                url=exchange.url,
                request_headers=_headers(exchange.request_headers),
                request=request,
                status=exchange.status,
                response_headers=_headers(exchange.response_headers),
                response=body_of(exchange.response),
                error=exchange.error[:1000],
                request_type=exchange.request_type,
                message_type=exchange.message_type,
                command_uuid=exchange.command_uuid,
                answer_status=exchange.answer_status,
                rules=exchange.rules,
            )
        )

    def note(self, step: str, *, udid: str = "", command_uuid: str = "", request_type: str = "", **data: Any) -> int:
        """The running probe did something; the number of the record."""
        self._add(
            NoteRecord(
                number=self.last + 1,
                probe=self.probe,
                at=self._clock(),
                step=step,
                udid=udid,
                command_uuid=command_uuid,
                request_type=request_type,
                data=data,
            )
        )
        return self.last

    def tls(self, udid: str, origin: str, says: str, offer: Offer, agreed: Agreed) -> None:
        """The running probe did a TLS handshake."""
        self._add(
            TLSRecord(
                number=self.last + 1,
                probe=self.probe,
                at=self._clock(),
                udid=udid,
                origin=origin,
                says=says,
                lowest=offer.lowest,
                highest=offer.highest,
                ciphers=offer.ciphers,
                version=agreed.version,
                cipher=agreed.cipher,
                extended_master_secret=agreed.extended_master_secret,
                chain=agreed.chain,
                error=agreed.error[:1000],
            )
        )

    def ended(self, outcome: ProbeOutcome, reason: str = "") -> None:
        """The running probe has ended."""
        self._add(ProbeRecord(number=self.last + 1, probe=self.probe, at=self._clock(), outcome=outcome, reason=reason))

    def push(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, outcome: PushOutcome) -> None:
        """The gateway decided on a push."""
        token, headers = token_of(fields), dict(fields)
        token_print = "" if token is None else fingerprint(token)
        udid = self._tokens.get(token_print, "")
        payload = _payload(body)
        magic = payload.get("mdm")
        answer = outcome if isinstance(outcome, Answer) else None
        self._add(
            PushRecord(
                number=self.last + 1,
                probe=self._probes.get(udid, self.probe),
                at=self._clock(),
                udid=udid,
                token=token_print,
                magic=fingerprint(magic.encode()) if isinstance(magic, str) else "",
                provider=provider.topic,
                topic=headers.get("apns-topic"),
                push_type=headers.get("apns-push-type"),
                expiration=headers.get("apns-expiration"),
                priority=headers.get("apns-priority"),
                apns_id=headers.get("apns-id"),
                keys=tuple(sorted(payload)),
                length=len(body),
                status=0 if answer is None else answer.status,
                reason="" if answer is None else str(_payload(answer.body).get("reason", "")),
            )
        )

    def _add(self, record: Record) -> None:
        if self.last >= MOST_RECORDS:
            raise OperatorError(f"Expected at most {MOST_RECORDS:,} records in a trace, found more. Run fewer probes.")
        self.trace.records.append(record)


class RecordingRouter:
    """The router of a gateway, with a record of each push."""

    def __init__(self, router: Router, recorder: Recorder) -> None:
        self._router = router
        self._recorder = recorder

    def route(self, fields: list[tuple[str, str]], body: bytes, provider: Provider, reply: Reply) -> None:
        """Have a push decided on, and record it with its answer."""

        def answered(outcome: PushOutcome) -> None:
            self._recorder.push(fields, body, provider, outcome)
            reply(outcome)

        self._router.route(fields, body, provider, answered)

    def refuse(self, fields: list[tuple[str, str]], refused: PushRefused) -> Answer:
        """The answer to a request that the gateway refuses itself; recorded where the provider is the cause."""
        answer = self._router.refuse(fields, refused)
        if refused.own is None:
            self._recorder.push(fields, b"", NOBODY, answer)
        return answer

    def turned_away(self) -> None:
        """The gateway closed a connection."""
        self._router.turned_away()


def _headers(headers: Any) -> dict[str, str]:
    return {name.lower(): _shown(name.lower(), value) for name, value in headers.items()}


def _shown(name: str, value: str) -> str:
    if name in _URL_HEADERS:
        return without_query(value)
    return value[:_MOST_HEADER] if name in _SHOWN_HEADERS else "***"


def _payload(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
