"""Bytes for the parsers of CMS and SCEP: any bytes at all, ASN.1 that means nothing, and good messages made bad."""

from __future__ import annotations

from hypothesis import strategies as st

from agent.pki import der

TAGS = (0x02, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x24, 0x30, 0x31, 0x80, 0xA0, 0xA1, 0xA3)


def nested() -> st.SearchStrategy[bytes]:
    """Well-formed ASN.1 of no meaning, some of it in indefinite lengths."""
    leaf = st.builds(der.encode, st.sampled_from(TAGS), st.binary(max_size=12))
    return st.recursive(leaf, lambda inner: st.builds(_container, st.lists(inner, max_size=4), st.booleans()))


def broken(good: bytes) -> st.SearchStrategy[bytes]:
    """``good`` with a few octets changed, cut out, doubled or put in."""
    position = st.integers(0, len(good))
    change = st.tuples(position, st.integers(0, 3), st.binary(max_size=3))
    return st.lists(change, min_size=1, max_size=4).map(lambda changes: _changed(good, changes))


def hostile(*good: bytes) -> st.SearchStrategy[bytes]:
    """Any of the above."""
    return st.one_of(st.binary(max_size=200), nested(), *(broken(message) for message in good))


def _container(inner: list[bytes], indefinite: bool) -> bytes:
    if indefinite:
        return b"\x30\x80" + b"".join(inner) + b"\x00\x00"
    return der.encode(der.SEQUENCE, b"".join(inner))


def _changed(good: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, cut, put in changes:
        good = good[:position] + put + good[position + cut :]
    return good
