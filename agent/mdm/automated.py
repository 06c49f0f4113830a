"""Automated Device Enrollment: the MachineInfo that a Mac posts for its profile, and the refusals with a code. No I/O.

Source: apple-schema other/machineinfo.yaml, errors/softwareupdate.required.yaml, errors/psso.required.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from agent import plists
from agent.errors import PeerError
from agent.mdm.facts import message
from agent.mdm.refusals import MAX_BODY_BYTES
from agent.mdm.values import dictionary, text_at

CONTENT_TYPE = "application/pkcs7-signature"
UPDATE_REQUIRED = "com.apple.softwareupdate.required"
PSSO_REQUIRED = "com.apple.psso.required"
_MAX_TEXT = 2048  # characters of a version or a URL; ours


class UpdateRequired(msgspec.Struct, frozen=True):
    """The Mac has to update before it may enroll."""

    os_version: str
    build_version: str = ""


class SignInRequired(msgspec.Struct, frozen=True):
    """The user has to sign in with Platform SSO before the Mac may enroll."""

    profile_url: str
    manifest_url: str
    auth_url: str


class RefusalMalformed(PeerError):
    """A 403 with a code of Apple and without the details that belong to it."""

    kind = "refusal"


def machine_info(properties: Mapping[str, Any], release: str) -> dict[str, Any]:
    """The MachineInfo of a Mac: those of its properties that its macOS has in it."""
    known = message("other", "MachineInfo").request
    return {key: value for key, value in properties.items() if key in known and known[key].fact.is_in(release)}


def required_before(body: bytes, content_type: str, release: str) -> UpdateRequired | SignInRequired | None:
    """What a 403 asks of a Mac with macOS ``release``; None if it is no such refusal, or the release does not know it.

    Raises RefusalMalformed.
    """
    refusal = _read(body, content_type)
    code = refusal.get("code")
    if code not in (UPDATE_REQUIRED, PSSO_REQUIRED):
        return None
    if not message("error", code.removeprefix("com.apple.")).fact.is_in(release):
        return None
    details = dictionary(refusal.get("details"), "details of the 403", RefusalMalformed)
    if code == UPDATE_REQUIRED:
        build = _text(details, "BuildVersion") if "BuildVersion" in details else ""
        return UpdateRequired(_text(details, "OSVersion"), build)
    package = dictionary(details.get("Package"), "Package of the 403", RefusalMalformed)
    return SignInRequired(_text(details, "ProfileURL"), _text(package, "ManifestURL"), _text(details, "AuthURL"))


def _read(body: bytes, content_type: str) -> Mapping[str, Any]:
    media_type = content_type.partition(";")[0].strip().lower()
    if len(body) > MAX_BODY_BYTES:
        return {}
    try:
        if media_type.endswith(("/json", "+json")):
            found = json.loads(body)
        elif media_type.endswith(("/xml", "+xml", "plist")):
            found = plists.load(body, what="refusal")
        else:
            return {}
    except (ValueError, RecursionError, plists.PlistError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Mapping[str, Any], key: str) -> str:
    return text_at(value, key, _MAX_TEXT, RefusalMalformed, " of the 403")
