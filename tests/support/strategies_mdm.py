"""Property list values, malformed property lists and server responses, for the tests of plists, mdm and profiles."""

from __future__ import annotations

import plistlib
import struct
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

# XML 1.0 has no other control characters, no surrogates, no U+FFFE and U+FFFF (section 2.2, Char).
texts = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="".join(map(chr, range(32))) + "\ufffe\uffff")
    | st.sampled_from("\t\n\r<>&]\"'"),
    max_size=20,
)
integers = st.integers(-(1 << 63), (1 << 64) - 1)
dates = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda date: date.replace(microsecond=0))
reals = st.floats(allow_nan=False)
scalars = st.one_of(texts, integers, st.booleans(), reals, st.binary(max_size=100), dates)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An array or a dictionary of ``inner``."""
    return st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)


values = st.recursive(scalars, containers, max_leaves=12)
dictionaries = st.dictionaries(texts, values, max_size=5)


def changed(good: bytes) -> st.SearchStrategy[bytes]:
    """``good`` with a few octets changed, cut out, doubled or put in, or cut off."""
    position = st.integers(0, len(good))
    put = st.binary(max_size=3) | st.sampled_from([b"<", b">", b"&", b"<array>", b"</dict>", b"<string>", b"\xff" * 8])
    changes = st.lists(st.tuples(position, st.integers(0, 3), put), min_size=1, max_size=5)
    return st.builds(_change, st.just(good), changes)


def broken_plists(good: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Plists of values from ``good`` in either format, made bad; and bytes that never were one."""
    written = st.builds(lambda value, fmt: plistlib.dumps(value, fmt=fmt), good, st.sampled_from(_FORMATS))
    return st.one_of(written.flatmap(changed), binary_plists(), st.binary(max_size=200))


def binary_plist(objects: list[bytes], top: int = 0, *, ref_size: int = 1, offset_size: int = 2) -> bytes:
    """A binary plist of these encoded objects, each at a place of its own; references are their numbers."""
    offsets, body = [], b"bplist00"
    for encoded in objects:
        offsets.append(len(body))
        body += encoded
    return with_trailer(body, offsets, top, ref_size=ref_size, offset_size=offset_size)


def with_trailer(body: bytes, offsets: list[int], top: int, *, ref_size: int, offset_size: int) -> bytes:
    """``body`` (header and objects) with its offset table and trailer."""
    table = b"".join(offset.to_bytes(offset_size, "big") for offset in offsets) if offset_size else b""
    return body + table + struct.pack(">6xBBQQQ", offset_size, ref_size, len(offsets), top, len(body))


def binary_plists() -> st.SearchStrategy[bytes]:
    """Binary plists whose every marker, size and reference is drawn: unknown types, cycles, shared values."""
    content = st.binary(max_size=12)
    markers = st.integers(0, 255)
    objects = st.builds(lambda marker, rest: bytes([marker]) + rest, markers, content)
    references = st.lists(st.integers(0, 9), max_size=8).map(bytes)
    nested = st.builds(lambda kind, refs: bytes([kind | len(refs)]) + refs, st.sampled_from([0xA0, 0xD0]), references)
    return st.builds(
        binary_plist,
        st.lists(objects | nested, min_size=1, max_size=8),
        st.integers(0, 8),
        ref_size=st.sampled_from([0, 1, 1, 1, 2, 9]),
        offset_size=st.sampled_from([0, 1, 2, 2, 3, 8]),
    ) | st.binary(min_size=32, max_size=32).map(lambda trailer: b"bplist00" + bytes(8) + trailer)


_FORMATS = (plistlib.FMT_XML, plistlib.FMT_BINARY)


def _change(good: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, cut, put in changes:
        good = good[:position] + put + good[position + cut :]
    return good
