"""What the fault rules of a run did, in one line."""

from __future__ import annotations

from collections.abc import Sequence

from agent.measure.summaries import RuleSummary
from agent.report.numbers import counted

_SHOWN = 20


def rule_hits(rules: Sequence[RuleSummary]) -> str:
    """The hits and matches of each rule: ``flaky hit 3 of 10 operations``; a rule that never matched says so."""
    parts = [
        f"{rule.id} hit {rule.hits:,} of {counted(rule.matches, 'operation')}"
        if rule.matches
        else f"{rule.id} never matched"
        for rule in rules[:_SHOWN]
    ]
    return ", ".join([*parts, *([f"{len(rules) - _SHOWN:,} more rules"] if len(rules) > _SHOWN else [])])
