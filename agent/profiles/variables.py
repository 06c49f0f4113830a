"""Variables in a profile's values, such as ``%SerialNumber%``, which each Mac replaces with its own values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs

from agent.profiles.profile import Payload, Profile

_VARIABLE = re.compile(r"%([A-Za-z]+)%")
_SECRETS = ("Challenge", "Password")  # keys whose values no warning quotes
_MAX_QUOTED = 40  # characters of a name that a warning quotes


def expand(profile: Profile, values: Mapping[str, str]) -> Profile:
    """The profile with the variables in ``values`` replaced, in every string of every payload.

    Names are case-sensitive, as on a Mac. A variable that is not in ``values`` is left unchanged, with a warning.
    """
    return structs.replace(profile, payloads=tuple(_expanded(payload, values) for payload in profile.payloads))


def _expanded(payload: Payload, values: Mapping[str, str]) -> Payload:
    def text(value: str, key: str) -> str:
        def fill(found: re.Match[str]) -> str:
            if found[1] not in values:
                name = "a variable" if key in _SECRETS else f"the variable %{found[1][:_MAX_QUOTED]}%"
                what = f"{key} of the payload {payload.payload_type}"
                payload.warn(f"{what} contains {name}, which is unknown and left unchanged")
            return values.get(found[1], found[0])

        return _VARIABLE.sub(fill, value) if "%" in value else value

    def expanded(value: Any, key: str) -> Any:
        if isinstance(value, str):
            return text(value, key)
        if isinstance(value, list):
            return [expanded(item, key) for item in value]
        if isinstance(value, dict):
            return {inner: expanded(item, inner) for inner, item in value.items()}
        return value

    return replace(payload, content={key: expanded(value, key) for key, value in payload.content.items()})
