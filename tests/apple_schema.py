"""Apple's own YAML as a judge: has a message the keys, types and values that the schema gives it on a Mac?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SCHEMA = Path(__file__).parent.parent / "fixtures" / "apple-schema"

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "<string>": str,
    "<integer>": int,
    "<real>": (float, int),
    "<boolean>": bool,
    "<date>": datetime,
    "<data>": bytes,
    "<array>": list,
    "<dictionary>": dict,
}


@cache
def schema(name: str) -> dict[str, Any]:
    """The parsed YAML called ``name``, such as ``lom.setuprequest``."""
    document: dict[str, Any] = yaml.safe_load((SCHEMA / f"{name}.yaml").read_text(encoding="utf-8"))
    return document


def problems(value: Any, keys: Sequence[Mapping[str, Any]], where: str = "") -> list[str]:
    """What is wrong with the dictionary ``value`` by these ``payloadkeys`` or ``responsekeys``: nothing is empty."""
    if not isinstance(value, dict):
        return [f"{where or 'the message'} should be a dictionary"]
    known = {key["key"]: key for key in keys if _on_mac(key)}
    if "ANY" in known:
        return []
    found = [f"{where}{name} is not in the schema" for name in value if name not in known]
    for name, key in known.items():
        if name not in value:
            if key.get("presence") == "required" and _always_required(key):
                found.append(f"{where}{name} is required and absent")
            continue
        found += _value_problems(value[name], key, f"{where}{name}")
    return found


def _value_problems(value: Any, key: Mapping[str, Any], where: str) -> list[str]:
    kind = key.get("type", "<any>")
    expected = _TYPES.get(kind)
    if expected is not None and (not isinstance(value, expected) or (kind != "<boolean>" and isinstance(value, bool))):
        return [f"{where} should be {kind}, but is {type(value).__name__}"]
    if "rangelist" in key and value not in key["rangelist"]:
        return [f"{where} should be one of {key['rangelist']}, but is {value!r}"]
    subkeys = key.get("subkeys")
    if subkeys and kind == "<dictionary>":
        return problems(value, subkeys, f"{where}.")
    if subkeys and kind == "<array>":
        return [problem for item in value for problem in _value_problems(item, subkeys[0], f"{where}[]")]
    return []


def _on_mac(key: Mapping[str, Any]) -> bool:
    mac = key.get("supportedOS", {}).get("macOS", {})
    return mac.get("introduced") != "n/a" and mac.get("devicechannel") is not False


def _always_required(key: Mapping[str, Any]) -> bool:
    """Required in every enrolment, not only where a user enrolled the Mac as his own."""
    mac = key.get("supportedOS", {}).get("macOS", {})
    return mac.get("userenrollment", {}).get("mode") != "required"
