"""One request at the Controller: which address next, and what to say when none is left. No I/O.

Addresses are tried as given, the primary list's first. A failure before the request was sent (nobody there, the wrong
peer) leads to the next address. Once it was sent it may have been carried out, so it is not sent again.
"""

from __future__ import annotations

from agent.errors import MisuseError, PeerError
from agent.lom.addresses import AddressError, check_link_local
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.requests import PROTOCOL_VERSION, Outcome, RelayItem

_SHOWN = 400  # characters of one error, or of one address, that an outcome repeats


class Unreachable(PeerError):
    """No Device of the Controller's segment answers at this address."""

    kind = "lom_unreachable"


class DeviceRefused(PeerError):
    """The Device answered that it did not do what was asked."""

    kind = "lom_refused"


class Relay:
    """The way of one item through its addresses to its outcome. ``failure`` is the error that decided it, if any."""

    __slots__ = ("_errors", "_outcome", "_waiting", "failure", "item")

    def __init__(self, item: RelayItem) -> None:
        self.item = item
        self.failure: PeerError | None = None
        self._outcome: Outcome | None = None
        self._waiting = list(item.addresses)
        self._errors: list[str] = []

    @property
    def outcome(self) -> Outcome:
        """What became of the item, once ``next_address`` has returned None."""
        if self._outcome is None:
            raise MisuseError("this relay is not at its end")
        return self._outcome

    @property
    def decided(self) -> bool:
        """Whether there is an outcome."""
        return self._outcome is not None

    @property
    def request(self) -> LinkRequest:
        """What to ask the Device."""
        version = PROTOCOL_VERSION if self.item.version is None else self.item.version
        return LinkRequest(self.item.uuid, self.item.dns_name, self.item.request, version)

    def next_address(self) -> str | None:
        """The address to try now, or None when there is an outcome."""
        while self._outcome is None:
            if not self._waiting:
                self._outcome = self._failed()
                break
            address = self._waiting.pop(0)
            try:
                return str(check_link_local(address))
            except AddressError as error:
                self.not_sent(address, error)
        return None

    def not_sent(self, address: str, error: PeerError) -> None:
        """``address`` failed before the request was sent."""
        self.failure = error
        self._errors.append(_told(address, error))

    def sent_and_failed(self, address: str, error: PeerError) -> None:
        """The request went to ``address``, but no good answer came: this is final."""
        self.failure = error
        self._errors.append(_told(address, error))
        self._outcome = self._failed()

    def answered(self, answer: LinkAnswer) -> None:
        """The Device answered: this is final."""
        if answer.error:
            self.failure = DeviceRefused(answer.error)
        else:
            self.failure = None
        self._outcome = Outcome(self.item.uuid, answer.error)

    def _failed(self) -> Outcome:
        return Outcome(self.item.uuid, "; ".join(self._errors) or "no address was given")


def _told(address: str, error: PeerError) -> str:
    """One address and what went wrong there. A certificate's names may hold what no plist can: it is replaced."""
    return f"{_printable(address)}: {_printable(str(error))}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:_SHOWN])
