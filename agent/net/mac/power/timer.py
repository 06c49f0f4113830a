"""One Mac's power in real time, and its presence on the LOM network, which depends on its power and its LOM profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.device.mac import Device
from agent.lom.endpoint import Endpoint, LOMConfiguration
from agent.lom.power import AnyRequest, PowerEvent, PowerMachine, RequestRefused
from agent.net.lom.networks import LOMNetwork
from agent.net.timing import Alarm, Clock


class LOMPresence:
    """Tells the LOM network when the Mac's LOM configuration changes. ``endpoint`` is the Mac in that network."""

    __slots__ = ("_device", "_endpoint", "_network", "_seen")

    def __init__(self, device: Device, network: LOMNetwork, endpoint: Endpoint) -> None:
        self._device = device
        self._network = network
        self._endpoint = endpoint
        self._seen: LOMConfiguration | None = device.lom

    def update(self) -> None:
        """Call after anything that may change the configuration.

        Without a LOM payload, or without mains power, the network closes the endpoint and its open links at once.
        """
        if self._device.lom is not self._seen:
            self._seen = self._device.lom
            self._network.lom_changed(self._endpoint)


class PowerTimer:
    """Drives a PowerMachine with the clock. ``happened`` is called with each power event, in order.

    The owner of ``alarm`` calls ``advance`` when it goes off: at the end of a boot or a shutdown.
    """

    __slots__ = ("_alarm", "_clock", "_happened", "_machine")

    def __init__(
        self, machine: PowerMachine, clock: Clock, happened: Callable[[PowerEvent], object], alarm: Alarm
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._happened = happened
        self._alarm = alarm

    def request(self, request: AnyRequest) -> None:
        """Apply a request of the Mac itself. One that is not valid in its state has no effect."""
        try:
            self.press(request)
        except RequestRefused:
            return

    def press(self, request: AnyRequest) -> None:
        """Apply a request. Raises RequestRefused for one that is not valid in the state of the Mac."""
        self.apply(self._machine.receive(request, self._clock.seconds()))

    def cut_mains(self) -> None:
        """The mains power is cut."""
        self.apply(self._machine.cut_mains(self._clock.seconds()))

    def restore_mains(self, *, boot: bool) -> None:
        """The mains power is back; with ``boot`` the Mac boots if it ran before."""
        self.apply(self._machine.restore_mains(self._clock.seconds(), boot=boot))

    def apply(self, events: Sequence[PowerEvent]) -> None:
        """Set the alarm for the machine's new deadline, and report these events of it."""
        self._alarm.set_at(self._machine.deadline)
        for event in events:
            self._happened(event)

    def advance(self) -> None:
        """The machine's deadline has come."""
        # The clock may be slightly behind the alarm; without max() the Mac would boot for ever.
        self.apply(self._machine.advance(max(self._clock.seconds(), self._machine.deadline or 0.0)))

    def stop(self) -> None:
        """Cancel the alarm: a boot or shutdown in progress never ends."""
        self._alarm.cancel()
