"""Automated Device Enrollment: a Mac in Setup Assistant fetches its profile with its signed MachineInfo.

A 403 may ask for a software update, with which the Mac restarts, or for a sign-in with Platform SSO first; then the Mac
asks again. The sign-in is one GET of each URL of the refusal, without a browser (our choice).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from agent import plists
from agent.device.facts.information import QUERIES
from agent.device.installing.software_update import COMMAND, Update
from agent.device.installing.updates import is_newer, target_of
from agent.device.mac import Device
from agent.mdm.automated import CONTENT_TYPE, SignInRequired, UpdateRequired, machine_info, required_before
from agent.mdm.checkin import user_agent
from agent.mdm.pages import also
from agent.mdm.refusals import ServerRefused
from agent.net.http.http1 import Response
from agent.pki.cms_signing import sign_attached
from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, Authority

MOST_REFUSALS = 4  # ours: after these the enrollment fails
_LANGUAGE = "en"


class Fetcher(Protocol):
    """Sends requests without the Mac's MDM identity."""

    async def send_once(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Response:
        """Send one request. Raises PeerError."""


def device_identity(device: Device, authority: Authority) -> Identity:
    """The identity that a real Mac has from its factory, here of a test CA."""
    mac = device.mac
    return authority.issue(mac.serial_number, CLIENT_USAGE, names=[mac.udid.lower()])


async def automated_profile(
    device: Device, fetcher: Fetcher, url: str, authority: Authority, install: Callable[[Update], Awaitable[None]]
) -> Response:
    """The response with the profile, or the last refusal. ``install`` installs a software update. Raises PeerError."""
    identity = device_identity(device, authority)
    for _ in range(MOST_REFUSALS):
        headers = {**_headers(device), "Content-Type": CONTENT_TYPE}
        response = await fetcher.send_once("POST", url, headers, signed_machine_info(device, identity))
        if response.status != 403:
            return response
        content_type = response.headers.get("content-type", "")
        required = required_before(response.body, content_type, device.mac.os_version)
        match required:
            case UpdateRequired():
                await install(_update(device, required))
            case SignInRequired():
                for needed in (required.profile_url, required.manifest_url, required.auth_url):
                    await _get(device, fetcher, needed)
            case None:
                return response
    reason = f"the server refused the request for the enrollment profile {MOST_REFUSALS} times with a 403"
    raise ServerRefused(reason + also(response.body, content_type), response.status)


def signed_machine_info(device: Device, identity: Identity) -> bytes:
    """The body of the request: the property list of MachineInfo, signed with the identity of the Mac."""
    mac = device.mac
    properties = {
        "LANGUAGE": _LANGUAGE,
        "MDM_CAN_REQUEST_PSSO_CONFIG": True,
        "MDM_CAN_REQUEST_SOFTWARE_UPDATE": True,
        "OS_VERSION": mac.os_version,
        "PRODUCT": mac.model,
        "SERIAL": mac.serial_number,
        "SOFTWARE_UPDATE_DEVICE_ID": QUERIES["SoftwareUpdateDeviceID"](device),
        "UDID": mac.udid,
        "VERSION": mac.build_version,
    }
    content = plists.dump_xml(machine_info(properties, mac.os_version))
    return sign_attached(content, identity.certificate, identity.key, identity.chain)


def _update(device: Device, required: UpdateRequired) -> Update:
    """The update that the server asks for, to be installed at once. Raises ServerRefused if the Mac cannot have it."""
    version = required.os_version.partition(" ")[0]  # such as 16.1 (a)
    target = target_of(device, version, required.build_version) if is_newer(device, version) else None
    if target is None:
        raise ServerRefused(
            f"Expected an update that this Mac with macOS {device.mac.os_version} can install before its enrollment, "
            f"found {required.os_version[:80]}. Change the version that the server requires.",
            403,
        )
    return Update(version=target.version, build=target.build, reason=COMMAND, install_at=0.0)


async def _get(device: Device, fetcher: Fetcher, url: str) -> None:
    response = await fetcher.send_once("GET", url, _headers(device), None)
    if response.status != 200:
        raise ServerRefused(f"the server answered a request of Platform SSO with {response.status}", response.status)


def _headers(device: Device) -> dict[str, str]:
    return {"User-Agent": user_agent(device.mac.os_version), "Accept": "*/*"}
