"""Scenarios from TOML: what is right is read whole, what is not is refused with the key and a plain sentence."""

from __future__ import annotations

import json
import pickle
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import strategies_load as load
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent import plists
from agent.errors import OperatorError
from agent.faults.rules import Rule, RuleError
from agent.fleet.models import Mix, os_text
from agent.lom.power import CHOICES, PowerChoices
from agent.net.apns.behaviour import PushBehaviour
from agent.net.mac.fleet.macs import FleetBehaviour
from agent.scenario.arrivals import ArrivalPlan, AtOnce, Burst, Constant, Poisson, Ramp, Replay, Steps
from agent.scenario.keys import keys_of, tables
from agent.scenario.pacing import Closed, pace
from agent.scenario.reading import MAX_BYTES, read_scenario, scenario_from
from agent.scenario.types import PHASE_KINDS, ArrivingPhase, Scenario
from agent.scenario.writing.redacted import as_document
from agent.scenario.writing.summary import summary

RULE = '\n[[rule]]\non = "command"\ndo = "not_now"\n'
ENROLL = '[[phase]]\nkind = "enroll"\n'
CHECKIN = f'{ENROLL}[[phase]]\nkind = "checkin"\n'
COMMAND = f'{ENROLL}[[phase]]\nkind = "command"\n'
OWN = '[server]\nadapter = "none"\nenroll = "https://mdm.example/enroll"\n'
WEBHOOK = '[server]\nadapter = "webhook"\nenroll = "p.mobileconfig"\n[server.webhook.enqueue]\nurl = "https://mdm/q"\n'
LOM_REQUESTS = (
    '[server.webhook.lom_profile]\nurl = "https://mdm/{profile}"\n[server.webhook.lom_setup]\nurl = "https://mdm/s"\n'
    '[server.webhook.lom_request]\nurl = "https://mdm/r"\n'
)


