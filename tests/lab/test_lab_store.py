"""The stored state of a lab: complete in its folder after each answer, even if the process is killed."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from hypothesis import example, given
from hypothesis import strategies as st
from lab_messages import AUTHORITIES, OTHER, UDID, authenticate, enroll, put, report, token_update

from agent.errors import OperatorError
from agent.lab.enrollment.scep import SCEPService
from agent.lab.mdm.core import MAX_QUEUED, Lab, NotQueued, Refused
from agent.lab.stored.store import NAME, LabStore
from agent.pki.issuing.authorities import Authorities

IDENTITIES = [AUTHORITIES.mdm_identity() for _ in range(4)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enroll", "enqueue", "answer", "forget", "bootstrap", "status", "check out"]),
        st.integers(0, 1),
        st.booleans(),
    ),
    max_size=25,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabStore]:
    with closing(LabStore(tmp_path)) as opened:
        yield opened


def known(lab: Lab) -> dict[str, Any]:
    """The complete state of a lab."""
    return {
        udid: (mac.fingerprint, dict(mac.announcement), mac.token, mac.push_magic, mac.bootstrap_token,
               mac.status_report, list(mac.queue.items()), list(mac.results.items()))
        for udid, mac in lab.macs.items()
    }  # fmt: skip


def step(lab: Lab, what: str, which: int, other: bool) -> None:
    """One event of one of two Macs, each of which has two identities."""
    udid, identity = (UDID, OTHER)[which], IDENTITIES[2 * which + other]
    if what == "enroll":
        enroll(lab, udid, identity)
    elif what == "enqueue":
        lab.enqueue(udid, {"RequestType": "ProfileList", "Data": b"\x00\xff"})
    elif what == "answer":
        queued = next(iter(lab.macs[udid].queue))
        report(lab, identity, udid, CommandUUID=queued, Status="Error" if other else "Acknowledged")
    elif what == "forget":
        lab.forget(udid, next(iter(lab.macs[udid].queue)))
    elif what == "bootstrap":
        lab.check_in(put(identity, {"MessageType": "SetBootstrapToken", "BootstrapToken": b"\x01" * other}))
    elif what == "status":
        message = {"MessageType": "DeclarativeManagement", "UDID": udid, "Endpoint": "status", "Data": b"{}"}
        lab.check_in(put(identity, message))
    else:
        lab.check_in(put(identity, {**token_update(udid), "MessageType": "CheckOut"}))


@given(STEPS)
@example([("enroll", 0, True), ("bootstrap", 0, True)])
def test_state_is_the_same_in_another_process(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("lab")
    with closing(LabStore(folder)) as store:
        lab = Lab(state=store, kept_results=2)
        for each in [("enroll", 0, False), ("enroll", 1, False), *steps]:
            with suppress(Refused, KeyError, StopIteration):  # it is not enrolled, or nothing is queued
                step(lab, *each)
        before = known(lab)
    with closing(LabStore(folder)) as store:
        again = Lab(state=store, kept_results=2)
        assert known(again) == before
        for udid, mac in again.macs.items():  # and goes on with them
            assert again.macs[again._udids[mac.fingerprint]].udid == udid


@pytest.mark.parametrize("changes", [1, 2, 3, 30, 200])
def test_killed_process_leaves_every_answered_change(tmp_path: Path, changes: int) -> None:
    with Forked(str(tmp_path), module="lab_writer") as writer:
        assert writer.stdout.readline() == b"ready\n"
        for number in range(changes):
            assert writer.stdout.readline() == b"%d\n" % number
        writer.kill()
        answered = changes + len(writer.stdout.readlines())
    with closing(LabStore(tmp_path)) as store:
        (mac,) = Lab(state=store, kept_results=5).macs.values()
    found = [*map(int, mac.results), *map(int, mac.queue)]
    for done in (answered, answered + 1):  # the last change may be written, and its answer lost
        queued = [number for number in range(done) if number % 3 < 2]
        results, queue = queued[: done // 3], queued[done // 3 :]
        if found == results[-5:] + queue:
            break
    else:
        pytest.fail(f"after {answered} answers: {found}")


def test_cas_and_challenges_are_stored(tmp_path: Path) -> None:
    with closing(LabStore(tmp_path)) as store:
        first = Authorities(store.authorities)
        service = SCEPService(first, store.challenges)
        used, unused = service.new_challenge(), service.new_challenge()
        store.challenges.discard(used)
        anchors = (*first.mdm_anchors, first.lom_device_anchor, first.lom_controller_anchor)
        issued = first.mdm_identity().certificate
    with closing(LabStore(tmp_path)) as store:
        again = Authorities(store.authorities)
        assert (*again.mdm_anchors, again.lom_device_anchor, again.lom_controller_anchor) == anchors
        issued.verify_directly_issued_by(again.anchor)
        again.mdm_identity().certificate.verify_directly_issued_by(first.anchor)  # the key is the same, too
        assert list(store.challenges) == [unused]


def test_the_files_are_private(store: LabStore, tmp_path: Path) -> None:
    enroll(Lab(state=store))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert NAME in modes


def test_a_second_lab_on_the_folder_is_refused(store: LabStore, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="a lab that is running in"):
        LabStore(tmp_path)
    store.close()
    LabStore(tmp_path).close()


def test_file_that_is_not_a_lab_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database" * 1000)
    with pytest.raises(OperatorError, match="Move the file away"):
        LabStore(tmp_path)
    (tmp_path / NAME).unlink()
    with closing(sqlite3.connect(tmp_path / NAME)) as base:
        base.execute("CREATE TABLE macs (udid)")
        base.commit()
    with pytest.raises(OperatorError, match="Move the file away"):
        LabStore(tmp_path)
    with pytest.raises(OperatorError, match="cannot be opened"):
        LabStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE macs SET announcement = x'00'",
        "UPDATE commands SET udid = 'nobody'",
        "DROP TABLE results",
        "UPDATE authorities SET key = x'00'",
        "UPDATE authorities SET certificate = 'text'",
    ],
)
def test_damaged_lab_state_raises_operator_error(tmp_path: Path, change: str) -> None:
    with closing(LabStore(tmp_path)) as store:
        Authorities(store.authorities)
        lab = Lab(state=store)
        enroll(lab)
        lab.enqueue(UDID, {"RequestType": "ProfileList"})
    with closing(sqlite3.connect(tmp_path / NAME)) as base:
        base.execute(change)
        base.commit()

    def begin() -> None:
        with closing(LabStore(tmp_path)) as store:
            Lab(state=store)
            Authorities(store.authorities)

    with pytest.raises(OperatorError, match=NAME):
        begin()


def test_failed_write_is_refused_and_changes_nothing(store: LabStore) -> None:
    lab = Lab(state=store)
    identity = enroll(lab)
    queued = lab.enqueue(UDID, {"RequestType": "ProfileList"})
    before = known(lab)
    store.close()
    token = {"MessageType": "SetBootstrapToken", "BootstrapToken": b"x"}
    for message in (authenticate(), token_update(), token, {**token_update(), "MessageType": "CheckOut"}):
        with pytest.raises(Refused) as refused:
            lab.check_in(put(identity, message))
        assert refused.value.status == 503
    with pytest.raises(Refused, match="cannot write"):
        report(lab, identity, CommandUUID=queued, Status="Acknowledged")
    with pytest.raises(Refused, match="cannot write"):
        lab.enqueue(UDID, {"RequestType": "ProfileList"})
    assert known(lab) == before


def test_queue_length_is_limited() -> None:
    lab = Lab()
    enroll(lab)
    for _ in range(MAX_QUEUED):
        lab.enqueue(UDID, {"RequestType": "ProfileList"})
    with pytest.raises(NotQueued, match="10000 commands are already queued"):
        lab.enqueue(UDID, {"RequestType": "ProfileList"})
