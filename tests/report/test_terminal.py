"""What a person at the terminal, or a reader of a log, sees at the end of a run."""

import re
from datetime import UTC, datetime

import documents
import pytest
from consoles import pipe, terminal, written
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.measure.metrics import Metrics
from agent.measure.records import Exchange, Failure
from agent.report.document import Resources
from agent.report.results import RunInfo, results
from agent.report.terminal import print_summary, visible

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
RUN = RunInfo(version="1.2.3", seed="orchard", devices=50, started=START, duration_s=12.34)
TOOK = Resources(cpu_s=1.5, max_rss_kib=50 * 1024)
UNLIMITED = "No limit allows failures of push."
KEPT_UP = [
    {
        "worker": 0,
        "lag": {"p50": 1.0, "p99": 3.2, "max": 9.0},
        "cpu_s": 1.0,
        "cpu_by_second": [0.2, 0.5],
        "max_rss_kib": 1,
    }
]


def summarized(metrics: Metrics | None = None, **parts: object) -> dict[str, object]:
    return documents.plain(results(metrics or Metrics(), RUN, TOOK, generator=KEPT_UP, **parts))


def measured(*exchanges: Exchange) -> dict[str, object]:
    metrics = Metrics()
    for exchange in exchanges:
        metrics(exchange)
    return summarized(metrics)


def summary(console: Console, document: dict[str, object]) -> list[str]:
    print_summary(console, documents.typed(document))
    return console.export_text(clear=False).splitlines()


def columns(lines: list[str], first: str) -> list[str]:
    [line] = [line for line in lines if line.startswith(first)]
    return re.split(r" {2,}", line)


def below(lines: list[str], title: str) -> list[str]:
    """What stands under a title, up to the empty line after it."""
    rest = lines[lines.index(title) + 1 :]
    return rest[: rest.index("")]


def one_push(seconds: float = 1.0, failure: Failure | None = None) -> dict[str, object]:
    return measured(Exchange("push", 0, START.timestamp(), seconds, failure))


def test_good_run_prints_tables_and_a_good_verdict():
    lines = summary(terminal(), documents.good())

    assert lines[:4] == [
        "nightly load",
        "lom-agent 0.4.0, seed orchard, 1,200 devices, 2 workers, from 2026-03-02",
        "02:00:00 UTC",
        "600.0 s, CPU 640.2 s, memory 402 MiB",
    ]
    assert max(map(len, lines)) <= 80
    assert columns(lines, "operation") == [
        "operation", "count", "errors", "per s", "p50 ms", "p90 ms", "p99 ms", "max ms",
    ]  # fmt: skip
    head = next(number for number, line in enumerate(lines) if line.startswith("operation"))
    operations = list(documents.good()["operations"])
    assert [line.split()[0] for line in lines[head + 2 : head + 2 + len(operations)]] == operations
    assert "The load generator kept up: lag 4.10 ms (p99), busiest second 74 % of a core." in lines
    assert re.fullmatch(r"All good: [0-9,]+ operations, no errors in 600.0 s. All 4 limits passed.", lines[-1])
    assert not any(word in line for line in lines for word in ("failed", "FAILED", "Warning", "never"))


def test_stages_have_a_table_of_their_own():
    lines = summary(terminal(), documents.good())
    assert columns(lines, "stage") == ["stage", "count", "p50 ms", "p90 ms", "p99 ms", "max ms"]
    assert [line.split()[1] for line in lines if line.startswith("handshake")] == ["7,000", "2,000"]


def test_summary_names_everything_that_went_wrong():
    lines = summary(terminal(), documents.failed())

    assert columns(lines, "operation")[:5] == ["operation", "count", "errors", "late", "dropped"]
    [delivery] = [line.split() for line in lines if line.startswith("delivery ")]
    assert delivery[2:5] == ["0", "812", "305"]
    assert below(lines, "Failures")[:3] == [
        "  368 x session: http_status",
        "      the server answered PUT /mdm with 503 Service Unavailable: no healthy",
        "      upstream",
    ]
    assert below(lines, "Operations that were due and never started") == [
        "  290 x delivery: the Mac was still busy with its previous one",
        "  15 x delivery: the phase ended first",
    ]
    assert [line.split()[0] for line in below(lines, "Limits")] == ["FAILED", "FAILED", "FAILED", "passed"]
    warning = next(at for at, line in enumerate(lines) if line.startswith("Warning: the load generator was overloaded"))
    assert "  Worker 1 used over 90 % of its core in 80 of 600 seconds." in lines[warning:]
    assert re.fullmatch(
        r"439 of [0-9,]+ operations failed: session http_status \(368\), session answer_timeout \(61\) and lom_link "
        r"lom_unreachable \(10\). 3 of 4 limits failed. No limit allows failures of lom_link.",
        " ".join(lines[-3:]),
    )
    assert max(map(len, lines)) <= 80


