"""The store of idle Macs: serialises a Device to some hundred bytes, and restores it.

An idle Device is serialised with pickle, without objects that the seed or the process provides, and compressed with the
serialised form of another Device as the dictionary: two Macs of a fleet differ in little more than keys and
identifiers. The bytes never leave the process.
"""

from __future__ import annotations

import pickle
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.device.mac import Device
from agent.errors import MisuseError
from agent.fleet.derivation import Derivation
from agent.fleet.population import Mac
from agent.pki.certificates import own_certificate, read_certificate
from agent.pki.identity import Identity
from agent.pki.rsa_prime import key_of, prime_of

_PROTOCOL = 5
_LEVEL = 6
_RAW_DEFLATE = -15  # the largest window, and neither header nor checksum
_MAX_DICTIONARIES = 32  # about 300 KiB each, most of it the compressor that has read it
_PART_BYTES = 512 - sys.getsizeof(b"")  # Python's own allocator has objects of up to 512 bytes
_POOR_RATIO = 0.4  # a Device that compresses to more than this becomes a new dictionary

Kept = tuple[bytes, ...]
"""A serialised Device, in parts that Python's own allocator keeps: one of a KiB would be in the C library's heap, among
what closed connections have freed there, and its page could not be given back. Empty for a Device that was not used."""


class IdleStore:
    """Serialises and restores Devices. ``make`` creates the Device of an index in its factory state.

    ``shared`` are the objects that all Devices refer to: a clock, choices, limits. ``active`` has the index of every
    Device that was restored, the least recently used first; the caller of ``serialise`` removes its index.
    """

    def __init__(self, make: Callable[[int], Device], shared: Iterable[object] = ()) -> None:
        self.active: OrderedDict[int, None] = OrderedDict()
        self._make = make
        self._shared = list(shared)
        self._number_of = {id(one): number for number, one in enumerate(self._shared)}
        self._dictionaries: list[_CompressionDictionary] = []

    def restore(self, index: int, kept: Kept) -> Device:
        """The Device, restored from the parts of ``serialise``; in its factory state if ``kept`` is empty."""
        self.used(index)
        if not kept:
            return self._make(index)
        octets = b"".join(kept)
        serialised = self._dictionaries[octets[0]].decompress(octets[1:])
        fresh = self._make(index)
        device: Device = _DeviceUnpickler(BytesIO(serialised), self._shared, fresh.mac).load()
        return device

    def used(self, index: int) -> None:
        """The Device of Mac ``index`` is in use: it becomes the most recently used one."""
        self.active[index] = None
        self.active.move_to_end(index)

    def serialise(self, device: Device) -> Kept:
        """Serialise a Device for ``restore``. The caller must not use the Device afterwards."""
        file = BytesIO()
        _DevicePickler(file, self._number_of).dump(device)
        number, compressed = self._compress(file.getvalue())
        kept = bytes((number,)) + compressed
        return tuple(kept[at : at + _PART_BYTES] for at in range(0, len(kept), _PART_BYTES))

    def _compress(self, serialised: bytes) -> tuple[int, bytes]:
        """Compress with the newest dictionary, or with a new one if the Device differs too much from it.

        Returns the number of the dictionary and the compressed bytes.
        """
        number = len(self._dictionaries) - 1
        compressed = self._dictionaries[number].compress(serialised) if number >= 0 else serialised
        if len(compressed) > _POOR_RATIO * len(serialised) and number + 1 < _MAX_DICTIONARIES:
            self._dictionaries.append(_CompressionDictionary(serialised))
            number += 1
            compressed = self._dictionaries[number].compress(serialised)
        return number, compressed


class _CompressionDictionary:
    """Compresses with the serialised form of one Device as the dictionary."""

    def __init__(self, serialised: bytes) -> None:
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW_DEFLATE, zdict=serialised)
        self._decompressor = zlib.decompressobj(_RAW_DEFLATE, zdict=serialised)

    def compress(self, serialised: bytes) -> bytes:
        compressor = self._compressor.copy()
        return compressor.compress(serialised) + compressor.flush()

    def decompress(self, compressed: bytes) -> bytes:
        return self._decompressor.copy().decompress(compressed)


class _DevicePickler(pickle.Pickler):
    """Writes shared objects and those derived from the seed as references, keys and certificates as DER."""

    def __init__(self, file: BytesIO, number_of: dict[int, int]) -> None:
        super().__init__(file, _PROTOCOL)
        self._number_of = number_of

    def reducer_override(self, value: Any) -> Any:
        """How to write ``value``; NotImplemented selects the default."""
        if id(value) in self._number_of:
            return _shared, (self._number_of[id(value)],)
        if isinstance(value, type):
            return NotImplemented
        if isinstance(value, Mac):
            return _mac, (value.os_version, value.build_version)
        if isinstance(value, Derivation):
            return _source, ()
        if isinstance(value, x509.Certificate):
            return read_certificate, (value.public_bytes(Encoding.DER),)
        if isinstance(value, Identity):
            certificate, key = value.octets
            prime = prime_of(value.certificate, key)
            return _identity, (certificate, b"" if prime else key, prime, value.chain)
        return NotImplemented


class _DeviceUnpickler(pickle.Unpickler):
    """Reads the output of ``_DevicePickler`` for the same Mac."""

    def __init__(self, file: BytesIO, shared: list[object], mac: Mac) -> None:
        super().__init__(file)
        self._references: dict[str, Callable[..., object]] = {
            "_shared": shared.__getitem__,
            "_mac": mac.with_release,
            "_source": lambda: mac.source,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Resolve the references of ``_DevicePickler``; everything else is imported as usual."""
        if module == __name__ and name in self._references:
            return self._references[name]
        return super().find_class(module, name)


# References in the serialised form; ``_DeviceUnpickler`` replaces these functions.

_UNRESOLVED = "expected _DeviceUnpickler to resolve a reference, found another unpickler"


def _shared(number: int) -> object:
    raise MisuseError(f"{_UNRESOLVED}: {number}")


def _mac(os_version: str, _build_version: str) -> Mac:
    raise MisuseError(f"{_UNRESOLVED}: a Mac with macOS {os_version}")


def _source() -> Derivation:
    raise MisuseError(_UNRESOLVED)


def _identity(certificate: bytes, key: bytes, prime: bytes, chain: tuple[x509.Certificate, ...]) -> Identity:
    if prime:
        key = key_of(own_certificate(certificate), prime)
    return Identity.of_octets(certificate, key, chain)
