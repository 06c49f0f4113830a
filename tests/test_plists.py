"""Property lists: written values are read again, and untrusted input takes bounded time and raises PlistError only."""

from __future__ import annotations

import codecs
import contextlib
import cProfile
import plistlib
import struct
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from strategies_mdm import binary_plist, broken_plists, dates, texts, values, with_trailer

from agent.errors import MisuseError
from agent.plists import MAX_BYTES, MAX_DEPTH, MAX_VALUES, PlistError, dump_binary, dump_xml, load, load_dict

HEAD = b'<?xml version="1.0" encoding="UTF-8"?>\n'
DOCTYPE = b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
TRUE, ONE = b"\x09", b"\x10\x01"
HOSTILE_CALLS = 3_000_000  # calls and returns for 100 KB: what 200,000 values take, and half of that once more
HOSTILE_BYTES = 64 * 1024 * 1024


def xml(body: bytes) -> bytes:
    return HEAD + DOCTYPE + b'<plist version="1.0">' + body + b"</plist>"


def long_marker(kind: int, size: int) -> bytes:
    """The marker of an object whose size stands in an integer of four bytes."""
    return bytes([kind | 0xF, 0x12]) + size.to_bytes(4, "big")


# Written values are read again


@given(values)
def test_values_survive_a_round_trip(value: Any) -> None:
    for octets in (dump_xml(value), dump_binary(value)):
        found = load(octets)
        assert found == value
        assert type(found) is type(value)


@given(values)
def test_values_agree_with_plistlib(value: Any) -> None:
    written = dump_xml(value)
    assert plistlib.loads(written) == value
    assert load(plistlib.dumps(value, fmt=plistlib.FMT_BINARY)) == value
    if b"&#13;" not in written:  # plistlib writes a carriage return as a line feed
        assert written == plistlib.dumps(value)


@given(dates)
def test_dates_before_and_after_the_epoch_are_kept_to_the_second(date: datetime) -> None:
    assert load(dump_xml(date.replace(microsecond=999_999))) == date


