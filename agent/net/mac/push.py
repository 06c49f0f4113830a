"""A Mac's side of APNs: its presence, which pushes it accepts, and the time from a push to the Mac's first byte.

A Mac has no connection to APNs: the push endpoint of its process calls it, and the Mac calls back when it is online
again or has left.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.device.mac import Device
from agent.errors import CutShort, PeerError
from agent.measure.operations import Moment, Operation
from agent.net.mac.fleet.environment import Environment
from agent.push.broker import Presence
from agent.push.store import Notification

_MAX_PENDING = 100  # ours: pushes whose time is measured until the Mac's next request; older ones are cut short


def _ignore(_index: int) -> None:
    """For a fleet without pushes."""


class GatewaySide(msgspec.Struct):
    """What the Macs of a fleet call, with their index, when they are back or have left; set by the push endpoint."""

    on_back: Callable[[int], None] = _ignore
    on_left: Callable[[int], None] = _ignore

    @property
    def pushes(self) -> bool:
        """Whether there is a push endpoint."""
        return self.on_back is not _ignore


class PushListener:
    """The push state of one active Mac. ``enrolling`` and ``offline`` are set while the Mac enrolls or is offline."""

    __slots__ = ("_device", "_environment", "_gateway", "_pending", "enrolling", "offline")

    def __init__(self, device: Device, environment: Environment, gateway: GatewaySide) -> None:
        self._device = device
        self._environment = environment
        self._gateway = gateway
        self._pending: tuple[Operation, ...] = ()
        self.enrolling = False
        self.offline = False

    @property
    def quiet(self) -> bool:
        """Whether the Mac can become idle without losing anything."""
        return not self.enrolling and not self.offline and not self._pending

    @property
    def left_at(self) -> float | None:
        """When the Mac was unenrolled, in seconds since the epoch; None otherwise."""
        return self._device.left_at

    @property
    def presence(self) -> Presence:
        """Whether APNs can reach the Mac."""
        if self.enrolling or self._device.enrolling is not None:
            return Presence.OFFLINE  # also when it enrolls again: pushes are stored for the new enrollment
        if self._device.enrollment is not None:
            return Presence.ONLINE if self._device.running and not self.offline else Presence.OFFLINE
        return Presence.UNKNOWN if self.left_at is None else Presence.LEFT

    @property
    def topic(self) -> str:
        """The topic of its enrollment; empty where it has none."""
        enrollment = self._device.enrollment
        return "" if enrollment is None else enrollment.topic

    @property
    def sending(self) -> Callable[[], None] | None:
        """What to call when the Mac's next byte is sent to its server; None where no push is pending."""
        return self._sent if self._pending else None

    def take(self, notification: Notification) -> bool:
        """Whether a push is for this enrollment, by its topic and PushMagic. If so, its time is measured."""
        if notification.topic != self.topic or notification.push_magic != self._device.push_magic:
            return False
        environment = self._environment
        now, age = environment.now(), environment.wall_clock() - notification.received
        since = Moment(now.wall - age, now.ticks - age)
        push = environment.begin("push", self._device.mac.index, since, {"apns_id": notification.apns_id})
        pending = (*self._pending, push)
        self._pending = pending[-_MAX_PENDING:]
        for older in pending[:-_MAX_PENDING]:
            older.end(CutShort(f"more than {_MAX_PENDING} pushes were pending for the Mac"))
        return True

    def broke(self, error: PeerError) -> None:
        """The session for the pending pushes did not reach the server."""
        self._end(error)

    def forget(self, reason: str) -> None:
        """The Mac went down or left: the records of pending pushes are cut short."""
        self._end(CutShort(reason))

    def back(self) -> None:
        """The Mac is up again, or an enrollment failed: deliver the stored pushes."""
        if self.presence is Presence.ONLINE:
            self._gateway.on_back(self._device.mac.index)

    def enrolled(self) -> None:
        """The Mac has enrolled."""
        self._device.left_at = None
        self.back()

    def left(self) -> None:
        """The Mac was unenrolled: its token is not valid any more."""
        self.forget("the Mac was unenrolled")
        self._device.left_at = self._environment.wall_clock()
        self._gateway.on_left(self._device.mac.index)

    def _sent(self) -> None:
        self._end(None)

    def _end(self, error: PeerError | None) -> None:
        pending, self._pending = self._pending, ()
        for push in pending:
            push.end(error)
