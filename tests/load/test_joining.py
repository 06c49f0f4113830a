"""Joining a run: who is admitted, the join file, the measured clock, the trace that comes home. Without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from agent.cli.run.command import run
from agent.cli.run.distributed import check_places
from agent.cli.worker.command import worker
from agent.errors import OperatorError
from agent.load.control import trace_home
from agent.load.control.admission import Admission, Refusal, digest_of
from agent.load.control.joining import MOST_BYTES, Invitation, JoinFile, encoded, read_join_file, without_secret
from agent.load.control.listening import listen_at
from agent.load.control.messages import ANY_SHARD, ClockAnswer, ControlError, Hello
from agent.load.control.trace_home import TraceHome
from agent.load.launch.dask import RESOURCE, places
from agent.load.machine.limits import workers_of
from agent.load.shard.clock import SAMPLES, ShardClock
from agent.pki.issuing.authority import Authority
from agent.scenario.reading import scenario_from

CA = Authority.create("run").certificate.public_bytes(Encoding.DER)
INVITATION = Invitation(host="10.0.0.1", port=7700, ca=CA, run="epoch", secret="very secret")


# Admission.


def test_workers_without_a_number_get_the_missing_ones_and_no_more() -> None:
    admission = Admission(3)
    secret = admission.invite()
    hello = Hello(secret, admission.run)
    assert admission.admit(Hello(secret, admission.run, 1)) == 1
    assert [admission.admit(hello), admission.admit(hello)] == [0, 2]
    assert admission.missing == []
    with pytest.raises(Refusal, match=r"all 3 workers have joined\. A lost worker is not replaced"):
        admission.admit(hello)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"shard": 1}, "found a second one. It is not accepted, because its Macs would enroll twice"),
        ({"shard": 3}, "Expected a worker from 0 to 2, found 3"),
        ({"shard": -7}, "Expected a worker from 0 to 2, found -7"),
        ({"run": "another"}, "found one of an earlier run"),
        ({"version": "0.0.0"}, "found '0.0.0'. Install the same version"),
    ],
)
def test_worker_that_may_not_join_is_told_why(changed: dict[str, object], reason: str) -> None:
    admission = Admission(3)
    secret = admission.invite()
    admission.admit(Hello(secret, admission.run, 1))
    hello = {"secret": secret, "run": admission.run, "shard": 0, **changed}
    with pytest.raises(Refusal, match=reason):
        admission.admit(Hello(**hello))  # type: ignore[arg-type]
    assert admission.missing == [0, 2]


def test_secret_of_one_shard_does_not_open_another() -> None:
    admission = Admission(2)
    secret = admission.invite(1)
    assert admission.admit(Hello(secret, admission.run, 0)) == 1


def test_secrets_announced_for_a_shard_are_bounded() -> None:
    admission = Admission(2)
    assert not admission.announce(2, digest_of("outside"))
    accepted = [admission.announce(0, digest_of(str(number))) for number in range(20)]
    assert accepted == [True] * 8 + [False] * 12
    assert admission.knows(Hello("7", admission.run))
    assert not admission.knows(Hello("8", admission.run))


# The join file.


def test_join_file_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    file = JoinFile(str(path))
    file.write(INVITATION)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_join_file(str(path)) == INVITATION
    other = read_join_file(str(path), connect="conductor.example:1", shard=4)
    assert (other.host, other.port, other.shard, other.secret) == ("conductor.example", 1, 4, "very secret")
    file.remove()
    assert not path.exists()


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        b"[" * 10_000,
        json.dumps({"address": "10.0.0.1:7700", "ca": "none", "run": "r", "secret": "s"}).encode(),
        encoded(INVITATION).replace(b"BEGIN", b"BIGEN"),
        encoded(INVITATION).replace(b"10.0.0.1:7700", b"10.0.0.1"),
        b" " * (MOST_BYTES + 1),
    ],
)
def test_join_file_with_another_content_is_the_operators_error(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "join.json"
    path.write_bytes(octets)
    with pytest.raises(OperatorError):
        read_join_file(str(path))


def test_neither_the_text_of_an_invitation_nor_a_dask_task_has_the_secret() -> None:
    assert "very secret" not in repr(INVITATION)
    assert "very secret" not in json.dumps(without_secret(INVITATION))


def test_listening_everywhere_needs_a_name_for_the_certificate() -> None:
    with pytest.raises(OperatorError, match=r"Expected --advertise NAME with --listen 0\.0\.0\.0"):
        listen_at(("0.0.0.0", 1), None, "--listen")
    assert listen_at(("0.0.0.0", 1), "load.example", "--listen").names == ("load.example",)
    assert listen_at(("10.0.0.1", 1), "load.example", "--listen").names == ("load.example", "10.0.0.1")


# Dask.


def test_shards_are_placed_in_turn_on_dask_workers_with_slots() -> None:
    workers = {
        "tcp://b": {"nthreads": 4, "resources": {RESOURCE: 2.0}},
        "tcp://a": {"nthreads": 1, "resources": {RESOURCE: 8.0}},
        "tcp://c": {"nthreads": 8, "resources": {}},
    }
    assert places(workers, 3) == ["tcp://a", "tcp://b", "tcp://b"]
    with pytest.raises(OperatorError, match=r"slots for 4 workers, found 3 on 3 Dask workers\. Start more"):
        places(workers, 4)


# The clock.


def test_sample_with_the_shortest_round_trip_counts() -> None:
    clock = ShardClock()
    for number, (there, back) in enumerate([(0.5, 0.1), (0.01, 0.01), (0.0, 2.0)] + [(0.3, 0.3)] * (SAMPLES - 3)):
        assert not clock.is_measured
        now = clock.ask(1000.0 + 10 * number)
        arrived = now + there  # the shard's ticks are 900 behind, its wall clock is 5 ahead
        clock.answered(ClockAnswer(now, arrived - 900.0, arrived + 5.0), arrived + back)
    assert clock.is_measured
    assert clock.best is not None
    assert clock.best.offset == pytest.approx(900.0)
    assert clock.best.facts == {"ahead_ms": pytest.approx(5000.0), "error_ms": pytest.approx(10.0)}


@pytest.mark.parametrize(
    "answer",
    [
        ClockAnswer(99.0, 1.0, 1.0),
        ClockAnswer(100.0, float("nan"), 1.0),
        ClockAnswer(100.0, 1.0, float("inf")),
        ClockAnswer(float("nan"), 1.0, 1.0),
    ],
)
def test_answer_to_another_question_ends_the_link(answer: ClockAnswer) -> None:
    clock = ShardClock()
    clock.ask(100.0)
    with pytest.raises(ControlError):
        clock.answered(answer, 101.0)
    with pytest.raises(ControlError, match="Expected an answer to the last clock question"):
        clock.answered(ClockAnswer(100.0, 1.0, 1.0), 101.0)


# The trace.


def test_trace_from_another_machine_is_bounded_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_home, "MOST_TRACE_BYTES", 10)
    home = TraceHome(lambda shard: str(tmp_path / f"trace.{shard}"))
    assert home.add(1, b"12345") is None
    assert home.add(1, b"67890") is None
    with pytest.raises(ControlError, match="Expected at most 10 bytes of trace"):
        home.add(1, b"x")
    assert home.close() == []
    assert (tmp_path / "trace.1").read_bytes() == b"1234567890"
    assert (tmp_path / "trace.1").stat().st_mode & 0o777 == 0o600


def test_trace_that_nobody_asked_for_ends_the_link() -> None:
    with pytest.raises(ControlError, match="Expected no trace"):
        TraceHome(None).add(0, b"x")


def test_any_shard_is_not_the_number_of_one() -> None:
    assert INVITATION.shard == ANY_SHARD == -1


# The command line.


NOTHING = dict.fromkeys(
    ("listen", "join_file", "join_timeout", "executor", "lab_listen", "advertise", "state", "resume")
)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"listen": "10.0.0.1:1", "state": "run.sqlite"}, "leave them out, or --listen"),
        ({"executor": "dask=s:1", "resume": "run.sqlite"}, "leave them out, or --executor"),
        ({"executor": "slurm"}, "takes dask=SCHEDULER"),
        ({"join_file": "join.json"}, "--join-file goes with --listen"),
        ({"join_file": "join.json", "listen": "10.0.0.1:1", "executor": "dask=s:1"}, "without --executor"),
        ({"join_timeout": 5.0}, "--join-timeout goes with --listen or --executor"),
        ({"advertise": "load.example"}, "--advertise goes with --listen"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(click.UsageError, match=reason):
        check_places({**NOTHING, **options})


def test_workers_elsewhere_have_a_number_and_interfaces_of_their_own() -> None:
    phases = {"phase": [{"kind": "enroll"}]}
    with pytest.raises(OperatorError, match="Expected the number of workers on other machines"):
        workers_of(scenario_from(phases), elsewhere=True)
    scenario = scenario_from({**phases, "load": {"workers": 3}, "lom": {"network": "interface:eth0"}})
    assert workers_of(scenario, elsewhere=True) == 3
    with pytest.raises(OperatorError, match="the addresses of an interface belong to one process"):
        workers_of(scenario)


# The documentation.


PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")


def test_manifest_of_the_documentation_starts_commands_that_exist() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    service, conductor, workers = yaml.safe_load_all(block)
    assert [each["kind"] for each in (service, conductor, workers)] == ["Service", "Job", "Job"]
    assert workers["spec"]["completionMode"] == "Indexed"
    assert workers["spec"]["backoffLimit"] == 0
    command = conductor["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:2] == ["lom-agent", "run"]
    (shell,) = workers["spec"]["template"]["spec"]["containers"]
    program, first, words = shell["command"][:3]
    assert (program, first, words.split()[:3]) == ("sh", "-c", ["exec", "lom-agent", "worker"])
    used = {"run": set(command), "worker": set(words.split())}
    known = {"run": run.params, "worker": worker.params}
    for name, options in used.items():
        names = {opt for parameter in known[name] for opt in parameter.opts}
        assert {option for option in options if option.startswith("--")} <= names
    count = command[command.index("--workers") + 1]
    assert int(count) == workers["spec"]["completions"] == workers["spec"]["parallelism"]
