"""Derives the values of one Mac from a seed: keyed hashes, keyed permutations, and their text forms.

Every value depends only on (seed, index), and is the same on any machine and in any sharding. Values that must be
unique in a fleet (MACs, serial numbers, push tokens) come from a permutation, so they are unique by construction; all
others come from a keyed hash. None of them is secret: the hash serves distribution, not secrecy.
"""

from __future__ import annotations

import hashlib

from agent.errors import MisuseError

PORTS_A_MAC = 4  # MAC addresses reserved for each index: two Ethernet ports, Wi-Fi, Bluetooth
PRIMARY_ETHERNET, SECONDARY_ETHERNET, WIFI, BLUETOOTH = range(PORTS_A_MAC)

MAC_BITS = 46  # 48 bits of a MAC address minus I/G and U/L, which are fixed (IEEE 802, clause 8)
SERIAL_BITS = 50  # ten characters of five bits
TOKEN_BITS = 64
SERIAL_CHARACTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # upper-case letters and digits, without I, L, O, U

_ROUNDS = 4  # Feistel rounds; four give a strong pseudorandom permutation (Luby and Rackoff, 1988)
_MASK64 = (1 << 64) - 1
_ODD_1 = 0xBF58476D1CE4E5B9  # the two multipliers of splitmix64 (Steele, Lea, Flood, 2014)
_ODD_2 = 0x94D049BB133111EB


class Permutation:
    """A keyed bijection of the integers below ``2 ** bits``: a balanced Feistel network.

    ``key`` is 1 to 64 bytes, ``bits`` an even number from 2 to 64. Raises MisuseError for others.
    """

    __slots__ = ("_half", "_mask", "_round_keys", "_shift", "bits")

    def __init__(self, key: bytes, bits: int) -> None:
        if not 1 <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
            raise MisuseError(f"Expected a permutation key of 1 to 64 bytes, found {len(key)} bytes.")
        if bits % 2 or not 2 <= bits <= 64:
            raise MisuseError(f"Expected an even number of bits from 2 to 64 for a permutation, found {bits}.")
        self.bits = bits
        self._half = bits // 2
        self._mask = (1 << self._half) - 1
        self._shift = 64 - self._half
        stream = hashlib.blake2b(key=key, person=b"feistel rounds", digest_size=8 * _ROUNDS).digest()
        self._round_keys = tuple(int.from_bytes(stream[at : at + 8], "little") for at in range(0, 8 * _ROUNDS, 8))

    def forward(self, value: int) -> int:
        """The image of ``value``; both are below ``2 ** bits``. Raises MisuseError for a value outside."""
        left, right = self._halves(value)
        shift = self._shift
        for round_key in self._round_keys:
            # The round function is inlined: a call per round would double the time to derive a Mac.
            mixed = (right ^ round_key) * _ODD_1 & _MASK64
            mixed = (mixed ^ mixed >> 31) * _ODD_2 & _MASK64
            left, right = right, left ^ mixed >> shift
        return left << self._half | right

    def inverse(self, value: int) -> int:
        """The preimage of ``value``; both are below ``2 ** bits``. Raises MisuseError for a value outside."""
        left, right = self._halves(value)
        shift = self._shift
        for round_key in reversed(self._round_keys):
            mixed = (left ^ round_key) * _ODD_1 & _MASK64
            mixed = (mixed ^ mixed >> 31) * _ODD_2 & _MASK64
            left, right = right ^ mixed >> shift, left
        return left << self._half | right

    def _halves(self, value: int) -> tuple[int, int]:
        if value < 0 or value >> self.bits:
            raise MisuseError(f"Expected a value of at most {self.bits} bits, found {value}.")
        return value >> self._half, value & self._mask


