"""RSA keys in a whole run: generated before the first enrollment if possible; else the wait counts as ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from load_runs import ENROLL, load_run

from agent.load.conductor.conductor import Conductor
from agent.load.shard import keys as shard_keys
from agent.load.shard.keys import key_sizes
from agent.load.shard.plan import EnrollAt, EnrollWith, ShardPlan
from agent.net.mac.fleet import keys
from agent.pki.issuing.authorities import Authorities
from agent.profiles.making import acme_payload, enrollment_profile, pkcs12_payload, scep_payload
from agent.report.generator import judged_generator
from agent.scenario.reading import scenario_from

DEVICES = 2
SCEP: dict[str, Any] = {"identity": "scep", "keys": "unique"}


def run(run_in_reactor: RunInReactor, **arguments: Any) -> Conductor:
    async def scenario() -> Conductor:
        return await load_run(ENROLL, devices=DEVICES, fleet={"segment_size": 1}, server=SCEP, **arguments)

    return run_in_reactor(scenario())


def test_keys_are_made_before_the_first_enrollment(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_keys, "KEYS_AHEAD_SECONDS", 100.0)  # however busy the machine is
    conductor = run(run_in_reactor)
    metrics = conductor.metrics()
    assert metrics.summary("enroll").count == DEVICES
    assert metrics.summary("enroll").errors == 0
    assert "key" not in metrics.stages()
    (phase,) = (record.summary() for record in conductor.phases)
    assert (phase.key_waits, phase.key_wait_s) == (0, 0.0)


def test_key_waits_are_reported_by_stage_phase_and_worker(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(keys, "MAX_AHEAD", 0)
    conductor = run(run_in_reactor, trace=lambda shard: str(tmp_path / str(shard)))
    metrics = conductor.metrics()
    assert metrics.summary("enroll").errors == 0
    waited = metrics.stage_summary("key")
    assert waited.count == DEVICES
    (phase,) = (record.summary() for record in conductor.phases)
    assert phase.key_waits == DEVICES
    assert (phase.key_wait_s or 0.0) > 0.0
    workers = judged_generator(conductor.generator()).workers
    assert sum(worker.key_waits or 0 for worker in workers) == DEVICES
    lines = [json.loads(line) for part in tmp_path.iterdir() for line in part.read_text().splitlines()]
    of_enrollments = [line["key_wait_ms"] for line in lines if line["operation"] == "enroll"]
    assert len(of_enrollments) == DEVICES
    assert all(of_enrollments)
    assert not any("key_wait_ms" in line for line in lines if line["operation"] != "enroll")


def profile(bits: int | None) -> EnrollWith:
    """An enrollment profile with a SCEP payload of this key size, or with PKCS12."""
    authorities = Authorities()
    payload = pkcs12_payload(authorities)
    if bits is not None:
        payload = scep_payload(authorities, "https://mdm.test/scep", "secret")
        payload["PayloadContent"]["Keysize"] = bits
    return EnrollWith(enrollment_profile(authorities, "https://mdm.test", payload))


def acme_profile(**keys: Any) -> EnrollWith:
    authorities = Authorities()
    payload = acme_payload("https://mdm.test/acme", "client") | keys
    return EnrollWith(enrollment_profile(authorities, "https://mdm.test", payload))


@pytest.mark.parametrize(
    ("enroll", "embedded", "identity", "sizes"),
    [
        (EnrollAt("https://lab.test/enroll"), True, "scep", [2048]),
        (EnrollAt("https://lab.test/enroll"), True, "pkcs12", []),
        (EnrollAt("https://lab.test/enroll"), True, "acme", []),
        (EnrollAt("https://mdm.test/enroll"), False, "pkcs12", [None]),
        (EnrollAt("https://mdm.test/enroll"), False, "scep", [2048]),
        (profile(4096), False, "pkcs12", [4096]),
        (profile(None), False, "pkcs12", []),
        (acme_profile(), False, "pkcs12", []),
        (acme_profile(KeyType="RSA", KeySize=3072, HardwareBound=False, Attest=False), False, "pkcs12", [3072]),
        (EnrollWith(b"no profile"), False, "pkcs12", []),
    ],
)
def test_key_size_is_known_in_advance_except_for_a_profile_per_mac(
    enroll: EnrollAt | EnrollWith, embedded: bool, identity: str, sizes: list[int | None]
) -> None:
    server = {"identity": identity} if embedded else {"identity": identity, "adapter": "none", "enroll": "profile"}
    scenario = scenario_from({"server": server, "phase": [ENROLL]})
    plan = ShardPlan(
        shard=0, shards=1, first=0, stop=1, scenario=scenario, enroll=enroll, lab_anchors_only=embedded,
    )  # fmt: skip
    assert key_sizes(plan) == sizes
