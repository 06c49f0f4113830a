"""The HTTP/1.1 response reader, on bytes alone: what is a response, and what is none."""

from __future__ import annotations

import pytest
from http1_reading import both_ways, read, read_by_byte, read_to_close
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import MisuseError
from agent.net.http.http1 import Response, ResponseMalformed, ResponseReader

# What ends a response


def test_content_length_ends_the_body() -> None:
    octets = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-One: 1\r\n\r\nhello"
    assert both_ways(octets) == Response(200, {"content-length": "5", "x-one": "1"}, b"hello", keep_alive=True)
    assert read(octets[:-1]) is None


def test_an_empty_body_needs_no_more_bytes() -> None:
    response = both_ways(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert response is not None
    assert response.body == b""


def test_a_reason_phrase_may_be_absent_or_empty() -> None:
    for status_line in (b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 Sehr gut \xfc"):
        response = both_ways(status_line + b"\r\nContent-Length: 0\r\n\r\n")
        assert response is not None
        assert response.status == 200


def test_chunks_are_joined() -> None:
    octets = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    response = both_ways(octets)
    assert response is not None
    assert (response.body, response.keep_alive) == (b"hello world", True)
    assert read(octets[:-1]) is None


def test_chunk_extensions_and_trailers_are_ignored() -> None:
    response = both_ways(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b'5;name=value\r\nhello\r\n0A \t;a="b"\r\n0123456789\r\n000;last\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n'
    )
    assert response is not None
    assert response.body == b"hello0123456789"
    assert "x-sum" not in response.headers


def test_connection_end_completes_a_body_without_a_length() -> None:
    response = read_to_close(b"HTTP/1.1 200 OK\r\n\r\nto the end")
    assert (response.body, response.keep_alive) == (b"to the end", False)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)
def test_connection_end_truncates_other_bodies(octets: bytes) -> None:
    with pytest.raises(ResponseMalformed, match="before the end"):
        read_to_close(octets)


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(status: int) -> None:
    response = both_ways(f"HTTP/1.1 {status} Nothing\r\nContent-Length: 5\r\n\r\n".encode())
    assert response is not None
    assert (response.status, response.body, response.keep_alive) == (status, b"", True)


def test_interim_responses_are_skipped() -> None:
    response = both_ways(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    assert response is not None
    assert (response.status, response.body, dict(response.headers)) == (200, b"ok", {"content-length": "2"})


def test_switching_protocols_is_refused() -> None:
    with pytest.raises(ResponseMalformed, match="101 Switching Protocols"):
        read(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")


# Whether the connection can be used again


@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: keep-alive\r\n", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.1", "Connection: Foo, CLOSE\r\n", False),
        ("1.1", "Connection: foo\r\nConnection: close\r\n", False),
        ("1.1", "Connection: closed\r\n", True),
        ("1.0", "", False),
        ("1.0", "Connection: Keep-Alive\r\n", True),
        ("1.0", "Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive_follows_version_and_headers(version: str, header: str, kept: bool) -> None:
    response = both_ways(f"HTTP/{version} 200 OK\r\n{header}Content-Length: 0\r\n\r\n".encode())
    assert response is not None
    assert response.keep_alive is kept


@pytest.mark.parametrize("excess", [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"])
@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
    ],
)
def test_bytes_after_the_response_are_not_part_of_it(octets: bytes, excess: bytes) -> None:
    """RFC 9112, 6.3: they must not be taken for the response to another request."""
    response = read(octets + excess)
    assert response is not None
    assert (response.body, response.keep_alive) == (b"good", False)


def test_a_reader_reads_one_response() -> None:
    reader = ResponseReader()
    assert reader.receive(b"HTTP/1.1 204 No Content\r\n\r\n") is not None
    with pytest.raises(MisuseError):
        reader.receive(b"H")


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"]
)
def test_ambiguous_framing_closes_the_connection(head: str) -> None:
    """RFC 9112, 6.1 and 6.3: with a Content-Length beside them, and in HTTP/1.0."""
    response = both_ways(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode())
    assert response is not None
    assert (response.body, response.keep_alive) == (b"hello", False)


# Headers


def test_a_repeated_header_is_one_list() -> None:
    response = both_ways(b"HTTP/1.1 204 No\r\nVia: a\r\nvia:\t b \r\nEmpty:\r\n\r\n")
    assert response is not None
    assert dict(response.headers) == {"via": "a, b", "empty": ""}


def test_an_obsolete_folded_header_is_one_line() -> None:
    response = both_ways(b"HTTP/1.1 204 No\r\nA: one\r\n two\r\n\t three\r\nB: 4\r\n\r\n")
    assert response is not None
    assert dict(response.headers) == {"a": "one two three", "b": "4"}


@pytest.mark.parametrize("value", ["5, 5", "5,5", "5\r\nContent-Length: 5", "05"])
def test_repeated_equal_content_length_is_accepted(value: str) -> None:
    response = both_ways(f"HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello".encode())
    assert response is not None
    assert response.body == b"hello"


@pytest.mark.parametrize(
    "value", ["5, 6", "5\r\nContent-Length: 6", "", "-1", "+5", "0x5", "5 5", "5.0", "5\xa0", "\u0665", "1" * 13, "5,"]
)
def test_invalid_content_length_is_refused(value: str) -> None:
    for parse in (read, read_by_byte):
        with pytest.raises(ResponseMalformed, match="Content-Length"):
            parse(f"HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nhello".encode())


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked", "identity", "", "xchunked"])
def test_other_transfer_coding_is_refused(coding: str) -> None:
    with pytest.raises(ResponseMalformed, match="Transfer-Encoding"):
        read(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode())


@pytest.mark.parametrize(
    "line",
    [
        b"no colon",
        b": empty name",
        b"sp ace: x",
        b"tab\t: x",
        b"name : x",
        b"nul: \0",
        b"cr: a\rb",
        b"\xfcml: x",
        b"(): x",
    ],
)
def test_invalid_header_line_is_refused(line: bytes) -> None:
    for octets in (
        b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + line + b"\r\n\r\n",
    ):
        for parse in (read, read_by_byte):
            with pytest.raises(ResponseMalformed, match="header line"):
                parse(octets)


def test_folded_first_header_line_is_refused() -> None:
    with pytest.raises(ResponseMalformed):
        read(b"HTTP/1.1 200 OK\r\n Content-Length: 0\r\n\r\n")


# Malformed input is reported early, without waiting for a server of another protocol


@pytest.mark.parametrize(
    "octets",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"http/1.1 200 OK",
        b"HTTP/2 200\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n",
    ],
)
def test_invalid_start_is_refused_at_once(octets: bytes) -> None:
    for parse in (read, read_by_byte):
        with pytest.raises(ResponseMalformed):
            parse(octets)


@pytest.mark.parametrize(
    "status_line",
    [
        b"HTTP/1.2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 200\0",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 +20 OK",
    ],
)
def test_invalid_status_line_is_refused(status_line: bytes) -> None:
    for parse in (read, read_by_byte):
        with pytest.raises(ResponseMalformed, match="status line"):
            parse(status_line + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("size", ["", "g", "-1", "5 5", "0x5", " 5", "123456789", "5\x0b"])
def test_invalid_chunk_size_is_refused(size: str) -> None:
    with pytest.raises(ResponseMalformed, match="size of a chunk"):
        read(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n0\r\n\r\n".encode())


def test_chunk_must_have_its_size() -> None:
    for parse in (read, read_by_byte):
        with pytest.raises(ResponseMalformed, match="expected CR LF at the end of a chunk"):
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n")


# Any bytes, however they are cut

TOKENS = st.sampled_from(
    [
        b"HTTP/1.1 ",
        b"HTTP/1.0 ",
        b"200",
        b"204",
        b"100",
        b" OK",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"5",
        b"0",
        b"hello",
        b"a",
        b";x",
        b":",
        b"\0",
        b"\xff",
    ]
)
HEADS = st.sampled_from(
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ]
)
HOSTILE = st.tuples(HEADS, st.lists(st.one_of(TOKENS, st.binary(max_size=8)), max_size=25)).map(
    lambda parts: parts[0] + b"".join(parts[1])
)


def outcome(octets: bytes, cuts: tuple[int, ...]) -> object:
    """What a server's bytes come to; whether the connection is kept may hang on the cuts, where there are too many."""
    try:
        response = read(octets, cuts=cuts)
    except ResponseMalformed:
        return "malformed"
    return None if response is None else response._replace(keep_alive=False)


@given(HOSTILE, st.data())
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx", None)
def test_any_bytes_in_any_pieces_give_a_response_or_response_malformed(
    octets: bytes, data: st.DataObject | None
) -> None:
    cuts = () if data is None else tuple(sorted(data.draw(st.sets(st.integers(0, len(octets))))))
    expected = outcome(octets, ())
    assert outcome(octets, cuts) == expected
    assert outcome(octets, tuple(range(1, len(octets)))) == expected


@given(st.binary(max_size=200))
def test_random_bytes_are_malformed_at_once(noise: bytes) -> None:
    if noise and not noise.startswith(b"H"):
        assert outcome(noise, ()) == "malformed"


FIELD_NAMES = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True).filter(
    lambda name: name.lower() not in ("content-length", "transfer-encoding", "connection")
)
FIELD_VALUES = st.from_regex(r"[!-~\xa1-\xff]([ -~\xa1-\xff]{0,20}[!-~\xa1-\xff])?", fullmatch=True)


@given(
    status=st.integers(200, 599).filter(lambda status: status not in (204, 304)),
    headers=st.dictionaries(FIELD_NAMES, FIELD_VALUES, max_size=8).filter(
        lambda headers: len({name.lower() for name in headers}) == len(headers)
    ),
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    chunked=st.booleans(),
    data=st.data(),
)
def test_response_survives_a_round_trip(
    status: int, headers: dict[str, str], chunks: list[bytes], chunked: bool, data: st.DataObject
) -> None:
    body = b"".join(chunks)
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))
    fields = [*headers.items(), framing]
    head = f"HTTP/1.1 {status} R\r\n" + "".join(f"{name}:  {value}\t\r\n" for name, value in fields) + "\r\n"
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" if chunked else body
    octets = head.encode("latin-1") + coded
    cuts = tuple(sorted(data.draw(st.sets(st.integers(0, len(octets)), max_size=10))))
    assert read(octets, cuts=cuts) == Response(
        status, {name.lower(): value for name, value in fields}, body, keep_alive=True
    )