class Derivation:
    """The values of one seed: a hash for each (label, index), and the permutations of its fleet.

    ``seed`` is any text. Pickles as the seed alone.
    """

    __slots__ = ("_key", "_ports", "_serials", "_states", "_tokens", "seed")

    def __init__(self, seed: str) -> None:
        self.seed = seed
        # surrogatepass: a seed from a command line that is not valid UTF-8 has lone surrogates
        self._key = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), person=b"lom-agent seed").digest()
        self._states: dict[bytes, hashlib.blake2b] = {}
        self._ports = Permutation(self.digest(b"port addresses", 0), MAC_BITS)
        self._serials = Permutation(self.digest(b"serial numbers", 0), SERIAL_BITS)
        self._tokens = Permutation(self.digest(b"token numbers", 0), TOKEN_BITS)

    def __reduce__(self) -> tuple[type[Derivation], tuple[str]]:
        return Derivation, (self.seed,)

    def digest(self, label: bytes, index: int) -> bytes:
        """64 bytes for ``label`` (at most 16 bytes, a different one for each use) and ``index`` (below ``2 ** 64``)."""
        state = self._states.get(label)
        if state is None:
            state = self._states[label] = hashlib.blake2b(key=self._key, person=label)
        fresh = state.copy()
        fresh.update(index.to_bytes(8, "little"))
        return fresh.digest()

    def mac_address(self, index: int, port: int) -> str:
        """The MAC address of ``port`` (PRIMARY_ETHERNET to BLUETOOTH) of Mac ``index``; unique for each port."""
        return mac_text(self._ports.forward(packed_port(index, port)))

    def serial_number(self, index: int, prefix: str) -> str:
        """``prefix`` and ten characters that are unique for each index."""
        return prefix + serial_text(self._serials.forward(index))

    def port_index(self, mac: str) -> tuple[int, int]:
        """Index and port of the only Mac that can have this MAC address; the index may be outside the fleet.

        ``mac`` has the form of ``mac_address``.
        """
        return divmod(self._ports.inverse(mac_value(mac)), PORTS_A_MAC)

    def serial_index(self, characters: str) -> int | None:
        """The only index whose serial number can end in these ten characters; None if there is none."""
        value = serial_value(characters)
        return None if value is None else self._serials.inverse(value)

    def push_token(self, index: int) -> bytes:
        """32 bytes; the first eight are unique for each index."""
        unique = self._tokens.forward(index).to_bytes(8, "big")
        return unique + self.digest(b"push token", index)[:24]

    def token_index(self, token: bytes, indexes: range) -> int | None:
        """The index in ``indexes`` that has this push token, or None. Calculated, without a table."""
        index = self._tokens.inverse(int.from_bytes(token[:8], "big"))
        return index if index in indexes and self.push_token(index) == token else None


def packed_port(index: int, port: int) -> int:
    """One integer for each (index, port), the input of the permutation of MAC addresses. Raises MisuseError."""
    if index < 0 or not 0 <= port < PORTS_A_MAC:
        raise MisuseError(f"Expected an index from 0 and a port from 0 to {PORTS_A_MAC - 1}, found {index} and {port}.")
    return index * PORTS_A_MAC + port


def mac_text(value: int) -> str:
    """The locally administered unicast MAC address with ``value`` as its 46 free bits: ``96:f6:d6:f3:c0:5b``.

    Source: IEEE 802, clause 8: in the first octet bit 0 is I/G (0, one interface), bit 1 is U/L (1, local).
    """
    if value < 0 or value >> MAC_BITS:
        raise MisuseError(f"Expected a value of at most {MAC_BITS} bits for a MAC address, found {value}.")
    return (value >> 40 << 42 | 1 << 41 | value & (1 << 40) - 1).to_bytes(6, "big").hex(":")


def mac_value(text: str) -> int:
    """The 46 free bits of a MAC address in the form of ``mac_text``."""
    number = int(text.replace(":", ""), 16)
    return number >> 42 << 40 | number & (1 << 40) - 1


def serial_text(value: int) -> str:
    """Ten characters of SERIAL_CHARACTERS for ``value`` below ``2 ** 50``, one-to-one."""
    if value < 0 or value >> SERIAL_BITS:
        raise MisuseError(f"Expected a value of at most {SERIAL_BITS} bits for a serial number, found {value}.")
    return "".join([SERIAL_CHARACTERS[value >> shift & 31] for shift in range(SERIAL_BITS - 5, -1, -5)])


def serial_value(characters: str) -> int | None:
    """The inverse of ``serial_text``; None for any other text."""
    value = 0
    for character in characters:
        place = SERIAL_CHARACTERS.find(character)
        if place < 0:
            return None
        value = value << 5 | place
    return value if 5 * len(characters) == SERIAL_BITS else None


def uuid_text(raw: bytes, version: int) -> str:
    """16 bytes as a UUID of this version, in upper case as macOS writes it. Source: RFC 9562, 4."""
    number = int.from_bytes(raw, "big")
    number = number & ~(0xF << 76) | version << 76  # version field
    number = number & ~(0x3 << 62) | 0x2 << 62  # variant field
    digits = f"{number:032X}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
