"""Automated Device Enrollment in the lab: it checks the signed MachineInfo of a Mac before it gives a profile. No I/O.

The lab can refuse a Mac until it has another macOS, or until its user has signed in with Platform SSO.
Source: apple-schema other/machineinfo.yaml, errors/softwareupdate.required.yaml, errors/psso.required.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from agent import plists
from agent.lab.mdm.messages import Refused, plist_of, text_of
from agent.mdm.automated import PSSO_REQUIRED, UPDATE_REQUIRED
from agent.mdm.facts import version
from agent.pki.cms import CMSError, open_signed

_MOST_SIGNED_IN = 1_000_000  # as many as the lab has Macs


class AutomatedPolicy(msgspec.Struct, frozen=True):
    """What the lab asks of a Mac before it may enroll."""

    os_version: str = ""
    """The macOS that it needs; empty: any."""
    platform_sso: bool = False
    """Whether its user has to sign in with Platform SSO."""


class RefusedEnrollment(msgspec.Struct, frozen=True):
    """The body of a 403, in JSON."""

    body: bytes


class AutomatedEnrollment:
    """Decides on requests for a profile. ``authority`` is the CA of the Macs' own identities."""

    def __init__(self, authority: Callable[[], x509.Certificate], policy: AutomatedPolicy | None = None) -> None:
        self.policy = policy or AutomatedPolicy()
        self._authority = authority
        self._signed_in: set[str] = set()

    def decide(self, body: bytes, url: str) -> RefusedEnrollment | None:
        """None if the Mac may have a profile, else the refusal; ``url`` is that of the lab. Raises Refused."""
        info = self._machine_info(body)
        policy, udid = self.policy, text_of(info, "UDID")
        text_of(info, "SERIAL")
        if policy.os_version and version(policy.os_version) > _release(info):
            if info.get("MDM_CAN_REQUEST_SOFTWARE_UPDATE") is not True:
                raise Refused(
                    403, f"this Mac has a macOS older than {policy.os_version}, and cannot be asked to update"
                )
            return _refused(UPDATE_REQUIRED, OSVersion=policy.os_version)
        if policy.platform_sso and udid not in self._signed_in:
            if info.get("MDM_CAN_REQUEST_PSSO_CONFIG") is not True:
                raise Refused(403, "this Mac cannot be asked for Platform SSO")
            base = f"{url}/psso"
            package = {"ManifestURL": f"{base}/manifest"}
            auth_url = f"{base}/auth?udid={udid}"
            return _refused(PSSO_REQUIRED, ProfileURL=f"{base}/profile", Package=package, AuthURL=auth_url)
        return None

    def sign_in(self, udid: str) -> None:
        """The user of a Mac signs in. Raises Refused."""
        if not udid or len(self._signed_in) >= _MOST_SIGNED_IN:
            raise Refused(400, "expected a UDID")
        self._signed_in.add(udid)

    def _machine_info(self, body: bytes) -> Mapping[str, Any]:
        try:
            signed = open_signed(body)
            self._check(signed.signer)
        except CMSError as error:
            raise Refused(400, f"expected a signed MachineInfo: {error}") from error
        return plist_of(signed.content)

    def _check(self, signer: x509.Certificate) -> None:
        """Check that the CA of the Macs issued the signer's certificate. Raises Refused."""
        try:
            signer.verify_directly_issued_by(self._authority())
        except (ValueError, TypeError, InvalidSignature) as error:
            raise Refused(403, "the MachineInfo is not signed with the identity of a Mac") from error
        if not signer.not_valid_before_utc <= datetime.now(UTC) <= signer.not_valid_after_utc:
            raise Refused(403, "the identity that signed the MachineInfo is out of its dates")


def _release(info: Mapping[str, Any]) -> tuple[int, ...]:
    text = info.get("OS_VERSION", "0")
    parts = str(text).split(".")
    return version(str(text)) if all(part.isascii() and part.isdigit() for part in parts) else (0, 0, 0)


def _refused(code: str, **details: Any) -> RefusedEnrollment:
    return RefusedEnrollment(
        json.dumps({"code": code, "description": "the lab asks for it", "details": details}).encode()
    )


MANIFEST = plists.dump_xml(
    {
        "items": [
            {
                "assets": [{"kind": "software-package", "url": "https://lom.test/sso.pkg"}],
                "metadata": {"bundle-identifier": "test.lom.sso", "kind": "software", "title": "Platform SSO"},
            }
        ]
    }
)
"""The manifest of a package with an SSO extension, which no Mac installs."""
