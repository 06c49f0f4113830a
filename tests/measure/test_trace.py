"""What a reader of the trace finds in the file."""

import json
import math
import os
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import pytest
from examples import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.errors import MisuseError, OperatorError
from agent.measure.records import OPERATIONS, Exchange, Failure
from agent.measure.trace import TraceFile, rfc3339, several

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
any_text = st.text(st.characters())  # lone surrogates too
facts = st.dictionaries(any_text, any_text | st.integers() | st.floats() | st.booleans(), max_size=4)


def written(path, *exchanges: Exchange) -> bytes:
    with closing(TraceFile(path)) as trace:
        for exchange in exchanges:
            trace(exchange)
    return path.read_bytes()


def test_a_line_has_its_keys_in_order_and_compact(tmp_path):
    line = written(
        tmp_path / "trace.jsonl",
        Exchange("command", 7, NOON + 0.25, 0.0123456, None, {"request_type": "DeviceLock", "status": 200}),
    )
    assert line == (
        b'{"time":"2026-01-31T12:00:00.250Z","operation":"command","device":7,"ms":12.346,"ok":true,'
        b'"request_type":"DeviceLock","status":200}\n'
    )


def test_failure_has_its_kind_and_message_before_the_facts(tmp_path):
    failed = Exchange("push", 0, NOON, 1.0, Failure("peer", "Geräte-Token?"), {"status": 410})
    line = written(tmp_path / "trace.jsonl", failed)

    assert list(json.loads(line)) == ["time", "operation", "device", "ms", "ok", "error", "status"]
    assert json.loads(line)["ok"] is False
    assert json.loads(line)["error"] == {"kind": "peer", "message": "Geräte-Token?"}
    assert "Geräte-Token?".encode() in line


def test_fact_does_not_replace_a_key_of_the_trace(tmp_path):
    line = written(tmp_path / "trace.jsonl", Exchange("push", 3, NOON, 1.0, None, {"device": 9, "ok": False}))
    entry = json.loads(line)
    assert (entry["device"], entry["ok"]) == (3, True)
    assert (entry["fact_device"], entry["fact_ok"]) == (9, False)


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    exchange = Exchange("push", 3, NOON, math.inf, None, {"share": math.nan, "status": 200})
    entry = json.loads(written(tmp_path / "trace.jsonl", exchange))
    assert (entry["ms"], entry["share"], entry["status"]) == (None, None, 200)


@given(message=any_text, facts=facts)
@example(message="\x7f", facts={})
@settings(examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_exchange_is_one_line_of_json_whatever_the_text(tmp_path, message, facts):
    exchange = Exchange(OPERATIONS[0], 1, NOON, 0.5, Failure("peer", message), facts)
    content = written(tmp_path / "trace.jsonl", exchange, exchange).decode()

    # splitlines() also splits at U+0085, U+2028 and the like.
    first, second = content.splitlines()
    assert first == second
    assert first.isprintable() or all(each.isprintable() or ord(each) >= 0xA0 for each in first)
    entry = json.loads(first, parse_constant=pytest.fail)
    assert entry["operation"] == OPERATIONS[0]


@given(message=st.text())
@settings(examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_comes_back_as_it_was(tmp_path, message):
    exchange = Exchange("push", 1, NOON, 0.5, Failure("peer", message), {"text": message})
    entry = json.loads(written(tmp_path / "trace.jsonl", exchange))
    assert entry["error"]["message"] == entry["text"] == message


def test_the_file_is_for_its_owner_only_even_where_it_was_open_to_all(tmp_path):
    fresh, old = tmp_path / "fresh.jsonl", tmp_path / "old.jsonl"
    old.write_text("what an earlier run left")
    old.chmod(0o666)

    assert written(fresh) == b""
    assert written(old) == b""
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


def test_what_is_no_regular_file_keeps_its_mode():
    before = os.stat("/dev/null").st_mode
    TraceFile("/dev/null").close()
    assert os.stat("/dev/null").st_mode == before


@pytest.mark.parametrize("name", ["missing/trace.jsonl", ".", "a\0b"])
def test_a_path_that_cannot_be_opened_is_the_operators_error(tmp_path, name):
    with pytest.raises(OperatorError, match=r"The trace file .* cannot be opened for writing: "):
        TraceFile(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_full_disk_does_not_disturb_the_run_and_is_reported_at_its_end():
    trace = TraceFile("/dev/full")
    for device in range(3000):
        trace(Exchange("push", device, NOON, 0.1))

    with pytest.raises(OperatorError, match="/dev/full is incomplete: No space left"):
        trace.close()
    trace.close()


def test_closing_twice_is_fine_and_writing_then_is_misuse(tmp_path):
    trace = TraceFile(str(tmp_path / "trace.jsonl"))
    trace.close()
    trace.close()
    with pytest.raises(MisuseError, match="after the trace"):
        trace(Exchange("push", 0, NOON, 0.1))


def test_several_calls_each_observer_in_order():
    reported = []
    exchange = Exchange("push", 0, NOON, 0.1)

    several(lambda each: reported.append(("first", each)), lambda each: reported.append(("second", each)))(exchange)
    several()(exchange)

    assert reported == [("first", exchange), ("second", exchange)]


def test_moments_are_written_in_utc_wherever_they_were_taken():
    moment = datetime(2026, 1, 31, 23, 30, 0, 7000, tzinfo=timezone(timedelta(hours=-1)))
    assert rfc3339(moment) == "2026-02-01T00:30:00.007Z"
