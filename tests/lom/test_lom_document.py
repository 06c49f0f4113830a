"""docs/lom-link.md agrees with the code: example bytes and limits."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec.structs import asdict

from agent.lom.link import (
    MAX_ERROR_LENGTH,
    MAX_FRAME_BYTES,
    Acknowledgement,
    ControllerLink,
    DeviceLink,
    LinkAnswer,
    LinkLimits,
    LinkRequest,
)
from agent.lom.requests import MAX_DNS_NAME_LENGTH, MAX_UUID_LENGTH, PROTOCOL_VERSION, PowerRequest
from agent.net.transport.stream import DEFAULT_TIMEOUTS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "lom-link.md").read_text()
REQUEST = LinkRequest("0001", "lomdevice.com", PowerRequest.RESET)
ACKNOWLEDGEMENT = Acknowledgement("0001")


def test_documented_bytes_are_those_of_the_code() -> None:
    asked, done, refused, acknowledged = (
        bytes.fromhex(block) for block in re.findall(r"```hex\n(.*?)```", DOCUMENT, re.DOTALL)
    )
    answer = LinkAnswer("0001", "Reset refused: the Mac is off")
    assert (asked, done, refused) == (REQUEST.encode(), LinkAnswer("0001").encode(), answer.encode())
    assert acknowledged == ACKNOWLEDGEMENT.encode()
    device = DeviceLink()
    device.receive(asked)
    assert device.next_message() == REQUEST
    device.answer(LinkAnswer("0001"))
    device.receive(acknowledged)
    assert device.next_message() == ACKNOWLEDGEMENT
    assert ControllerLink(REQUEST).receive(done) == LinkAnswer("0001")
    assert ControllerLink(REQUEST).receive(refused) == answer


def test_documented_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"\| ([\d.]+)(?: s)? \| `(\w+)` \|", DOCUMENT)
    assert {name: float(value) for value, name in rows} == asdict(LinkLimits())
    connect, handshake = DEFAULT_TIMEOUTS.connect, DEFAULT_TIMEOUTS.handshake
    timeouts = f"an end waits {connect:g} s for the TCP connection and {handshake:g} s for the TLS handshake"
    assert timeouts in " ".join(DOCUMENT.split())
    assert f"| 1 to {MAX_FRAME_BYTES} | a binary property list" in DOCUMENT
    assert f"`DeviceRequestUUID` | string, 1 to {MAX_UUID_LENGTH} characters" in DOCUMENT
    assert f"`DeviceDNSName` | string, 1 to {MAX_DNS_NAME_LENGTH} characters" in DOCUMENT
    assert f"`DeviceRequestReturnError` | string, at most {MAX_ERROR_LENGTH} characters" in DOCUMENT
    assert f"This is version {PROTOCOL_VERSION}," in DOCUMENT
