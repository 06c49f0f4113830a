"""HPACK without a dynamic table, with the `hpack` library as the other end."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from agent.net.http import hpack
from agent.net.http.hpack import MAX_FIELDS, BlockMalformed, decode, encode

NAMES = st.sampled_from([name for name, _ in HeaderTable.STATIC_TABLE]) | st.binary(min_size=1, max_size=300)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=8)


def library_block(fields: list[tuple[bytes, bytes]], *, coded: bool) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields, huffman=coded))


@given(FIELDS, st.booleans())
def test_blocks_of_the_library_are_decoded(fields: list[tuple[bytes, bytes]], coded: bool) -> None:
    assert decode(library_block(fields, coded=coded)) == fields


@given(FIELDS)
def test_the_library_decodes_our_blocks_and_keeps_no_entry(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = Decoder()
    decoder.max_header_list_size = 2**24
    assert [tuple(field) for field in decoder.decode(encode(fields), raw=True)] == fields
    assert not decoder.header_table.dynamic_entries


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(octets: bytes) -> None:
    for block in (octets, b"\x00\x81" + octets, b"\x40" + bytes((0x80 | min(len(octets), 0x7E),)) + octets):
        try:
            fields = decode(block)
        except BlockMalformed:
            continue
        assert len(fields) <= MAX_FIELDS


def test_the_static_table_is_the_libraries() -> None:
    for index, field in enumerate(HeaderTable.STATIC_TABLE, 1):
        assert decode(bytes((0x80 | index,))) == [field]


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\x80", "index"),
        (b"\xbe", "index"),  # 62: the first of a dynamic table
        (b"\x0f\x2f\x01a", "index"),
        (b"\xff\x80\x80\x80\x80\x01", "integer"),
        (b"\x00\x7f\xff\xff\xff\xff\x01", "integer"),
        (b"\x21", "size 0"),
        (b"\x3f\xe1\x1f", "size 0"),  # 4096
        (b"\x88\x20", "size 0"),
        (b"\x20\x20\x20\x88", "size 0"),
        (b"\x00", "ends within"),
        (b"\x00\x01", "ends within"),
        (b"\x00\x01a", "ends within"),
        (b"\x00\x01a\x05abc", "ends within"),
        (b"\xff", "ends within"),
        (b"\x00\x01a\x81\x1c", "0 to 7 bits"),  # "a", padded with 0
        (b"\x00\x01a\x82\x1f\xff", "0 to 7 bits"),  # "a", padded with 11 bits
        (b"\x00\x01a\x84\xff\xff\xff\xff", "end-of-string"),
        (b"\x88" * (MAX_FIELDS + 1), "more than 256"),
    ],
)
def test_a_block_is_refused(octets: bytes, reason: str) -> None:
    with pytest.raises(BlockMalformed, match=reason):
        decode(octets)


def test_a_table_size_of_0_may_come_first() -> None:
    assert decode(b"\x20\x20\x88") == [(b":status", b"200")]
    assert len(decode(b"\x88" * MAX_FIELDS)) == MAX_FIELDS


def test_huffman_takes_one_step_a_byte() -> None:
    """The steps that are made are at most those of the code, whatever a peer sends, and none twice."""
    text = bytes(range(256)) * 40
    coded = library_block([(b"a", text)], coded=True)
    assert decode(coded) == [(b"a", text)]
    made = len(hpack._STEPS)
    assert decode(coded) == [(b"a", text)]
    assert len(hpack._STEPS) == made <= 256 * 256
