"""The settings of a service from the options of ``lom-agent serve``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography import x509

from agent.errors import OperatorError
from agent.files import read_file
from agent.fleet.models import HARDWARE_BOUND_SINCE, os_from
from agent.net.mac.fleet.behaviour import MacSettings
from agent.net.transport.anchors import read_anchors
from agent.service.macs.parts import ServiceSettings

MAX_PROFILE_BYTES = 4 * 1024 * 1024
_URLS = ("http://", "https://")


def settings_of(options: Mapping[str, Any], anchor: x509.Certificate | None, device_ca: bytes = b"") -> ServiceSettings:
    """The settings; ``anchor`` is the CA of the lab, ``device_ca`` that of the Macs' own identities.

    Raises OperatorError.
    """
    push = None
    if options["lab"] or options["apns"]:
        from agent.net.apns.behaviour import PushBehaviour  # only where there is a gateway: a fast start

        push = PushBehaviour()
    anchors = read_anchors(options["ca"])
    if anchor is not None:
        anchors += (anchor,)
    behaviour = {
        name: options[name]
        for name in (
            "boot",
            "shutdown",
            "not_now_retry",
            "per_user_connections",
            "users",
            "network_users",
            "supervised",
        )
        if options[name] is not None
    }
    return ServiceSettings(
        seed=options["seed"],
        devices=options["devices"],
        segment_size=options["segment_size"],
        os=_os(options),
        model=options["model"],
        enroll=_profile(options["enroll"]),
        automated=options["enrollment"] == "ade",
        device_ca=device_ca if options["device_ca"] is None else _device_ca(options["device_ca"]),
        lom_network=options["lom_network"],
        anchors=anchors,
        insecure=options["insecure"],
        http=options["http"],
        tls_floor=options["tls_floor"],
        manual_clock=options["clock"] == "manual",
        poll=options["poll"],
        push=push,
        macs=MacSettings(**behaviour),
    )


def _os(options: Mapping[str, Any]) -> str | None:
    """The macOS of the Macs: one that takes the identities of the lab. Raises OperatorError."""
    asked: str | None = options["os_version"]
    if options["lab_identity"] != "acme" or not options["devices"]:
        return asked
    try:
        return os_from(HARDWARE_BOUND_SINCE, asked, options["model"])
    except OperatorError as error:
        raise OperatorError(f"--os with --lab-identity acme, whose keys are bound to the hardware: {error}") from None


def is_url(text: str) -> bool:
    """Whether the value of ``--enroll`` is a URL, and not the name of a file."""
    return text.startswith(_URLS)


def _profile(text: str | None) -> str | bytes | None:
    """The URL, or the profile in the file. Raises OperatorError."""
    if text is None or is_url(text):
        return text
    return read_file(text, "the enrollment profile", MAX_PROFILE_BYTES)


def _device_ca(path: str) -> bytes:
    from agent.net.mac.enrollment.device_ca import device_ca_of  # only where it is asked for: a fast start

    return device_ca_of(path)
