"""Check-in messages: the dictionaries of the plists that the Mac PUTs to the CheckInURL.

Source: apple-schema checkin/authenticate.yaml, checkin/tokenupdate.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agent.mdm.facts import version

CONTENT_TYPE = "application/x-apple-aspen-mdm-checkin"
# Of mdmclient by the major version of macOS; minor versions add to it. 1543 was observed, Apple documents none: the
# others are our choice, in the order of the releases.
_MDMCLIENT = {13: 1327, 14: 1431, 15: 1543, 26: 1656, 27: 1768}
USER_AGENT = "MDM-OSX/1.0 mdmclient/1543"  # for requests that are not of one Mac


@lru_cache(maxsize=64)
def user_agent(os_version: str) -> str:
    """The User-Agent of mdmclient in this release of macOS."""
    major, minor, _ = version(os_version)
    older = [number for number in _MDMCLIENT if number <= major] or list(_MDMCLIENT)[:1]
    return f"MDM-OSX/1.0 mdmclient/{_MDMCLIENT[older[-1]] + minor}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a Mac tells the server about itself at enrollment."""

    udid: str
    device_name: str
    model: str
    model_name: str
    os_version: str
    build_version: str
    serial_number: str


def authenticate(announcement: Announcement, topic: str) -> dict[str, Any]:
    """The first message of an enrollment."""
    return {
        "MessageType": "Authenticate",
        "Topic": topic,
        "UDID": announcement.udid,
        "DeviceName": announcement.device_name,
        "Model": announcement.model,
        "ModelName": announcement.model_name,
        "OSVersion": announcement.os_version,
        "BuildVersion": announcement.build_version,
        "ProductName": announcement.model,
        "SerialNumber": announcement.serial_number,
    }


def token_update(udid: str, topic: str, token: bytes, push_magic: str) -> dict[str, Any]:
    """The message that completes an enrollment, with the push token (32 bytes) and PushMagic."""
    return {
        "MessageType": "TokenUpdate",
        "Topic": topic,
        "UDID": udid,
        "Token": token,
        "PushMagic": push_magic,
        "AwaitingConfiguration": False,
    }


def check_out(udid: str, topic: str) -> dict[str, Any]:
    """The Mac ends its enrollment. Source: apple-schema checkin/checkout.yaml."""
    return {"MessageType": "CheckOut", "Topic": topic, "UDID": udid}


def set_bootstrap_token(udid: str, topic: str, token: bytes) -> dict[str, Any]:
    """The Mac escrows its bootstrap token. Source: apple-schema checkin/setbootstraptoken.yaml."""
    return {
        "MessageType": "SetBootstrapToken",
        "Topic": topic,
        "UDID": udid,
        "BootstrapToken": token,
        "AwaitingConfiguration": False,
    }


def declarative_management(udid: str, endpoint: str, report: bytes | None) -> dict[str, Any]:
    """One request of declarative management; ``report`` is the JSON for the endpoint ``status``.

    Source: apple-schema checkin/declarativemanagement.yaml.
    """
    message: dict[str, Any] = {"MessageType": "DeclarativeManagement", "UDID": udid, "Endpoint": endpoint}
    if report is not None:
        message["Data"] = report
    return message