def read(text: str, *overrides: str) -> Scenario:
    return scenario_from(tomllib.loads(text), overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(OperatorError) as refused:
        read(text, *overrides)
    return str(refused.value).removeprefix("the scenario: ")


# What is right


@examples(25, explored=50)
@given(load.documents)
def test_valid_scenario_survives_a_round_trip(document: dict[str, Any]) -> None:
    scenario = scenario_from(document)
    shown = as_document(scenario)
    assert scenario_from(json.loads(json.dumps(shown))) == scenario
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    for phase in scenario.phases:
        assert phase.name
        if isinstance(phase, ArrivingPhase):
            assert isinstance(pace(phase, scenario.load), ArrivalPlan | Closed)


def test_minimal_scenario_is_valid() -> None:
    scenario = read(ENROLL)
    assert [phase.name for phase in scenario.phases] == ["enroll"]
    assert (scenario.name, scenario.fleet.devices, scenario.server.adapter) == ("scenario", 100, "lab")
    assert (scenario.push.enabled, scenario.push.listen) == (True, "127.0.0.1:0")


def test_derived_values_are_filled_in() -> None:
    assert getattr(read(CHECKIN).phases[1], "by") == "push"  # noqa: B009
    alone = read(OWN + CHECKIN)
    assert (alone.push.enabled, alone.push.listen, getattr(alone.phases[1], "by")) == (False, None, "self")  # noqa: B009
    assert getattr(read(WEBHOOK + CHECKIN).phases[1], "by") == "self"  # noqa: B009
    lab = read(f'[server.lab]\nurl = "https://127.0.0.1:8443/"\ntoken_file = "token"\n{ENROLL}')
    assert lab.server.enroll == "https://127.0.0.1:8443/enroll"
    command = read(COMMAND).phases[1]
    assert getattr(command, "request")["RequestType"] == "DeviceInformation"  # noqa: B009


ACME = '[server]\nidentity = "acme"\n'


def test_macs_have_a_macos_that_takes_the_identity_of_the_lab() -> None:
    scenario = read(ACME + ENROLL)
    assert {each.partition(".")[0] for each in Mix(os_text(scenario.fleet.os)).versions} == {"14", "15", "26", "27"}
    assert scenario_from(as_document(scenario)).fleet.os == scenario.fleet.os
    assert read(f'[fleet]\nos = ["26.4", "27"]\n{ACME}{ENROLL}').fleet.os == ("26.4", "27")
    assert read(f'[fleet]\nos = "13.6"\n{ENROLL}').fleet.os == "13.6"
    assert read(f'{OWN}identity = "acme"\n{CHECKIN}').fleet.os is None  # what that profile asks for is not known
    older = refusal(f'[fleet]\nos = ["13", "27"]\n{ACME}{ENROLL}')
    assert older.startswith('fleet.os (--os) with server.identity = "acme", whose keys are bound to the hardware: ')
    assert "Expected releases from macOS 14 on, found 13.6 in '13,27'. Choose newer ones, such as 14=" in older


def test_scenario_defaults_equal_those_of_the_rooms() -> None:
    scenario = read(ENROLL)
    assert FleetBehaviour.of(scenario.fleet) == FleetBehaviour()
    assert PushBehaviour.of(scenario.push) == PushBehaviour()
    assert scenario.fleet.power == PowerChoices()
    for name, choice in CHOICES.items():
        for word in choice.options:
            assert getattr(read(f'[fleet.power]\n{name} = "{word}"\n{ENROLL}').fleet.power, name) == word


def test_every_key_is_described() -> None:
    for name, table in [*tables(), *PHASE_KINDS.items()]:
        for key in keys_of(table).values():
            assert key.description.endswith("."), f"{name}.{key.name}"
            assert key.default is not None or key.required or key.example is not None or key.table, key.name


# How the Macs of a phase come


@pytest.mark.parametrize(
    ("general", "own", "plan"),
    [
        ("", "", ArrivalPlan(AtOnce())),
        ("rate = 5", "", ArrivalPlan(Constant(5.0))),
        ("rate = 5", "rate = 7", ArrivalPlan(Constant(7.0))),
        ("rate = 5", 'arrivals = "poisson"', ArrivalPlan(Poisson(5.0))),
        ('rate = 5\narrivals = "poisson"', "rate = 7", ArrivalPlan(Poisson(7.0))),
        ("rate = 5", "duration = 60", ArrivalPlan(Constant(5.0), 60.0, again=True)),
        ("concurrency = 8", "", Closed(8)),
        ("concurrency = 8", "duration = 60", Closed(8, 60.0, again=True)),
        ("concurrency = 8", "concurrency = 4", Closed(4)),
        ("concurrency = 8", "rate = 7", ArrivalPlan(Constant(7.0))),
        ("rate = 5", "concurrency = 4", Closed(4)),
        ("", 'arrivals = "ramp"\nrate = 0\nto_rate = 9\nduration = 3', ArrivalPlan(Ramp(0, 9, 3), 3.0, again=True)),
        ("", 'arrivals = "step"\nsteps = [[1, 2], [3, 4]]', ArrivalPlan(Steps(((1, 2), (3, 4))))),
        ("", 'arrivals = "burst"\nburst = 5\nevery = 2', ArrivalPlan(Burst(5, 2.0))),
        ("", 'arrivals = "replay"\nreplay = [3, 1]', ArrivalPlan(Replay((1.0, 3.0)), again=True)),
    ],
)
def test_phase_inherits_missing_keys_from_load(general: str, own: str, plan: ArrivalPlan | Closed) -> None:
    scenario = read(f"[load]\n{general}\n{CHECKIN}{own}", "phase.enroll.concurrency=1")
    phase = scenario.phases[1]
    assert isinstance(phase, ArrivingPhase)
    assert pace(phase, scenario.load) == plan


@pytest.mark.parametrize(
    ("own", "plan"),
    [
        ("rate = 5\nduration = 60", ArrivalPlan(Constant(5.0), 60.0)),
        ('arrivals = "ramp"\nrate = 1\nto_rate = 9\nduration = 3', ArrivalPlan(Ramp(1, 9, 3))),
        ('arrivals = "replay"\nreplay = [1]', ArrivalPlan(Replay((1.0,)))),
        ("concurrency = 4\nduration = 60", Closed(4, 60.0)),
    ],
)
def test_enroll_phase_starts_each_mac_at_most_once(own: str, plan: ArrivalPlan | Closed) -> None:
    scenario = read(ENROLL + own)
    phase = scenario.phases[0]
    assert isinstance(phase, ArrivingPhase)
    assert pace(phase, scenario.load) == plan


# What is not right


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        # keys and values
        ("[fleet]\nos = ['26.4', 7]", "fleet.os[1]: expected text, found 7"),
        ("[fleet]\nos = { 26 = 3, 27 = true }", "fleet.os.27: expected a number, found true"),
        ("[fleet]\nos = { 26 = 3, 27 = 0 }", "a weight above 0"),
        ("[fleet]\nos = 7", "fleet.os: expected text, a list of texts or a table, found 7"),
        ("", 'a scenario needs phases; start with [[phase]] and kind = "enroll"'),
        ("naem = 1", 'a scenario has no key "naem"; did you mean "name"?'),
        ("zzz = 1", 'a scenario has no key "zzz"; there are name, description, limits, fleet'),
        ("[fleet]\ndevces = 1\n" + ENROLL, 'fleet has no key "devces"; did you mean "devices"?'),
        ("[fleet.power]\nreset = 1\n" + ENROLL, 'fleet.power has no key "reset"; there are power_off_while_off'),
        (ENROLL + "rtae = 1", 'phase[0] ("enroll") has no key "rtae"; did you mean "rate"?'),
        (ENROLL + "poll = 1", 'phase[0] ("enroll") has no key "poll": that is one of phases of kind idle'),
        ("name = 3\n" + ENROLL, "name: expected text of at most 200 characters, found 3"),
        ('name = "a\\nb"\n' + ENROLL, "name: expected one line of printable text"),
        (
            "[fleet]\ndevices = true\n" + ENROLL,
            "fleet.devices: expected a whole number from 1 to 10,000,000, found true",
        ),
        ("[fleet]\ndevices = 0\n" + ENROLL, "fleet.devices: expected a whole number from 1 to 10,000,000, found 0"),
        ("[fleet]\nnot_now = 2\n" + ENROLL, "fleet.not_now: expected a number from 0 to 1, found 2"),
        ("[fleet]\nnot_now_for = inf\n" + ENROLL, "fleet.not_now_for: expected a finite number, found inf"),
        (ENROLL + "rate = nan", 'phase[0] ("enroll").rate: expected a finite number, found nan'),
        ("fleet = 3\n" + ENROLL, "fleet: expected a table, found 3"),
        ("limits = 3\n" + ENROLL, "limits: expected a list of texts, found 3"),
        ('limits = ["x"]\n' + ENROLL, "limits[0]: Expected a limit"),
        ('[server]\nadapter = "nano"\n' + ENROLL, 'found "nano"; did you mean "nanomdm"?'),
        ('[fleet]\nboot = "slow"\n' + ENROLL, "fleet.boot: expected constant:SECONDS"),
        ('[fleet]\nshutdown = "slow"\n' + ENROLL, "fleet.shutdown: expected constant:SECONDS"),
        ('[lom]\nnetwork = "wifi"\n' + ENROLL, "lom.network: expected loopback, memory"),
        (
            '[server]\nkeys = "pool:0"\n' + ENROLL,
            'server.keys: expected unique or pool:N with N from 1 to 100,000, found "pool:0"',
        ),
        # phases
        ("phase = 3", "phase: expected tables, each under [[phase]] in two brackets, found 3"),
        ('[phase]\nkind = "enroll"', "phase: expected tables, each under [[phase]] in two brackets, found a table"),
        ("phase = [3]", "phase[0]: expected a table, found 3"),
        ('[[phase]]\nname = "x"', 'phase[0] ("x") lacks the key "kind": one of enroll, checkin'),
        ('[[phase]]\nkind = "enrll"', 'found "enrll"; did you mean "enroll"?'),
        ("[[phase]]\nkind = 3", "kind: expected one of enroll"),
        (ENROLL + ENROLL, 'phase[0] and phase[1] are both called "enroll"'),
        (ENROLL + 'name = "a b"', "name: expected text that begins with a letter"),
        (ENROLL + 'name = "1"', "name: expected text that begins with a letter"),
        (ENROLL + "share = 0", 'phase[0] ("enroll").share: expected a number above 0, at most 1, found 0'),
        (ENROLL + "segments = 0", "segments: expected a whole number from 1 to 10,000,000, found 0"),
        (
            CHECKIN + "start_at = 5",
            'phase[1] ("checkin") has start_at, but phase[0] ("enroll") before it has wait = true',
        ),
        (
            ENROLL + "start_at = 9\nwait = false\n[[phase]]\nkind = 'idle'\nstart_at = 5",
            "but a phase before it starts at 9",
        ),
        ('[[phase]]\nkind = "checkin"', 'no Mac is enrolled yet: put a phase of kind "enroll" before'),
        (OWN + COMMAND, 'phase[1] ("command"): no API queues commands: server.adapter is "none"'),
        (OWN + CHECKIN + 'by = "push"', 'by = "push" needs a server.adapter that can be asked to push'),
        (WEBHOOK + CHECKIN + 'by = "push"', 'by = "push" needs server.webhook.push'),
        ("[push]\nenabled = false\n" + CHECKIN + 'by = "push"', 'by = "push" needs push.listen'),
        # rules
        (
            ENROLL + "[rule]\non = 'command'",
            "rule: expected tables, each under [[rule]] in two brackets, found a table",
        ),
        ("rule = [3]\n" + ENROLL, "rule[0]: expected a table, found 3"),
        (ENROLL + RULE + 'color = "red"', 'rule[0] has no key "color"; '),
        (ENROLL + RULE + "probabilty = 1", 'did you mean "probability"?'),
        (ENROLL + RULE + "probability = 2", "rule[0].probability: expected a number from 0 to 1, found 2"),
        (ENROLL + RULE + "after = nan", "rule[0].after: expected a finite number, found nan"),
        (ENROLL + '[[rule]]\ndo = "crash"', 'rule[0] lacks the key "on"'),
        (ENROLL + '[[rule]]\non = "command"\ndo = "crsh"', 'found "crsh"; did you mean "crash"?'),
        (
            ENROLL + RULE + 'macs = ["x"]',
            'rule[0]: Expected a UDID, an index or FIRST-LAST in macs in a rule, found "x"',
        ),
        (ENROLL + RULE + RULE + "seconds = 5", 'rule[1]: Expected no seconds with do = "not_now" and on = "command"'),
        (ENROLL + RULE + 'id = "a"' + RULE + 'id = "a"', 'rule[1]: Expected an unused id for a rule, found "a" twice.'),
        (
            "[push]\nenabled = false\n" + ENROLL + '[[rule]]\non = "push"\ndo = "lose"',
            'rule[0] has on = "push", but there is no gateway; set push.listen',
        ),
        (
            '[lom]\nnetwork = "memory"\n' + ENROLL + '[[rule]]\non = "lom_link"\ndo = "delay"\nseconds = 1',
            'rule[0] delays LOM links, which take no time with lom.network = "memory"',
        ),
        # arrivals
        (ENROLL + "concurrency = 3\nrate = 5", "so it does not go with rate"),
        (ENROLL + 'concurrency = 3\narrivals = "poisson"', "so it does not go with arrivals"),
        (ENROLL + "to_rate = 5", 'to_rate needs arrivals = "ramp", found arrivals = "constant"'),
        (ENROLL + "steps = [[1, 2]]", 'steps needs arrivals = "step", found arrivals = "constant"'),
        (ENROLL + 'arrivals = "burst"\nburst = 3\nevery = 1\nrate = 5', "rate needs arrivals = "),
        (ENROLL + "rate = 0", 'rate: expected a number above 0 with arrivals = "constant"'),
        (ENROLL + "rate = 1e-9", "rate: expected 0 or at least 0.000001, found 1e-09"),
        (ENROLL + "rate = 2e6", "rate: expected a number from 0 to 1,000,000, found 2000000.0"),
        (ENROLL + 'arrivals = "poisson"', 'arrivals = "poisson" needs rate, here or in [load]'),
        (ENROLL + "duration = 5", "duration needs rate or concurrency, here or in [load]"),
        (
            ENROLL + 'arrivals = "ramp"\nrate = 5',
            'arrivals = "ramp" needs rate (at its start), to_rate (at its end) and',
        ),
        (CHECKIN + 'arrivals = "ramp"\nrate = 0\nto_rate = 0\nduration = 1', "rate and to_rate are both 0"),
        (ENROLL + 'arrivals = "ramp"\nrate = 5\nto_rate = 0\nduration = 1', "to_rate is 0, so that not every Mac"),
        (ENROLL + 'arrivals = "step"', 'arrivals = "step" needs steps'),
        (ENROLL + 'arrivals = "step"\nsteps = [[1, 2], [3]]', "steps[1]: expected [a number from 0 to 1,000,000"),
        (ENROLL + 'arrivals = "step"\nsteps = [[1, 0]]', "steps[0][1]: expected a number above 0"),
        (ENROLL + 'arrivals = "step"\nsteps = [[1, 2], [0, 3]]', "the last of steps has the rate 0, which continues"),
        (ENROLL + 'arrivals = "burst"\nburst = 3', 'arrivals = "burst" needs burst (how many at once) and every'),
        (ENROLL + 'arrivals = "replay"', 'arrivals = "replay" needs replay or replay_file'),
        ("[load]\nrate = 5\nconcurrency = 3\n" + ENROLL, "load has rate and concurrency; give one"),
        ('[load]\narrivals = "poisson"\nconcurrency = 3\n' + ENROLL, "load has concurrency and arrivals"),
        ('[load]\narrivals = "ramp"\n' + ENROLL, 'load.arrivals: expected "constant" or "poisson", found "ramp"'),
        # commands
        (COMMAND + "request = { a = 1 }", 'request needs its RequestType, such as "ProfileList"'),
        (COMMAND + 'request = { RequestType = "X", At = 10:00:00 }', "request cannot be sent as a property list"),
        (COMMAND + 'request = { RequestType = "X" }\nrequest_file = "x"', "request and request_file are alternatives"),
        # the server
        ('[server]\nadapter = "micromdm"\n' + ENROLL, "the table [server.micromdm] is missing"),
        ('[server]\nadapter = "micromdm"\n[server.micromdm]\n' + ENROLL, 'server.micromdm lacks the key "url"'),
        (
            '[server]\nadapter = "micromdm"\nenroll = "x"\n[server.micromdm]\nurl = "https://x"\n' + ENROLL,
            "server.micromdm needs one of api_key_env and api_key_file",
        ),
        (
            '[server.micromdm]\nurl = "https://x"\napi_key_env = "X"\n' + ENROLL,
            'server.micromdm needs server.adapter = "micromdm", found "lab"',
        ),
        ('[server]\nadapter = "nanomdm"\n' + ENROLL, "the table [server.nanomdm] is missing"),
        (COMMAND + 'channel = "user"\n', 'channel = "user" needs Macs with a logged-in user'),
        (
            "[fleet]\nusers = 1\n" + WEBHOOK + COMMAND + 'channel = "user"\n',
            'channel = "user" needs the lab or NanoMDM, found server.adapter = "webhook"',
        ),
        (OWN + 'enrollment = "ade"\n' + ENROLL, 'server.enrollment is "ade", but server.device_ca is missing'),
        (OWN + 'device_ca = "ca.pem"\n' + ENROLL, 'server.device_ca needs server.enrollment = "ade"'),
        (OWN + "await_configuration = false\n" + ENROLL, 'await_configuration = false needs server.enrollment = "ade"'),
        ('[fleet]\nsupervised = 0.5\n[server]\nenrollment = "ade"\n' + ENROLL, "each is supervised; remove one"),
        ("[fleet]\nnetwork_users = 0.5\n" + ENROLL, "share of the Macs of fleet.users, which is 0"),
        ("[load]\nmemory = -1\n" + ENROLL, "load.memory: expected a number, 0 or more, found -1"),
        ('[server]\nenrollment = "ade"\ndevice_ca = "ca.pem"\n' + ENROLL, "the embedded lab has a CA of its own"),
        (
            '[server]\nadapter = "none"\nenroll = "p"\nenrollment = "ade"\ndevice_ca = "ca.pem"\n' + ENROLL,
            "expected a URL in server.enroll, found a file",
        ),
        ('[server]\nadapter = "nanomdm"\n[server.nanomdm]\n' + ENROLL, 'server.nanomdm lacks the key "url"'),
        (
            '[server]\nadapter = "nanomdm"\nenroll = "x"\n[server.nanomdm]\nurl = "https://x"\n' + ENROLL,
            "server.nanomdm needs one of api_key_env and api_key_file",
        ),
        (
            '[server.nanomdm]\nurl = "https://x"\napi_key_env = "X"\n' + ENROLL,
            'server.nanomdm needs server.adapter = "nanomdm", found "lab"',
        ),
        (
            '[server]\nadapter = "none"\n' + ENROLL,
            "server.enroll is missing: the URL or the FILE of the enrollment profile",
        ),
        ('[server]\nenroll = "https://x"\n' + ENROLL, "server.enroll is for a server of your own"),
        ("[server]\ninsecure = true\n" + ENROLL, "server.insecure is for a server of your own"),
        (
            '[server.lab]\nurl = "ftp://x"\ntoken_file = "t"\n' + ENROLL,
            "server.lab.url: expected a URL with http:// or https:// and a host, found one with the scheme ftp",
        ),
        (
            '[server.lab]\nurl = "me:secret@x/y"\ntoken_file = "t"\n' + ENROLL,
            "server.lab.url: expected a URL with http:// or https:// and a host, found one with the scheme me",
        ),
        (
            '[server.lab]\nurl = "https://me:secret@x"\ntoken_file = "t"\n' + ENROLL,
            "server.lab.url has a user or a password; scenarios contain no secrets",
        ),
        (WEBHOOK + "headers = { A = 3 }\n" + ENROLL, "server.webhook.enqueue.headers.A: expected text, found 3"),
        (
            WEBHOOK + '[server.webhook.lom_setup]\nurl = "https://mdm/s"\n' + ENROLL,
            "server.webhook needs lom_profile, lom_setup and lom_request, or none of them; lom_profile is missing",
        ),
        (
            WEBHOOK + LOM_REQUESTS.format(profile="{action}") + ENROLL,
            "server.webhook.lom_profile: expected a placeholder of {udid}, {token_hex}, {push_magic}, {dns_name}",
        ),
        # push
        (
            '[push]\nlisten = "here"\n' + ENROLL,
            "Expected ADDRESS:PORT for push.listen (--apns), such as",
        ),
        ('[push]\nlisten = "::1:99999"\n' + ENROLL, "Expected ADDRESS:PORT for push.listen"),
        (
            '[push]\nrules = ["boom"]\n' + ENROLL,
            'push.rules is not a key any more; write each as a fault rule with on = "push"',
        ),
        ('[push]\ndelay = "slow"\n' + ENROLL, "push.delay: expected constant:SECONDS"),
        ('[push]\ncert = "c"\n' + ENROLL, "push.cert and push.key need each other"),
        ('[push]\ncert = "c"\nkey = "k"\ntls = "d"\n' + ENROLL, "push.tls and push.cert are alternatives"),
        (OWN + "[push]\nstrict = true\n" + ENROLL, "push.strict is for the gateway, but there is none"),
        (OWN + '[push]\nlisten = "[::1]:2197"\n' + ENROLL, "push needs tls, or cert and key"),
    ],
)
def test_invalid_value_is_refused_with_key_and_expected_value(text: str, wording: str) -> None:
    assert wording in refusal(text)


