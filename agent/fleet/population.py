"""The fleet: from a seed and a number of devices, any single Mac, computed on demand.

No derived value is stored, so a fleet of a million Macs takes no more memory than one of ten. A Mac depends on the
seed, its index and the segment size, not on the size of the fleet or on the process.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from agent.errors import OperatorError
from agent.fleet import derivation
from agent.fleet.chance import Chance
from agent.fleet.derivation import Derivation, uuid_text
from agent.fleet.models import USUAL_MIX, Mix, OSChoice, model_named, os_text
from agent.fleet.time_zones import RULES
from agent.lom.addresses import AddressError, link_local_from_mac, mac_from_link_local
from agent.pki.names import ascii_lower, ascii_upper

MAX_DEVICES = 10_000_000  # our limit; the number of unique values is far greater
USER_CHANNEL = 1 << 30  # is added to the index of a Mac for the number of its user channel; above MAX_DEVICES
DEFAULT_SEGMENT_SIZE = 10  # devices; our choice
DEFAULT_SEED = "lom-agent"  # our choice
SERIAL_CHARACTERS_A_MAC = 10  # of a serial number, after the model's prefix
DOMAIN = "lom.test"  # never resolved; .test is reserved (RFC 6761, 6.2)
LOM_PROTOCOL_VERSION = 2  # of our link, the highest; Apple's wire format is unpublished

# Disks of 256 GB, 512 GB, 1 TB and 2 TB as macOS reports their capacity; most Macs have one of the smaller ones.
_CAPACITIES = (245.11, 494.38, 494.38, 494.38, 994.66, 994.66, 1995.22)

_TIME_ZONES = tuple(RULES)

CONTROLLER = "controller"
DEVICE = "device"
ROLES = (CONTROLLER, DEVICE)


class NoSuchMacError(OperatorError, IndexError):
    """The fleet has no Mac, or no segment, with this number."""


@dataclass(frozen=True, slots=True)
class Mac:
    """The constant properties of one simulated Mac; ``agent.device`` has its state.

    Source: schema, LOMSetupRequest response and Authenticate.
    """

    index: int
    udid: str
    serial_number: str
    model: str
    """Model identifier, such as ``Mac16,10``."""
    model_name: str
    os_version: str
    build_version: str
    host_name: str
    dns_name: str
    """CommonName and dNSName of its LOM identities."""
    macs: tuple[str, ...]
    """MAC addresses of its LOM-capable Ethernet ports, primary first, in lower case with colons."""
    primary_ipv6: tuple[str, ...]
    """Link-local address of the primary port."""
    secondary_ipv6: tuple[str, ...]
    """Link-local address of the secondary port; empty if the Mac has one port."""
    lom_protocol_version: int
    segment: int
    """Number of its subnet."""
    roles: tuple[str, ...]
    """``"controller"`` and ``"device"``, or one of them, in this order."""
    source: Derivation = field(repr=False, compare=False)
    """Source of the properties that are derived on demand."""

    @property
    def device_name(self) -> str:
        """The computer's name; DeviceName in Authenticate."""
        return f"{self.model_name} {self.serial_number}"

    @property
    def push_token(self) -> bytes:
        """32 bytes, unique; Token in TokenUpdate."""
        return self.source.push_token(self.index)

    @property
    def push_magic(self) -> str:
        """An upper-case UUID; PushMagic in TokenUpdate."""
        return uuid_text(self.source.digest(b"push magic", self.index)[:16], 4)

    @property
    def user_id(self) -> str:
        """The GUID of the user who may be logged in; UserID on the user channel."""
        return uuid_text(self.source.digest(b"user id", self.index)[:16], 4)

    @property
    def user_push_token(self) -> bytes:
        """32 bytes, unique; Token in TokenUpdate of the user channel."""
        return self.source.push_token(USER_CHANNEL + self.index)

    @property
    def user_push_magic(self) -> str:
        """PushMagic in TokenUpdate of the user channel."""
        return uuid_text(self.source.digest(b"user push magic", self.index)[:16], 4)

    @property
    def bootstrap_token(self) -> bytes:
        """32 bytes; BootstrapToken in SetBootstrapToken."""
        return self.source.digest(b"bootstrap token", self.index)[:32]

    @property
    def provisioning_udid(self) -> str:
        """ProvisioningUDID: of a Mac with Apple silicon the numbers of its chip, otherwise the UDID."""
        chip = model_named(self.model).chip_id
        unique = int.from_bytes(self.source.digest(b"chip number", self.index)[:7], "big")
        return f"{chip:08X}-{unique:016X}" if chip else self.udid

    @property
    def capacity_gb(self) -> float:
        """The size of the disk as macOS reports it, in GB."""
        return _CAPACITIES[self.source.digest(b"capacity", self.index)[0] % len(_CAPACITIES)]

    @property
    def available_gb(self) -> float:
        """The free space of the disk in GB: 10 % to 90 % of its size."""
        share = 0.1 + 0.8 * int.from_bytes(self.source.digest(b"capacity", self.index)[1:5], "big") / (1 << 32)
        return round(self.capacity_gb * share, 2)

    @property
    def time_zone(self) -> str:
        """The IANA name of the time zone of its segment, which is at one place."""
        return _TIME_ZONES[self.source.digest(b"time zone", self.segment)[0] % len(_TIME_ZONES)]

    @property
    def wifi_mac(self) -> str:
        """The MAC address of the Wi-Fi interface; LOM does not use it."""
        return self.source.mac_address(self.index, derivation.WIFI)

    @property
    def bluetooth_mac(self) -> str:
        """The MAC address of the Bluetooth interface; LOM does not use it."""
        return self.source.mac_address(self.index, derivation.BLUETOOTH)

    @property
    def has_10gb(self) -> bool:
        """Whether it has the 10 Gb Ethernet port that LOM needs. Every simulated Mac has it."""
        return True

    @property
    def apple_silicon(self) -> bool:
        """Whether it has Apple silicon; false means Intel."""
        return model_named(self.model).chip == "apple-silicon"

    def with_release(self, os_version: str, build_version: str) -> Mac:
        """The same Mac with another release of macOS."""
        if (os_version, build_version) == (self.os_version, self.build_version):
            return self
        return replace(self, os_version=os_version, build_version=build_version)

    def as_json(self) -> dict[str, Any]:
        """The properties as a JSON object (lists instead of tuples), always in this order."""
        return {
            "index": self.index,
            "udid": self.udid,
            "serial_number": self.serial_number,
            "model": self.model,
            "model_name": self.model_name,
            "os_version": self.os_version,
            "build_version": self.build_version,
            "host_name": self.host_name,
            "dns_name": self.dns_name,
            "macs": list(self.macs),
            "primary_ipv6": list(self.primary_ipv6),
            "secondary_ipv6": list(self.secondary_ipv6),
            "lom_protocol_version": self.lom_protocol_version,
            "segment": self.segment,
            "roles": list(self.roles),
        }


