"""What Apple says of the keys of a configuration only in words. Source: Apple's pages of the configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Payload = Mapping[str, Any]

_APP_NAMES = ("AppComposedIdentifier", "AppStoreID", "BundleID")
_WITH_CERTIFICATE = ("signedByCACert", "specificServerCert")


def broken_rule(name: str, payload: Payload) -> str:
    """What the payload of a configuration of this type, whose keys and values are valid, breaks; empty if nothing."""
    rule = _RULES.get(name)
    return "" if rule is None else rule(payload)


def _managed_app(payload: Payload) -> str:
    found = [name for name in _APP_NAMES if name in payload]
    if len(found) == 1:
        return ""
    return f"expected one of {', '.join(_APP_NAMES)}, found {' and '.join(found) or 'none'}"


def _content_cache(payload: Payload) -> str:
    if not payload.get("AllowPersonalCaching", True) and not payload.get("AllowSharedCaching", True):
        return "AllowPersonalCaching and AllowSharedCaching are both false, expected one of them to be true"
    security = payload.get("ManagementSecurityConfig")
    if security in _WITH_CERTIFICATE and "ManagementStatusCertificateReference" not in payload:
        return f"ManagementSecurityConfig is {security}, but the key ManagementStatusCertificateReference is missing"
    return ""


def _software_updates(payload: Payload) -> str:
    beta = payload.get("Beta", {})
    if "RequireProgram" in beta and "OfferPrograms" in beta:
        return "Beta has RequireProgram and OfferPrograms, expected one of them"
    if "RequireProgram" in beta and beta.get("ProgramEnrollment") != "AlwaysOn":
        return "Beta has RequireProgram, but ProgramEnrollment is not AlwaysOn"
    return ""


_RULES: Mapping[str, Callable[[Payload], str]] = {
    "com.apple.configuration.app.managed": _managed_app,
    "com.apple.configuration.content-cache.settings": _content_cache,
    "com.apple.configuration.softwareupdate.settings": _software_updates,
}