def test_failed_limit_is_red_and_a_passed_one_is_not():
    console = terminal()
    print_summary(console, documents.typed(documents.failed()))
    [broken, *_] = [line for line in written(console).splitlines() if "FAILED" in line]
    [held] = [line for line in written(console).splitlines() if "  passed" in line]
    assert "\x1b[31m" in broken
    assert "31m" not in held


def test_phases_that_were_cut_short_are_named():
    document = documents.good()
    document["phases"][3] |= {"ended_s": None, "done": 340, "failed": 3, "dropped": 860}
    document["phases"][4] |= {"started_s": None, "ended_s": None}
    document["phases"][5] |= {"ended_s": None, "planned": None, "done": 0}
    lines = summary(terminal(), document | {"complete": False, "incomplete_because": "Ctrl-C."})

    assert below(lines, "Phases that did not finish") == [
        "  set up LOM: 340 of 1,200 done, 3 failed, 860 dropped",
        "  reset all: never started",
        "  settle: 0 done",
    ]
    assert " ".join(lines[-2:]).startswith("The run did not finish: Ctrl-C. In the phase set up LOM 3 ")


def test_list_of_cut_short_phases_is_truncated():
    document = documents.good()
    document["phases"] = [dict(document["phases"][0], name=f"phase {n}", ended_s=None) for n in range(100)]
    named = below(summary(terminal(), document), "Phases that did not finish")
    assert len(named) == 11
    assert named[-1] == "  and 90 more"


def test_list_of_overloaded_workers_is_truncated():
    document = documents.failed()
    document["generator"]["reasons"] = [f"Worker {n} did not report how it kept up." for n in range(64)]
    assert "  and 54 more" in summary(terminal(), document)


def test_single_operation_is_singular_and_its_rate_a_dash():
    lines = summary(terminal(), one_push(0.00123))
    assert lines[-1] == "All good: 1 operation, no errors in 12.3 s."
    [row] = [line.split() for line in lines if line.startswith("push")]
    assert row == ["push", "1", "0", "-", "1.23", "1.23", "1.23", "1.23"]


def test_missing_latencies_are_dashes():
    lines = summary(terminal(), one_push(failure=Failure("peer", "no")))
    [row] = [line.split() for line in lines if line.startswith("push")]
    assert row == ["push", "1", "1", "-", "-", "-", "-", "-"]
    assert lines[-1] == "1 of 1 push operations failed: peer."


@pytest.mark.parametrize(
    ("limits", "changed", "message"),
    [
        ([], {}, "All good: 1 operation, no errors in 12.3 s."),
        ([True], {}, "All good: 1 operation, no errors in 12.3 s. The one limit passed."),
        ([True, True], {"errors": 1}, f"1 of 1 push operations failed. {UNLIMITED} All 2 limits passed."),
        ([True, False, False], {}, "2 of 3 limits failed."),
        ([False], {"errors": 1}, f"1 of 1 push operations failed. 1 of 1 limit failed. {UNLIMITED}"),
        ([], {"dropped": 7}, "No operation of 1 failed, but 7 never started."),
        ([True], {"count": 0}, "No operation ended in 12.3 s. The one limit passed."),
    ],
)
def test_verdict_line_follows_from_the_document(limits, changed, message):
    document = one_push()
    document["limits"] = [{"limit": "x", "ok": ok, "found": None, "sentence": "It was."} for ok in limits]
    document["operations"]["push"] |= changed
    assert message in " ".join(summary(pipe(), document))
    assert summary(pipe(), document)[-1] in message


def test_embedded_lab_is_noted_beside_latencies():
    document = documents.good()
    document["limits"] = []
    document["generator"] = documents.failed()["generator"] | {"embedded_lab": True}
    document["generator"]["overloaded"] = [{"phase": "enroll the fleet", "worker": 0, "kind": "process", "reason": "x"}]
    lines = summary(pipe(), document)
    reported = " ".join(lines)
    assert "the latencies show the flow, not a server. The machine was overloaded in enroll the fleet." in reported
    assert lines[-1].startswith("All good: ")
    assert "Warning" not in reported


def test_unmeasured_generator_is_noted_beside_latencies():
    metrics = Metrics()
    metrics(Exchange("push", 0, START.timestamp(), 1.0))
    lines = summary(terminal(), documents.plain(results(metrics, RUN, TOOK)))
    assert "Warning: it is unknown whether the load generator kept up: do not rely on the" in lines
    assert "  The load generator did not measure itself." in lines
    assert lines[-1] == "No operation of 1 failed, but it is unknown whether the load generator kept up."


