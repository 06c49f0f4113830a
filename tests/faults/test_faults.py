"""Fault rules: which combinations are valid, which Macs they concern, and when they hit."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import OperatorError
from agent.faults.decisions import Faults, RuleCounts
from agent.faults.effects import EFFECTS, PARAMETERS, TYPED, TYPES_OF
from agent.faults.rules import Rule, RuleError
from agent.fleet.population import Mac, Population

POPULATION = Population("faults", 60, 10)
MACS = list(POPULATION)
VALUES: dict[str, Any] = {
    "errors": (RuleError(code=7),),
    "seconds": 2.0,
    "at": "in_response",
    "bytes_per_s": 10.0,
    "which": "wrong",
    "what": "nonce",
    "reason": "TooManyRequests",
    "limit": 3,
    "until": 5.0,
}
SELECTING = ("macs", "segment", "role", "os", "share")
COUNTING = ("times", "every", "probability")
WITHOUT = {"throttle": COUNTING, "away": (*SELECTING, *COUNTING)}
ROWS = [(effect.do, on) for effect in EFFECTS for on in effect.on]

rows = st.sampled_from([(effect, on) for effect in EFFECTS for on in effect.on])
counts = st.integers(1, 12)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any valid rule."""
    effect, on = draw(rows)
    values: dict[str, Any] = {name: VALUES[name] for name in effect.needs}
    values |= {name: VALUES[name] for name in effect.takes if draw(st.booleans())}
    after = draw(st.floats(0, 100))
    if "until" not in effect.needs and draw(st.booleans()):
        values["until"] = None
    else:
        values["until"] = after + 1.0
    chosen: dict[str, Any] = {
        "macs": draw(st.sampled_from([(), ("0-9",), ("7", MACS[3].udid)])),
        "segment": draw(st.sampled_from([None, 0, 5])),
        "role": draw(st.sampled_from([None, "controller", "device"])),
        "os": draw(st.sampled_from([None, "27", "26.1"])),
        "share": draw(st.floats(0, 1)),
        "times": draw(st.none() | counts),
        "every": draw(st.none() | counts),
        "probability": draw(st.floats(0, 1)),
    }
    values |= {name: value for name, value in chosen.items() if name not in WITHOUT.get(effect.do, ())}
    return Rule(
        id=draw(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,10}", fullmatch=True) | st.just("")),
        on=on,
        do=effect.do,
        type=draw(st.sampled_from([None, TYPES_OF.get(on, ("ProfileList",))[0]])) if on in TYPED else None,
        after=after,
        **values,
    )


def in_force(*given_rules: Rule, now: float = 0.0) -> Faults:
    faults = Faults()
    for rule in given_rules:
        faults.add(rule, now)
    return faults


def hits(faults: Faults, mac: Mac, asked: int, now: float = 0.0) -> list[int]:
    """Which of this many commands of a Mac are hit, from 1."""
    return [number for number in range(1, asked + 1) if faults.decide("command", mac, now, "ProfileList") is not None]


def only(faults: Faults) -> RuleCounts:
    (counted,) = faults
    return counted


# The table


