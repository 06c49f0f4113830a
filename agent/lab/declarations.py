"""The lab's declarations, which Macs fetch after a DeclarativeManagement command. No I/O.

Source: apple-schema checkin/declarativemanagement.yaml.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

_KEYS = {
    "com.apple.activation.": ("Activations", "activation"),
    "com.apple.asset.": ("Assets", "asset"),
    "com.apple.configuration.": ("Configurations", "configuration"),
    "com.apple.management.": ("Management", "management"),
}
_CONFIGURATION = "test.lom-agent.lab.configuration"
_DEFAULT: tuple[dict[str, Any], ...] = (
    {
        "Type": "com.apple.configuration.management.test",
        "Identifier": _CONFIGURATION,
        "Payload": {"Echo": "lom-agent lab"},
    },
    {
        "Type": "com.apple.activation.simple",
        "Identifier": "test.lom-agent.lab.activation",
        "Payload": {"StandardConfigurations": [_CONFIGURATION]},
    },
)


class Declarations:
    """The declarations of every Mac of the lab."""

    def __init__(self, declarations: tuple[dict[str, Any], ...] = _DEFAULT) -> None:
        self._declarations = {
            (_kind(entry["Type"])[1], entry["Identifier"]): {**entry, "ServerToken": _token(entry)}
            for entry in declarations
        }

    def answer(self, endpoint: str) -> bytes | None:
        """The JSON of an endpoint other than ``status``, or None if the endpoint does not exist."""
        if endpoint == "tokens":
            return _json({"SyncTokens": {"DeclarationsToken": self.token, "Timestamp": "2025-01-01T00:00:00Z"}})
        if endpoint == "declaration-items":
            return _json({"Declarations": self._items(), "DeclarationsToken": self.token})
        parts = endpoint.split("/", 2)
        entry = self._declarations.get((parts[1], parts[2])) if len(parts) == 3 and parts[0] == "declaration" else None
        return None if entry is None else _json(entry)

    @property
    def token(self) -> str:
        """The DeclarationsToken: a hash of all declarations."""
        return _token(sorted(entry["ServerToken"] for entry in self._declarations.values()))

    def _items(self) -> dict[str, list[dict[str, str]]]:
        items: dict[str, list[dict[str, str]]] = {key: [] for key, _kind in _KEYS.values()}
        for entry in self._declarations.values():
            item = {"Identifier": entry["Identifier"], "ServerToken": entry["ServerToken"]}
            items[_kind(entry["Type"])[0]].append(item)
        return items


def _kind(declaration_type: str) -> tuple[str, str]:
    return next(names for prefix, names in _KEYS.items() if declaration_type.startswith(prefix))


def _token(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
