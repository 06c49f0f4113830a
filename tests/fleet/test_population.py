"""The fleet: pinned values, unique where required, and the same for every order of access."""

from __future__ import annotations

import ipaddress
import json
import os
import pickle
import re
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent
from agent.errors import MisuseError, OperatorError
from agent.fleet.models import MODELS, RELEASES, USUAL_MIX, OSChoice, model_named, os_text, runs_on
from agent.fleet.population import MAX_DEVICES, Mac, NoSuchMacError, Population
from agent.lom.addresses import link_local_from_mac, mac_from_link_local

# A change here changes every fleet that users have recorded by its seed: that is a new major version. Only the macOS
# releases move on with the usual mix.
GOLDEN = {
    7: {
        "index": 7,
        "udid": "8AF24552-A39F-53BE-982D-C18F0DA5431D",
        "serial_number": "MAZ8ZVGX70",
        "model": "Mac13,1",
        "model_name": "Mac Studio",
        "os_version": "13.6",
        "build_version": "22G120",
        "host_name": "mac-maz8zvgx70",
        "dns_name": "mac-maz8zvgx70.lom.test",
        "macs": ["fe:53:72:d9:76:7c"],
        "primary_ipv6": ["fe80::fc53:72ff:fed9:767c"],
        "secondary_ipv6": [],
        "lom_protocol_version": 2,
        "segment": 0,
        "roles": ["device"],
    },
    10: {
        "index": 10,
        "udid": "1AA3EB3C-1520-5F76-B7F2-0114AC936944",
        "serial_number": "F5ENSY989G7P",
        "model": "MacPro7,1",
        "model_name": "Mac Pro",
        "os_version": "26.6",
        "build_version": "25G72",
        "host_name": "mac-f5ensy989g7p",
        "dns_name": "mac-f5ensy989g7p.lom.test",
        "macs": ["1e:74:c8:0b:3d:b4", "fe:1e:fd:96:fd:33"],
        "primary_ipv6": ["fe80::1c74:c8ff:fe0b:3db4"],
        "secondary_ipv6": ["fe80::fc1e:fdff:fe96:fd33"],
        "lom_protocol_version": 2,
        "segment": 1,
        "roles": ["controller", "device"],
    },
}
GOLDEN_DERIVED = {
    7: {
        "push_token": "cb6fc36f19048c4b1d30fd9a6f94beb1211f77829be69e4aaf0cad2a65277a8d",
        "push_magic": "4F978293-01B6-41A8-99EB-91EA4BB1ED9D",
        "device_name": "Mac Studio MAZ8ZVGX70",
        "wifi_mac": "2a:42:cd:47:b6:0f",
        "bluetooth_mac": "96:d9:c8:4a:37:7d",
    },
    10: {
        "push_token": "b03a3282ba6b04677828d5e9c22d9e077724aa95880a2cf7646e4e09b047d11d",
        "push_magic": "8EC9B562-BFA3-4167-8EEF-47208F1E4109",
        "device_name": "Mac Pro F5ENSY989G7P",
        "wifi_mac": "52:f0:f3:3a:0f:3c",
        "bluetooth_mac": "22:61:b2:c3:2a:b5",
    },
}

populations = st.builds(Population, st.text(), st.integers(1, MAX_DEVICES), st.integers(1, 1000))


@pytest.mark.parametrize("index", GOLDEN)
def test_a_mac_of_a_known_seed_is_pinned(index: int) -> None:
    mac = Population("golden", 1000)[index]
    assert json.dumps(mac.as_json()) == json.dumps(GOLDEN[index])
    derived = {name: getattr(mac, name) for name in GOLDEN_DERIVED[index]}
    assert derived | {"push_token": mac.push_token.hex()} == GOLDEN_DERIVED[index]