@pytest.mark.parametrize(("do", "on"), ROWS)
def test_each_row_of_the_table_is_valid_and_requires_its_parameters(do: str, on: str) -> None:
    effect = next(effect for effect in EFFECTS if effect.do == do and on in effect.on)
    values = {name: VALUES[name] for name in (*effect.needs, *effect.takes)}
    assert msgspec.convert({"on": on, "do": do, **msgspec.to_builtins(values)}, Rule).do == do
    for name in effect.needs:
        rest = {other: value for other, value in values.items() if other != name}
        with pytest.raises(
            OperatorError, match=rf"Expected {name} with do = .{do}. in a rule, found none\. Give {name}\."
        ):
            Rule(on=on, do=do, **rest)  # type: ignore[arg-type]
    for name in set(PARAMETERS) - set(values):
        with pytest.raises(OperatorError, match=rf"Expected no {name} .*Remove {name}\."):
            Rule(on=on, do=do, **values, **{name: VALUES[name]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"on": "push", "do": "not_now"},
            'Expected on = "command" with do = "not_now" in a rule, found on = "push". docs/faults.md has the table.',
        ),
        (
            {"id": "x", "on": "session", "do": "malformed", "type": "ProfileList"},
            (
                'Expected type only with on = "command", "checkin", "scep", "acme" or "attestation" in the rule "x", '
                'found type = "ProfileList" with on = "session". Remove type.'
            ),
        ),
        (
            {"on": "command", "do": "not_now", "type": "profilelist"},
            'Expected type = "ProfileList" with on = "command" in a rule, found "profilelist". Capital letters matter.',
        ),
        (
            {"on": "checkin", "do": "malformed", "type": "TokenUPDATE"},
            'Expected type = "TokenUpdate" with on = "checkin" in a rule, found "TokenUPDATE". Capital letters matter.',
        ),
        (
            {"on": "scep", "do": "drop", "at": "in_request", "type": "GetCert"},
            (
                'Expected type = "GetCACaps", "GetCACert" or "PKIOperation" with on = "scep" in a rule, found '
                '"GetCert". Correct it.'
            ),
        ),
        (
            {"on": "command", "do": "crash", "after": 5, "until": 5},
            "Expected until above after in a rule, found until = 5, after = 5. Give a later until.",
        ),
        (
            {"on": "push", "do": "refuse", "reason": "Tired"},
            'Expected a reason of APNs in a rule, found "Tired". docs/push.md lists them.',
        ),
        (
            {"on": "command", "do": "crash", "macs": ["9-0"]},
            'Expected a UDID, an index or FIRST-LAST in macs in a rule, found "9-0". Correct it.',
        ),
    ],
)
def test_a_senseless_rule_is_rejected(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError) as caught:
        msgspec.convert(rule, Rule)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "wrong",
    [{"on": "est"}, {"do": "sing"}, {"probability": 1.5}, {"share": -0.1}, {"times": 0}, {"every": 0}, {"id": "a b"},
     {"color": 1}, {"macs": "0-9"}, {"os": ""}, {"after": -1}, {"role": "boss"}],
)  # fmt: skip
def test_values_out_of_bounds_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"on": "command", "do": "crash", **wrong}, Rule)


@given(rules())
def test_a_rule_is_the_same_after_json(rule: Rule) -> None:
    assert msgspec.json.decode(msgspec.json.encode(rule), type=Rule) == rule


def test_a_rule_is_read_from_toml() -> None:
    text = 'on = "command"\ndo = "error"\nmacs = ["0-9"]\nerrors = [{ domain = "X", code = 3, description = "no" }]'
    rule = msgspec.convert(tomllib.loads(text), Rule)
    assert rule == Rule(
        on="command", do="error", macs=("0-9",), errors=(RuleError(domain="X", code=3, description="no"),)
    )


# Which Macs


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, MACS),
        ({"macs": ("3", "10-12")}, [MACS[3], *MACS[10:13]]),
        ({"macs": (MACS[4].udid.lower(), "0")}, [MACS[0], MACS[4]]),
        ({"segment": 1}, MACS[10:20]),
        ({"role": "controller"}, MACS[::10]),
        ({"role": "device"}, [mac for mac in MACS if mac.index % 10]),
        ({"os": "26"}, [mac for mac in MACS if mac.os_version.partition(".")[0] == "26"]),
        ({"os": MACS[0].os_version}, [mac for mac in MACS if mac.os_version == MACS[0].os_version]),
        ({"os": "2"}, []),
        ({"segment": 1, "macs": ("9-10",)}, [MACS[10]]),
    ],
)
def test_a_rule_is_for_the_macs_that_it_selects(selector: dict[str, Any], chosen: list[Mac]) -> None:
    faults = in_force(Rule(on="command", do="crash", **selector))
    assert [mac for mac in MACS if faults.decide("command", mac, 0.0)] == chosen
    assert only(faults).matches == len(chosen)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 6))
def test_a_share_is_the_same_macs_in_any_sharding(one: float, other: float, shards: int) -> None:
    less, more = sorted((one, other))
    chosen = {}
    for share in (less, more):
        rule = Rule(on="command", do="crash", share=share)
        per_shard = [in_force(rule) for _ in range(shards)]
        chosen[share] = {mac.index for mac in MACS if per_shard[mac.index % shards].decide("command", mac, 0.0)}
        whole = in_force(rule)
        assert chosen[share] == {mac.index for mac in MACS if whole.decide("command", mac, 0.0)}
    assert chosen[less] <= chosen[more]


def test_a_share_is_about_that_share_of_a_big_fleet() -> None:
    faults = in_force(Rule(on="command", do="crash", share=0.25))
    big = Population("big", 2000)
    assert 400 < sum(faults.decide("command", mac, 0.0) is not None for mac in big) < 600
    assert sum(in_force(Rule(on="command", do="crash", share=0)).decide("command", mac, 0.0) is None for mac in big)


