"""One Mac's power on the reactor's clock: a timer for the end of a boot or shutdown, armed anew after every change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.device.mac import Device
from agent.lom.endpoint import Endpoint, LOMConfiguration
from agent.lom.power import AnyRequest, PowerEvent, PowerMachine, RequestRefused
from agent.net.lom.networks import LOMNetwork
from agent.net.timing import Clock, DelayedCall


class LOMPresence:
    """``endpoint`` is the Mac as the network knows it."""

    __slots__ = ("_device", "_endpoint", "_network", "_seen")

    def __init__(self, device: Device, network: LOMNetwork, endpoint: Endpoint) -> None:
        self._device = device
        self._network = network
        self._endpoint = endpoint
        self._seen: LOMConfiguration | None = device.lom

    def look(self) -> None:
        """Something was done that may have changed it. An endpoint whose payload is gone, or whose mains power, is
        closed at once, links that are open too.
        """
        if self._device.lom is not self._seen:
            self._seen = self._device.lom
            self._network.lom_changed(self._endpoint)


class PowerTimer:
    """Tells ``happened`` of each event of the machine, in order, also of those that time alone brings."""

    __slots__ = ("_clock", "_happened", "_machine", "_timer")

    def __init__(self, machine: PowerMachine, clock: Clock, happened: Callable[[PowerEvent], object]) -> None:
        self._machine = machine
        self._clock = clock
        self._happened = happened
        self._timer: DelayedCall | None = None

    def request(self, request: AnyRequest) -> None:
        """Apply a request of the Mac itself; one that makes no sense in its state has no effect."""
        try:
            events = self._machine.receive(request, self._clock.seconds())
        except RequestRefused:
            return
        self.apply(events)

    def cut_mains(self) -> None:
        """The mains power goes."""
        self.apply(self._machine.cut_mains(self._clock.seconds()))

    def restore_mains(self) -> None:
        """The mains power is back."""
        self.apply(self._machine.restore_mains(self._clock.seconds()))

    def apply(self, events: Sequence[PowerEvent]) -> None:
        """These events came of a request."""
        self.stop()
        if self._machine.deadline is not None:
            delay = max(0.0, self._machine.deadline - self._clock.seconds())
            self._timer = self._clock.callLater(delay, self._advance)
        for event in events:
            self._happened(event)

    def stop(self) -> None:
        """The end of the run: whatever is under way never ends."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _advance(self) -> None:
        # A clock that is a hair behind the timer must not leave the Mac booting for ever.
        self.apply(self._machine.advance(max(self._clock.seconds(), self._machine.deadline or 0.0)))