def test_roles_are_those_of_every_mac() -> None:
    usual = [("controller", "device"), ("device",)] * 2
    assert [mac.roles for mac in Population("roles", 4, 2)] == usual
    for roles, found in (
        (["device", "controller"], ("controller", "device")),
        (["controller"], ("controller",)),
        (("device",), ("device",)),
    ):
        population = pickle.loads(pickle.dumps(Population("roles", 4, 2, roles=roles)))
        assert [mac.roles for mac in population] == [found] * 4
        assert [mac.udid for mac in population] == [mac.udid for mac in Population("roles", 4, 2)]
    for wrong in ([], ["manager"], ["device", "server"]):
        with pytest.raises(OperatorError, match="one or both of the roles controller and device"):
            Population("roles", 4, 2, roles=wrong)


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_population_is_the_same_in_another_process_and_does_no_io(hash_seed: str) -> None:
    program = (
        "import json, sys\n"
        "from agent.fleet.population import Population\n"
        "fleet = Population('golden', 1000)\n"
        "print(json.dumps({index: fleet[index].as_json() for index in (7, 10)}))\n"
        "assert 'twisted' not in sys.modules\n"
    )
    environment = os.environ | {
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": str(Path(agent.__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == json.dumps(GOLDEN)


def test_json_keys_of_a_mac_are_ordered() -> None:
    assert list(Population("keys", 1)[0].as_json()) == [
        "index",
        "udid",
        "serial_number",
        "model",
        "model_name",
        "os_version",
        "build_version",
        "host_name",
        "dns_name",
        "macs",
        "primary_ipv6",
        "secondary_ipv6",
        "lom_protocol_version",
        "segment",
        "roles",
    ]


@pytest.fixture(scope="module")
def many() -> list[Mac]:
    return list(Population("many", 10_000))


def test_identifiers_of_macs_are_unique(many: list[Mac]) -> None:
    singles = ("udid", "serial_number", "host_name", "dns_name", "device_name", "push_token", "push_magic")
    for name in singles:
        assert len({getattr(mac, name) for mac in many}) == len(many), name
    ethernet = [address for mac in many for address in mac.macs]
    radio = [address for mac in many for address in (mac.wifi_mac, mac.bluetooth_mac)]
    assert len(set(ethernet + radio)) == len(ethernet) + 2 * len(many)
    ipv6 = [address for mac in many for address in mac.primary_ipv6 + mac.secondary_ipv6]
    assert len(set(ipv6)) == len(ipv6) == len(ethernet)


def test_texts_of_a_mac_have_their_format(many: list[Mac]) -> None:
    for mac in many[:2000]:
        model = model_named(mac.model)
        assert mac.udid == str(uuid.UUID(mac.udid)).upper()
        assert uuid.UUID(mac.udid).version == 5
        assert uuid.UUID(mac.push_magic).version == 4
        assert mac.push_magic == mac.push_magic.upper()
        assert re.fullmatch("[A-Z0-9]{12}" if model.year < 2021 else "[A-Z0-9]{10}", mac.serial_number)
        assert len(mac.dns_name) <= 64  # RFC 5280, ub-common-name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*\.lom\.test", mac.dns_name)
        assert mac.dns_name.startswith(mac.host_name + ".")
        assert len(mac.push_token) == 32
        for address in (*mac.macs, mac.wifi_mac, mac.bluetooth_mac):
            assert int(address[:2], 16) & 0b11 == 0b10  # locally administered, one interface


def test_addresses_are_derived_from_the_ports(many: list[Mac]) -> None:
    for mac in many[:2000]:
        assert len(mac.macs) == model_named(mac.model).lom_ports
        assert len(mac.primary_ipv6) == 1
        assert len(mac.secondary_ipv6) == len(mac.macs) - 1
        addresses = mac.primary_ipv6 + mac.secondary_ipv6
        assert addresses == tuple(map(link_local_from_mac, mac.macs))
        assert tuple(map(mac_from_link_local, addresses)) == mac.macs
        assert addresses == tuple(str(ipaddress.IPv6Address(address)) for address in addresses)


def test_mix_of_models_and_releases_is_plausible(many: list[Mac]) -> None:
    names = Counter(mac.model_name for mac in many)
    assert names["Mac mini"] > names["Mac Studio"] > 5 * names["Mac Pro"] > 0
    assert {mac.model for mac in many} == {model.identifier for model in MODELS}
    assert {mac.build_version for mac in many} == {release.build for release in RELEASES if release.weight}
    builds = {release.build: release for release in RELEASES}
    for mac in many:
        assert mac.os_version == builds[mac.build_version].version
        assert runs_on(builds[mac.build_version], model_named(mac.model))
        assert mac.has_10gb
        assert mac.apple_silicon == (mac.model != "MacPro7,1")


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_drawn_properties_are_consistent(model_number: int, release_number: int) -> None:
    model = USUAL_MIX.draw_model(model_number)
    assert runs_on(USUAL_MIX.draw_release(model, release_number), model)


def test_models_run_only_releases_that_support_them() -> None:
    def builds(identifier: str) -> list[str]:
        return [each.build for each in RELEASES if each.number < (26, 3) and runs_on(each, model_named(identifier))]

    assert builds("Mac16,10") == ["24B2083", "24C101", "24D60", "24E248", "24F74", "25A354", "25B78", "25C56"]
    assert builds("Mac16,9") == ["24D2082", "24E248", "24F74", "25A354", "25B78", "25C56"]
    assert builds("Mac14,13")[0] == builds("MacPro7,1")[0] == "22G120"


@pytest.mark.parametrize(
    ("version", "builds"),
    [
        ("26.4", {"25E246"}),
        ("27", {"26A428", "26A434"}),
        ("15", {"24A335", "24B83", "24B2083", "24C101", "24D60", "24D2082", "24E248", "24F74"}),
        ("15.1", {"24B83", "24B2083"}),
        ("26.4, 27.0", {"25E246", "26A428"}),
        ("26.4=0.2,27.0=3", {"25E246", "26A428"}),
    ],
)
def test_the_os_option_sets_the_version_of_every_mac_and_nothing_else(version: str, builds: set[str]) -> None:
    of_version, usual = Population("versions", 300, os=version), Population("versions", 300)
    assert list(pickle.loads(pickle.dumps(of_version))) == list(of_version)
    assert {mac.build_version for mac in of_version} == builds
    assert len({mac.model for mac in of_version}) > 5
    for mac, other in zip(of_version, usual, strict=True):
        assert (mac.udid, mac.macs[0], mac.roles) == (other.udid, other.macs[0], other.roles)


def test_several_versions_have_the_shares_of_their_weights() -> None:
    counts = Counter(mac.os_version for mac in Population("shares", 4000, os={"26.4": 3, "27.0": 1}, model="Mac16,10"))
    assert set(counts) == {"26.4", "27.0"}
    assert 0.72 < counts["26.4"] / 4000 < 0.78
    even = Counter(mac.os_version for mac in Population("shares", 4000, os=["26.4", "27.0"], model="Mac16,10"))
    assert 0.47 < even["26.4"] / 4000 < 0.53


def test_of_several_versions_a_mac_has_one_that_runs_on_it() -> None:
    macs = list(Population("intel", 2000, os=["26.4", "27"]))
    assert {mac.os_version for mac in macs if mac.apple_silicon} == {"26.4", "27.0", "27.0.1"}
    assert {mac.os_version for mac in macs if not mac.apple_silicon} == {"26.4"}


def test_usual_fleet_is_that_of_late_2026(many: list[Mac]) -> None:
    majors = Counter(mac.os_version.partition(".")[0] for mac in many)
    assert majors["26"] > majors["15"] > majors["14"]
    assert majors["26"] > majors["27"] > len(many) / 5
    assert {mac.os_version.partition(".")[0] for mac in many if not mac.apple_silicon} == {"13", "14", "15", "26"}


@pytest.mark.parametrize(
    ("choice", "text"),
    [(None, None), ("26.4", "26.4"), (["26.4", "27"], "26.4,27"), ({"26": 3, "27": 0.5}, "26=3,27=0.5")],
)
def test_choice_of_macos_as_text(choice: OSChoice | None, text: str | None) -> None:
    assert os_text(choice) == text
    population = Population("text", 2, os=choice)
    assert population.os == text
    assert list(pickle.loads(pickle.dumps(population))) == list(population)


def test_a_model_is_that_of_every_mac() -> None:
    macs = list(Population("models", 300, model="Mac16,9"))
    assert {mac.model for mac in macs} == {"Mac16,9"}
    assert {mac.build_version for mac in macs} == {
        release.build for release in RELEASES if runs_on(release, model_named("Mac16,9"))
    }
    (pro,) = Population("models", 1, model="MacPro7,1", os="26.5")
    assert (pro.model, pro.build_version) == ("MacPro7,1", "25F71")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"os": "26.9"}, r"found '26\.9'\. Choose one of 26\.0, .*, 26\.5, 26\.6\."),
        ({"os": "28"}, r"found '28'\. Choose one of 13, 14, 15, 26, 27\."),
        ({"os": ""}, r"found ''\. Choose one of 13, 14, 15, 26, 27\."),
        ({"os": "27,26.9"}, r"found '26\.9'\. Choose one of 26\.0"),
        ({"os": "27=1,27=2"}, r"such as 26\.4,27 or 26=3,27=1, found '27=1,27=2'\."),
        ({"os": "27=0"}, r"a weight above 0 and up to 1,000,000, .* found '27=0'"),
        ({"os": "27=many"}, "found '27=many'"),
        ({"os": "27=nan"}, "found '27=nan'"),
        ({"os": ",".join(["27"] * 1000)}, "Expected versions of macOS that differ"),
        ({"model": "Mac16,1"}, r"found 'Mac16,1'\. Choose one of Mac16,1[01], Mac16,1[01], "),
        ({"model": "MacPro7,1", "os": "27"}, r"runs on MacPro7,1, found '27'\. .* 26\.5, 26\.6\."),
    ],
)
def test_unknown_versions_and_models_are_refused_with_suggestions(keys: dict[str, str], says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        Population("unknown", 3, **keys)


def test_model_tables_are_consistent() -> None:
    assert len({model.identifier for model in MODELS}) == len(MODELS)
    assert len({release.build for release in RELEASES}) == len(RELEASES)
    assert [release.number for release in RELEASES] == sorted(release.number for release in RELEASES)
    for model in MODELS:
        assert 1 <= model.lom_ports <= 2  # PrimaryIPv6AddressList and SecondaryIPv6AddressList: one interface each
        assert model.weight > 0
        # The two kinds of serial number differ in length.
        assert len(model.serial_prefix) == (2 if model.year < 2021 else 0)
    with pytest.raises(MisuseError, match="MacBookPro18,1"):
        model_named("MacBookPro18,1")


@given(populations, st.data())
def test_mac_depends_only_on_seed_index_and_segment_size(population: Population, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(population) - 1))
    alone = Population(population.seed, index + 1, population.segment_size)
    assert alone[index] == population[index]
    assert pickle.loads(pickle.dumps(population))[index] == population[index]
    unsegmented = Population(population.seed, MAX_DEVICES, MAX_DEVICES)[index].as_json()
    segmented = population[index].as_json()
    assert {name for name in segmented if segmented[name] != unsegmented[name]} <= {"segment", "roles"}