@pytest.mark.parametrize(("type_", "matches"), [("ProfileList", True), ("DeviceInformation", False), ("", False)])
def test_a_type_selects_operations(type_: str, matches: bool) -> None:
    faults = in_force(Rule(on="command", do="not_now", type="ProfileList"))
    assert (faults.decide("command", MACS[0], 0.0, type_) is not None) is matches
    assert faults.decide("checkin", MACS[0], 0.0, "ProfileList") is None


# When


@given(counts, st.integers(0, 30))
def test_the_first_n_matches_of_each_mac_are_hit(times: int, asked: int) -> None:
    faults = in_force(Rule(on="command", do="not_now", times=times))
    for mac in MACS[:2]:
        assert hits(faults, mac, asked) == list(range(1, min(times, asked) + 1))
    assert only(faults).exhausted is (asked >= times)


@given(counts, st.none() | counts, st.integers(0, 40))
def test_every_nth_match_is_hit(every: int, times: int | None, asked: int) -> None:
    faults = in_force(Rule(on="command", do="not_now", every=every, times=times))
    assert hits(faults, MACS[0], asked) == list(range(every, asked + 1, every))[:times]


@given(st.integers(0, 30), st.none() | counts)
def test_probability_0_is_never_and_1_is_always(asked: int, every: int | None) -> None:
    never = in_force(Rule(on="command", do="not_now", probability=0.0, every=every))
    always = in_force(Rule(on="command", do="not_now", probability=1.0))
    assert hits(never, MACS[0], asked) == []
    assert only(never).matches == asked
    assert hits(always, MACS[0], asked) == list(range(1, asked + 1))


@given(st.floats(0, 1), st.lists(st.integers(0, 5), max_size=60))
def test_decisions_on_a_mac_do_not_depend_on_other_macs(probability: float, order: list[int]) -> None:
    rule = Rule(id="coin", on="command", do="not_now", probability=probability)
    mixed = in_force(rule)
    found: dict[int, list[bool]] = {}
    for index in order:
        found.setdefault(index, []).append(mixed.decide("command", MACS[index], 0.0) is not None)
    for index, decided in found.items():
        alone = in_force(rule)
        assert decided == [alone.decide("command", MACS[index], 0.0) is not None for _ in decided]


def test_a_probability_is_about_that_share_of_the_matches() -> None:
    rule = Rule(id="coin", on="command", do="not_now", probability=0.3)
    found = hits(in_force(rule), MACS[0], 1000)
    assert 200 < len(found) < 400
    assert found != hits(in_force(Rule(id="other", on="command", do="not_now", probability=0.3)), MACS[0], 1000)
    other_seed = Population("another seed", 1)[0]
    assert found != hits(in_force(rule), other_seed, 1000)


@pytest.mark.parametrize(
    ("now", "matches"), [(99.0, False), (109.9, False), (110.0, True), (119.9, True), (120.0, False)]
)
def test_a_rule_matches_from_after_until_until(now: float, matches: bool) -> None:
    faults = in_force(Rule(on="command", do="not_now", after=10.0, until=20.0), now=100.0)
    assert (faults.decide("command", MACS[0], now) is not None) is matches
    assert only(faults).exhausted is (now >= 120.0)


def test_a_throttle_hits_what_is_over_its_limit_in_each_interval() -> None:
    faults = in_force(Rule(on="push", do="throttle", limit=2, seconds=10.0), now=100.0)
    pushes = [(0, 0.0), (0, 1.0), (1, 1.0), (0, 2.0), (0, 9.9), (0, 10.0), (0, 11.0), (1, 12.0), (0, 19.0), (0, 70.0)]
    hit = [faults.decide("push", MACS[index], 100.0 + seconds) is not None for index, seconds in pushes]
    assert hit == [False, False, False, True, True, False, False, False, True, False]
    assert (only(faults).matches, only(faults).hits) == (10, 3)


def test_a_recorded_throttle_goes_on_with_its_interval() -> None:
    before, after = in_force(Rule(id="t", on="push", do="throttle", limit=1, seconds=10.0)), Faults()
    assert before.decide("push", MACS[0], 3.0) is None
    after.restore(before.record("t", 4.0), 1004.0)
    assert after.decide("push", MACS[0], 1005.0) is not None
    assert after.decide("push", MACS[0], 1010.0) is None


def test_a_hit_has_the_time_until_its_rule_ends() -> None:
    faults = in_force(Rule(on="push", do="store", after=5.0, until=60.0), now=100.0)
    assert faults.decide("push", MACS[0], 104.0) is None
    hit = faults.decide("push", MACS[0], 110.0)
    assert hit is not None
    assert hit.left == 50.0


