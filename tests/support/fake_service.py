"""A service of some Macs without a fleet, for tests of what stands before it: the control API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred, succeed

from agent import __version__
from agent.errors import PeerError
from agent.faults.decisions import Faults
from agent.faults.rules import Rule
from agent.measure.live import LiveView
from agent.service.errors import Conflict, NoSuchMac
from agent.service.events import EventLog
from agent.service.types import (
    AddMacs,
    Answer,
    ClockState,
    Enroll,
    Exchange,
    Mac,
    MacDetail,
    Results,
    ServiceInfo,
    WaitState,
)

REFUSED = "https://refused.example/enroll"


@dataclass(eq=False)
class Handle:
    """One Mac."""

    mac: Mac
    changes: list[Any] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Its number."""
        return self.mac.number


class FakeService:
    """Macs that change at once on each request. ``enrolling`` has the Deferred that each enrollment waits for."""

    def __init__(self, macs: int = 3) -> None:
        self._numbers = count()
        self._handles: list[Handle] = []
        self.events = EventLog(lambda: 1000.0, limit=100)
        self.faults = Faults()
        self.actions = self
        self.enrolling: list[Deferred[None]] = []
        self.advanced = 0.0
        self.seed = "seed"
        self.add(AddMacs(count=macs)) if macs else None

    def info(self) -> ServiceInfo:
        return ServiceInfo(
            version=__version__, seed=self.seed, macs=len(self._handles), enrolled=0, rules=len(self.faults),
            last_event=self.events.last, clock="manual", lab=None, apns=None, state_file=None, pid=1,
        )  # fmt: skip

    def find(self, text: str) -> Handle:
        for handle in self._handles:
            if text in (handle.mac.udid, handle.mac.serial_number, str(handle.mac.number)):
                return handle
        raise NoSuchMac(f"Expected the UDID, serial number or number of a Mac, found {text!r}.")

    def macs(self) -> Iterator[Handle]:
        return iter(self._handles)

    def view(self, handle: Handle) -> Mac:
        return handle.mac

    def detail(self, handle: Handle) -> MacDetail:
        return MacDetail(
            **structs.asdict(handle.mac), dns_name="", lom_addresses=[], build_version="25E1", topic="", profiles=[],
            pending=None, last_error="", exchanges=[],
        )  # fmt: skip

    def add(self, what: AddMacs) -> list[Handle]:
        added = []
        for index in range(what.count):
            number = next(self._numbers)
            mac = Mac(
                number=number, udid=f"UDID-{number}", serial_number=f"SERIAL{number}", name=f"Mac {number}",
                model=what.model or "Mac16,10", os_version=what.os or ("26.4", "27.0")[number % 2],
                segment=number // (what.segment_size or 2), roles=["controller"] if index == 0 else ["device"],
                state="new", power="on", enrolled=False, connected=False, online=True, lom=False, boots=1,
            )  # fmt: skip
            added.append(Handle(mac))
            self.events.add("added", f"Mac {number} was added.", udid=mac.udid)
        self._handles += added
        return added

    def remove(self, handle: Handle) -> None:
        self._handles.remove(handle)

    def remove_all(self) -> None:
        self._handles.clear()

    async def enroll(self, handle: Handle, how: Enroll) -> None:
        self.enrolling.append(Deferred())
        if how.url == "slow":
            await self.enrolling[-1]
        if how.url == REFUSED:
            raise PeerError("Expected HTTP status 200, found 403. Check the URL.")
        self._change(handle, enrolled=True, state="idle")
        self.events.add("enrolled", "It enrolled.", udid=handle.mac.udid)

    def unenroll(self, handle: Handle) -> None:
        self._change(handle, enrolled=False, state="left")

    def connect(self, handle: Handle) -> None:
        if not handle.mac.enrolled:
            raise Conflict("Expected an enrolled Mac, found one that is not. Enroll it.")
        self._change(handle, connected=True)

    def power(self, handle: Handle, action: str) -> None:
        self._change(
            handle, power={"pull_the_plug": "off", "cut_mains": "no_mains", "restore_mains": "off"}.get(action, action)
        )

    def set_online(self, handle: Handle, online: bool) -> None:
        self._change(handle, online=online)

    def reset_mac(self, handle: Handle) -> None:
        self._change(handle, enrolled=False, state="new", power="on")

    def answers(self, handle: Handle, command_uuid: str | None, limit: int) -> list[Answer]:
        found = [
            Answer(number=number, at=1.0, udid=handle.mac.udid, command_uuid=str(number), request_type="ProfileList",
                   status="Acknowledged")
            for number in range(200)
        ]  # fmt: skip
        return [each for each in found if command_uuid in (None, each.command_uuid)][-limit:] if limit else []

    def lom_profile(self, handle: Handle) -> bytes:
        return b"<plist/>"

    def segment(self, number: int) -> list[Handle]:
        return [handle for handle in self._handles if handle.mac.segment == number]

    def add_rule(self, rule: Rule) -> Rule:
        return self.faults.add(rule, 0.0)

    def exchanges(self, handle: Handle | None, kind: str | None, text: str | None, after: int, limit: int) -> Any:
        udid = "" if handle is None else handle.mac.udid
        found = [
            Exchange(number=number, at=1.0, seconds=0.1, udid=udid, kind=kind or "report", method="PUT",
                     url="https://mdm.example/", error=text or "")
            for number in range(after + 1, 20)
        ]  # fmt: skip
        return found[-limit:] if limit else []

    def clear_exchanges(self, handle: Handle | None) -> None:
        if handle is not None:
            handle.changes.append("cleared")

    def wait_state(self, handle: Handle, wait: WaitState) -> Deferred[Mac]:
        return succeed(handle.mac) if wait.power == handle.mac.power else Deferred()

    def results(self) -> Results:
        return Results(seconds=1.0, operations={}, errors=[], cut_short=[])

    def clock_state(self) -> ClockState:
        return ClockState(kind="manual", seconds=self.advanced, pending=0, next=None)

    def advance(self, seconds: float) -> ClockState:
        self.advanced += seconds
        return self.clock_state()

    def reset(self, seed: str | None = None) -> None:
        self.seed = seed or "seed"
        self.faults.clear()
        self.events.clear()
        self.events.add("reset", "Everything was reset.")

    def live(self) -> LiveView:
        return LiveView(12.5, macs={"idle": len(self._handles)})

    def _change(self, handle: Handle, **values: Any) -> None:
        handle.mac = structs.replace(handle.mac, **values)
        handle.changes.append(values)