def test_separate_lab_has_no_gateway_by_default() -> None:
    scenario = read(f'[server.lab]\nurl = "https://127.0.0.1:8443"\ntoken_file = "token"\n{CHECKIN}')
    assert scenario.push.enabled is False


words = st.text(max_size=6) | st.sampled_from(["phase", "fleet", "kind", "enroll", "rate", "name"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)


@examples(25, explored=50)
@given(st.dictionaries(words, values, max_size=4))
def test_any_document_is_valid_or_refused(document: dict[str, Any]) -> None:
    with suppress(OperatorError):
        scenario_from(document)


@examples(25, explored=50)
@given(load.documents, st.data())
def test_document_with_one_changed_value_is_valid_or_refused(document: dict[str, Any], data: st.DataObject) -> None:
    place: Any = document
    while isinstance(place, dict | list) and place:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(place[key], dict | list) or not place[key]:
            place[key] = data.draw(values)
            break
        place = place[key]
    with suppress(OperatorError):
        scenario_from(document)


# Files


@pytest.mark.parametrize(
    "url", ["me:hunter2@x/y", "https://me:hunter2@x", "https://me:hunter2@x:port/", "//me:hunter2@x"]
)
def test_an_error_about_a_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(OperatorError) as refused:
        scenario_from({"server": {"lab": {"url": url, "token_file": "t"}}, "phase": [{"kind": "enroll"}]})
    assert "server.lab.url" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("naem = 1")
    with pytest.raises(OperatorError, match=r'mine\.toml: a scenario has no key "naem"'):
        read_scenario(file)


@pytest.mark.parametrize(
    ("data", "wording"),
    [
        (None, "cannot be read: No such file"),
        (b"a = ", "is not valid TOML: Invalid value"),
        (b"a = '\xff'", "is not valid UTF-8, at byte 5"),
        (b"#" * (MAX_BYTES + 1), "Expected at most 1,048,576 bytes in the scenario "),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "is not valid TOML"),
        (b"request = " + b"[" * 60 + b"]" * 60 + b"\n" + ENROLL.encode(), 'has no key "request"'),
    ],
)
def test_file_that_is_not_a_scenario_is_refused(tmp_path: Path, data: bytes | None, wording: str) -> None:
    file = tmp_path / "mine.toml"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(OperatorError) as refused:
        read_scenario(file)
    assert wording in str(refused.value)
    assert "mine.toml" in str(refused.value)


