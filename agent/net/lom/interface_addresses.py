"""The addresses of simulated Macs on a real interface: added, and removed again, also after a crash.

Addresses are written to a state file before they are added, so that the next run can remove what a killed run left.
A running process holds a lock on the file. ::

    veth0 <boot id of the kernel>
    + fe80::94f6:d6ff:fef3:c05b     about to be added
    - fe80::94f6:d6ff:fef3:c05b     removed
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import OperatorError
from agent.lom.addresses import AddressError, check_link_local
from agent.unix import fcntl

_NODAD = 0x02  # IFA_F_NODAD of linux/if_addr.h: usable at once; two Macs of a fleet never have the same address
_SCOPE_LINK = 253  # RT_SCOPE_LINK of linux/rtnetlink.h
_TABLE_LOCAL = 255  # RT_TABLE_LOCAL of linux/rtnetlink.h
_LOOKS, _SECONDS_BETWEEN = 500, 0.01
_KNOWN = 0xDE  # NUD_VALID of net/neighbour.h: permanent, noarp, reachable, probe, stale, delay
_UP = 0x01  # IFF_UP of linux/if.h
_PREFIX_LENGTH = 64
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/net")

ResultT = TypeVar("ResultT")


def state_folder() -> Path:
    """Where the state files are: ``$XDG_STATE_HOME/lom-agent``, or ``~/.local/state/lom-agent``."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "lom-agent"


class InterfaceAddresses:
    """The addresses that this process has added to one interface. Every method raises OperatorError."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.index = 0
        self._folder = folder
        self._state: _StateFile | None = None
        self._put: dict[str, None] = {}

    def open(self) -> None:
        """Lock the interface, and remove the addresses that a killed run has left on it."""
        self.index = self._find()
        state = _StateFile(self._folder, self.name)
        self._state = state
        left = set(state.left)
        if left:
            there = self._there()
            self._put = {address: None for address in state.left if address in there}
            self.take_off(list(self._put))
        state.begin()

    def put_on(self, addresses: Sequence[str]) -> None:
        """Add these addresses to the interface."""
        taken = self._there() & set(addresses)
        if taken:
            raise OperatorError(
                f"the interface {self.name} has the address {min(taken)} already, and it is none of ours; "
                "another fleet of the same seed has it, or another Mac: use another seed or another interface"
            )
        if self._state is not None:
            self._state.write("+", addresses)
        _with_netlink(lambda netlink: self._add(netlink, addresses))

    def take_off(self, addresses: Sequence[str]) -> None:
        """Remove these addresses; those that are already gone are ignored."""
        ours = [address for address in addresses if address in self._put]
        _with_netlink(lambda netlink: self._delete(netlink, ours))
        if self._state is not None:
            self._state.write("-", ours)

    def close(self) -> None:
        """Remove all addresses, and unlock the interface."""
        state, self._state = self._state, None
        if state is None:
            return
        try:
            self.take_off(list(self._put))
        except OperatorError:
            state.release()  # the next run finds what is left
            raise
        state.remove()

    def neighbour(self, address: str) -> bool:
        """Whether the kernel's neighbour table has a valid entry for this address."""
        code, found = _attempt(
            lambda: _with_netlink(
                lambda netlink: list(netlink.neigh("get", dst=address, ifindex=self.index, family=socket.AF_INET6))
            )
        )
        return not code and found is not None and any(entry["state"] & _KNOWN for entry in found)

    def _find(self) -> int:
        try:
            index = socket.if_nametoindex(self.name)
        except OSError:
            there = ", ".join(name for _, name in socket.if_nameindex())
            raise OperatorError(f"this machine has no interface {self.name!r}; it has {there}") from None
        (link,) = _with_netlink(lambda netlink: list(netlink.get_links(index)))
        if not link["flags"] & _UP:
            raise OperatorError(f"the interface {self.name} is down; bring it up: ip link set {self.name} up")
        return index

    def _there(self) -> set[str]:
        """Every IPv6 address that the interface has."""
        dump = _with_netlink(lambda netlink: list(netlink.get_addr(index=self.index, family=socket.AF_INET6)))
        return {entry.get_attr("IFA_ADDRESS") for entry in dump}

    def _add(self, netlink: Any, addresses: Sequence[str]) -> None:
        for address in addresses:
            asked = {**self._named(address), "scope": _SCOPE_LINK, "flags": _NODAD}
            code, _ = _attempt(partial(netlink.addr, "add", **asked))
            if code:
                raise OperatorError(f"the address {address} cannot be put on {self.name}: {self._why(code)}")
            self._put[address] = None
        self._wait_for_routes(netlink, set(addresses))

    def _wait_for_routes(self, netlink: Any, addresses: set[str]) -> None:
        """Wait until the kernel routes the new addresses locally; until then, packets to them leave the machine.

        Blocks for up to 5 seconds. Addresses are only added before a run starts.
        """
        for _ in range(_LOOKS):
            routes = netlink.get_routes(family=socket.AF_INET6, table=_TABLE_LOCAL)
            addresses -= {route.get_attr("RTA_DST") for route in routes if route.get_attr("RTA_OIF") == self.index}
            if not addresses:
                return
            time.sleep(_SECONDS_BETWEEN)
        raise OperatorError(f"the address {min(addresses)} was put on {self.name}, but does not come into use")

    def _delete(self, netlink: Any, addresses: Sequence[str]) -> None:
        for address in addresses:
            code, _ = _attempt(partial(netlink.addr, "del", **self._named(address)))
            if code not in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
                raise OperatorError(f"the address {address} cannot be taken off {self.name}: {self._why(code)}")
            del self._put[address]

    def _named(self, address: str) -> dict[str, Any]:
        return {"index": self.index, "address": address, "prefixlen": _PREFIX_LENGTH, "family": socket.AF_INET6}

    def _why(self, code: int) -> str:
        match code:
            case errno.EPERM:
                return "that needs root, or the capability CAP_NET_ADMIN"
            case errno.EACCES:
                return f"IPv6 is disabled there; see sysctl net.ipv6.conf.{self.name}.disable_ipv6"
            case errno.EEXIST:
                return "another process added it meanwhile"
        return os.strerror(code)


