"""Which activations are active, which configurations they put into effect, and the state of every declaration.

Source: apple-schema declarative/declarations/activations/simple.yaml, declarationbase.yaml (reasons),
declarative/status/management.declarations.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import Any

import msgspec

from agent.device.ddm.declared import (
    ACTIVATION,
    ASSET,
    CONFIGURATION,
    INVALID,
    MANAGEMENT,
    UNKNOWN,
    VALID,
    Declaration,
    Reason,
    as_json,
    reason_of,
    reasons_of,
    sorted_names,
)
from agent.device.ddm.predicate_values import EvaluationFailed, Facts, Unevaluable
from agent.device.ddm.predicates import Unparsable, parse, parsing_steps
from agent.device.ddm.status import status_value
from agent.device.ddm.validation import MAX_REASON, asset_references
from agent.device.mac import Device

PROPERTIES = "com.apple.management.properties"
_PREDICATES = 256  # parsed ones that are kept
_parse = lru_cache(_PREDICATES)(parse)
_DOMAIN, _CODE = "NSCocoaErrorDomain", "0"  # of a failed evaluation; our choice


class Activation(msgspec.Struct, frozen=True):
    """What one activation does. It is active if it has no reason."""

    declaration: Declaration
    configurations: list[str]
    reasons: list[Reason]
    failed: bool
    """Whether its reasons are errors; otherwise its predicate is false."""


class Plan(msgspec.Struct):
    """What the activations want: the configurations that are to be in effect, in the order of the declarations."""

    activations: dict[str, Activation] = msgspec.field(default_factory=dict)
    wanted: list[Declaration] = msgspec.field(default_factory=list)


def plan_of(device: Device) -> Plan:
    """What is to be in effect now."""
    declared = device.declared
    present = {each.identifier for each in declared.of(CONFIGURATION)}
    facts = Facts(partial(status_value, device), dict(_properties(device)))
    plan = Plan()
    for each in declared.of(ACTIVATION):
        plan.activations[each.identifier] = _activation(each, facts, present)
    named = {name for each in plan.activations.values() if not each.reasons for name in each.configurations}
    plan.wanted = [each for each in declared.of(CONFIGURATION) if each.identifier in named and not each.faults]
    return plan


def _properties(device: Device) -> Iterator[tuple[str, Any]]:
    """Every property of the server; where two declarations have the same one, the later counts (our choice)."""
    for each in device.declared.of(MANAGEMENT):
        if each.type == PROPERTIES and not each.faults:
            yield from each.payload.items()


def _activation(declaration: Declaration, facts: Facts, present: set[str]) -> Activation:
    if declaration.faults:
        return Activation(declaration, [], reasons_of(declaration.faults), failed=True)
    payload = declaration.payload
    configurations: list[str] = payload["StandardConfigurations"]
    missing = sorted_names(name for name in configurations if name not in present)
    if missing:
        text = "Activation ({}) is missing configurations."
        error = reason_of(declaration, "Error.MissingConfigurations", text, ConfigurationIdentifiers=missing)
        return Activation(declaration, configurations, [error], failed=True)
    predicate = payload.get("Predicate")
    why = None if predicate is None else _why_not(declaration, predicate, facts)
    if why is None:
        return Activation(declaration, configurations, [], failed=False)
    return Activation(declaration, configurations, [why], failed=why["code"] != "Info.Predicate")


def _why_not(declaration: Declaration, predicate: str, facts: Facts) -> Reason | None:
    """The reason for which the predicate does not hold; None if it does."""
    told = partial(_predicate_reason, declaration, predicate)
    try:
        facts.step(parsing_steps(predicate))
        if _parse(predicate)(facts):
            return None
    except Unparsable as error:
        return told("Error.UnableToParsePredicate", f"could not be parsed: {error}")
    except Unevaluable as error:
        return told("Error.UnableToEvaluatePredicate", f"could not be evaluated: {error}")
    except EvaluationFailed as error:
        return told("Error.PredicateFailed", f"failed to evaluate: {error}", Domain=_DOMAIN, Code=_CODE)
    return told("Info.Predicate", "evaluated to false")


def _predicate_reason(declaration: Declaration, predicate: str, code: str, what: str, **details: Any) -> Reason:
    shown = predicate[:MAX_REASON]
    why = reason_of(declaration, code, "{}", Predicate=shown, **details)
    return {**why, "description": f"Activation’s ({why['description']}) predicate ({shown}) {what}."}  # noqa: RUF001


def tell_states(device: Device, plan: Plan) -> None:
    """Set the state of every declaration as it is now: ``active``, ``valid`` and ``reasons``."""
    declared, release = device.declared, device.mac.os_version
    wanted = {each.identifier for each in plan.wanted}
    used = _referred_to(plan.wanted, release)
    known = _referred_to(declared.of(CONFIGURATION), release)
    naming: dict[str, list[Activation]] = {}
    for activation in plan.activations.values():
        for name in dict.fromkeys(activation.configurations):
            naming.setdefault(name, []).append(activation)
    for each in declared.declarations:
        if each.kind == ACTIVATION:
            activation = plan.activations[each.identifier]
            valid = INVALID if activation.failed else VALID
            _set(each, not activation.reasons, valid, activation.reasons)
        elif each.faults or each.failure:
            _set(each, False, INVALID, reasons_of(each.faults, each.failure))
        elif each.kind == CONFIGURATION and each.identifier not in wanted:
            _set(each, False, UNKNOWN, _why_not_wanted(each, naming.get(each.identifier, [])))
        elif each.kind == ASSET and each.identifier not in used:
            text = "Asset “{}” is not referenced by a configuration."
            reasons = [reason_of(each, "Info.NotReferencedByConfiguration", text)]
            _set(each, False, UNKNOWN, [] if each.identifier in known else reasons)
        else:
            active = each.kind == MANAGEMENT or each.applied
            _set(each, active, VALID if active else UNKNOWN, reasons_of(each.notes))


def _referred_to(configurations: Iterable[Declaration], release: str) -> set[str]:
    """The identifiers of the assets that these configurations refer to."""
    return {name for each in configurations for name in asset_references(each, release)}


def _why_not_wanted(configuration: Declaration, naming: list[Activation]) -> list[Reason]:
    """Why no activation puts a configuration into effect; ``naming`` are those that refer to it."""
    if not naming:
        text = "Configuration “{}” is not referenced by an activation."
        return [reason_of(configuration, "Info.NotReferencedByActivation", text)]
    text = "Activation “{}” has errors."
    return [reason_of(each.declaration, "Error.ActivationFailed", text) for each in naming if each.failed][:1]


def _set(declaration: Declaration, active: bool, valid: str, reasons: list[Reason]) -> None:
    state: dict[str, Any] = {"active": active, "valid": valid}
    if reasons:
        state["reasons"] = reasons
    declaration.status = as_json(state)
