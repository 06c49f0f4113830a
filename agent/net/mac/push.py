"""A Mac's side of APNs: how it stands, which pushes are its own, and how long each took to its first byte.

There is no connection: the gateway is in the same process and calls the Mac; the Mac tells the gateway when it is back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.device.mac import Device
from agent.errors import CutShort, PeerError
from agent.measure.operations import Operation
from agent.net.mac.environment import Environment, Moment
from agent.push.broker import Presence
from agent.push.store import Notification

_MAX_PENDING = 100  # pushes that wait for the Mac's next word; a server that sends more gets no times for them


def _nobody(_index: int) -> None:
    """No gateway."""


@dataclass(slots=True)
class GatewaySide:
    """Whom the Macs of a fleet tell that one of them, by its index, is back or has left."""

    on_back: Callable[[int], None] = _nobody
    on_left: Callable[[int], None] = _nobody


class PushListener:
    """One Mac's side, while the Mac is awake."""

    __slots__ = ("_device", "_environment", "_gateway", "_pending", "enrolling")

    def __init__(self, device: Device, environment: Environment, gateway: GatewaySide) -> None:
        self._device = device
        self._environment = environment
        self._gateway = gateway
        self._pending: tuple[Operation, ...] = ()
        self.enrolling = False

    @property
    def quiet(self) -> bool:
        """Whether nothing is lost if it is forgotten."""
        return not self.enrolling and not self._pending

    @property
    def left_at(self) -> float | None:
        """When the Mac left its management, in seconds since the epoch; None while managed."""
        return self._device.left_at

    @property
    def presence(self) -> Presence:
        """How the Mac stands to APNs."""
        if self.enrolling:
            return Presence.OFFLINE  # also anew: what comes meanwhile waits for the new enrolment
        if self._device.enrolment is not None:
            return Presence.ONLINE if self._device.running else Presence.OFFLINE
        return Presence.UNKNOWN if self.left_at is None else Presence.LEFT

    @property
    def topic(self) -> str:
        """The topic that it listens to, empty between two enrolments."""
        enrolment = self._device.enrolment
        return "" if enrolment is None else enrolment.topic

    @property
    def sending(self) -> Callable[[], None] | None:
        """What to call when the Mac's next byte goes to its server; None where no push waits for that."""
        return self._sent if self._pending else None

    def take(self, notification: Notification) -> bool:
        """Whether a push is for this enrolment: its topic, its PushMagic."""
        if notification.topic != self.topic or notification.push_magic != self._device.mac.push_magic:
            return False
        environment = self._environment
        now = environment.now()
        since = Moment(notification.received, now.ticks - (now.wall - notification.received))
        push = environment.begin("push", self._device.mac.index, since, {"apns_id": notification.apns_id})
        pending = (*self._pending, push)
        self._pending = pending[-_MAX_PENDING:]
        for older in pending[:-_MAX_PENDING]:
            older.end(CutShort(f"more than {_MAX_PENDING} pushes waited for the Mac's next word"))
        return True

    def broke(self, error: PeerError) -> None:
        """The session that the pushes set off did not reach the server."""
        self._end(error)

    def forget(self, reason: str) -> None:
        """The Mac went down, or left: what waits for its next word waits no longer, and nobody has failed."""
        self._end(CutShort(reason))

    def back(self) -> None:
        """The Mac is up, or managed as before after an enrolment that failed: it gets what waits at APNs."""
        if self.presence is Presence.ONLINE:
            self._gateway.on_back(self._device.mac.index)

    def enrolled(self) -> None:
        """The Mac is managed, maybe again."""
        self._device.left_at = None
        self.back()

    def left(self) -> None:
        """The Mac left its management: its token is good for nothing."""
        self.forget("the Mac left its management")
        self._device.left_at = self._environment.wall_clock()
        self._gateway.on_left(self._device.mac.index)

    def _sent(self) -> None:
        self._end(None)

    def _end(self, error: PeerError | None) -> None:
        pending, self._pending = self._pending, ()
        for push in pending:
            push.end(error)
