"""The files of a run: capabilities, waivers, and the trace, which has no secret in it."""

from __future__ import annotations

import json
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import pytest
from conform_runs import authorities, header

from agent import plists
from agent.conform.trace.bodies import Certificates, Redacted, body_of, certificates_of, fingerprint, plain
from agent.conform.trace.recorder import Recorder
from agent.conform.trace.records import ExchangeRecord, NoteRecord, Trace, read_trace, write_trace
from agent.conform.verdicts.capabilities import read_capabilities
from agent.conform.verdicts.waivers import read_waivers, waivers_text
from agent.errors import OperatorError
from agent.measure.exchanges import HTTPExchange
from agent.pki.cms_signing import sign_attached
from agent.pki.identity import dump_pkcs12

IDS = ["A-01", "A-02"]


def test_capabilities_are_read_and_unknown_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "capabilities.toml"
    file.write_text("[capabilities]\nacme = false\n")
    assert read_capabilities(file, ["acme", "scep"]) == {"acme": False}
    for text in ("[capabilities]\nacmee = false\n", "[capabilities]\nacme = 'no'\n", "[other]\n", "acme =", "\xff"):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(OperatorError, match="capabilit"):
            read_capabilities(file, ["acme"])


def test_written_waivers_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "waivers.toml"
    file.write_text(waivers_text([("A-01", 'expected "this" \\ seen\nthat'), ("A-02", "ü\x7f\x1b")], date(2027, 1, 2)))
    first, second = read_waivers(file, IDS)
    assert (first.id, first.reason, first.until) == ("A-01", 'expected "this" \\ seen\nthat', date(2027, 1, 2))
    assert second.reason == "ü\x7f\x1b"


@pytest.mark.parametrize(
    "text",
    [
        '[[waiver]]\nid = "A-03"\nreason = "x"\n',
        '[[waiver]]\nid = "A-01"\n',
        '[[waiver]]\nid = "A-01"\nreason = ""\n',
        '[[waiver]]\nid = "A-01"\nreason = "x"\n[[waiver]]\nid = "A-01"\nreason = "x"\n',
        '[[waiver]]\nid = "A-01"\nreason = "x"\nuntil = "soon"\n',
        "waiver = 1",
        "[[",
    ],
)
def test_waivers_that_make_no_sense_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "waivers.toml"
    file.write_text(text)
    with pytest.raises(OperatorError, match="waiver"):
        read_waivers(file, IDS)


# The trace


def test_a_trace_is_read_as_it_was_written_and_is_private(tmp_path: Path) -> None:
    note = NoteRecord(number=1, probe="one", at=1.5, step="queued", data={"by_server": True})
    path = write_trace(tmp_path / "trace.jsonl", Trace(header("ü"), [note]))
    assert path.stat().st_mode & 0o777 == 0o600
    again = read_trace(path)
    assert (again.header, again.records) == (header("ü"), [note])


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([], "Expected a conformance trace"),
        ([{"type": "header"}], "Expected a conformance trace"),
        ([{"format": "lom-agent conformance trace", "version": 2}], "Expected version 1"),
        ([None, {"type": "note", "number": 1}], "in line 2"),
        ([None, {"type": "other"}], "in line 2"),
        ([None, None], "another in line 2"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, lines: list[Any], match: str) -> None:
    path = write_trace(tmp_path / "good.jsonl", Trace(header()))
    good = path.read_text().splitlines()[0]
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(good if line is None else json.dumps(line) for line in lines))
    with pytest.raises(OperatorError, match=match):
        read_trace(bad)


def _trace(folder: Path, *numbers: int) -> Path:
    notes = [NoteRecord(number=number, probe="one", at=0.0, step=str(number)) for number in numbers]
    return write_trace(folder / "trace.jsonl", Trace(header(), notes))


def test_the_lines_of_a_trace_may_be_in_any_order(tmp_path: Path) -> None:
    assert [each.number for each in read_trace(_trace(tmp_path, 3, 1, 2)).records] == [1, 2, 3]


@pytest.mark.parametrize("numbers", [(1, 3), (2, 3), (1, 2, 2), (1, 1), (0, 1)])
def test_a_trace_that_lacks_a_record_or_has_one_twice_is_refused(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    with pytest.raises(OperatorError, match="Expected each record from 1 to"):
        read_trace(_trace(tmp_path, *numbers))


def test_a_trace_without_its_end_is_not_whole_and_stays_so(tmp_path: Path) -> None:
    path = _trace(tmp_path, 1, 2)
    assert read_trace(path).complete
    cut = b"".join(path.read_bytes().splitlines(keepends=True)[:-1])
    path.write_bytes(cut)
    assert not read_trace(path).complete
    assert write_trace(tmp_path / "again.jsonl", read_trace(path)).read_bytes() == cut


def test_the_end_of_a_trace_says_how_many_records_it_has_and_what_stopped_the_run(tmp_path: Path) -> None:
    header_, first, _second, end = _trace(tmp_path, 1, 2).read_bytes().splitlines(keepends=True)
    path = tmp_path / "other.jsonl"
    for lines, match in (([header_, first, end], "Expected each record from 1 to 2"), ([header_, end, end], "one end")):
        path.write_bytes(b"".join(lines))
        with pytest.raises(OperatorError, match=match):
            read_trace(path)
    stopped = read_trace(write_trace(path, Trace(header(), signal=2)))
    assert (stopped.whole, stopped.signal, stopped.complete) == (True, 2, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [("profile", "none"), ("started", 1e300), ("started", -1e300), ("seed", None), ("only", 1), ("server", [])],
)
def test_a_header_that_no_run_writes_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = _trace(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text().splitlines()[0]) | {key: value}))
    with pytest.raises(OperatorError, match="line 1"):
        read_trace(path)


