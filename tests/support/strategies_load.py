"""Hypothesis strategies for load: shapes of arrivals, plans that end, documents of scenarios that are right."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from agent.scenario.arrivals import ArrivalPlan, AtOnce, Burst, Constant, Poisson, Ramp, Replay, Shape, Steps

rates = st.floats(0.01, 1000.0)
rates_or_none = st.just(0.0) | rates
seconds = st.floats(0.01, 50.0)
names = st.from_regex("[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True)
seeds = st.text(max_size=8)
targets = st.integers(0, 60)

steps = st.lists(st.tuples(rates_or_none, seconds), min_size=1, max_size=5).filter(lambda each: any(r for r, _ in each))
ramps = st.builds(Ramp, rates_or_none, rates, seconds) | st.builds(Ramp, rates, rates_or_none, seconds)
replays = st.lists(st.floats(0.0, 100.0), max_size=40).map(sorted).map(tuple).map(Replay)
endless: st.SearchStrategy[Shape] = (
    st.builds(Constant, rates)
    | st.builds(Poisson, rates)
    | ramps
    | steps.map(tuple).map(Steps)
    | st.builds(Burst, st.integers(1, 20), seconds)
)
shapes: st.SearchStrategy[Shape] = st.just(AtOnce()) | endless | replays
plans: st.SearchStrategy[ArrivalPlan] = (
    st.builds(ArrivalPlan, shapes)
    | st.builds(ArrivalPlan, shapes, st.floats(0.01, 3.0))
    | st.builds(ArrivalPlan, endless | replays, st.floats(0.01, 3.0), again=st.just(True))
    | st.builds(ArrivalPlan, replays, again=st.just(True))
)

_arrivals = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"rate": rates}, optional={"arrivals": st.sampled_from(["constant", "poisson"])}),
    st.fixed_dictionaries({"arrivals": st.just("ramp"), "rate": rates, "to_rate": rates, "duration": seconds}),
    st.fixed_dictionaries(
        {"arrivals": st.just("step"), "steps": steps.map(lambda each: [*map(list, each), [1.0, 1.0]])}
    ),
    st.fixed_dictionaries({"arrivals": st.just("burst"), "burst": st.integers(1, 100), "every": seconds}),
    st.fixed_dictionaries({"arrivals": st.just("replay"), "replay": st.lists(seconds, min_size=1, max_size=5)}),
    st.fixed_dictionaries({"concurrency": st.integers(1, 100)}, optional={"duration": seconds}),
)
_shares = st.fixed_dictionaries(
    {}, optional={"share": st.floats(0.01, 1.0), "segments": st.integers(1, 20), "wait": st.booleans()}
)
_own = {
    "checkin": st.fixed_dictionaries({}, optional={"by": st.sampled_from(["push", "self"])}),
    "command": st.fixed_dictionaries({}, optional={"request": st.just({"RequestType": "ProfileList"})}),
    "lom_setup": st.fixed_dictionaries({}, optional={"install": st.booleans()}),
    "lom": st.fixed_dictionaries(
        {},
        optional={
            "request": st.sampled_from(["PowerON", "PowerOFF", "Reset"]),
            "per_request": st.integers(0, 12),
            "controllers": st.booleans(),
        },
    ),
    "power_cut": st.fixed_dictionaries({}, optional={"seconds": seconds, "spread": seconds, "return_spread": seconds}),
    "idle": st.fixed_dictionaries({}, optional={"seconds": seconds, "poll": seconds}),
}


def _phase(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    arrivals = st.just({}) if kind in ("power_cut", "idle") else _arrivals
    return st.tuples(_shares, arrivals, _own.get(kind, st.just({}))).map(
        lambda parts: {"kind": kind, **parts[0], **parts[1], **parts[2]}
    )


def _named(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**phase, "name": f"phase-{number}"} for number, phase in enumerate(phases)]


phases = st.tuples(_phase("enroll"), st.lists(st.sampled_from(sorted(_own)).flatmap(_phase), max_size=5)).map(
    lambda parts: _named([parts[0], *parts[1]])
)
documents: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"phase": phases},
    optional={
        "name": names,
        "limits": st.lists(st.sampled_from(["session.p99 < 500ms", "enroll.errors == 0"]), max_size=2),
        "fleet": st.fixed_dictionaries({}, optional={"devices": st.integers(1, 200), "seed": seeds}),
        "tls": st.fixed_dictionaries({}, optional={"resume": st.floats(0.0, 1.0)}),
        "load": st.fixed_dictionaries({}, optional={"rate": rates, "workers": st.integers(0, 8)}),
    },
)
