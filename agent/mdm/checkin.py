"""Check-in messages: the dictionaries of the plists that the Mac PUTs to the CheckInURL.

Source: apple-schema checkin/authenticate.yaml, checkin/tokenupdate.yaml. The keys of the user channel are added to a
message by ``agent.device.users.channel``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from agent.mdm.facts import version

CONTENT_TYPE = "application/x-apple-aspen-mdm-checkin"
# Of mdmclient by the major version of macOS; minor versions add to it. 1543 was observed, Apple documents none: the
# others are our choice, in the order of the releases.
_MDMCLIENT = {13: 1327, 14: 1431, 15: 1543, 26: 1656, 27: 1768}
NOT_MANAGED = 410  # to UserAuthenticate: the server does not manage the user for this login
USER_AGENT = "MDM-OSX/1.0 mdmclient/1543"  # for requests that are not of one Mac


@lru_cache(maxsize=64)
def user_agent(os_version: str) -> str:
    """The User-Agent of mdmclient in this release of macOS."""
    major, minor, _ = version(os_version)
    older = [number for number in _MDMCLIENT if number <= major] or list(_MDMCLIENT)[:1]
    return f"MDM-OSX/1.0 mdmclient/{_MDMCLIENT[older[-1]] + minor}"


class Announcement(msgspec.Struct, frozen=True):
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


def token_update(
    udid: str, topic: str, token: bytes, push_magic: str, *, awaiting: bool | None = False
) -> dict[str, Any]:
    """The message that completes an enrollment, with the push token (32 bytes) and PushMagic.

    ``awaiting`` is AwaitingConfiguration; None leaves the key out, as on the user channel.
    """
    message: dict[str, Any] = {
        "MessageType": "TokenUpdate",
        "Topic": topic,
        "UDID": udid,
        "Token": token,
        "PushMagic": push_magic,
    }
    return message if awaiting is None else {**message, "AwaitingConfiguration": awaiting}


def user_authenticate(udid: str, user_id: str, response: str | None = None) -> dict[str, Any]:
    """A network user logs in; ``response`` answers the DigestChallenge. Source: checkin/userauthenticate.yaml."""
    message: dict[str, Any] = {"MessageType": "UserAuthenticate", "UDID": udid, "UserID": user_id}
    return message if response is None else {**message, "DigestResponse": response}


def get_bootstrap_token(udid: str, *, awaiting: bool = False) -> dict[str, Any]:
    """The Mac asks for its bootstrap token. Source: apple-schema checkin/getbootstraptoken.yaml."""
    return {"MessageType": "GetBootstrapToken", "UDID": udid, "AwaitingConfiguration": awaiting}


def get_token(udid: str, service: str) -> dict[str, Any]:
    """The Mac asks for a token of a service. Source: apple-schema checkin/gettoken.yaml."""
    return {"MessageType": "GetToken", "UDID": udid, "TokenServiceType": service}


def check_out(udid: str, topic: str) -> dict[str, Any]:
    """The Mac ends its enrollment. Source: apple-schema checkin/checkout.yaml."""
    return {"MessageType": "CheckOut", "Topic": topic, "UDID": udid}


def set_bootstrap_token(udid: str, topic: str, token: bytes, *, awaiting: bool = False) -> dict[str, Any]:
    """The Mac escrows its bootstrap token. Source: apple-schema checkin/setbootstraptoken.yaml."""
    return {
        "MessageType": "SetBootstrapToken",
        "Topic": topic,
        "UDID": udid,
        "BootstrapToken": token,
        "AwaitingConfiguration": awaiting,
    }


def declarative_management(udid: str, endpoint: str, report: bytes | None) -> dict[str, Any]:
    """One request of declarative management; ``report`` is the JSON for the endpoint ``status``.

    Source: apple-schema checkin/declarativemanagement.yaml.
    """
    message: dict[str, Any] = {"MessageType": "DeclarativeManagement", "UDID": udid, "Endpoint": endpoint}
    if report is not None:
        message["Data"] = report
    return message
