"""Whether a Mac is there on its LOM network: the network hears when that, or as what, changes."""

from __future__ import annotations

from agent.device.mac import Device
from agent.lom.network import Endpoint, LOMConfiguration
from agent.net.lom_networks import LOMNetwork


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
