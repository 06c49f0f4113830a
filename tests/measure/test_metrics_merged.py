"""Metrics of several processes come together as if one had counted everything."""

import base64
import json
import struct
import zlib
from contextlib import suppress

import msgspec
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import LomAgentError, OperatorError
from agent.measure.metrics import Metrics
from agent.measure.records import OPERATIONS, STAGES, Exchange, Failure

EPOCH = 1_700_000_000.0

texts = st.sampled_from(["", "no", "yes", "ü", "\udc80", "x" * 600])
records = st.one_of(
    st.builds(
        Exchange,
        operation=st.sampled_from(OPERATIONS[:3]),
        device=st.just(0),
        started=st.floats(EPOCH, EPOCH + 1e5) | st.sampled_from([EPOCH, EPOCH + 1.0]),
        seconds=st.floats(-1.0, 7200.0) | st.just(float("inf")) | st.just(float("nan")),
        failure=st.none() | st.builds(Failure, st.sampled_from(["peer", "tls"]), texts),
    ),
    st.tuples(st.just("stage"), st.sampled_from(STAGES), st.floats(0.0, 10.0)),
    st.tuples(st.just("late"), st.sampled_from(OPERATIONS[:3])),
    st.tuples(st.just("dropped"), st.sampled_from(OPERATIONS[:3]), texts),
)
shards = st.lists(st.lists(records, max_size=12), min_size=1, max_size=4)


def counted(*seen):
    metrics = Metrics()
    for record in seen:
        if isinstance(record, Exchange):
            metrics(record)
        else:
            getattr(metrics, record[0])(*record[1:])
    return metrics


def merged(*snapshots):
    metrics = Metrics()
    for snapshot in snapshots:
        metrics.merge(snapshot)
    return metrics


def full():
    return counted(
        Exchange("command", 0, EPOCH, 0.25),
        Exchange("command", 0, EPOCH, 3.0),
        Exchange("push", 0, EPOCH, 0.25, Failure("peer", "no")),
        ("stage", "connect", 0.01),
        ("dropped", "push", "the Mac was off"),
    )


@examples(20, explored=40)
@given(shards)
def test_merged_shards_are_the_metrics_of_all_records(parts):
    whole = counted(*(record for part in parts for record in part))
    together = merged(*(counted(*part).snapshot() for part in parts))

    assert together.snapshot() == whole.snapshot()
    assert together.failures() == whole.failures()
    assert together.drops() == whole.drops()
    for name in whole.operations():
        assert together.summary(name) == whole.summary(name)
    for name in whole.stages():
        assert together.stage_summary(name) == whole.stage_summary(name)


@examples(20, explored=40)
@given(shards, st.randoms())
def test_the_order_and_the_grouping_do_not_matter(parts, random):
    snapshots = [counted(*part).snapshot() for part in parts]
    shuffled = random.sample(snapshots, len(snapshots))
    cut = random.randint(0, len(parts))
    groups = merged(merged(*shuffled[:cut]).snapshot(), merged(*shuffled[cut:]).snapshot())
    assert groups.snapshot() == merged(*snapshots).snapshot()


@given(st.lists(records, max_size=20))
def test_a_snapshot_crosses_json_and_msgpack_unchanged(seen):
    snapshot = counted(*seen).snapshot()
    assert json.loads(json.dumps(snapshot, allow_nan=False)) == snapshot
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot)) == snapshot
    assert merged(json.loads(json.dumps(snapshot))).snapshot() == snapshot


def test_a_snapshot_stays_small_however_much_was_counted():
    few, many = Metrics(), Metrics()
    for number in range(20_000):
        record = Exchange("command", 0, EPOCH + number, 0.001 * (number % 997 + 1))
        many(record)
        if number < 997:
            few(record)
    assert len(json.dumps(many.snapshot())) < 2 * len(json.dumps(few.snapshot()))


def test_counting_goes_on_after_a_merge_and_after_a_snapshot():
    metrics = counted(Exchange("command", 0, EPOCH, 0.25))
    metrics.merge(full().snapshot())
    metrics.snapshot()
    metrics(Exchange("command", 0, EPOCH, 9.0))

    assert metrics.summary("command").count == 4
    assert metrics.summary("command").latency_ms.max == 9000.0


# What is no snapshot


def packed(counts, *, digits=3, lowest=1, highest=3_600_000_000, cookie=0x1C849313, wrapping=0x1C849314):
    """A histogram, encoded by hand: HdrHistogram's header, then each count as a zigzag LEB128 number."""
    stream = b"".join(leb128(count * 2 if count >= 0 else -count * 2 - 1) for count in counts)
    payload = struct.pack(">IIIIQQd", cookie, len(stream), 0, digits, lowest, highest, 1.0) + stream
    return wrapped(zlib.compress(payload), wrapping)


