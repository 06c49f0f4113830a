"""Requirements of declarative management: what the server answers to the check-in message DeclarativeManagement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent.conform.reading.ddm import KINDS, NO_ITEMS, NO_TOKENS, answered, asked, is_text, items, tokens
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord
from agent.conform.verdicts.requirement import Check, Finding, Level, Requirement, Source, failed, not_tested, passed

_CHECK_IN = "checkin/declarativemanagement.yaml"
_TOKENS = "declarative/protocol/tokensresponse.yaml"
_ITEMS = "declarative/protocol/declarationitemsresponse.yaml"
_BASE = "declarative/declarations/declarationbase.yaml"
_NOT_ASKED = "The endpoint could not be asked for."
_NO_DDM = "The server did not answer the endpoint tokens with 200, so it may have no declarative management."
_NOT_FETCHED = "No declaration was fetched: the server has none, or sends no identifiers."
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SYNC_KEYS: Mapping[str, type] = {"DeclarationsToken": str, "Timestamp": str}
_DECLARATION_KEYS: Mapping[str, type] = {"Type": str, "Identifier": str, "ServerToken": str, "Payload": dict}


def tokens_answered(evidence: Evidence) -> Finding:
    """The endpoint ``tokens`` answers with SyncTokens."""
    exchanges = asked(evidence, "tokens")
    if not exchanges:
        return not_tested(_NOT_ASKED)
    for each in exchanges:
        if each.status != 200 or each.response.form != "json":
            return failed("status 200 with a JSON object", _answer(each), each)
        sync = each.response.dictionary.get("SyncTokens")
        lacks = _lacking(sync, _SYNC_KEYS) if isinstance(sync, dict) else "SyncTokens"
        if lacks:
            return failed("SyncTokens with DeclarationsToken and Timestamp", f"an object without {lacks}", each)
    return passed(*exchanges)


def timestamp(evidence: Evidence) -> Finding:
    """Timestamp is a date and time of RFC 3339."""
    found = [(each, sync["Timestamp"]) for each, sync in tokens(evidence) if "Timestamp" in sync]
    for each, value in found:
        if not isinstance(value, str) or not _is_timestamp(value):
            return failed("a Timestamp as 2026-09-15T10:00:00Z", repr(value)[:80], each)
    return passed(*(each for each, _ in found)) if found else not_tested(NO_TOKENS)


def items_answered(evidence: Evidence) -> Finding:
    """The endpoint ``declaration-items`` answers with the four arrays and a token."""
    exchanges = asked(evidence, "declaration-items")
    if not exchanges:
        return not_tested(_NOT_ASKED)
    for each in exchanges:
        if each.status != 200 or each.response.form != "json":
            return failed("status 200 with a JSON object", _answer(each), each)
        document = each.response.dictionary
        lacks = _lacking(document, {"Declarations": dict, "DeclarationsToken": str})
        lacks = lacks or _lacking(document["Declarations"], dict.fromkeys(KINDS, list))
        if lacks:
            wanted = f"Declarations with the arrays {', '.join(KINDS)}, and DeclarationsToken"
            return failed(wanted, f"an object without {lacks}", each)
    return passed(*exchanges)


def same_token(evidence: Evidence) -> Finding:
    """DeclarationsToken is the same in both while nothing changes."""
    manifests = [
        (each, each.response.dictionary["DeclarationsToken"])
        for each in answered(evidence, "declaration-items")
        if is_text(each.response.dictionary.get("DeclarationsToken"))
    ]
    found = [
        (each, sync["DeclarationsToken"]) for each, sync in tokens(evidence) if is_text(sync.get("DeclarationsToken"))
    ]
    if not manifests or not found:
        return not_tested("The server answered with no DeclarationsToken in tokens, or none in declaration-items.")
    before, after = found[0][1], found[-1][1]
    if len(found) < 2 or before != after:
        return not_tested("The declarations changed while they were fetched, or the tokens were fetched once only.")
    for each, token in manifests:
        if token != before:
            return failed(f"the DeclarationsToken {before[:80]} in both", f"{token[:80]} in declaration-items", each)
    return passed(*(each for each, _ in (*found, *manifests)))


def item_keys(evidence: Evidence) -> Finding:
    """Each item has Identifier and ServerToken."""
    found = items(evidence)
    for each in found:
        lacks = _lacking(each.content, {"Identifier": str, "ServerToken": str})
        if lacks:
            return failed("an item with Identifier and ServerToken", f"one of {each.kind} without {lacks}", each.within)
    return passed(found[0].within) if found else not_tested(NO_ITEMS)


def declaration_keys(evidence: Evidence) -> Finding:
    """A declaration of the items can be fetched, and has its four keys."""
    shown: list[ExchangeRecord] = []
    for each in items(evidence):
        if each.fetched is None:
            continue
        shown.append(each.fetched)
        if each.fetched.status != 200 or each.fetched.response.form != "json":
            return failed(f"status 200 with the declaration {each.identifier}", _answer(each.fetched), each.fetched)
        lacks = _lacking(each.declaration, _DECLARATION_KEYS)
        if lacks:
            return failed(f"a declaration with {', '.join(_DECLARATION_KEYS)}", f"one without {lacks}", each.fetched)
    return passed(*shown) if shown else not_tested(_NOT_FETCHED)


def declaration_of_item(evidence: Evidence) -> Finding:
    """Identifier and ServerToken of a declaration are those of its item."""
    shown: list[ExchangeRecord] = []
    for each in items(evidence):
        for key in ("Identifier", "ServerToken"):
            wanted, found = each.content.get(key), each.declaration.get(key)
            if each.fetched is None or not is_text(wanted) or not is_text(found):
                continue
            if wanted != found:
                return failed(
                    f"the {key} of the item, {str(wanted)[:80]}", f"{str(found)[:80]}", each.within, each.fetched
                )
            shown.append(each.fetched)
    return passed(*shown) if shown else not_tested(_NOT_FETCHED)


def missing_declaration(evidence: Evidence) -> Finding:
    """A declaration that does not exist is 404."""
    if not answered(evidence, "tokens"):
        return not_tested(_NO_DDM)
    for each in evidence.exchanges("raw"):
        if str(each.request.dictionary.get("Endpoint", "")).startswith("declaration/"):
            if each.status != 404:
                return failed("status 404 for a declaration that does not exist", _answer(each), each)
            return passed(each)
    return not_tested(_NOT_ASKED)


def status_accepted(evidence: Evidence) -> Finding:
    """A status report is answered with 200 and an empty body."""
    exchanges = asked(evidence, "status")
    if not answered(evidence, "tokens"):
        return not_tested(_NO_DDM)
    for each in exchanges:
        if each.status != 200 or each.response.form != "empty":
            return failed("status 200 with an empty body", _answer(each), each)
    return passed(*exchanges) if exchanges else not_tested(_NOT_ASKED)


def unknown_endpoint(evidence: Evidence) -> Finding:
    """An unknown endpoint is an error of the client, and the Mac stays enrolled."""
    exchanges = asked(evidence, "no-such-endpoint")
    if not answered(evidence, "tokens"):
        return not_tested(_NO_DDM)
    if not exchanges:
        return not_tested(_NOT_ASKED)
    each = exchanges[0]
    if each.status is None or not 400 <= each.status < 500 or each.status == 401:
        return failed("a status from 400 to 499 other than 401", _answer(each), each)
    sessions = evidence.exchanges("report", udid=each.udid, answer_status="Idle", after=each.number)
    if not sessions:
        return not_tested("No session was opened afterwards.", each)
    if sessions[0].status != 200:
        return failed("status 200 in the next session", _answer(sessions[0]), each, sessions[0])
    return passed(each, sessions[0])


def activation_references(evidence: Evidence) -> Finding:
    """Each of StandardConfigurations is the identifier of a configuration of the items."""
    found = items(evidence)
    known = {each.identifier for each in found if each.kind == "configuration"}
    shown: list[ExchangeRecord] = []
    for each in found:
        payload = each.declaration.get("Payload")
        simple = each.declaration.get("Type") == "com.apple.activation.simple"
        if each.fetched is None or not simple or not isinstance(payload, dict):
            continue
        names = payload.get("StandardConfigurations")
        if not isinstance(names, list):
            return failed("an activation with the array StandardConfigurations", "one without it", each.fetched)
        for name in names:
            if not isinstance(name, str) or name not in known:
                seen = f"{name!r}"[:200] + ", which is not there"
                return failed("the identifier of a configuration of the items", seen, each.fetched, each.within)
        shown.append(each.fetched)
    return passed(*shown) if shown else not_tested("No activation.simple was fetched.")


def json_type(evidence: Evidence) -> Finding:
    """JSON comes as application/json."""
    answers = [each for each in evidence.exchanges("raw") if each.status == 200 and each.response.form == "json"]
    for each in answers:
        if each.content_type != "application/json":
            return failed("the Content-Type application/json", each.content_type or "no Content-Type", each)
    return passed(*answers) if answers else not_tested("The server answered with no JSON.")


def command_data(evidence: Evidence) -> Finding:
    """Data of the command, where it is present, is a TokensResponse."""
    commands = [each for each in evidence.commands("DeclarativeManagement") if evidence.by_server(each.command_uuid)]
    for each in commands:
        if "Data" not in each.command:
            continue
        data = each.command["Data"]
        sync = data.get("SyncTokens") if isinstance(data, dict) else None
        lacks = _lacking(sync, _SYNC_KEYS) if isinstance(sync, dict) else "SyncTokens"
        if lacks:
            return failed("Data with SyncTokens, its DeclarationsToken and Timestamp", f"Data without {lacks}", each)
    return passed(*commands) if commands else not_tested("The server composed no DeclarativeManagement itself.")


def _lacking(document: Mapping[str, Any], keys: Mapping[str, type]) -> str:
    """The first of the keys that is not there with its type; a string must not be empty. Empty if none is lacking."""
    for key, wanted in keys.items():
        value = document.get(key)
        if not isinstance(value, wanted) or (wanted is str and not value):
            return key
    return ""


def _is_timestamp(value: str) -> bool:
    if _RFC_3339.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return value[17:19] == "60"  # a leap second
    return True


def _answer(exchange: ExchangeRecord) -> str:
    if exchange.status is None:
        return exchange.error or "no answer"
    forms = {"empty": "an empty body", "bytes": "bytes that are no JSON"}
    return f"status {exchange.status} with {forms.get(exchange.response.form, exchange.response.form)}"


def _entry(
    number: int,
    says: str,
    source: Source,
    check: Check,
    probe: str = "ddm-sync",
    *,
    level: Level = Level.MUST,
) -> Requirement:
    profiles = ("mdm", "macos27")
    return Requirement(f"MDM-DDM-{number:02d}", level, says, source, profiles, (probe,), check, needs="ddm")


REQUIREMENTS = (
    _entry(
        1,
        "A server must answer the endpoint tokens with 200 and SyncTokens, with DeclarationsToken and Timestamp.",
        Source(_CHECK_IN, "notes, tokens"),
        tokens_answered,
    ),
    _entry(
        2,
        "Timestamp of SyncTokens must be a date and time of RFC 3339.",
        Source(_TOKENS, "SyncTokens"),
        timestamp,
    ),
    _entry(
        3,
        "A server must answer the endpoint declaration-items with 200, the four arrays, and DeclarationsToken.",
        Source(_ITEMS, "Declarations"),
        items_answered,
    ),
    _entry(
        4,
        "DeclarationsToken must be the same in tokens and declaration-items while no declaration changes.",
        Source(_ITEMS, "DeclarationsToken"),
        same_token,
    ),
    _entry(
        5,
        "Each declaration item must have an Identifier and a ServerToken.",
        Source(_ITEMS, "DeclarationItem"),
        item_keys,
    ),
    _entry(
        6,
        "A server must answer the endpoint of a declaration with 200, and Type, Identifier, ServerToken and Payload.",
        Source(_BASE, "payloadkeys"),
        declaration_keys,
    ),
    _entry(
        7,
        "Identifier and ServerToken of a declaration must be those of its item.",
        Source(_ITEMS, "ServerToken"),
        declaration_of_item,
    ),
    _entry(
        8,
        "A server must answer with 404 where a declaration does not exist.",
        Source(_CHECK_IN, "notes, declaration/…/…"),
        missing_declaration,
        "ddm-missing",
    ),
    _entry(
        9,
        "A server must answer a status report with 200 and an empty body.",
        Source(_CHECK_IN, "notes, status"),
        status_accepted,
        "ddm-status",
    ),
    _entry(
        10,
        "A server should refuse an endpoint that does not exist with a 4xx status, and the Mac stays enrolled.",
        Source("RFC 9110", "15.5", "2022-06"),
        unknown_endpoint,
        "ddm-missing",
        level=Level.SHOULD,
    ),
    _entry(
        11,
        "Each of StandardConfigurations of an activation must be the identifier of a configuration of the items.",
        Source("declarative/declarations/activations/simple.yaml", "StandardConfigurations"),
        activation_references,
    ),
    _entry(
        12,
        "JSON should come with the Content-Type application/json.",
        Source("RFC 8259", "11", "2017-12"),
        json_type,
        level=Level.SHOULD,
    ),
    _entry(
        13,
        "Data of the command DeclarativeManagement must be a TokensResponse where it is present.",
        Source("commands/declarativemanagement.yaml", "Data"),
        command_data,
        "ddm-command",
    ),
)
