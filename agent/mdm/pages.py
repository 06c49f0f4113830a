"""HTML pages in place of a protocol message: a login page, or the page of a proxy or of another service."""

from __future__ import annotations

import html

from agent.errors import PeerError

_HEAD_BYTES = 4096  # in which the first tag of a page is looked for
_TITLE_BYTES = 64 * 1024  # in which its title is looked for
_MAX_TITLE = 80  # characters in the error text
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_BLANKS = b" \t\r\n\f\v\xef\xbb\xbf"  # white space and the UTF-8 byte order mark


class PageAnswered(PeerError):
    """The server sent an HTML page instead of an MDM message."""

    kind = "html_page"

    def __init__(self, expected: str, page: str, status: int, advice: str) -> None:
        super().__init__(f"Expected {expected}, found {page} (status {status}). {advice}")


def page_in(body: bytes, content_type: str, *, only_type: bool = False) -> str:
    """A description of a body that is an HTML page, such as “an HTML page titled “Sign in””; empty for any other.

    The Content-Type alone is not reliable: web frameworks send an empty body, a short text or a plist as ``text/html``
    by default. With ``only_type`` it is enough, unless the body begins like a plist or like CMS.
    """
    start = body[:_HEAD_BYTES].lstrip(_BLANKS)
    if start.startswith(b"<?xml"):
        start = start.partition(b"?>")[2].lstrip(_BLANKS)
    if start.startswith(b"<!--"):
        start = start.partition(b"-->")[2].lstrip(_BLANKS)
    start = start[:16].lower()
    if start.startswith((b"<html", b"<!doctype html")):
        return _titled(body)
    if content_type.partition(";")[0].strip().lower() not in _HTML_TYPES:
        return ""
    if start.startswith((b"<plist", b"<!doctype plist", b"bplist", b"\x30")):
        return ""
    return _titled(body) if only_type or start.startswith(b"<") else ""


def also(body: bytes, content_type: str) -> str:
    """The end of a refusal's error text where the body is an HTML page; else empty."""
    page = page_in(body, content_type)
    return page and f", with {page}"


def _titled(body: bytes) -> str:
    text = body[:_TITLE_BYTES]
    lower = text.lower()
    begin = lower.find(b">", lower.find(b"<title") + 1) if b"<title" in lower else -1
    end = lower.find(b"</title", begin)
    if begin < 0 or end < 0:
        return "an HTML page"
    # Cut before it is unescaped: a character reference may be as long as the page.
    raw = text[begin + 1 : min(end, begin + 1 + 4 * _MAX_TITLE)].decode("utf-8", "replace")
    title = " ".join("".join(each if each.isprintable() else " " for each in html.unescape(raw)).split())
    return f"an HTML page titled “{title[:_MAX_TITLE]}”" if title else "an HTML page"
