"""One relayed item at the Controller: chooses the next address to try, and collects the outcome. No I/O.

Addresses are tried in the given order, the primary list first. After a failure before the request was sent (no
listener, wrong peer) the next address is tried; it may also be tried before that. A request that was sent may have been
carried out, so it is not sent to another address.
"""

from __future__ import annotations

from agent.errors import MisuseError, PeerError
from agent.lom.addresses import AddressError, check_link_local
from agent.lom.link import FIRST_VERSION, LinkAnswer, LinkRequest
from agent.lom.requests import RelayItem, RelayOutcome

_MAX_QUOTED = 400  # characters of one error, or of one address, that an outcome quotes


class Unreachable(PeerError):
    """No Device of the Controller's segment has this address."""

    kind = "lom_unreachable"


class DeviceRefused(PeerError):
    """The Device answered that it did not carry out the request."""

    kind = "lom_refused"


class Relay:
    """Tries the addresses of one item until it has an outcome. ``failure`` is the error that decided it, if any."""

    __slots__ = ("_errors", "_outcome", "_trying", "_waiting", "failure", "item")

    def __init__(self, item: RelayItem) -> None:
        self.item = item
        self.failure: PeerError | None = None
        self._outcome: RelayOutcome | None = None
        self._waiting = list(item.addresses)
        self._trying: set[str] = set()
        self._errors: list[tuple[str, str]] = []  # each with its address

    @property
    def outcome(self) -> RelayOutcome:
        """The outcome of the item, once it is decided or every address has failed."""
        if self._outcome is None:
            if self._waiting or self._trying:
                raise MisuseError("the outcome of this relay is not decided yet")
            self._outcome = self._failed()
        return self._outcome

    @property
    def decided(self) -> bool:
        """Whether there is an outcome."""
        return self._outcome is not None

    @property
    def request(self) -> LinkRequest:
        """The request to send to the Device."""
        version = FIRST_VERSION if self.item.version is None else self.item.version
        return LinkRequest(self.item.uuid, self.item.dns_name, self.item.request, version)

    @property
    def waiting(self) -> bool:
        """Whether an address is left to try."""
        return bool(self._waiting)

    def next_address(self) -> str | None:
        """The next address to try, or None if none is left or there is an outcome."""
        while self._waiting and self._outcome is None:
            address = self._waiting.pop(0)
            try:
                checked = str(check_link_local(address))
            except AddressError as error:
                self.not_sent(address, error)
            else:
                self._trying.add(checked)
                return checked
        return None

    def not_sent(self, address: str, error: PeerError) -> None:
        """Record that ``address`` failed before the request was sent."""
        self.failure = error
        self._trying.discard(address)
        self._errors.append((address, _told(address, error)))

    def sent_and_failed(self, address: str, error: PeerError) -> None:
        """Record that the request was sent to ``address`` and no valid answer arrived. This is final."""
        self.failure = error
        self._errors.append((address, _told(address, error)))
        self._outcome = self._failed()

    def answered(self, answer: LinkAnswer) -> None:
        """Record the Device's answer. This is final."""
        if answer.error:
            self.failure = DeviceRefused(answer.error)
        else:
            self.failure = None
        self._outcome = RelayOutcome(self.item.uuid, answer.error)

    def _failed(self) -> RelayOutcome:
        order = {address: number for number, address in reversed(list(enumerate(self.item.addresses)))}
        told = sorted(self._errors, key=lambda each: order.get(each[0], len(order)))  # those tried at once, in order
        return RelayOutcome(self.item.uuid, "; ".join(text for _address, text in told) or "no address was given")


def _told(address: str, error: PeerError) -> str:
    """One address and its error. Characters that a plist cannot hold (from names in certificates) are replaced."""
    return f"{_printable(address)}: {_printable(str(error))}"


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:_MAX_QUOTED]
    )