def test_fleet_made_by_segments_equals_the_fleet() -> None:
    whole = Population("shards", 95)
    parts = [Population("shards", 95)[index] for number in reversed(range(10)) for index in whole.segment(number)]
    assert sorted(parts, key=lambda mac: mac.index) == list(whole)


@given(populations, st.data())
def test_each_mac_is_in_one_segment_and_its_first_is_the_controller(
    population: Population, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(population) - 1))
    mac = population[index]
    members = population.segment(mac.segment)
    assert index in members
    assert population.controller_of(index) == members[0]
    assert mac.roles == (("controller", "device") if index == members[0] else ("device",))
    assert population[members[-1]].segment == mac.segment


@given(st.integers(1, 500), st.integers(1, 60))
def test_segments_partition_the_fleet(devices: int, segment_size: int) -> None:
    population = Population("segments", devices, segment_size)
    segments = [population.segment(number) for number in range(population.segments)]
    assert [index for members in segments for index in members] == list(range(devices))
    assert all(len(members) == segment_size for members in segments[:-1])


def test_length_and_iteration() -> None:
    population = Population("length", 23)
    assert len(population) == 23
    assert [mac.index for mac in population] == list(range(23))
    assert repr(population) == "Population('length', 23, 10)"


def test_different_seeds_give_different_macs() -> None:
    assert len({Population(seed, 1)[0].udid for seed in ("", " ", "a", "A", "é", "e\u0301", "\udcff")}) == 7


