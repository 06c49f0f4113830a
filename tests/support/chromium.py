"""A page opened in headless Chromium: what its scripts made of it, what they complained of, whom it wanted to reach."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from debian import need

SECONDS = 60.0  # far beyond what any page takes
PAGE_MILLISECONDS = 10_000  # of the page's own clock, which does not wait for ours

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--enable-logging=stderr",
)
_THE_BROWSER_ITSELF = "not an origin"  # who asked, in the log of the network


@dataclass(frozen=True)
class Element:
    """A start tag of the page after its scripts ran."""

    tag: str
    attributes: dict[str, str | None]

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()


@dataclass(frozen=True)
class Opened:
    """``complaints``: every line of the page's console. ``requests``: every address that the page asked for."""

    elements: list[Element]
    complaints: list[str]
    requests: list[str]

    @property
    def root(self) -> dict[str, str | None]:
        """The attributes of the html element."""
        return next(each.attributes for each in self.elements if each.tag == "html")


def open_page(page: Path, scratch: Path) -> Opened:
    """Open ``page``; ``scratch`` is a folder for the browser. Without Chromium the test is skipped, see `debian`."""
    log = scratch / "net.json"
    done = subprocess.run(
        [
            need("chromium", "chromium"),
            *QUIET,
            f"--user-data-dir={scratch / 'profile'}",
            f"--log-net-log={log}",
            f"--virtual-time-budget={PAGE_MILLISECONDS}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    found = _Elements()
    found.feed(done.stdout.decode())
    complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if ":CONSOLE" in line]
    return Opened(found.elements, complaints, _requests(log))


def _requests(log: Path) -> list[str]:
    events = json.loads(log.read_text(encoding="utf-8", errors="replace"))["events"]
    asked = [each["params"] for each in events if "initiator" in each.get("params", {})]
    return [each["url"] for each in asked if each["initiator"] != _THE_BROWSER_ITSELF]


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))
