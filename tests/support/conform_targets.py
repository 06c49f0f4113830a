"""Servers under test that are the lab, asked in another way."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from agent.conform.stage.target import Target
from agent.servers.configs import RequestTemplate, Trust, WebhookConfig


def as_webhook(target: Target) -> Target:
    """The lab as a server that queues and pushes by two requests."""
    assert target.lab is not None
    macs, pem = f"{target.lab.url}/api/v1/macs/{{udid}}", target.lab.authorities.anchor.public_bytes(Encoding.PEM)
    headers = (("Authorization", f"Bearer {target.lab.token}"), ("Content-Type", "application/xml"))
    enqueue = RequestTemplate("POST", f"{macs}/commands?push=0", headers, "{command_plist}")
    config = WebhookConfig(enqueue, RequestTemplate("POST", f"{macs}/push", headers), Trust(pem.decode(), system=False))
    return replace(target, adapter="webhook", config=config)
