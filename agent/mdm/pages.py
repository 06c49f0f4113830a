"""HTML pages where something else is expected: a login page, a proxy's page, or the page of another service."""

from __future__ import annotations

import html

from agent.errors import PeerError

_HEAD_BYTES = 4096  # in which a page begins
_TITLE_BYTES = 64 * 1024  # in which its title is looked for
_MAX_TITLE = 80  # characters that are shown
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_BLANKS = b" \t\r\n\f\v\xef\xbb\xbf"  # white space and the UTF-8 byte order mark


class PageAnswered(PeerError):
    """The server answered an HTML page instead of what MDM says."""

    kind = "html_page"

    def __init__(self, expected: str, page: str, status: int, look_at: str) -> None:
        super().__init__(f"Expected {expected}, found {page} (status {status}). {look_at}")


def page_in(body: bytes, content_type: str, *, only_type: bool = False) -> str:
    """What an answer's body is, such as “an HTML page titled “Sign in””; empty where it is no HTML page.

    The Content-Type alone says little: web frameworks call an empty answer, a short text or a plist ``text/html`` by
    default. ``only_type`` says that it is enough where nothing in the body speaks against it.
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
    """The end of an error text on a refusal: that its body is an HTML page, if it is one."""
    page = page_in(body, content_type)
    return page and f", with {page}"


def _titled(body: bytes) -> str:
    text = body[:_TITLE_BYTES]
    lower = text.lower()
    begin = lower.find(b">", lower.find(b"<title") + 1) if b"<title" in lower else -1
    end = lower.find(b"</title", begin)
    if begin < 0 or end < 0:
        return "an HTML page"
    # Bounded before it is unescaped: a character reference may be as long as the page.
    raw = text[begin + 1 : min(end, begin + 1 + 4 * _MAX_TITLE)].decode("utf-8", "replace")
    title = " ".join("".join(each if each.isprintable() else " " for each in html.unescape(raw)).split())
    return f"an HTML page titled “{title[:_MAX_TITLE]}”" if title else "an HTML page"