def test_empty_run_is_not_called_good():
    lines = summary(terminal(), summarized())
    assert lines == [
        "lom-agent 1.2.3, seed orchard, 50 devices, from 2026-01-31 12:00:00 UTC",
        "12.3 s, CPU 1.5 s, memory 50 MiB",
        "",
        "No operation ended in 12.3 s.",
    ]


@pytest.mark.parametrize("make", [documents.empty, documents.smallest, documents.good])
def test_every_document_has_a_summary(make):
    assert summary(pipe(), make())


def test_clamped_latencies_are_noted():
    lines = summary(pipe(), one_push(4000.0))
    assert "Latencies below 1 µs or above 1 h, recorded as that: 1." in lines


@pytest.mark.parametrize("make", [documents.good, documents.failed, documents.empty, documents.hostile])
@pytest.mark.parametrize("width", [80, 81, 100, 200])
def test_lines_fit_the_terminal(make, width):
    assert max(map(len, summary(terminal(width), make()))) <= width


def test_the_widest_numbers_fit_80_columns():
    slow = [Exchange("lom_device", 0, START.timestamp() + n / 9e3, 3599.9) for n in range(10_000)]
    lines = summary(terminal(80), measured(*slow))
    [row] = [line.split() for line in lines if line.startswith("lom_device")]
    assert row == ["lom_device", "10,000", "0", "2.78", *["3,599,900"] * 4]
    assert max(map(len, lines)) <= 80


def test_columns_without_room_are_omitted():
    document = documents.failed()
    for operation in document["operations"].values():
        operation["latency_ms"] |= dict.fromkeys(("p50", "p90", "p99", "max"), 3_599_900.0)
        operation["count"] = 12_345_678
    narrow, wide = (summary(terminal(width), document) for width in (80, 200))
    assert columns(wide, "operation") == [
        "operation", "count", "errors", "late", "dropped", "per s", "p50 ms", "p90 ms", "p99 ms", "max ms",
    ]  # fmt: skip
    assert columns(narrow, "operation") == [
        "operation", "count", "errors", "late", "dropped", "p50 ms", "p99 ms", "max ms",
    ]  # fmt: skip
    [row] = [line.split() for line in narrow if line.startswith("session ")]
    assert row[1] == "12,345,678"
    assert row[-3:] == ["3,599,900"] * 3


def test_outside_a_terminal_lines_are_wider_and_plain():
    console = pipe()
    long_words = " ".join(["certificate"] * 30)
    lines = summary(console, one_push(failure=Failure("tls", long_words)))

    assert "\x1b" not in written(console)
    assert 80 < max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("make", [documents.failed, documents.hostile])
def test_a_narrow_encoding_gets_escapes_instead_of_an_error(make):
    console = pipe("ascii")
    document = make()
    document["errors"][0]["example"] = "Gr\u00fc\u00dfe\u2026"
    document["limits"][0]["sentence"] = "connect.p99 was 900 \u00b5s"
    lines = summary(console, document)
    assert written(console).isascii()
    assert "      Gr\\xfc\\xdfe\\u2026" in lines
    assert any(line.endswith("connect.p99 was 900 \\xb5s") for line in lines)


def test_peer_text_is_neither_markup_nor_a_terminal_command():
    nasty = "[bold red]x[/nope] :smile:\r\n\x1b]0;owned\x07\x9b2J\u202e" + "y" * 300
    console = terminal()
    lines = summary(console, one_push(failure=Failure("pe\ner", nasty)))

    assert "  1 x push: pe\\ner" in lines
    example = "".join(line.removeprefix("      ") for line in lines if line.startswith("      "))
    assert example.replace(" ", "").startswith(
        "[boldred]x[/nope]:smile:\\r\\n\\x1b]0;owned\\x07\\x9b2J\\u202e".replace(" ", "")
    )
    assert example.count("y") == 300
    assert max(map(len, lines)) <= 80
    for sequence in ("\x1b]0;", "\x07", "\x9b", "\u202e", "\r"):
        assert sequence not in written(console)


def test_document_text_cannot_control_the_terminal():
    console = terminal()
    lines = summary(console, documents.hostile())
    assert all(line.isprintable() for line in lines)
    assert "\x1b[31m" not in "".join(lines)
    assert "\u202e" not in written(console)


@given(st.text(st.characters()))
def test_visible_text_is_one_printable_line(text):
    assert visible(text).isprintable()
    assert visible(text, "ascii").isascii()
    if text.isprintable():
        assert visible(text) == text
