"""From a seed to the numbers of one Mac: keyed hashes, keyed permutations, and the texts made from them.

Everything follows from (seed, index) alone, byte for byte the same on any machine and in any sharding. Values that
must differ between the Macs of a fleet (MACs, serial numbers, push tokens) come from a permutation, so they differ by
construction; everything else is cut from a keyed hash. None of it is a secret: the aim is spread, not secrecy.
"""

from __future__ import annotations

import hashlib

from agent.errors import MisuseError

PORTS_A_MAC = 4  # addresses set aside for each index: two Ethernet ports, Wi-Fi, Bluetooth
PRIMARY_ETHERNET, SECONDARY_ETHERNET, WIFI, BLUETOOTH = range(PORTS_A_MAC)

MAC_BITS = 46  # a MAC's 48 bits less I/G and U/L, which are fixed (IEEE 802, clause 8)
SERIAL_BITS = 50  # ten characters of five bits
TOKEN_BITS = 64
SERIAL_CHARACTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # upper-case letters and digits, without I, L, O, U

_ROUNDS = 4  # of a Feistel network; four look random to any observer (Luby and Rackoff, 1988)
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
            raise MisuseError(f"a permutation's key has 1 to 64 bytes, not {len(key)}")
        if bits % 2 or not 2 <= bits <= 64:
            raise MisuseError(f"a permutation takes an even number of bits from 2 to 64, not {bits}")
        self.bits = bits
        self._half = bits // 2
        self._mask = (1 << self._half) - 1
        self._shift = 64 - self._half
        stream = hashlib.blake2b(key=key, person=b"feistel rounds", digest_size=8 * _ROUNDS).digest()
        self._round_keys = tuple(int.from_bytes(stream[at : at + 8], "little") for at in range(0, 8 * _ROUNDS, 8))

    def forward(self, value: int) -> int:
        """Where ``value`` goes, both below ``2 ** bits``. Raises MisuseError for a value outside."""
        left, right = self._halves(value)
        shift = self._shift
        for round_key in self._round_keys:
            # The round function, written out: a call for each round would double the time of a Mac.
            mixed = (right ^ round_key) * _ODD_1 & _MASK64
            mixed = (mixed ^ mixed >> 31) * _ODD_2 & _MASK64
            left, right = right, left ^ mixed >> shift
        return left << self._half | right

    def inverse(self, value: int) -> int:
        """What came to ``value``, both below ``2 ** bits``. Raises MisuseError for a value outside."""
        left, right = self._halves(value)
        shift = self._shift
        for round_key in reversed(self._round_keys):
            mixed = (left ^ round_key) * _ODD_1 & _MASK64
            mixed = (mixed ^ mixed >> 31) * _ODD_2 & _MASK64
            left, right = right ^ mixed >> shift, left
        return left << self._half | right

    def _halves(self, value: int) -> tuple[int, int]:
        if value < 0 or value >> self.bits:
            raise MisuseError(f"{value} is outside of a permutation of {self.bits} bits")
        return value >> self._half, value & self._mask


