"""Variables in a profile's values, which each Mac fills in for itself: ``%SerialNumber%`` and the like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.profiles.profile import Payload, Profile

_VARIABLE = re.compile(r"%([A-Za-z]+)%")


def expand(profile: Profile, values: Mapping[str, str]) -> Profile:
    """The profile with every variable of ``values`` filled in, in every string of every payload.

    Names are told apart by case, as on a Mac; a name that is not in ``values`` stays as it stands.
    """

    def fill(found: re.Match[str]) -> str:
        return values.get(found[1], found[0])

    def expanded(value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(fill, value) if "%" in value else value
        if isinstance(value, list):
            return [expanded(item) for item in value]
        if isinstance(value, dict):
            return {key: expanded(item) for key, item in value.items()}
        return value

    payloads = tuple(
        Payload(payload.payload_type, payload.uuid, payload.identifier, expanded(dict(payload.content)))
        for payload in profile.payloads
    )
    return replace(profile, payloads=payloads)
