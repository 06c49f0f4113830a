"""The verdict at the top of a report, and its level."""

from __future__ import annotations

from typing import Any

import documents
import pytest

from agent.report.numbers import TIMES
from agent.report.verdict import Level, Verdict, failures_told, verdict


def of(document: dict[str, Any], **changes: Any) -> Verdict:
    return verdict(documents.typed(document | changes))


def levels(found: Verdict) -> list[Level]:
    return [statement.level for statement in found.statements]


def test_verdict_of_a_good_run_is_good() -> None:
    found = of(documents.good())
    assert (found.level, found.headline) == (Level.GOOD, "Every limit passed")
    assert set(levels(found)) == {Level.GOOD}


def test_most_important_failure_comes_first() -> None:
    found = of(documents.failed(), complete=False, incomplete_because="a worker died.")
    texts = [statement.text for statement in found.statements]
    assert texts[0] == "The run did not finish: a worker died. The numbers are those until then."
    assert texts[1].startswith("The load generator was overloaded: latencies include its own delays.")
    assert texts[2] == "3 of 4 limits failed."
    assert texts[3].startswith("439 of 114,526 operations failed (0.38 %), most often session with http_status")
    assert texts[4] == "305 of the planned operations never started."
    assert texts[5].startswith("829 started more than 100 ms after they were due")
    assert (
        found.headline
        == "The run did not finish, 10 operations failed, 3 of 4 limits failed, the load generator was overloaded"
    )
    assert found.level is Level.BAD


def test_limits_decide_which_errors_are_allowed() -> None:
    failed = documents.failed()
    held = [limit | {"ok": True} for limit in failed["limits"]]
    held.append({"limit": "lom_link.errors <= 1%", "ok": True, "found": "0.8%", "sentence": "It passed."})
    generator = documents.good()["generator"]
    found = of(failed, limits=held, generator=generator)
    assert (found.level, found.headline) == (Level.WARNING, "Every limit passed")
    assert of(failed, limits=[], generator=generator).level is Level.BAD
    assert of(failed, limits=[], generator=generator).headline == "439 operations failed"


def test_run_without_limits_and_errors_is_good() -> None:
    found = of(documents.good(), limits=[])
    assert (found.level, found.headline) == (Level.GOOD, "No operation failed")


def test_uncovered_errors_are_bad_although_every_limit_passed() -> None:
    failed = documents.failed()
    held = [limit | {"ok": True} for limit in failed["limits"]]
    found = of(failed, limits=held, generator=documents.good()["generator"])
    assert (found.level, found.headline) == (Level.BAD, "10 operations failed")


def test_unmeasured_generator_is_not_called_overloaded() -> None:
    unknown = documents.smallest()["generator"]
    found = of(documents.good(), generator=unknown)
    assert "do not rely on the latencies" in found.statements[0].text
    assert found.level is Level.WARNING


@pytest.mark.parametrize("document", [documents.smallest, documents.empty])
def test_empty_run_has_no_statement_on_latencies(document: Any) -> None:
    found = of(document())
    assert found.headline.endswith("o operation ended")
    assert not [each for each in found.statements if "latencies" in each.text]


def test_single_items_are_singular() -> None:
    limits = documents.good()["limits"][:1]
    assert of(documents.good(), limits=limits).statements[1].text == "The one limit passed."
    broken = [limits[0] | {"ok": False}]
    assert of(documents.good(), limits=broken).statements[1].text == "1 of 1 limit failed."


def test_failure_statement_has_kind_and_share() -> None:
    assert failures_told(documents.typed(documents.good())) == ""
    text = failures_told(documents.typed(documents.failed()))
    assert text.startswith("439 of ")
    assert " operations failed: session http_status (368), session answer_timeout (61) and lom_link lom_un" in text
    stuck = documents.smallest()
    stuck["operations"] = {"session": documents.nothing_succeeded(43) | {"errors": 25}}
    stuck["errors"] = [{"operation": "session", "kind": "session_stuck", "count": 25, "example": ""}]
    assert failures_told(documents.typed(stuck)) == "25 of 43 session operations failed: session_stuck"


def test_cut_short_statement_has_reasons() -> None:
    cut = documents.good()
    cut["operations"]["push"]["cut_short"] = 3
    found = of(cut, cut_short=[{"operation": "push", "reason": "the run ended first", "count": 3}])
    [statement] = [each for each in found.statements if each.level is Level.WARNING]
    assert statement.text == "3 operations were cut short: neither a success nor a failure."
    assert statement.details == (f"3 {TIMES} push: the run ended first",)


def with_own_failures(**counts: int) -> dict[str, Any]:
    """A run in which our gateway refused pushes; by operation how many failed because of it, beside one other."""
    document = documents.good()
    document["errors"] = [{"operation": "push", "kind": "server_push", "count": 1, "example": ""}]
    document["errors"] += [
        {"operation": name, "kind": "own_gateway", "count": count, "example": ""} for name, count in counts.items()
    ]
    for name in ("push", *counts):
        errors = sum(each["count"] for each in document["errors"] if each["operation"] == name)
        document["operations"][name]["errors"] = errors
    return document | {"limits": [], "push": {"own": {"overloaded": 12}}}


def test_refusals_of_our_own_gateway_are_reported_as_ours() -> None:
    found = of(with_own_failures(push=6, delivery=6))
    assert found.headline == "13 operations failed (12 of them by lom-agent's own push gateway)"
    (ours,) = [each for each in found.statements if "no failure of the server" in each.text]
    assert ours.level is Level.WARNING
    assert ours.text.startswith(f"6 {TIMES} push and 6 {TIMES} delivery failed because lom-agent's own push gateway")
    assert ours.details == (
        "The gateway refused 12 pushes because this machine was overloaded (503 ServiceUnavailable).",
    )
    assert not any("own push gateway" in each.text for each in of(with_own_failures()).statements)


def test_run_that_failed_only_by_our_own_gateway_reports_it() -> None:
    document = with_own_failures(delivery=6)
    del document["errors"][0]
    document["operations"]["push"]["errors"] = 0
    assert of(document).headline == "6 operations failed (all by lom-agent's own push gateway)"