def wrapped(compressed, wrapping=0x1C849314):
    return base64.b64encode(struct.pack(">II", wrapping, len(compressed)) + compressed).decode()


def leb128(number):
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])


def changed(path, value):
    """The snapshot of ``full`` with another value at ``path``."""
    snapshot = json.loads(json.dumps(full().snapshot()))
    place = snapshot
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return snapshot


COMMAND = ("operations", "command")
HISTOGRAM = (*COMMAND, "latencies", "histogram")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("operations",), []),
        (("operations",), {"reboot": full().snapshot()["operations"]["command"]}),
        (("stages",), {"command": full().snapshot()["stages"]["connect"]}),
        ((*COMMAND, "count"), -1),
        ((*COMMAND, "count"), 10**30),
        ((*COMMAND, "count"), 3),
        ((*COMMAND, "count"), 2.0),
        ((*COMMAND, "count"), True),
        ((*COMMAND, "errors"), 1),
        ((*COMMAND, "late"), "many"),
        ((*COMMAND, "first"), None),
        ((*COMMAND, "first"), float("nan")),
        ((*COMMAND, "last"), float("inf")),
        ((*COMMAND, "latencies", "max_us"), 250_000),
        ((*COMMAND, "latencies", "max_us"), 10**12),
        ((*COMMAND, "latencies", "total_us"), 10**12),
        ((*COMMAND, "latencies", "total_us"), 0),
        ((*COMMAND, "latencies", "clamped"), 3),
        ((*COMMAND, "latencies", "clamped"), -1),
        (HISTOGRAM, None),
        (HISTOGRAM, ""),
        (HISTOGRAM, "%%%"),
        (HISTOGRAM, "ü"),
        (HISTOGRAM, "AAAA"),
        (HISTOGRAM, "A" * 10_000_000),
        (HISTOGRAM, wrapped(b"no zlib")),
        (HISTOGRAM, wrapped(zlib.compress(b"short"))),
        (HISTOGRAM, lambda: wrapped(zlib.compress(bytes(50_000_000)))),  # not in each process that collects the tests
        (HISTOGRAM, packed([1, 1])),
        (HISTOGRAM, packed([2], digits=5)),
        (HISTOGRAM, packed([2], lowest=2)),
        (HISTOGRAM, packed([2], highest=2**62)),
        (HISTOGRAM, packed([2], cookie=0)),
        (HISTOGRAM, packed([2], wrapping=0)),
        (HISTOGRAM, packed([2**62, 2**62])),
        (HISTOGRAM, packed([-(2**31), 2])),
        (HISTOGRAM, packed([-(2**40), 2])),
        (HISTOGRAM, packed([-23_551, 2])),
        (HISTOGRAM, packed([1] * 24_000)),
        (("failures",), [{}]),
        (("failures",), full().snapshot()["failures"] * 10_001),
        (("failures", 0, "example"), "x" * 501),
        (("failures", 0, "operation"), "reboot"),
        (("failures", 0, "first"), float("nan")),
        (("failures", 0, "count"), -1),
        (("drops", 0, "reason"), 7),
        (("drops", 0, "operation"), "reboot"),
        (("drops", 0, "count"), None),
    ],
)
def test_what_is_no_snapshot_is_refused_and_nothing_of_it_counts(path, value):
    metrics = full()
    with pytest.raises(OperatorError, match="cannot be merged"):
        metrics.merge(changed(path, value() if callable(value) else value))
    assert metrics.snapshot() == full().snapshot()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
paths = st.sampled_from(
    [
        ("operations",),
        ("stages",),
        ("failures",),
        ("drops",),
        COMMAND,
        (*COMMAND, "count"),
        (*COMMAND, "latencies"),
        HISTOGRAM,
        (*COMMAND, "latencies", "total_us"),
        ("failures", 0),
        ("drops", 0),
    ]
)


@given(json_values)
def test_any_plain_data_is_a_snapshot_or_our_error(value):
    with suppress(LomAgentError):
        Metrics().merge(value)


@given(paths, json_values)
def test_a_snapshot_with_anything_in_it_is_merged_or_our_error(path, value):
    metrics = Metrics()
    try:
        metrics.merge(changed(path, value))
    except LomAgentError:
        assert metrics.snapshot() == Metrics().snapshot()


@given(st.binary(max_size=200), st.booleans())
def test_any_histogram_is_merged_or_our_error(stream, header):
    payload = struct.pack(">IIIIQQd", 0x1C849313, len(stream), 0, 3, 1, 3_600_000_000, 1.0) if header else b""
    with suppress(LomAgentError):
        Metrics().merge(changed(HISTOGRAM, wrapped(zlib.compress(payload + stream))))