class Population:
    """All Macs of a seed: ``population[index]``, ``len()``, iteration, and the segments.

    ``devices`` is 1 to 10,000,000. Every ``segment_size`` consecutive indexes are a segment (the last may be shorter).
    ``os`` and ``model`` restrict the macOS and the model of every Mac, as in `Mix`; all else stays the same. ``roles``
    are the LOM roles of every Mac; None: the first of a segment is Controller and Device, the others are Devices.
    Raises OperatorError for other numbers, versions, models and roles. Pickles as its arguments.
    """

    __slots__ = ("_mix", "_source", "devices", "model", "os", "roles", "seed", "segment_size")

    def __init__(
        self,
        seed: str,
        devices: int,
        segment_size: int = DEFAULT_SEGMENT_SIZE,
        *,
        os: OSChoice | None = None,
        model: str | None = None,
        roles: Collection[str] | None = None,
    ) -> None:
        if not isinstance(seed, str):
            raise OperatorError(f"Expected the seed as text, found {seed!r}. Put it in quotes.")
        self.seed = seed
        self.devices = _counted("the number of devices", devices, MAX_DEVICES)
        self.segment_size = _counted("the segment size", segment_size, MAX_DEVICES)
        self.os = os_text(os)
        self.model = model
        self.roles = None if roles is None else _roles(roles)
        self._mix = USUAL_MIX if os is None and model is None else Mix(self.os, model)
        self._source = Derivation(seed)

    def __reduce__(self) -> tuple[Callable[..., Population], tuple[Any, ...]]:
        return _population, (self.seed, self.devices, self.segment_size, self.os, self.model, self.roles)

    def __repr__(self) -> str:
        restricted = (("os", self.os), ("model", self.model), ("roles", self.roles))
        only = "".join(f", {name}={value!r}" for name, value in restricted if value)
        return f"Population({self.seed!r}, {self.devices}, {self.segment_size}{only})"

    def __len__(self) -> int:
        return self.devices

    def __iter__(self) -> Iterator[Mac]:
        return map(self.__getitem__, range(self.devices))

    def __getitem__(self, index: int) -> Mac:
        """Mac ``index`` (from 0) as a new object. Raises NoSuchMacError, also for negative indexes."""
        index = self._checked(index)
        source = self._source
        digest = source.digest(b"mac", index)
        model = self._mix.draw_model(int.from_bytes(digest[16:24], "little"))
        release = self._mix.draw_release(model, int.from_bytes(digest[24:32], "little"))
        serial_number = source.serial_number(index, model.serial_prefix)
        host_name = f"mac-{ascii_lower(serial_number)}"
        macs = tuple([source.mac_address(index, port) for port in range(model.lom_ports)])
        segment, place = divmod(index, self.segment_size)
        return Mac(
            index=index,
            udid=uuid_text(digest[:16], 5),
            serial_number=serial_number,
            model=model.identifier,
            model_name=model.name,
            os_version=release.version,
            build_version=release.build,
            host_name=host_name,
            dns_name=f"{host_name}.{DOMAIN}",
            macs=macs,
            primary_ipv6=(link_local_from_mac(macs[0]),),
            secondary_ipv6=tuple([link_local_from_mac(mac) for mac in macs[1:]]),
            lom_protocol_version=LOM_PROTOCOL_VERSION,
            segment=segment,
            roles=self.roles or ((DEVICE,) if place else ROLES),
            source=source,
        )

    def udid(self, index: int) -> str:
        """The UDID of Mac ``index``, without deriving the whole Mac. Raises NoSuchMacError."""
        return uuid_text(self._source.digest(b"mac", self._checked(index))[:16], 5)

    def index_of_address(self, address: str) -> int | None:
        """The index of the Mac with this link-local address (in the form of ``Mac``), or None."""
        try:
            index, port = self._source.port_index(mac_from_link_local(address))
        except AddressError:
            return None
        if index >= self.devices:
            return None
        mac = self[index]
        return index if (*mac.primary_ipv6, *mac.secondary_ipv6)[port : port + 1] == (address,) else None

    def index_of_name(self, dns_name: str) -> int | None:
        """The index of the Mac with this DNS name (in lower case), or None."""
        host = dns_name.removesuffix(f".{DOMAIN}")
        index = self._source.serial_index(ascii_upper(host[-SERIAL_CHARACTERS_A_MAC:]))
        return index if index is not None and index < self.devices and self[index].dns_name == dns_name else None

    def index_of_token(self, token: bytes) -> int | None:
        """The index of the Mac with this push token, on either channel; None for an unknown token."""
        number = self.channel_of_token(token)
        return None if number is None else number % USER_CHANNEL

    def channel_of_token(self, token: bytes) -> int | None:
        """The index of the Mac with this push token, plus USER_CHANNEL if it is that of the user channel; or None."""
        number = self._source.token_index(token, range(self.devices))
        if number is None:
            number = self._source.token_index(token, range(USER_CHANNEL, USER_CHANNEL + self.devices))
        return number

    def chance(self, purpose: bytes) -> Chance:
        """A sequence of random numbers for the whole fleet; ``purpose`` is at most 16 bytes."""
        return Chance(self._source, 0, purpose)

    @property
    def segments(self) -> int:
        """The number of segments."""
        return -(-self.devices // self.segment_size)

    def segment(self, number: int) -> range:
        """The indexes of segment ``number`` (from 0); without ``roles`` the first one is its Controller.

        Raises NoSuchMacError.
        """
        if not 0 <= number < self.segments:
            raise NoSuchMacError(f"Expected a segment from 0 to {self.segments - 1}, found {number}.")
        first = number * self.segment_size
        return range(first, min(first + self.segment_size, self.devices))

    def controller_of(self, index: int) -> int:
        """The index of the first Mac of Mac ``index``'s segment, without ``roles`` its Controller."""
        index = self._checked(index)
        return index - index % self.segment_size

    def _checked(self, index: int) -> int:
        number = operator.index(index)  # TypeError for a slice or a float, as for a list
        if not 0 <= number < self.devices:
            raise NoSuchMacError(f"Expected a Mac from 0 to {self.devices - 1}, found {number}.")
        return number


def _population(
    seed: str, devices: int, segment_size: int, os: str | None, model: str | None, roles: tuple[str, ...] | None
) -> Population:
    return Population(seed, devices, segment_size, os=os, model=model, roles=roles)


def _roles(roles: Collection[str]) -> tuple[str, ...]:
    if not roles or not set(roles) <= set(ROLES):
        raise OperatorError(f"Expected one or both of the roles {CONTROLLER} and {DEVICE}, found {list(roles)!r}.")
    return tuple(role for role in ROLES if role in roles)


def _counted(what: str, number: int, most: int) -> int:
    # bool is a subclass of int, but `devices = true` in a scenario is a mistake
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
        raise OperatorError(f"{what} must be a whole number from 1 to {most:,}, found {number!r}")
    return number