def test_paths_are_relative_to_the_scenario_and_those_of_overrides_to_the_cwd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    request = {"RequestType": "InstallProfile", "Payload": b"profile"}
    (folder / "command.plist").write_bytes(plists.dump_xml(request))
    (tmp_path / "other.plist").write_bytes(plists.dump_binary({"Command": {"RequestType": "ProfileList"}}))
    (folder / "moments.txt").write_text("2.5\n# the first:\n0.5 # second\n\n1e0\n")
    (folder / "mine.toml").write_text(
        OWN.replace('"none"', '"nanomdm"')
        + 'ca = ["ca.pem", "/etc/ca.pem"]\n[server.nanomdm]\nurl = "https://mdm"\napi_key_file = "key"\n'
        + COMMAND
        + 'request_file = "command.plist"\narrivals = "replay"\nreplay_file = "moments.txt"\n'
    )
    scenario = read_scenario("scenarios/mine.toml")
    assert scenario.server.ca == ("scenarios/ca.pem", "/etc/ca.pem")
    assert scenario.server.enroll == "https://mdm.example/enroll"
    assert scenario.server.nanomdm is not None
    assert scenario.server.nanomdm.api_key_file == "scenarios/key"
    command: Any = scenario.phases[1]
    assert command.request == request
    assert command.replay == (0.5, 1.0, 2.5)
    other: Any = read_scenario("scenarios/mine.toml", ["phase.command.request_file=other.plist"]).phases[1]
    assert other.request == {"RequestType": "ProfileList"}