class Derivation:
    """All that one seed gives: a hash for each (label, index), and the permutations of its fleet.

    ``seed`` is any text. It holds no more than a few keyed states, and pickles as the seed alone.
    """

    __slots__ = ("_key", "_ports", "_serials", "_states", "_tokens", "seed")

    def __init__(self, seed: str) -> None:
        self.seed = seed
        # surrogatepass: a seed from a command line that is not UTF-8 holds lone surrogates
        self._key = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), person=b"lom-agent seed").digest()
        self._states: dict[bytes, hashlib.blake2b] = {}
        self._ports = Permutation(self.digest(b"port addresses", 0), MAC_BITS)
        self._serials = Permutation(self.digest(b"serial numbers", 0), SERIAL_BITS)
        self._tokens = Permutation(self.digest(b"token numbers", 0), TOKEN_BITS)

    def __reduce__(self) -> tuple[type[Derivation], tuple[str]]:
        return Derivation, (self.seed,)

    def digest(self, label: bytes, index: int) -> bytes:
        """64 bytes for ``label`` (at most 16 bytes, one for each use) and ``index`` (below ``2 ** 64``)."""
        state = self._states.get(label)
        if state is None:
            state = self._states[label] = hashlib.blake2b(key=self._key, person=label)
        fresh = state.copy()
        fresh.update(index.to_bytes(8, "little"))
        return fresh.digest()

    def mac_address(self, index: int, port: int) -> str:
        """The MAC of ``port`` (PRIMARY_ETHERNET to BLUETOOTH) of Mac ``index``; no other port has it."""
        return mac_text(self._ports.forward(packed_port(index, port)))

    def serial_number(self, index: int, prefix: str) -> str:
        """``prefix`` and ten characters that no other index has."""
        return prefix + serial_text(self._serials.forward(index))

    def port_index(self, mac: str) -> tuple[int, int]:
        """Whose address a MAC is: index and port of the only Mac that could have it, which may be in no fleet.

        ``mac`` is as ``mac_address`` gives it.
        """
        return divmod(self._ports.inverse(mac_value(mac)), PORTS_A_MAC)

    def serial_index(self, characters: str) -> int | None:
        """The only index whose serial number can end in these ten characters; None where none can."""
        value = serial_value(characters)
        return None if value is None else self._serials.inverse(value)

    def push_token(self, index: int) -> bytes:
        """32 bytes, of which the first eight are no other index's."""
        unique = self._tokens.forward(index).to_bytes(8, "big")
        return unique + self.digest(b"push token", index)[:24]

    def token_index(self, token: bytes, indexes: range) -> int | None:
        """Whose push token it is, of the Macs ``indexes``; None where it is nobody's. No table: it is calculated."""
        index = self._tokens.inverse(int.from_bytes(token[:8], "big"))
        return index if index in indexes and self.push_token(index) == token else None


def packed_port(index: int, port: int) -> int:
    """One integer for each (index, port): what the permutation of addresses takes. Raises MisuseError."""
    if index < 0 or not 0 <= port < PORTS_A_MAC:
        raise MisuseError(f"no Mac has index {index} and port {port}; ports are 0 to {PORTS_A_MAC - 1}")
    return index * PORTS_A_MAC + port


def mac_text(value: int) -> str:
    """The locally administered unicast MAC whose 46 free bits are ``value``: ``96:f6:d6:f3:c0:5b``.

    Source: IEEE 802, clause 8: in the first octet bit 0 is I/G (0, one interface), bit 1 is U/L (1, local).
    """
    if value < 0 or value >> MAC_BITS:
        raise MisuseError(f"{value} does not fit the {MAC_BITS} free bits of a MAC")
    return (value >> 40 << 42 | 1 << 41 | value & (1 << 40) - 1).to_bytes(6, "big").hex(":")


def mac_value(text: str) -> int:
    """The 46 free bits of a MAC that ``mac_text`` wrote."""
    number = int(text.replace(":", ""), 16)
    return number >> 42 << 40 | number & (1 << 40) - 1


def serial_text(value: int) -> str:
    """Ten characters of SERIAL_CHARACTERS for ``value`` below ``2 ** 50``, one-to-one."""
    if value < 0 or value >> SERIAL_BITS:
        raise MisuseError(f"{value} does not fit a serial number of {SERIAL_BITS} bits")
    return "".join([SERIAL_CHARACTERS[value >> shift & 31] for shift in range(SERIAL_BITS - 5, -1, -5)])


def serial_value(characters: str) -> int | None:
    """The value that ``serial_text`` wrote so; None for any other text."""
    value = 0
    for character in characters:
        place = SERIAL_CHARACTERS.find(character)
        if place < 0:
            return None
        value = value << 5 | place
    return value if 5 * len(characters) == SERIAL_BITS else None


def uuid_text(raw: bytes, version: int) -> str:
    """16 bytes as an upper-case UUID with the bits of ``version``, as macOS writes one. Source: RFC 9562, 4."""
    number = int.from_bytes(raw, "big")
    number = number & ~(0xF << 76) | version << 76  # version field
    number = number & ~(0x3 << 62) | 0x2 << 62  # variant field
    digits = f"{number:032X}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