class _StateFile:
    """The state file of one interface, locked. ``left`` has the addresses that an earlier run did not remove."""

    def __init__(self, folder: Path, interface: str) -> None:
        # Every network namespace may have an interface of this name.
        self._path = folder / f"{interface}.{_NAMESPACE.stat().st_ino}.addresses"
        self._heading = f"{interface} {_BOOT_ID.read_text().strip()}\n"
        self._interface = interface
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = self._lock()
            with open(self._descriptor, encoding="ascii", errors="replace", closefd=False) as file:
                heading, *lines = [*file, ""]
        except OSError as error:
            raise OperatorError(
                f"the state file {self._path} cannot be used: {error.strerror}; "
                "the addresses put on an interface are noted there, so that they can be taken off after a crash"
            ) from error
        self.left = _left(lines) if heading == self._heading else []  # a reboot removes them

    def begin(self) -> None:
        """Start a new list."""
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, self._heading.encode())

    def write(self, sign: str, addresses: Sequence[str]) -> None:
        """Write what happens to these addresses."""
        octets = "".join(f"{sign} {address}\n" for address in addresses).encode()
        try:
            while octets:
                octets = octets[os.write(self._descriptor, octets) :]
        except OSError as error:
            raise OperatorError(f"the state file {self._path} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Delete the file, and unlock the interface."""
        self._path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Unlock the interface; the list of addresses stays."""
        os.close(self._descriptor)

    def _lock(self) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise OperatorError(
                    f"another run of lom-agent uses the interface {self._interface}; "
                    "end it first, or use another interface"
                ) from None
            except FileNotFoundError:
                pass
            os.close(descriptor)  # the run before this one has just removed it


def _left(lines: Sequence[str]) -> list[str]:
    left: dict[str, None] = {}
    for line in lines:
        sign, _, rest = line.partition(" ")
        try:
            address = str(check_link_local(rest.rstrip("\n")))
        except AddressError:  # half a line: the run was killed before it put this one on
            continue
        if sign == "+" and rest.endswith("\n"):
            left[address] = None
        elif sign == "-":
            left.pop(address, None)
    return list(left)


def _attempt(request: Callable[[], ResultT]) -> tuple[int, ResultT | None]:
    """The error number of a netlink request, 0 where it was carried out, and its result."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return 0, request()
    except NetlinkError as error:
        return int(error.code), None


def _with_netlink(work: Callable[[Any], ResultT]) -> ResultT:
    """Run ``work`` with pyroute2's IPRoute: in a thread, for it runs an event loop of its own."""
    from pyroute2 import IPRoute

    def run() -> ResultT:
        with IPRoute() as netlink:
            return work(netlink)

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()
