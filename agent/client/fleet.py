"""A fleet of Macs in a service: started as a process of this one, or connected to."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any, Self, TypedDict, Unpack

from agent.client.connection import WORK_SECONDS, Connection, path
from agent.client.devices import Device, Segment
from agent.client.errors import ClientError, WaitTimedOut
from agent.client.http import load
from agent.client.lab import Lab
from agent.client.process import READY_SECONDS, ServiceProcess
from agent.client.rules import ActiveRule, On, add_rule
from agent.client.start import Start, arguments_of
from agent.client.text import event_text, exchange_text, rule_text
from agent.faults.decisions import RuleCounts
from agent.faults.rules import Rule
from agent.fleet.models import OSChoice, os_text
from agent.service.types import (
    AddMacs,
    AdvanceClock,
    APNsInfo,
    ClockState,
    Event,
    EventKind,
    Exchange,
    Mac,
    MacDetail,
    MacState,
    Reset,
    Results,
    Role,
    ServiceInfo,
    Wait,
)

_MACS_A_PAGE = 10_000  # the most that one answer has


class MacFilter(TypedDict, total=False):
    """The properties by which ``Fleet.select`` finds Macs."""

    state: MacState
    segment: int
    role: Role
    os: str
    """A release, or a major version, of macOS."""
    enrolled: bool
    text: str
    """A text in the UDID, serial number, name or model."""


class Fleet:
    """The Macs of a service. A context manager: at its end a service that ``start`` started is ended.

    Its methods block until the service has answered. Where the server under test runs in this thread's event loop,
    call them in another thread: ``await asyncio.to_thread(mac.enroll, url)``.
    """

    def __init__(
        self, connection: Connection, process: ServiceProcess | None = None, apns: APNsInfo | None = None
    ) -> None:
        self._connection = connection
        self._process = process
        self._lab: Lab | None = None
        self._lab_lock = Lock()  # two threads may ask for it at a time
        self.apns = apns
        """The gateway that a server under test has to push to, or None."""

    @classmethod
    def start(cls, *, timeout: float = READY_SECONDS, **options: Unpack[Start]) -> Fleet:
        """Start a service with these options, which are the keys of ``Start``. Raises ServiceNotStarted."""
        process = ServiceProcess(arguments_of(options))
        try:
            load()
            ready = process.wait_until_ready(timeout)
            connection = Connection(ready.control, ready.token)
        except BaseException:
            process.stop()
            raise
        return cls(connection, process, ready.apns)

    @classmethod
    def connect(cls, url: str, token: str) -> Fleet:
        """The fleet of a service that runs already, at the URL of its control API."""
        connection = Connection(url, token)
        try:
            return cls(connection, None, connection.get("/v1", ServiceInfo).apns)
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        ended = "" if self.running else ", ended"
        return f"<Fleet at {self._connection.url}{ended}>"

    def __iter__(self) -> Iterator[Device]:
        return iter(self.macs)

    def __len__(self) -> int:
        return self.info.macs

    def __getitem__(self, number: int) -> Device:
        return self.macs[number]

    def close(self) -> None:
        """End the service, if ``start`` started it, and close the connections."""
        with self._lab_lock:
            lab, self._lab = self._lab, None
        if lab is not None:
            lab.close()
        self._connection.close()
        if self._process is not None:
            self._process.stop()

    @property
    def running(self) -> bool:
        """Whether the service that ``start`` started still runs; True for one that this program did not start."""
        return self._process is None or self._process.running

    @property
    def service_output(self) -> str:
        """The end of what the service printed, if ``start`` started it."""
        return "" if self._process is None else self._process.output

    @property
    def why_ended(self) -> str:
        """How the service that ``start`` started ended, with its last output; empty while it runs."""
        if self._process is None or self._process.running:
            return ""
        return f"The service ended with status {self._process.status}. It printed:\n{self.service_output}"

    @property
    def info(self) -> ServiceInfo:
        """The service: version, seed, counts."""
        return self._connection.get("/v1", ServiceInfo)

    @property
    def lab(self) -> Lab:
        """The lab beside the fleet. Raises ClientError where the service has none."""
        with self._lab_lock:
            if self._lab is None:
                info = self.info.lab
                if info is None:
                    raise ClientError(
                        "Expected a service with a lab, found none. Start it with lab=True, or `serve --lab`."
                    )
                self._lab = Lab(info, self._connection)
            return self._lab

    # Macs.

    @property
    def macs(self) -> list[Device]:
        """All Macs, by number."""
        return self.select()

    def select(self, **wanted: Unpack[MacFilter]) -> list[Device]:
        """The Macs that have all of these properties, by number."""
        found: list[Device] = []
        while True:
            after = found[-1].number if found else -1
            page = self._connection.get(path("macs"), list[Mac], after=after, limit=_MACS_A_PAGE, **wanted)
            found += [Device(self._connection, mac) for mac in page]
            if len(page) < _MACS_A_PAGE:
                return found

    def find(self, mac: str | int) -> Device:
        """The Mac with this UDID, serial number or number. Raises NotFound."""
        return Device(self._connection, self._connection.get(path("macs", mac), MacDetail))

    @property
    def segments(self) -> list[Segment]:
        """The segments, by number."""
        found: dict[int, list[Device]] = {}
        for mac in self.macs:
            found.setdefault(mac.segment, []).append(mac)
        return [Segment(self._connection, macs) for _, macs in sorted(found.items())]

    def remove_macs(self) -> None:
        """Remove every Mac, without a CheckOut."""
        self._connection.delete(path("macs"), work=WORK_SECONDS)

    def mac(
        self, *, os: OSChoice | None = None, model: str | None = None, seed: str | None = None,
        roles: list[Role] | None = None,
    ) -> Device:  # fmt: skip
        """Add one Mac, in a segment of its own; None: a LOM Controller and Device."""
        return self._add(AddMacs(count=1, os=os_text(os), model=model, seed=seed, roles=roles))[0]

    def add(
        self, count: int, *, segment_size: int | None = None, os: OSChoice | None = None, model: str | None = None,
        seed: str | None = None, roles: list[Role] | None = None,
    ) -> list[Device]:  # fmt: skip
        """Add Macs, in segments of this size (None: one segment), with these LOM roles (None: as in ``segment``)."""
        wanted = AddMacs(count=count, segment_size=segment_size, os=os_text(os), model=model, seed=seed, roles=roles)
        return self._add(wanted)

    def segment(
        self, devices: int = 1, *, os: OSChoice | None = None, model: str | None = None, seed: str | None = None
    ) -> Segment:
        """Add a segment: a LOM Controller, and this many Devices beside it."""
        return Segment(self._connection, self._add(AddMacs(count=devices + 1, os=os_text(os), model=model, seed=seed)))

    # Rules.

    @property
    def rules(self) -> list[RuleCounts]:
        """The rules, with their matches and hits."""
        return self._connection.get(path("rules"), list[RuleCounts])

    def rule(self, rule: Rule) -> ActiveRule:
        """Add a rule."""
        return add_rule(self._connection, rule)

    def on(self, operation: str, kind: str | None = None, **selector: Any) -> On:
        """An operation of all Macs, or of those that these fields of Rule select, to add a rule."""
        return On(self._connection, operation, kind, selector)

    def clear_rules(self) -> None:
        """Remove every rule."""
        self._connection.delete(path("rules"))

    # What happened.

    def wait(self, **wanted: Any) -> Event:
        """Wait for an event; ``wanted`` are the fields of Wait. Raises WaitTimedOut."""
        return self._connection.post(path("wait"), Event, Wait(**wanted))

    def exchanges(self, *, text: str | None = None, kind: str | None = None, limit: int = 100) -> list[Exchange]:
        """The last exchanges of all Macs, oldest first."""
        return self._connection.get(path("exchanges"), list[Exchange], text=text, kind=kind, limit=limit)

    def clear_exchanges(self) -> None:
        """Forget the exchanges."""
        self._connection.delete(path("exchanges"))

    def events(self, after: int = 0, **wanted: Any) -> list[Event]:
        """The events after this number, so far; ``wanted`` are fields of Wait."""
        found: list[Event] = []
        while True:
            event = self._next(after, wanted)
            if event is None:
                return found
            found.append(event)
            after = event.number

    def _next(self, after: int, wanted: dict[str, Any]) -> Event | None:
        try:
            return self.wait(after=after, timeout=0.0, **wanted)
        except WaitTimedOut:
            return None

    def follow(self, *, after: int | None = None, kind: EventKind | None = None) -> Iterator[Event]:
        """The events as they happen, without an end: from now on, or from this number on."""
        after = self.info.last_event if after is None else after  # the request is sent when the first one is asked for
        return self._connection.events(path("events"), after=after, kind=kind)

    @property
    def metrics(self) -> str:
        """The metrics in Prometheus' text format."""
        return self._connection.content("/metrics").decode("utf-8")

    @property
    def results(self) -> Results:
        """The operations since the start or the last reset."""
        return self._connection.get(path("results"), Results)

    def assert_no_protocol_errors(self) -> None:
        """Raise AssertionError if the server broke the protocol towards any Mac, with the exchanges that show it."""
        count = self.info.protocol_errors
        if count:
            errors = self.events(kind="protocol_error")
            kept = "" if len(errors) == count else f", of which {len(errors)} are still kept"
            lines = [f"Expected no protocol errors, found {count:,}{kept}:", *(event_text(event) for event in errors)]
            for udid in dict.fromkeys(event.udid for event in errors):
                lines += [f"The last exchanges of {udid}:"]
                last = self._connection.get(path("exchanges"), list[Exchange], mac=udid, limit=4)
                lines += [exchange_text(one, "  ") for one in last]
            raise AssertionError("\n".join(lines))

    def report(self, exchanges: int = 10) -> str:
        """The seed, the Macs with their last exchanges, and the rules with their hits, as text."""
        info = self.info
        lines = [f"seed: {info.seed}"]
        lines += [rule_text(counts) for counts in self.rules]
        for device in self.macs[:10]:
            lines += [repr(device), *(exchange_text(one, "  ") for one in device.exchanges(limit=exchanges))]
        if info.macs > 10:
            lines.append(f"… and {info.macs - 10} more Macs")
        return "\n".join(lines)

    # Clock and reset.

    @property
    def clock(self) -> ClockState:
        """The clock of the Macs."""
        return self._connection.get(path("clock"), ClockState)

    def advance(self, seconds: float) -> ClockState:
        """Move the manual clock; what is due happens in order."""
        return self._connection.post(path("clock"), ClockState, AdvanceClock(advance=seconds), work=WORK_SECONDS)

    def reset(self, seed: str | None = None) -> None:
        """Put everything back into the state after the start. ``seed``: that of the Macs to come; None: the start's."""
        self._connection.post(path("reset"), ServiceInfo, Reset(seed=seed), work=WORK_SECONDS)

    def _add(self, wanted: AddMacs) -> list[Device]:
        macs = self._connection.post(path("macs"), list[Mac], wanted, work=WORK_SECONDS)
        return [Device(self._connection, mac) for mac in macs]
