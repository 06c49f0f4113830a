"""The LOM network on a real interface: what an operator can get wrong, and what is left as it was then."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from debian import need
from lom_parties import ADDRESS, ADDRESS_2, device
from lom_wire import Here, device_process, refused
from namespaces import HERE, THERE, Namespace

from agent.errors import OperatorError
from agent.net.lom.interface import LOM_PORT


def test_a_second_run_on_the_same_interface_is_refused(others: Namespace, tmp_path: Path) -> None:
    with device_process(others, tmp_path, ADDRESS) as there:
        assert there.line() == "listening"
        here = Here(tmp_path / "state" / "lom-agent", device(addresses=[ADDRESS_2]), interfaces=[THERE])
        text = f"another run of lom-agent uses the interface {THERE}"
        with others.inside(), pytest.raises(OperatorError, match=text):
            here.network.listen()
        assert others.addresses(THERE) == {ADDRESS}


def test_missing_capabilities_are_named(others: Namespace, tmp_path: Path) -> None:
    setpriv = need("setpriv", "util-linux")
    text = refused(others, tmp_path, before=[setpriv, "--bounding-set", "-net_admin"])
    assert "needs root, or the capabilities CAP_NET_ADMIN and CAP_NET_BIND_SERVICE; CAP_NET_ADMIN is missing" in text
    text = refused(others, tmp_path, before=[setpriv, "--bounding-set", "-net_admin,-net_bind_service"])
    assert "CAP_NET_ADMIN and CAP_NET_BIND_SERVICE are missing here" in text


def test_unknown_interface_is_refused(others: Namespace, tmp_path: Path) -> None:
    with others.inside(), pytest.raises(OperatorError, match=f"no interface 'eth9'; it has lo, {THERE}"):
        Here(tmp_path, device(), interfaces=["eth9"]).network.listen()
    with others.inside(), pytest.raises(OperatorError, match=r"no interface '\.\./state'"):
        Here(tmp_path, device(), interfaces=["../state"]).network.listen()


def test_interface_that_is_down_is_refused(ours: Namespace, tmp_path: Path) -> None:
    ours.ip("link", "set", "lom1", "down")
    with ours.inside(), pytest.raises(OperatorError, match="lom1 is down; bring it up: ip link set lom1 up"):
        Here(tmp_path, device(), interfaces=["lom1"]).network.listen()
    ours.ip("link", "set", "lom1", "up")


def test_interface_without_ipv6_is_refused(ours: Namespace, tmp_path: Path) -> None:
    with ours.inside():
        switch = Path(f"/proc/sys/net/ipv6/conf/{HERE}/disable_ipv6")
        switch.write_text("1")
        with pytest.raises(OperatorError, match=f"sysctl net.ipv6.conf.{HERE}.disable_ipv6"):
            Here(tmp_path, device()).network.listen()
        switch.write_text("0")
    assert list(tmp_path.iterdir()) == []


def test_existing_address_is_refused_and_kept(ours: Namespace, tmp_path: Path) -> None:
    ours.ip("addr", "add", f"{ADDRESS}/64", "dev", HERE, "scope", "link", "nodad")
    with ours.inside(), pytest.raises(OperatorError, match=f"{HERE} has the address {ADDRESS} already"):
        Here(tmp_path, device(addresses=[ADDRESS_2, ADDRESS])).network.listen()
    assert ours.addresses(HERE) == {ADDRESS}


def test_port_in_use_leaves_every_interface_unchanged(ours: Namespace, tmp_path: Path) -> None:
    elsewhere = device(index=2, addresses=[ADDRESS_2])
    elsewhere.segment = 1
    with ours.inside(), socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lom1")
        taken.bind(("::", LOM_PORT))
        taken.listen()
        here = Here(tmp_path, device(), elsewhere, interfaces=[HERE, "lom1"])
        with pytest.raises(OperatorError, match=f"cannot listen on port {LOM_PORT} of lom1: Address already in use"):
            here.network.listen()
        assert ours.addresses(HERE) == ours.addresses("lom1") == set()
        with Here(tmp_path, device(), elsewhere, interfaces=[HERE, "lom1"], port=LOM_PORT + 1):
            assert (ours.addresses(HERE), ours.addresses("lom1")) == ({ADDRESS}, {ADDRESS_2})


def test_unwritable_state_file_is_refused(ours: Namespace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with ours.inside(), pytest.raises(OperatorError, match=r"state file .* cannot be used"):
        Here(tmp_path / "file", device()).network.listen()
    assert ours.addresses(HERE) == set()


# Without any interface


def test_more_segments_than_interfaces_are_refused(tmp_path: Path) -> None:
    party = device()
    party.segment = 2
    with pytest.raises(OperatorError, match="segment 2 has no interface: eth0,eth1 are 2; name one for each segment"):
        Here(tmp_path, party, interfaces=["eth0", "eth1"])


def test_duplicate_address_on_an_interface_is_refused(tmp_path: Path) -> None:
    twin = device(index=2)
    twin.segment = 1
    with pytest.raises(OperatorError, match=f"two Macs have the address {ADDRESS} on eth0: 1 and 2"):
        Here(tmp_path, device(), twin, interfaces=["eth0"])
    Here(tmp_path, device(), twin, interfaces=["eth0", "eth1"])


def test_other_systems_than_linux_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="needs Linux; this is darwin, where loopback and memory work"):
        Here(tmp_path, platform="darwin")
