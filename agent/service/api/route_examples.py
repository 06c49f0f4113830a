"""Examples of bodies and problems, for the OpenAPI document and docs/control-api.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UDID = "D4B1E2A6-0C38-5F6E-9A57-1B2C3D4E5F60"

BODIES: Mapping[str, Mapping[str, Any]] = {
    "add_macs": {"count": 2, "os": "26.4"},
    "enroll": {"url": "https://mdm.example.com/enroll", "timeout": 10},
    "power": {"action": "off"},
    "network": {"online": False},
    "wait_state": {"power": "on", "timeout": 60},
    "mains": {"action": "cut_mains"},
    "add_rule": {"on": "command", "do": "not_now", "type": "ProfileList", "times": 2},
    "wait": {"kind": "answered", "udid": UDID, "request_type": "ProfileList", "status": "Acknowledged", "timeout": 10},
    "advance_clock": {"advance": 60},
    "rate": {"phase": "enroll", "rate": 50},
    "reset": {"seed": "test_power_on"},
}
"""By name of the route."""

PROBLEM: Mapping[int, str] = {
    400: "Object contains unknown field `mode` - at `$`. /openapi.json describes what is expected.",
    401: "Expected one header Authorization: Bearer TOKEN, with the token of this service, found none.",
    403: "Expected one Host of 127.0.0.1, ::1, localhost, found evil.example. Use the URL that lom-agent printed.",
    404: "Expected the UDID, serial number or number of a Mac, found '17'. GET /v1/macs lists them.",
    405: "Expected GET, found DELETE.",
    409: "Expected a Mac with mains power, found one whose plug is pulled. Restore the mains first.",
    413: "Expected a body of at most 4,194,304 bytes, found more. Shorten it.",
    500: "Expected no error, found KeyError. Report it, with the log of lom-agent.",
    502: "Expected HTTP status 200 for the enrollment profile, found 403. Check the URL.",
    503: "Expected worker 2 with its Macs, found that it has ended: the process ended with -9. Start lom-agent "
    "serve again; with --state it goes on where it was.",
    504: "Expected an event with kind answered after number 0 within 10 s, found none.",
}
"""The detail of a problem, by status."""