@pytest.mark.parametrize("line", [1, 2])
def test_a_line_that_is_nested_too_deep_is_refused(tmp_path: Path, line: int) -> None:
    deep = b'{"type":"note","data":' + 10_000 * b'{"a":' + b"1" + 10_000 * b"}" + b"}"
    path = tmp_path / "deep.jsonl"
    path.write_bytes((_trace(tmp_path).read_bytes() if line == 2 else b"") + deep)
    with pytest.raises(OperatorError):
        read_trace(path)


# Bodies


@pytest.mark.parametrize("page", ["<pre>{}</pre>", "Error: cannot read {}"])
@pytest.mark.parametrize("escaped", [True, False])
def test_a_page_that_shows_what_a_mac_sent_is_not_kept(page: str, escaped: bool) -> None:
    message = "<dict><key>PushMagic</key><string>secret</string></dict>"
    body = body_of(page.format(escape(message) if escaped else message).encode())
    assert (body.form, body.value) == ("text", None)
    assert "may hold a secret" in body.problem
    assert body_of(page.format("nothing").encode()).value == page.format("nothing")


def test_only_headers_that_hold_no_secret_are_kept() -> None:
    recorder = Recorder(header())
    headers = {
        "Server": "nginx",
        "Content-Type": "text/html",
        "Location": "https://user:secret@idp.example/login?token=secret",
        "X-Api-Key": "secret",
        "Set-Cookie": "session=secret",
    }
    exchange = HTTPExchange(at=0.0, seconds=0.1, device=0, udid="A", kind="report", response_headers=headers)
    recorder.exchange(exchange)
    (record,) = recorder.trace.records
    assert isinstance(record, ExchangeRecord)
    assert record.response_headers == {
        "server": "nginx",
        "content-type": "text/html",
        "location": "https://idp.example/login",
        "x-api-key": "***",
        "set-cookie": "***",
    }


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (rb'{"a": "\ud800", "\udc00": "\ud83d\ude00"}', {"a": "?", "?": "\U0001f600"}),
        (b'{"a": [NaN, Infinity, 1e999], "b": 1234567890123456789012}', {"a": 3 * [None], "b": 1234567890123456789012}),
        (b'{"$data": "no Base64", "$redacted": {"$$": 1}}', {"$data": "no Base64", "$redacted": {"$$": 1}}),
    ],
)
def test_any_body_is_judged_from_the_file_as_it_is_in_the_run(tmp_path: Path, octets: bytes, expected: Any) -> None:
    body = body_of(octets)
    exchange = ExchangeRecord(number=1, probe="one", at=0.0, seconds=0.1, udid="A", kind="report", response=body)
    (again,) = read_trace(write_trace(tmp_path / "trace.jsonl", Trace(header(), [exchange]))).records
    assert again == exchange
    assert body.dictionary == expected


def test_values_come_back_and_secrets_do_not() -> None:
    message = {
        "MessageType": "TokenUpdate",
        "Token": b"t" * 32,
        "PushMagic": "magic",
        "UnlockToken": b"unlock",
        "Nested": [{"Challenge": "challenge", "PIN": "123456", "Data": b'{"a": 1}'}],
        "Blob": b"\x00\x01",
    }
    body = body_of(plists.dump_xml(message))
    kept = json.dumps(body.value)
    for secret in ("challenge", "123456", "magic", "unlock", "dHR0"):
        assert secret not in kept.replace("Challenge", "")
    value = plain(json.loads(kept))
    assert value["Blob"] == b"\x00\x01"
    assert value["Token"] == Redacted("data", 32, fingerprint(b"t" * 32))
    assert value["UnlockToken"] == Redacted("data", 6)
    assert value["Nested"][0]["Challenge"] == Redacted("a string", 9)
    assert value["Nested"][0]["Data"] == {"a": 1}


@pytest.mark.parametrize("signed", [False, True])
def test_of_a_pkcs12_in_a_profile_only_the_certificates_are_kept(signed: bool) -> None:
    identity = authorities().lom_device_identity("mac.lom.test")
    blob = dump_pkcs12(identity, "password-1", "name")
    payload = {"PayloadType": "com.apple.security.pkcs12", "Password": "password-1", "PayloadContent": blob}
    profile = plists.dump_xml({"PayloadContent": [payload]})
    if signed:
        signer = authorities().signer_identity()
        profile = sign_attached(profile, signer.certificate, signer.key)
    body = body_of(plists.dump_xml({"Command": {"RequestType": "InstallProfile", "Payload": profile}}))
    assert "password-1" not in json.dumps(body.value)
    kept = body.value["Command"]["Payload"]
    assert len(kept["$signers"]) == (1 if signed else 0)
    (found,) = plain(kept)["PayloadContent"]
    assert isinstance(found["PayloadContent"], Certificates)
    assert certificates_of(found["PayloadContent"])[0] == identity.certificate


@pytest.mark.parametrize(
    ("octets", "form", "problem"),
    [
        (b"", "empty", False),
        (b"<html>", "text", False),
        (b'<?xml version="1.0"?><plist><dict><key>Challenge</key><string>secret', "text", True),
        (b'{"a"', "bytes", True),
        (b"\xff\xfe\x00", "bytes", False),
        (b'{"a": [1]}', "json", False),
    ],
)
def test_other_bodies_say_what_they_are_and_a_broken_plist_shows_nothing(
    octets: bytes, form: str, problem: bool
) -> None:
    body = body_of(octets)
    assert (body.form, bool(body.problem), body.length) == (form, problem, len(octets))
    assert "secret" not in str(body.value)
