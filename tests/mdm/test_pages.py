"""HTML pages are recognised by their first bytes; other bodies that servers declare as HTML are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mdm.pages import also, page_in

DOCTYPE_PLIST = (
    b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">'
)
TITLED = "an HTML page titled “{}”"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html><body>Please sign in</body></html>", ""),
        (b"<!doctype html><p>Please sign in", "application/octet-stream"),
        (b"\xef\xbb\xbf\r\n\t <!DOCTYPE HTML>", ""),
        (b"<HTML lang=en>", "text/plain"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "">', "text/xml"),
        (b"<!-- served by a proxy -->\n<html>", ""),
        (b"<p>Please sign in", "text/html; charset=utf-8"),
        (b"<head><title></title>", "Text/HTML"),
        (b"<body>", "application/xhtml+xml"),
    ],
)
def test_html_page_is_recognised(body: bytes, content_type: str) -> None:
    assert page_in(body, content_type) == "an HTML page"
    assert page_in(body, content_type, only_type=True) == "an HTML page"
    assert also(body, content_type) == ", with an HTML page"


@pytest.mark.parametrize("only_type", [False, True])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", ""),
        (b"<plist><true/></plist>", "text/html"),
        (b'<?xml version="1.0" encoding="UTF-8"?>\n' + DOCTYPE_PLIST + b"<plist/>", "text/html"),
        (b"bplist00", "text/html"),
        (b"\x30\x82\x01\x00", "text/html"),
        (b"<htm", "text/plain"),
        (b'{"code": "<html>"}', "application/json"),
        (b"<error>no</error>", "text/xml"),
    ],
)
def test_other_bodies_are_not_html_pages(body: bytes, content_type: str, only_type: bool) -> None:
    assert page_in(body, content_type, only_type=only_type) == ""
    assert also(body, content_type) == ""


@pytest.mark.parametrize("body", [b"", b"OK", b"POSTPKIOperation\nSHA-256\n", b" \r\n"])
def test_short_body_needs_html_content_to_count_as_page(body: bytes) -> None:
    assert page_in(body, "text/html") == ""
    assert page_in(body, "text/html", only_type=True) == "an HTML page"


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        (b"<title>Sign in</title>", "Sign in"),
        (b"<TITLE class=a>\n  Sign\n  in \xe2\x80\xa6 Example &amp; Co</TITLE>", "Sign in … Example & Co"),
        (b"<title>\x00\x1b[31m&#27;a\xff</title>", "[31ma�"),
        (b"<title>" + b"a" * 100_000 + b"</title>", ""),
        (b"<title>" + b"a" * 5000 + b"</title>", "a" * 80),
        (b"<title>&#" + b"9" * 5000 + b";</title>", None),
        (b"<title>Sign in", ""),
        (b"<title", ""),
        (b"</title><title>", ""),
    ],
)
def test_html_title_is_shown_and_bounded(title: bytes, shown: str | None) -> None:
    found = page_in(b"<html><head>" + title + b"</head></html>", "")
    if shown is None:
        assert len(found) <= len(TITLED.format("")) + 80
    else:
        assert found == (TITLED.format(shown) if shown else "an HTML page")


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"<html>", b"<title", b">", b"</title", b"&#9", b"a"])).map(b"".join)
)
def test_any_bytes_are_a_page_or_none(body: bytes) -> None:
    found = page_in(body, "text/html", only_type=True)
    assert found == "" or found.startswith("an HTML page")
    assert len(found) <= len(TITLED.format("")) + 80
    assert found.isprintable()