@pytest.mark.parametrize("number", [-(2**63), -1, 0, 255, 256, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_the_whole_range_of_integers_is_read(number: int) -> None:
    assert load(dump_xml(number)) == number
    assert load(dump_binary(number)) == number


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-0.0", "1e308", "5e-324"])
def test_every_real_can_be_written_again(number: str) -> None:
    for write in (dump_xml, dump_binary):
        assert repr(load(write(float(number)))) == repr(float(number))


@pytest.mark.parametrize(
    "value",
    [
        None,
        object(),
        {1: "a"},
        {"a": 1, 2: "b"},
        {None: "a"},
        "\x00",
        "\x1b",
        "\ud800",
        {"\x07": 1},
        2**64,
        -(2**63) - 1,
        datetime(2026, 1, 1, tzinfo=UTC),
        [[{"a": [None]}]],
        1j,
    ],
)
def test_value_without_plist_type_raises_misuse_error(value: Any) -> None:
    with pytest.raises(MisuseError):
        dump_xml(value)


@pytest.mark.parametrize("value", [None, {1: "a"}, 2**64, -(2**63) - 1, "\ud800", datetime(2026, 1, 1, tzinfo=UTC)])
def test_value_without_binary_form_raises_misuse_error(value: Any) -> None:
    with pytest.raises(MisuseError):
        dump_binary(value)


def test_recursive_value_raises_misuse_error() -> None:
    value: list[Any] = []
    value.append(value)
    for write in (dump_xml, dump_binary):
        with pytest.raises(MisuseError):
            write(value)


# Any bytes


@given(broken_plists(values))
def test_any_bytes_give_a_writable_value_or_plist_error(octets: bytes) -> None:
    with contextlib.suppress(PlistError):
        found = load(octets)
        assert dump_xml(load(dump_xml(found))) == dump_xml(found)
        dump_binary(found)


def test_error_names_the_input_and_what_was_found() -> None:
    with pytest.raises(PlistError, match=r"the command is not a property list: .*line 1"):
        load(b"no plist at all", what="command")
    with pytest.raises(PlistError, match="expected the profile to be a dictionary, found an array"):
        load_dict(dump_xml([]), what="profile")
    with pytest.raises(PlistError, match="expected at most 100 bytes for the frame, found 101"):
        load(bytes(101), what="frame", max_bytes=100)
    assert load_dict(dump_binary({"a": 1})) == {"a": 1}


@pytest.mark.parametrize(
    "octets",
    [
        b"<plist><string>a</string></plist>",
        b"\xef\xbb\xbf" + xml(b"<string>a</string>"),
        HEAD + b"<plist version='1.0'><string>a</string></plist>",
        HEAD + b"<!DOCTYPE plist SYSTEM 'file://localhost/System/Library/DTDs/PropertyList.dtd'><plist><string>a"
        b"</string></plist>",
        HEAD + b"<!-- a <plist> --><plist><!-- b --><string>a</string><?c d?></plist><!-- e -->",
        xml(b"<string><![CDATA[a]]></string>"),
        xml(b"<string>&#x61;</string>"),
        '<?xml version="1.0" encoding="UTF-16"?><plist><string>a</string></plist>'.encode("utf-16"),
        b'<?xml version="1.0" encoding="ISO-8859-1"?><plist><string>a</string></plist>',
        binary_plist([b"\x51a"]),
        binary_plist([b"\x61\x00a"]),
        binary_plist([b"\x5f\x13" + (1).to_bytes(8, "big") + b"a"], offset_size=8),
    ],
)
def test_every_encoding_of_one_value_is_read(octets: bytes) -> None:
    assert load(octets) == "a"


PUBLIC = b'<?xml version="1.0" encoding="UTF-8"?>\n' + DOCTYPE
AN_A = b"<string>a</string>"


@pytest.mark.parametrize(
    "octets",
    [
        b"\n" + xml(AN_A),
        b" \t\r\n" * 1000 + xml(AN_A),
        b"\xef\xbb\xbf\r\n" + xml(AN_A),
        HEAD + AN_A,  # no <plist> around it
        AN_A,
        b"\n" + AN_A,
        PUBLIC + b'<plist version="1.0" xmlns="http://example.test/ns">' + AN_A + b"</plist>",
        PUBLIC + b'<plist a:b="c" xml:lang="en">' + b"<string x='&lt;' y=\"1\">a</string></plist>",
        b"\xef\xbb\xbf" + b'<?xml version="1.0" encoding="UTF-16"?><plist>' + AN_A + b"</plist>",
        b"\xef\xbb\xbf" + b'<?xml version="1.0" encoding="ISO-8859-1"?><plist>' + AN_A + b"</plist>",
        '<?xml version="1.0" encoding="UTF-8"?><plist><string>a</string></plist>'.encode("utf-16"),
        codecs.BOM_UTF16_BE + '\n<?xml version="1.0" encoding="no-such"?><string>a</string>'.encode("utf-16-be"),
        '<?xml version="1.0" encoding="UTF-8"?><plist><string>a</string></plist>'.encode("utf-32"),
        xml(AN_A) + b"\n\0\0\0",
        xml(AN_A) + b"garbage",
        xml(AN_A) + b"\xff\xfe",
        xml(AN_A) + xml(b"<true/>"),
        xml(AN_A) + b"<plist>",
        AN_A + b"<string>b</string>",
        AN_A + b"</string>",
        xml(AN_A) + b"<!-- never closed",
    ],
)
def test_xml_that_apple_accepts_is_read(octets: bytes) -> None:
    assert load(octets) == "a"


def test_byte_order_mark_overrides_the_xml_declaration() -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?><plist><string>ä 😀</string></plist>'
    assert load(text.encode("utf-16")) == load(b"\xef\xbb\xbf" + text.encode()) == "ä 😀"


@pytest.mark.parametrize(
    "octets",
    [
        codecs.BOM_UTF16_LE + b"\x00\xd8<\0",  # half of a pair
        codecs.BOM_UTF16_LE + b"<",
        codecs.BOM_UTF32_LE + b"\xff\xff\xff\xff",
        b"\xef\xbb\xbf<string>\xff</string>",
        b"x" + xml(AN_A),
        b"\x0b" + xml(AN_A),
        HEAD + HEAD + AN_A,
        xml(b"<string>a") + b"</string>",
        xml(b"<string>&other;</string>") + b"garbage",
        b"<string>a</strong>",
        b'<string a="1" a="2">a</string>',
    ],
)
def test_xml_that_apple_refuses_is_refused(octets: bytes) -> None:
    with pytest.raises(PlistError):
        load(octets)


EARLIEST, LATEST = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        (b"0000-01-01T00:00:00Z", EARLIEST),
        (b"-0044-03-15T12:00:00Z", EARLIEST),
        (b"4001-01-01T00:00:00Z", datetime(4001, 1, 1)),
        (b"10000-01-01T00:00:00Z", LATEST),
        (b"10000-02-29T00:00:00Z", LATEST),
        (b"9" * 100_000 + b"-01-01T00:00:00Z", LATEST),
        (b"0" * 100_000 + b"2026-01-01T00:00:00Z", datetime(2026, 1, 1)),
        (b"1-02-03T04:05:06Z", datetime(1, 2, 3, 4, 5, 6)),
    ],
)
def test_a_date_may_have_any_year(text: bytes, date: datetime) -> None:
    found = load(xml(b"<date>" + text + b"</date>"))
    assert found == date
    assert load(dump_xml(found)) == load(dump_binary(found)) == date


