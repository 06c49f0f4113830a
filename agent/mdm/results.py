"""Results: the Mac's report on a command, with the chain of errors where it failed.

Source: apple-schema commands/*.yaml (responsekeys); Apple's MDM protocol reference for Status and ErrorChain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from agent import plists

CONTENT_TYPE = "application/x-apple-aspen-mdm"


class Status(Enum):
    """The status of a report."""

    IDLE = "Idle"
    ACKNOWLEDGED = "Acknowledged"
    ERROR = "Error"
    COMMAND_FORMAT_ERROR = "CommandFormatError"
    NOT_NOW = "NotNow"


class Domain(Enum):
    """The error domains of macOS."""

    MDM = "MCMDMErrorDomain"
    PROFILE = "MCProfileErrorDomain"
    INSTALLATION = "MCInstallationErrorDomain"
    CERTIFICATE = "MCCertificateErrorDomain"
    SCEP = "MCSCEPErrorDomain"
    MDM_CLIENT = "MDMClientError"  # of macOS only; not among Apple's documented domains


class ChainedError(msgspec.Struct, frozen=True):
    """One item of an ErrorChain."""

    domain: Domain | str
    """One of macOS, or any other text."""
    code: int
    description: str

    def as_dict(self) -> dict[str, Any]:
        """The item with its keys in the protocol."""
        return {
            "ErrorCode": self.code,
            "ErrorDomain": self.domain.value if isinstance(self.domain, Domain) else self.domain,
            "LocalizedDescription": self.description,
            "USEnglishDescription": self.description,
        }


# MCMDMErrorDomain codes. Apple documents which of them macOS sends for DeleteUser alone.
NOT_AUTHORIZED = 12007
MALFORMED_REQUEST = 12008
INTERNAL_ERROR = 12010
PROFILE_NOT_MANAGED = 12013
PROVISIONING_PROFILE_NOT_MANAGED = 12014
INVALID_REQUEST_TYPE = 12021
INVALID_APP_MANIFEST = 12024
APP_ALREADY_INSTALLED = 12025
APP_NOT_MANAGED = 12029
INVALID_URL = 12030
APP_NOT_REMOVABLE = 12036
URL_NOT_HTTPS = 12034
NO_SUCH_USER = 12071
USER_LOGGED_IN = 12072
USER_NOT_DELETED = 12074
PROFILE_NOT_INSTALLED = 12075
# MDMClientError codes, as captured from Macs.
IDENTIFIER_MISSING = 97


class Result(msgspec.Struct, frozen=True):
    """The outcome of one command."""

    status: Status
    answer: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """The command's own response keys."""
    errors: Sequence[ChainedError] = ()
    """The ErrorChain, outermost first."""

    def body(self, udid: str, command_uuid: str) -> bytes:
        """The report as an XML plist."""
        report: dict[str, Any] = {
            **self.answer,
            "CommandUUID": command_uuid,
            "Status": self.status.value,
            "UDID": udid,
        }
        if self.errors:
            report["ErrorChain"] = [error.as_dict() for error in self.errors]
        return plists.dump_xml(report)


def acknowledged(answer: Mapping[str, Any] | None = None) -> Result:
    """The command succeeded; ``answer`` has its response keys."""
    return Result(Status.ACKNOWLEDGED, answer or {})


def failed(*errors: ChainedError) -> Result:
    """The command failed with these errors, outermost first."""
    return Result(Status.ERROR, errors=errors)


def idle_body(udid: str) -> bytes:
    """The report that opens a session. Raises MisuseError for a UDID that no plist can hold."""
    return _IDLE_BEFORE + plists.xml_text(udid) + _IDLE_AFTER


_IDLE_BEFORE, _, _IDLE_AFTER = plists.dump_xml({"Status": Status.IDLE.value, "UDID": "?UDID?"}).partition(b"?UDID?")
