"""Changes what Schemathesis asks the control API for: waits end soon, few Macs are added, half of the Macs exist.

Schemathesis loads it by SCHEMATHESIS_HOOKS. CONTROL_URL and CONTROL_TOKEN are those of the service.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import requests
import schemathesis

MAX_WAIT_SECONDS = 0.05
MAX_MACS = 5
MAX_CASES_OF_MACS = 100_000  # as AddMacs allows
UDID_LENGTH = 36
TIMED = ("wait", "wait_state", "enroll")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Replace valid values by others that are valid too; what is not valid stays."""
    mac = (case.path_parameters or {}).get("mac")
    if isinstance(mac, str) and len(mac) != UDID_LENGTH and sum(map(ord, mac)) % 2:
        case.path_parameters["mac"] = existing_mac(len(mac))
    body, name = case.body, case.operation.definition.raw.get("operationId")
    if not isinstance(body, dict):
        return
    if name in TIMED and is_between(body.get("timeout", 30), MAX_WAIT_SECONDS, 600):
        body["timeout"] = MAX_WAIT_SECONDS
    if name == "add_macs" and is_between(body.get("count"), MAX_MACS, MAX_CASES_OF_MACS):
        body["count"] = MAX_MACS


def existing_mac(choice: int) -> str:
    """The UDID of a Mac of the service; some are added where none is left."""
    session, url = control_session(), f"{os.environ['CONTROL_URL']}/v1/macs"
    macs = session.get(url, timeout=30).json() or session.post(url, json={"count": 3}, timeout=30).json()
    return str(macs[choice % len(macs)]["udid"])


@cache
def control_session() -> requests.Session:
    """A session of the control API, whose connection is kept."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {os.environ['CONTROL_TOKEN']}"
    return session


def is_between(value: Any, low: float, high: float) -> bool:
    """Whether it is a number in this range."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low < value <= high