@pytest.mark.parametrize(("seconds", "date"), [(9e11, LATEST), (1e300, LATEST), (-9e11, EARLIEST), (-1e300, EARLIEST)])
def test_a_binary_date_may_have_any_year(seconds: float, date: datetime) -> None:
    assert load(binary_plist([b"\x33" + struct.pack(">d", seconds)])) == date


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"<integer> -0x10 </integer>", -16),
        (b"<integer>+0012</integer>", 12),
        (b"<integer>0XFFFFFFFFFFFFFFFF</integer>", 2**64 - 1),
        (b"<true></true>", True),
        (b"<false/>", False),
        (b"<real> 1.5e3 </real>", 1500.0),
        (b"<data>\n\tYW\n\tJj\n</data>", b"abc"),
        (b"<data/>", b""),
        (b"<string/>", ""),
        (b"<string>a<!-- -->b</string>", "ab"),
        (b"<string>&lt;&amp;&gt;&quot;&apos;</string>", "<&>\"'"),
        (b"<array>\n\t<string> a </string>\r\n</array>", [" a "]),
        (b"<dict><key/><dict/></dict>", {"": {}}),
        (b"<date>2026-02-28T23:59:59Z</date>", datetime(2026, 2, 28, 23, 59, 59)),
    ],
)
def test_each_xml_element_gives_its_value(body: bytes, value: Any) -> None:
    found = load(xml(body))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        HEAD,
        xml(b""),
        xml(b"<true/><true/>"),
        xml(b"<true/>")[:-1],
        HEAD + b"<plist/>",
        HEAD + b"<html><true/></html>",
        xml(b"<null/>"),
        xml(b"<dict><key>a</key></dict>"),
        xml(b"<dict><true/><true/></dict>"),
        xml(b"<dict><key>a</key><key>b</key></dict>"),
        xml(b"<dict><key>a<true/></key><true/></dict>"),
        xml(b"<dict><string>a</string><true/></dict>"),
        xml(b"<key>a</key>"),
        xml(b"<array>a</array>"),
        xml(b"<array><true/>a</array>"),
        xml(b"<string>a<true/></string>"),
        xml(b"<string>\x01</string>"),
        xml(b"<string>&#1;</string>"),
        xml(b"<string>&#xD800;</string>"),
        xml(b"<string>\xed\xa0\x80</string>"),
        xml(b"<string>\xff</string>"),
        xml("<string>\uffff</string>".encode()),
        xml(b"<integer>18446744073709551616</integer>"),
        xml(b"<integer>-9223372036854775809</integer>"),
        xml(b"<integer>" + b"9" * 5000 + b"</integer>"),
        xml(b"<integer>0x" + b"f" * 5000 + b"</integer>"),
        xml(b"<integer>1_000</integer>"),
        xml("<integer>\u0661</integer>".encode()),
        xml(b"<integer>1.0</integer>"),
        xml(b"<integer/>"),
        xml(b"<real>1_0</real>"),
        xml(b"<real>0x10</real>"),
        xml(b"<real/>"),
        xml(b"<data>Y</data>"),
        xml("<data>\u0661</data>".encode()),
        xml(b"<date>2026-01-01</date>"),
        xml(b"<date>2026-01-01T00:00:00+01:00</date>"),
        xml(b"<date>2026-02-29T00:00:00Z</date>"),
        xml(b"<date>10000-02-30T00:00:00Z</date>"),
        xml(b"<date>--1-01-01T00:00:00Z</date>"),
        xml(b"<date>-01-01T00:00:00Z</date>"),
        xml(b"<date>2026-01-01T24:00:00Z</date>"),
        b'<?xml version="1.0" encoding="rot13"?><plist><true/></plist>',
        b'<?xml version="1.0" encoding="utf-7"?><plist><true/></plist>',
        b'<?xml version="1.0" encoding="no such thing"?><plist><true/></plist>',
    ],
)
def test_xml_that_is_not_a_plist_is_refused(octets: bytes) -> None:
    with pytest.raises(PlistError):
        load(octets)


