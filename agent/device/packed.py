"""Where the Devices of a fleet lie while nothing happens to them: some hundred bytes each, and whole again when asked.

A Device at rest is one string of octets: pickled, without what its seed or its process gives again, and deflated with
the octets of another Device as the dictionary, for two Macs of a fleet differ in their keys, their identifiers and
little else. The octets never leave the process.
"""

from __future__ import annotations

import pickle
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.device.mac import Device
from agent.fleet.derivation import Derivation
from agent.fleet.population import Mac
from agent.pki.certificates import own_certificate, read_certificate
from agent.pki.identity import Identity
from agent.pki.rsa_prime import key_of, prime_of

_PROTOCOL = 5
_LEVEL = 6
_RAW_DEFLATE = -15  # the largest window, and neither header nor checksum
_MAX_DICTIONARIES = 32  # about 300 KiB each, most of it the compressor that has read it
_POORLY = 0.4  # of its size: a Device that is deflated to no less is unlike those in the dictionaries


class IdleStore:
    """``make`` makes the Device of an index as it comes from the factory.

    ``shared`` are the objects that Devices refer to and that are no Device's own: a clock, choices, limits. ``out`` has
    the index of every Device that was fetched; whoever lays one takes its index out, too.
    """

    def __init__(self, make: Callable[[int], Device], shared: Iterable[object] = ()) -> None:
        self.out: deque[int] = deque()
        self._make = make
        self._shared = list(shared)
        self._number_of = {id(one): number for number, one in enumerate(self._shared)}
        self._dictionaries: list[_Dictionary] = []

    def fetch(self, index: int, kept: bytes) -> Device:
        """The Device of this index: from what ``lay`` gave, or as it comes from the factory where that is empty."""
        self.out.append(index)
        if not kept:
            return self._make(index)
        octets = self._dictionaries[kept[0]].inflated(kept[1:])
        fresh = self._make(index)
        device: Device = _Reader(BytesIO(octets), self._shared, fresh.mac).load()
        return device

    def lay(self, device: Device) -> bytes:
        """What ``fetch`` makes this Device of again; whoever has the Device must forget it."""
        file = BytesIO()
        _Writer(file, self._number_of).dump(device)
        octets = file.getvalue()
        number, packed = self._deflated(octets)
        return bytes((number,)) + packed

    def _deflated(self, octets: bytes) -> tuple[int, bytes]:
        """By the newest dictionary; a Device that is none like those before becomes the next one."""
        number = len(self._dictionaries) - 1
        packed = self._dictionaries[number].deflated(octets) if number >= 0 else octets
        if len(packed) > _POORLY * len(octets) and number + 1 < _MAX_DICTIONARIES:
            self._dictionaries.append(_Dictionary(octets))
            number += 1
            packed = self._dictionaries[number].deflated(octets)
        return number, packed


class _Dictionary:
    """The octets of one Device, by which those of others are written."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW_DEFLATE, zdict=octets)
        self._inflate = zlib.decompressobj(_RAW_DEFLATE, zdict=octets)

    def deflated(self, octets: bytes) -> bytes:
        deflate = self._deflate.copy()
        return deflate.compress(octets) + deflate.flush()

    def inflated(self, packed: bytes) -> bytes:
        return self._inflate.copy().decompress(packed)


class _Writer(pickle.Pickler):
    """Writes what is shared, or follows from the seed, as a reference; keys and certificates as DER."""

    def __init__(self, file: BytesIO, number_of: dict[int, int]) -> None:
        super().__init__(file, _PROTOCOL)
        self._number_of = number_of

    def reducer_override(self, value: Any) -> Any:
        """How to write ``value``; NotImplemented for the usual way."""
        if id(value) in self._number_of:
            return _shared, (self._number_of[id(value)],)
        if isinstance(value, type):
            return NotImplemented
        if isinstance(value, Mac):
            return _mac, ()
        if isinstance(value, Derivation):
            return _source, ()
        if isinstance(value, x509.Certificate):
            return read_certificate, (value.public_bytes(Encoding.DER),)
        if isinstance(value, Identity):
            certificate, key = value.octets
            prime = prime_of(value.certificate, key)
            return _identity, (certificate, b"" if prime else key, prime, value.chain)
        return NotImplemented


class _Reader(pickle.Unpickler):
    """Reads what ``_Writer`` wrote, for the Mac that it was."""

    def __init__(self, file: BytesIO, shared: list[object], mac: Mac) -> None:
        super().__init__(file)
        self._here: dict[str, Callable[..., object]] = {
            "_shared": shared.__getitem__,
            "_mac": lambda: mac,
            "_source": lambda: mac.source,
        }

    def find_class(self, module: str, name: str) -> Any:
        """The references of ``_Writer`` are to what is here; everything else is where it says."""
        if module == __name__ and name in self._here:
            return self._here[name]
        return super().find_class(module, name)


def _shared(number: int) -> object:
    raise NotImplementedError(f"for the reader alone to follow: {number}")


def _mac() -> Mac:
    raise NotImplementedError("for the reader alone to follow")


def _source() -> Derivation:
    raise NotImplementedError("for the reader alone to follow")


def _identity(certificate: bytes, key: bytes, prime: bytes, chain: tuple[x509.Certificate, ...]) -> Identity:
    if prime:
        key = key_of(own_certificate(certificate), prime)
    return Identity.of_octets(certificate, key, chain)
