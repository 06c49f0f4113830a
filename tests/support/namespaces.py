"""Network namespaces and the wires between them, for tests of what happens on a real interface.

They need root on Linux, and ``ip``. The process of the tests may go into a namespace for a while: what it opens there
stays there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
from debian import need

HERE, THERE = "lom0", "far0"  # the two ends of the wire of ``both_ends``
_numbers = count()
_SECONDS = 120.0  # after which a command is stuck: far beyond what any takes
_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h
_QUICK_MILLISECONDS = "50"  # between the questions for a neighbour: the kernel asks three times, once a second


class Namespace:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *words: str) -> str:
        """The output of ``ip`` in this namespace."""
        return _ip("-n", self.name, *words)

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs a command in here."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    @property
    def entrance(self) -> str:
        """The Python that puts the process into it, for ``Forked``."""
        return f"""
import ctypes, os
assert ctypes.CDLL(None).setns(os.open("/var/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC), {_NETWORK}) == 0
"""

    def addresses(self, interface: str) -> set[str]:
        """The IPv6 addresses of an interface."""
        (found,) = json.loads(self.ip("-json", "-6", "addr", "show", "dev", interface)) or [{"addr_info": []}]
        return {entry["local"] for entry in found.get("addr_info", [])}

    def up(self, interface: str) -> None:
        """Switch an interface on, without an address of the kernel's, impatient with neighbours."""
        self.ip("link", "set", interface, "addrgenmode", "none")
        self.ip("link", "set", interface, "up")
        with self.inside():
            Path(f"/proc/sys/net/ipv6/neigh/{interface}/retrans_time_ms").write_text(_QUICK_MILLISECONDS)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be in here; what was opened outside stays outside."""
        from pyroute2 import netns

        netns.pushns(self.name)
        try:
            yield
        finally:
            netns.popns()


@contextmanager
def namespaces(number: int) -> Iterator[Sequence[Namespace]]:
    """So many new namespaces. The test is skipped where none can be made, or fails where it should be possible."""
    _need_root()
    with ExitStack() as stack:
        made = []
        for _ in range(number):
            name = f"lom-test-{os.getpid()}-{next(_numbers)}"
            _make(name)
            stack.callback(_ip, "netns", "delete", name)
            _ip("-n", name, "link", "set", "lo", "up")  # a host's packets to itself go this way, on any address
            made.append(Namespace(name))
        yield made


def wire(one: Namespace, name: str, other: Namespace, other_name: str) -> None:
    """A cable between two interfaces, which are up."""
    _ip("link", "add", name, "netns", one.name, "type", "veth", "peer", "name", other_name, "netns", other.name)
    one.up(name)
    other.up(other_name)


def _need_root() -> None:
    if sys.platform != "linux":
        pytest.skip("needs Linux: network namespaces")
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    need("ip", "iproute2")


def _make(name: str) -> None:
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        reason = f"no network namespace can be made here: {error.stderr.strip()}"
        if os.environ.get("LOM_AGENT_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=_SECONDS).stdout