SUBSETS = {
    "internal entity": b'<!ENTITY a "b">',
    "external entity": b'<!ENTITY a SYSTEM "file:///etc/hostname">',
    "parameter entity": b'<!ENTITY % a SYSTEM "http://127.0.0.1:1/"> %a;',
    "unparsed entity": b'<!NOTATION n SYSTEM "n"><!ENTITY a SYSTEM "a" NDATA n>',
    "default attribute": b'<!ATTLIST string a CDATA "b">',
    "element": b"<!ELEMENT string (#PCDATA)>",
}


@pytest.mark.parametrize("subset", SUBSETS.values(), ids=SUBSETS.keys())
@pytest.mark.parametrize("before", [b"", b"<!-- <plist> -->", b"\n", b"<?a b?>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_internal_dtd_is_refused(subset: bytes, before: bytes, encoding: str) -> None:
    octets = before + b"<!DOCTYPE plist [" + subset + b"]><plist><string>c</string></plist>"
    with pytest.raises(PlistError, match="declares"):
        load(octets.decode().encode(encoding))


def test_entity_of_an_external_dtd_is_refused() -> None:
    with pytest.raises(PlistError, match="undefined entity"):
        load(xml(b"<string>a&nbsp;b</string>"))


@pytest.mark.parametrize(
    "octets",
    [
        b"bplist00",
        b"bplist00" + bytes(32),
        binary_plist([b"\x00"]),  # null
        binary_plist([b"\x0f"]),  # fill
        binary_plist([b"\x0c"]),  # URL
        binary_plist([b"\x80\x01"]),  # UID
        binary_plist([b"\xc0"]),  # set
        binary_plist([b"\x15" + bytes(32)]),  # an integer of 32 bytes
        binary_plist([b"\x14" + b"\x00" * 7 + b"\x01" + bytes(8)]),  # 2 ** 64
        binary_plist([b"\x14" + b"\xff" * 8 + b"\x7f" + b"\xff" * 7]),  # -(2 ** 63) - 1
        binary_plist([b"\x21\x00\x00"]),  # a real of two bytes
        binary_plist([b"\x33" + struct.pack(">d", float("nan"))]),
        binary_plist([b"\x33" + struct.pack(">d", float("inf"))]),
        binary_plist([b"\x51\xff"]),  # not ASCII
        binary_plist([b"\x51\x00"]),  # a control character
        binary_plist([b"\x61\xd8\x00"]),  # half of a pair
        binary_plist([b"\x61\xff\xff"]),  # no character
        binary_plist([b"\x52a"]),  # cut off
        binary_plist([b"\x42a"]),  # … with octets behind it that are not its own
        binary_plist([long_marker(0x40, 2**31)]),
        binary_plist([b"\x5f\x51a"]),  # a size that is no integer
        binary_plist([b"\x5f\x14" + bytes(16)]),  # … that is one of 16 bytes
        binary_plist([b"\xaf\x13" + b"\xff" * 8]),
        binary_plist([b"\xdf\x13" + b"\x80" + bytes(7)]),
        binary_plist([b"\xa1\x01"]),  # refers to an object that is not there
        binary_plist([b"\xa1\x00"]),  # an array in itself
        binary_plist([b"\xd1\x01\x00", b"\x51a"]),  # a dictionary in itself
        binary_plist([b"\xa1\x01", b"\xa1\x00"]),
        binary_plist([b"\xd1\x01\x01", ONE]),  # a key that is an integer
        binary_plist([b"\xd1\x01\x01", b"\xa0"]),  # … an array
        binary_plist([b"\xd1\x01\x01", b"\x42ab"]),  # … data
        binary_plist([TRUE], top=1),
        binary_plist([TRUE], offset_size=0),
        binary_plist([b"\xa1\x00"], ref_size=0),
        with_trailer(b"bplist00\x09", [0], 0, ref_size=1, offset_size=1),  # an object in the header
        with_trailer(b"bplist00\x09", [9], 0, ref_size=1, offset_size=1),  # … in the offset table
        with_trailer(b"bplist00\x09", [2**64 - 1], 0, ref_size=1, offset_size=8),
        b"bplist00\x09\x08" + struct.pack(">6xBBQQQ", 1, 1, 2**64 - 1, 0, 9),
        b"bplist00\x09\x08" + struct.pack(">6xBBQQQ", 255, 255, 1, 0, 9),
        b"bplist00\x09\x08" + struct.pack(">6xBBQQQ", 1, 1, 1, 0, 2**64 - 1),
    ],
)
def test_invalid_binary_plist_is_refused(octets: bytes) -> None:
    with pytest.raises(PlistError):
        load(octets)


def test_shared_objects_become_separate_values() -> None:
    first, second = load(binary_plist([b"\xa2\x01\x01", b"\xa1\x02", ONE]))
    first.append(2)
    assert (first, second) == ([1, 2], [1])


# Limits


def nested(depth: int) -> tuple[bytes, bytes]:
    """XML and binary of ``depth`` containers, one in the other."""
    dictionaries = depth // 2
    arrays = depth - dictionaries
    text = b"<array>" * arrays + b"<dict><key>a</key>" * (dictionaries - 1) + b"<dict>"
    text += b"</dict>" * dictionaries + b"</array>" * arrays
    return xml(text), binary_plist([*(bytes([0xA1, ref]) for ref in range(1, depth)), b"\xa0"])


def test_depth_is_limited() -> None:
    for octets in nested(MAX_DEPTH):
        load(octets)
    for octets in nested(MAX_DEPTH + 1):
        with pytest.raises(PlistError, match="nested deeper than 32 levels"):
            load(octets)


def test_the_count_of_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    few = 2_000  # at another limit it takes a hundredth of the time
    with pytest.raises(PlistError, match="more than 200000 values"):
        load(xml(b"<array>" + b"<true/>" * MAX_VALUES + b"</array>"))
    for name in ("values", "binary_reading", "xml_reading"):
        monkeypatch.setattr(f"agent.plists.{name}.MAX_VALUES", few)
    at_most = few - 1  # beside the array itself
    assert len(load(xml(b"<array>" + b"<true/>" * at_most + b"</array>"))) == at_most
    assert len(load(binary_plist([long_marker(0xA0, at_most) + b"\x01" * at_most, TRUE], offset_size=4))) == at_most
    for octets in (
        xml(b"<array>" + b"<true/>" * few + b"</array>"),
        xml(b"<dict>" + b"<key>a</key><true/>" * few + b"</dict>"),
        binary_plist([long_marker(0xA0, few) + b"\x01" * few, TRUE], offset_size=4),
    ):
        with pytest.raises(PlistError, match=f"more than {few} values"):
            load(octets)


def test_the_size_is_limited() -> None:
    whole = xml(b"<true/>")
    assert load(whole + b" " * (MAX_BYTES - len(whole))) is True
    with pytest.raises(PlistError, match="at most"):
        load(whole + b" " * (MAX_BYTES - len(whole) + 1))


def laughs() -> bytes:
    """Arrays of two references to the next one: 2 ** 30 values."""
    return binary_plist([*(bytes([0xA2, ref, ref]) for ref in range(1, 31)), TRUE])


def copies_of_one_array() -> bytes:
    """An array of 16,000 objects, each at the place of that array itself."""
    count = 16_000
    body = b"bplist00" + long_marker(0xA0, count) + b"".join(ref.to_bytes(2, "big") for ref in range(count))
    return with_trailer(body, [8] * count, 0, ref_size=2, offset_size=4)


def copies_of_one_text() -> bytes:
    """An array of 10,000 objects, each at the place of one string of 40,000 letters."""
    count, letters = 10_000, 40_000
    array = long_marker(0xA0, count) + b"".join(ref.to_bytes(2, "big") for ref in range(1, count + 1))
    body = b"bplist00" + array + long_marker(0x50, letters) + b"a" * letters
    return with_trailer(body, [8, *[8 + len(array)] * count], 0, ref_size=2, offset_size=3)


def copies_of_one_key() -> bytes:
    """A dictionary whose every key is one string of 60,000 letters."""
    count, letters = 20_000, 60_000
    table = long_marker(0xD0, count) + b"\x01" * count + b"\x02" * count
    return binary_plist([table, long_marker(0x50, letters) + b"a" * letters, TRUE], offset_size=3)


HOSTILE = {
    "billion laughs": laughs(),
    "one array many times": copies_of_one_array(),
    "one text many times": copies_of_one_text(),
    "one key many times": copies_of_one_key(),
    "deep XML": xml(b"<array>" * 7_000 + b"</array>" * 7_000),
    "deep XML, never closed": xml(b"<array>" * 14_000),
    "entities": b'<!DOCTYPE plist [<!ENTITY a0 "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 20))
    + b"]><plist><string>&a19;</string></plist>",
    "default attributes": b"<!DOCTYPE plist [<!ATTLIST true "
    + b" ".join(b'a%d CDATA ""' % n for n in range(3_000))
    + b"]><plist><array>"
    + b"<true/>" * 7_000
    + b"</array></plist>",
    "attributes": xml(b"<true " + b" ".join(b'a%d=""' % n for n in range(10_000)) + b"/>"),
    "name spaces": xml(b"<true " + b" ".join(b'xmlns:a%d="b"' % n for n in range(6_000)) + b"/>"),
    "prolog": HEAD + b" " * 100_000 + b"<a/>",
    "comment": HEAD + b"<!--" + b"-a" * 50_000,
    "bytes after the root": xml(b"<array>" + b"<true/>" * 9_000 + b"</array>") + b"<true/>" * 5_000,
    "tags of a root without an end": HEAD + b"<array>" + b"<true></true>" * 7_000,
    "white space first": b"\n" * 120_000 + b"<true/>",
    "a long year": xml(b"<date>" + b"9" * 120_000 + b"-01-01T00:00:00Z</date>"),
    "white space for a number": xml(b"<integer>" + b" " * 100_000 + b"x</integer>"),
    "a long number": xml(b"<integer>0x" + b"f" * 100_000 + b"</integer>"),
}


@pytest.mark.parametrize("octets", HOSTILE.values(), ids=HOSTILE.keys())
def test_steps_for_a_hostile_100_kb_plist_are_bounded(octets: bytes) -> None:
    assert len(octets) < 130_000
    with cProfile.Profile() as profile, contextlib.suppress(PlistError):
        load(octets)
    calls = sum(each.callcount for each in profile.getstats())
    assert 0 < 2 * calls < HOSTILE_CALLS
    tracemalloc.start()  # in a second reading: both at once take twice as long
    try:
        with contextlib.suppress(PlistError):
            load(octets)
        assert tracemalloc.get_traced_memory()[1] < HOSTILE_BYTES
    finally:
        tracemalloc.stop()


@given(texts)
def test_attributes_and_comments_are_ignored(text: str) -> None:
    comment = text.replace("-", "").replace("&", "").encode()
    assert load(xml(b"<!--" + comment + b"--><string>a</string>")) == "a"
