"""What the checks of declarative management share: the endpoints, and what the server answered. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord

KINDS: Mapping[str, str] = {
    "Activations": "activation",
    "Assets": "asset",
    "Configurations": "configuration",
    "Management": "management",
}
"""The keys of Declarations, and the kinds in the endpoints of their declarations."""
NO_TOKENS = "The server answered the endpoint tokens with no SyncTokens."
NO_ITEMS = "The server answered with no declaration items, or has no declarations."


class Item(msgspec.Struct, frozen=True):
    """A declaration item, and the exchange in which the declaration was fetched; None: it was not."""

    kind: str
    content: Mapping[str, Any]
    within: ExchangeRecord
    fetched: ExchangeRecord | None

    @property
    def identifier(self) -> str:
        """Empty if it has none."""
        found = self.content.get("Identifier")
        return found if isinstance(found, str) else ""

    @property
    def declaration(self) -> Mapping[str, Any]:
        """The declaration; empty if the server did not answer with one."""
        return {} if self.fetched is None or self.fetched.status != 200 else self.fetched.response.dictionary


def asked(evidence: Evidence, endpoint: str) -> list[ExchangeRecord]:
    """The requests for an endpoint."""
    return [
        each
        for each in evidence.exchanges("checkin", "raw")
        if each.request.dictionary.get("MessageType") == "DeclarativeManagement"
        and each.request.dictionary.get("Endpoint") == endpoint
    ]


def answered(evidence: Evidence, endpoint: str) -> list[ExchangeRecord]:
    """Those that the server answered with 200."""
    return [each for each in asked(evidence, endpoint) if each.status == 200]


def tokens(evidence: Evidence) -> Iterator[tuple[ExchangeRecord, Mapping[str, Any]]]:
    """Each SyncTokens that the server answered with."""
    for each in answered(evidence, "tokens"):
        found = each.response.dictionary.get("SyncTokens")
        if isinstance(found, dict):
            yield each, found


def items(evidence: Evidence) -> list[Item]:
    """The declaration items of the last manifest."""
    manifests = answered(evidence, "declaration-items")
    declarations = manifests[-1].response.dictionary.get("Declarations") if manifests else None
    if not isinstance(declarations, dict):
        return []
    fetched = {str(each.request.dictionary.get("Endpoint")): each for each in evidence.exchanges("checkin", "raw")}
    found: list[Item] = []
    for key, kind in KINDS.items():
        content = declarations.get(key)
        for item in content if isinstance(content, list) else ():
            if isinstance(item, dict):
                endpoint = f"declaration/{kind}/{item.get('Identifier')}"
                found.append(Item(kind, item, manifests[-1], fetched.get(endpoint)))
    return found


def is_text(value: object) -> bool:
    """Whether a value is a string that is not empty."""
    return isinstance(value, str) and bool(value)