@pytest.mark.parametrize(
    ("key", "data", "wording"),
    [
        ("request_file", None, "the request_file FILE cannot be read: No such file"),
        ("request_file", b"hello", "the request_file FILE is not a property list"),
        ("request_file", plists.dump_xml([1]), "expected the request_file FILE to be a dictionary, found an array"),
        ("request_file", plists.dump_xml({"a": 1}), "request needs its RequestType"),
        ("replay_file", b"1\nx\n", "line 2 of the replay_file FILE: expected a number of seconds from 0 to 2,592,000"),
        ("replay_file", b"-1\n", "line 1 of the replay_file FILE: expected a number of seconds"),
        ("replay_file", b"nan\n", "line 1 of the replay_file FILE: expected a number of seconds"),
        ("replay_file", b"\n", 'arrivals = "replay" needs replay or replay_file, with at least one offset'),
    ],
)
def test_unreadable_file_of_a_scenario_is_refused_by_name(
    tmp_path: Path, key: str, data: bytes | None, wording: str
) -> None:
    file = tmp_path / "file"
    if data is not None:
        file.write_bytes(data)
    arrivals = 'arrivals = "replay"\n' if key == "replay_file" else ""
    message = refusal(f"{COMMAND}{arrivals}{key} = '{file}'\n")
    assert message.startswith('phase[1] ("command"): ')
    assert wording.replace("FILE", str(file)) in message


@pytest.mark.parametrize("name", ["a\\n", "\\n", "a b", "1", "a" * 65])
def test_phase_name_with_other_characters_is_refused(name: str) -> None:
    assert "name" in refusal(f'[[phase]]\nkind = "enroll"\nname = "{name}"\n')


def test_rules_are_read_shown_and_read_again() -> None:
    rules = (
        '[[rule]]\nid = "flaky"\non = "command"\ntype = "ProfileList"\ndo = "not_now"\nshare = 0.25\ntimes = 2\n'
        '[[rule]]\non = "command"\ndo = "error"\nerrors = [{ code = 7 }]\n'
    )
    scenario = read(ENROLL + rules)
    assert scenario.rules == (
        Rule(id="flaky", on="command", type="ProfileList", do="not_now", share=0.25, times=2),
        Rule(on="command", do="error", errors=(RuleError(code=7),)),
    )
    assert scenario_from(as_document(scenario)) == scenario
    assert ("Fault rules", "flaky: not_now on command ProfileList, error on command") in summary(scenario).facts