@pytest.mark.parametrize(
    ("seed", "devices", "segment_size", "message"),
    [
        ("s", 0, 10, "number of devices.*found 0"),
        ("s", -1, 10, "number of devices.*found -1"),
        ("s", MAX_DEVICES + 1, 10, "from 1 to 10,000,000, found 10000001"),
        ("s", 1.5, 10, "found 1.5"),
        ("s", "10", 10, "found '10'"),
        ("s", True, 10, "found True"),
        ("s", 10, 0, "segment size.*found 0"),
        ("s", 10, None, "segment size.*found None"),
        (7, 10, 10, "Expected the seed as text, found 7"),
    ],
)
def test_invalid_fleet_numbers_raise_operator_error(seed: str, devices: int, segment_size: int, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        Population(seed, devices, segment_size)


@pytest.mark.parametrize("index", [-1, 23, 1 << 80])
def test_index_outside_the_fleet_is_refused(index: int) -> None:
    population = Population("outside", 23)
    for asked in (population.__getitem__, population.controller_of, population.segment):
        with pytest.raises(IndexError) as caught:
            asked(index)
        assert isinstance(caught.value, NoSuchMacError)
        assert isinstance(caught.value, OperatorError)
        assert re.search(rf"from 0 to (22|2), found {index}\.$", str(caught.value))


@pytest.mark.parametrize("index", [slice(0, 3), 1.0, "1", None])
def test_index_that_is_not_a_number_is_refused(index: int) -> None:
    with pytest.raises(TypeError):
        Population("type", 23)[index]


def test_mac_is_small_frozen_and_picklable() -> None:
    mac = Population("frozen", 1)[0]
    assert not hasattr(mac, "__dict__")
    with pytest.raises(FrozenInstanceError):
        mac.udid = "other"
    copy = pickle.loads(pickle.dumps(mac))
    assert copy == mac
    assert (copy.push_token, copy.push_magic, copy.wifi_mac) == (mac.push_token, mac.push_magic, mac.wifi_mac)
    assert "Derivation" not in repr(mac)


@given(st.text(max_size=10), st.integers(1, MAX_DEVICES), st.data())
def test_a_mac_is_found_by_its_addresses_and_its_name(seed: str, devices: int, data: st.DataObject) -> None:
    population = Population(seed, devices)
    mac = population[data.draw(st.integers(0, devices - 1))]
    assert population.udid(mac.index) == mac.udid
    assert population.index_of_name(mac.dns_name) == mac.index
    for address in (*mac.primary_ipv6, *mac.secondary_ipv6):
        assert population.index_of_address(address) == mac.index


@given(st.text(max_size=60), st.integers(0, (1 << 48) - 1))
def test_addresses_and_names_of_other_fleets_are_unknown(text: str, number: int) -> None:
    """A text, and an address that has the form of ours; by chance it is a Mac's once in four million times."""
    population = Population("strangers", 10)
    assert population.index_of_address(text) is None
    assert population.index_of_name(text) is None
    assert population.index_of_name(f"{text}.lom.test") is None
    octets = (number & ~(1 << 40)).to_bytes(6, "big")
    address = link_local_from_mac(octets.hex(":"))
    index = population.index_of_address(address)
    assert index is None or address in (*population[index].primary_ipv6, *population[index].secondary_ipv6)


def test_only_the_canonical_address_text_is_known() -> None:
    population = Population("strangers", 10)
    (address,) = population[0].primary_ipv6
    assert population.index_of_address(address.upper()) is None
    assert population.index_of_address(f"{address}%en0") is None
    assert population.index_of_name(population[0].dns_name.removesuffix(".lom.test")) is None
    assert Population("strangers", 100).index_of_name(Population("strangers", 200)[150].dns_name) is None
