"""The lab's declarations, which Macs fetch after a DeclarativeManagement command. No I/O.

Source: apple-schema checkin/declarativemanagement.yaml.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agent.lab.defects import NONE, Defects

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
    """The declarations of every Mac of the lab. ``defects`` spoil its answers on purpose.

    ``assets`` are the files that declarations refer to, by the name under which the lab serves them at ``/assets/``.
    """

    def __init__(
        self,
        declarations: tuple[dict[str, Any], ...] = _DEFAULT,
        defects: Defects = NONE,
        assets: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self._defects = defects
        self.assets = assets
        self._declarations = {
            (_kind(entry["Type"])[1], entry["Identifier"]): {**entry, "ServerToken": _token(entry)}
            for entry in declarations
        }

    def answer(self, endpoint: str) -> bytes | None:
        """The JSON of an endpoint other than ``status``, or None if the endpoint does not exist."""
        document = self._document(endpoint)
        if self._defects and document is not None:
            document = _spoiled(endpoint, document, self._defects)
        return None if document is None else _json(document)

    def _document(self, endpoint: str) -> dict[str, Any] | None:
        if endpoint == "tokens":
            return {"SyncTokens": {"DeclarationsToken": self.token, "Timestamp": "2025-01-01T00:00:00Z"}}
        if endpoint == "declaration-items":
            return {"Declarations": self._items(), "DeclarationsToken": self.token}
        parts = endpoint.split("/", 2)
        if len(parts) != 3 or parts[0] != "declaration":
            return None
        found = self._declarations.get((parts[1], parts[2]))
        return {} if found is None and "ddm-missing-200" in self._defects else found

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


def _spoiled(endpoint: str, correct: dict[str, Any], defects: Defects) -> dict[str, Any]:
    """The answer of an endpoint with the lab's defects."""
    document: dict[str, Any] = json.loads(_json(correct))
    if endpoint == "tokens":
        if "ddm-timestamp" in defects:
            document["SyncTokens"]["Timestamp"] = "2025-01-01"
        return document["SyncTokens"] if "ddm-tokens-keys" in defects else document
    if endpoint == "declaration-items":
        if "ddm-items-keys" in defects:
            del document["Declarations"]["Management"]
        if "ddm-token-differs" in defects:
            document["DeclarationsToken"] = "another"
        if "ddm-item-token" in defects:
            for item in document["Declarations"]["Configurations"][:1]:
                del item["ServerToken"]
        return document
    references = document.get("Payload", {}).get("StandardConfigurations")  # none of a declaration that is not there
    if "ddm-activation-reference" in defects and references is not None:
        references.append("test.lom-agent.lab.no-such-configuration")
    if "ddm-declaration-keys" in defects:
        document.pop("Payload", None)
    if "ddm-declaration-token" in defects:
        document["ServerToken"] = "another"
    return document
