"""The settings of a service from the options of ``lom-agent serve``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography import x509

from agent.files import read_file
from agent.net.mac.fleet.behaviour import MacSettings
from agent.net.transport.anchors import read_anchors
from agent.service.macs.parts import ServiceSettings

MAX_PROFILE_BYTES = 4 * 1024 * 1024
_URLS = ("http://", "https://")


def settings_of(options: Mapping[str, Any], anchor: x509.Certificate | None) -> ServiceSettings:
    """The settings; ``anchor`` is the CA of the lab. Raises OperatorError."""
    push = None
    if options["lab"] or options["apns"]:
        from agent.net.apns.behaviour import PushBehaviour  # only where there is a gateway: a fast start

        push = PushBehaviour()
    anchors = read_anchors(options["ca"])
    if anchor is not None:
        anchors += (anchor,)
    behaviour = {
        name: options[name]
        for name in ("boot", "shutdown", "not_now_retry", "per_user_connections")
        if options[name] is not None
    }
    return ServiceSettings(
        seed=options["seed"],
        devices=options["devices"],
        segment_size=options["segment_size"],
        os=options["os_version"],
        model=options["model"],
        enroll=_profile(options["enroll"]),
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


def _profile(text: str | None) -> str | bytes | None:
    """The URL, or the profile in the file. Raises OperatorError."""
    if text is None or text.startswith(_URLS):
        return text
    return read_file(text, "the enrollment profile", MAX_PROFILE_BYTES)
