"""Headless Chromium that a test drives by the DevTools protocol, over a pipe.

https://chromedevtools.github.io/devtools-protocol/: JSON messages, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from debian import need

SECONDS = 60.0  # far beyond what any answer takes
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
_LOOK_SECONDS = 0.02
_FALSE = (None, False, 0, "")


class Browser:
    """One browser with one page. Without Chromium the test is skipped, see `debian`.

    ``complaints``: its console and the problems that it found. ``requests``: every URL that it asked for, without those
    that the page's policy stopped.
    """

    def __init__(self, scratch: Path) -> None:
        program = need("chromium", "chromium")
        ours_in, theirs_out = _pipe()
        theirs_in, ours_out = _pipe()
        quiet = os.open(scratch / "browser.txt", os.O_WRONLY | os.O_CREAT, 0o600)
        self._in, self._out, self._rest = ours_in, ours_out, b""
        self._last = 0
        self.complaints: list[str] = []
        self._requests: dict[str, list[str]] = {}  # by their identifier; a redirect has that of its request
        self._pid = os.posix_spawn(
            program,
            [program, *QUIET, "--remote-debugging-pipe", f"--user-data-dir={scratch / 'profile'}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                (os.POSIX_SPAWN_DUP2, quiet, 1),
                (os.POSIX_SPAWN_DUP2, quiet, 2),
            ],
            setpgroup=0,
        )
        for each in (theirs_in, theirs_out, quiet):
            os.close(each)
        self._session = ""
        page = self._wait_for_page()
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    @property
    def requests(self) -> list[str]:
        """The URLs, in the order of the requests."""
        return [url for urls in self._requests.values() for url in urls]

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command; returns its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        octets = json.dumps(message).encode() + b"\0"
        while octets:
            octets = octets[os.write(self._out, octets) :]
        while True:
            found = self._read()
            if found.get("id") == self._last:
                if "error" in found:
                    raise AssertionError(f"{method}: {found['error']}")
                return found["result"]
            self._note(found)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(f"{script[:200]}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression as soon as JavaScript takes it as true; that of a node of the page is {}."""
        deadline = time.monotonic() + SECONDS
        while (value := self.run(script)) in _FALSE:
            if time.monotonic() > deadline:
                raise AssertionError(f"Expected {script} within {SECONDS:g} s, found {value!r}: {self.complaints}")
            time.sleep(_LOOK_SECONDS)
        return value

    def open(self, url: str) -> None:
        """Go to ``url``."""
        self.call("Page.navigate", url=url)

    def leave(self) -> None:
        """Leave the page, and forget what it complained of and asked for."""
        self.open("about:blank")
        self.wait("location.href === 'about:blank'")
        self.complaints.clear()
        self._requests.clear()

    def press(self, key: str, text: str = "") -> None:
        """Press and release one key of the keyboard."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text if kind == "keyDown" else "",
                      windowsVirtualKeyCode=_KEYS.get(key, 0))  # fmt: skip

    def colours(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def size(self, width: int, height: int) -> None:
        """The size of the window in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self) -> bytes:
        """What it shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End it and its processes."""
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)

    def _wait_for_page(self) -> str:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for each in self.call("Target.getTargets")["targetInfos"]:
                if each["type"] == "page":
                    return str(each["targetId"])
            time.sleep(_LOOK_SECONDS)
        raise AssertionError("The browser has no page.")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], SECONDS)[0]:
                raise AssertionError(f"The browser does not answer: {self.complaints}")
            octets = os.read(self._in, 1 << 20)
            if not octets:
                raise AssertionError("The browser ended.")
            self._rest += octets
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.complaints.append(str([each.get("value", each.get("description")) for each in parameters["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] != "verbose":
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self._requests.setdefault(parameters["requestId"], []).append(parameters["request"]["url"])
        elif method == "Network.loadingFailed" and parameters.get("blockedReason") == "csp":
            self._requests.pop(parameters["requestId"], None)


_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
         "Home": 36, "End": 35}  # fmt: skip


def _pipe() -> tuple[int, int]:
    """A pipe whose ends have numbers that nothing else is given in the child."""
    ends = os.pipe()
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in ends]
    for each in ends:
        os.close(each)
    return moved[0], moved[1]