def test_no_mac_is_asked_about_a_rule_that_has_the_gateway_away() -> None:
    faults = in_force(
        Rule(id="a", on="push", do="away", after=5.0, until=10.0), Rule(id="b", on="push", do="away", until=7.0)
    )
    assert faults.decide("push", MACS[0], 6.0) is None
    assert [each.matches for each in faults] == [0, 0]
    assert [(now, faults.away(now), faults.next_away(now)) for now in (0.0, 5.0, 7.0, 9.9, 10.0)] == [
        (0.0, True, 5.0), (5.0, True, 7.0), (7.0, True, 10.0), (9.9, True, 10.0), (10.0, False, None),
    ]  # fmt: skip
    assert [(each.matches, each.hits, each.exhausted) for each in faults] == [(1, 1, True)] * 2
    faults.remove("a")
    faults.clear()
    assert (faults.away(5.0), faults.next_away(0.0)) == (False, None)


@pytest.mark.parametrize(
    ("do", "name", "value"),
    [
        ("throttle", "times", 2),
        ("throttle", "probability", 0.5),
        ("away", "macs", ("7",)),
        ("away", "segment", 0),
        ("away", "share", 0.0),
        ("away", "every", 2),
    ],
)
def test_what_would_not_be_asked_cannot_be_given(do: str, name: str, value: object) -> None:
    needs = next(effect.needs for effect in EFFECTS if effect.do == do)
    fields: Any = {"on": "push", "do": do, **{need: VALUES[need] for need in needs}}
    with pytest.raises(
        OperatorError, match=f'Expected no {name} with do = "{do}" in a rule, found {name}. Remove {name}.'
    ):
        Rule(**fields, **{name: value})


# Several rules


@given(st.lists(rules(), max_size=6), st.lists(st.tuples(st.sampled_from(ROWS), st.integers(0, 59)), max_size=60))
def test_counts_add_up(many: list[Rule], asked: list[tuple[tuple[str, str], int]]) -> None:
    faults = in_force(*[msgspec.structs.replace(rule, id=f"r{number}") for number, rule in enumerate(many)])
    decided = [faults.decide(on, MACS[index], 0.5, "ProfileList") for (_do, on), index in asked]
    counted = list(faults)
    assert sum(each.hits for each in counted) == sum(hit is not None for hit in decided)
    for each in counted:
        assert each.hits <= each.matches <= len(asked)
        assert each.hits == sum(hit is not None and hit.rule is each.rule for hit in decided)


def test_the_newest_rule_that_hits_decides_and_older_ones_are_not_asked() -> None:
    faults = in_force(
        Rule(id="old", on="command", do="format_error"), Rule(id="new", on="command", do="not_now", times=1)
    )
    found = [faults.decide("command", MACS[0], 0.0) for _ in range(2)]
    assert [(hit.rule.id, hit.number) for hit in found if hit] == [("new", 1), ("old", 1)]
    assert [(each.rule.id, each.matches, each.hits) for each in faults] == [("old", 1, 1), ("new", 2, 1)]


def test_rules_are_named_removed_and_cleared() -> None:
    faults = Faults()
    rule = Rule(on="command", do="not_now")
    assert [faults.add(rule, 0.0).id for _ in range(2)] == ["rule-1", "rule-2"]
    faults.add(Rule(id="rule-3", on="push", do="lose"), 0.0)
    assert faults.add(rule, 0.0).id == "rule-4"
    with pytest.raises(OperatorError, match='found "rule-3" twice'):
        faults.add(Rule(id="rule-3", on="push", do="lose"), 0.0)
    faults.remove("rule-4")
    faults.remove("rule-2")
    assert [each.rule.id for each in faults] == ["rule-1", "rule-3"]
    hit = faults.decide("command", MACS[0], 0.0)
    assert hit is not None
    assert hit.rule.id == "rule-1"
    with pytest.raises(KeyError):
        faults.remove("rule-2")
    faults.clear()
    assert (len(faults), faults.decide("command", MACS[0], 0.0)) == (0, None)


def test_counts_are_reset() -> None:
    faults = in_force(Rule(on="command", do="not_now", times=2))
    assert hits(faults, MACS[0], 3) == [1, 2]
    faults.reset_counts()
    assert (only(faults).matches, only(faults).hits, only(faults).exhausted) == (0, 0, False)
    assert hits(faults, MACS[0], 3) == [1, 2]


def test_there_is_a_limit_of_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.faults.decisions.MOST_RULES", 1)
    faults = in_force(Rule(on="command", do="not_now"))
    with pytest.raises(OperatorError, match="Expected at most 1 rules"):
        faults.add(Rule(on="command", do="not_now"), 0.0)
