"""What a person at the terminal, or a reader of a log, sees of a run."""

import io
import random
import re
import sys
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.errors import MisuseError
from agent.load.metrics import Metrics
from agent.net.records import OPERATIONS, Exchange, Failure
from agent.report.results import Resources, RunInfo
from agent.report.terminal import make_progress, print_summary, visible

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
RUN = RunInfo(version="1.2.3", seed="orchard", devices=50, started=START, duration_s=12.34)
TOOK = Resources(cpu_s=1.5, max_rss_kib=50 * 1024)


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, height=30, force_terminal=True, force_interactive=True, record=True)


def pipe(encoding: str = "utf-8") -> Console:
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n"), force_terminal=False, record=True
    )


def summary(console: Console, *exchanges: Exchange) -> list[str]:
    metrics = Metrics()
    for exchange in exchanges:
        metrics(exchange)
    print_summary(console, metrics, RUN, TOOK)
    return console.export_text().splitlines()


def screen(console: Console) -> list[str]:
    """The lines that stand on a very wide terminal after all that was written to it: knows only the few control
    sequences that redrawing needs."""
    console.file.flush()
    sink = console.file
    text = sink.getvalue() if isinstance(sink, io.StringIO) else sink.buffer.getvalue().decode()
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.startswith("\x1b[") and part.endswith("A"):
            row -= int(part[2:-1])
        elif part != "\r" and not part.startswith("\x1b"):
            lines[row] += part
    return [line.rstrip() for line in lines if line]


def busy_run(failing: bool = True) -> list[Exchange]:
    draw = random.Random(7)
    return [
        Exchange(
            OPERATIONS[number % len(OPERATIONS)],
            number,
            START.timestamp() + number / 100,
            draw.expovariate(20),
            Failure("peer", "The server answered 500.") if failing and number % 100 == 3 else None,
        )
        for number in range(2000)
    ]


def test_a_run_without_errors_ends_with_a_table_and_a_good_verdict():
    lines = summary(terminal(), *busy_run(failing=False))

    assert lines[0] == "lom-agent 1.2.3, seed orchard, 50 devices, from 2026-01-31 12:00:00 UTC"
    assert lines[1] == "12.3 s, CPU 1.5 s, memory 50 MiB"
    [header] = [line for line in lines if line.startswith("operation")]
    assert re.split(r" {2,}", header) == [
        "operation",
        "count",
        "errors",
        "per s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "max ms",
    ]
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in OPERATIONS] == list(OPERATIONS)
    assert lines[-1] == "All good: 2,000 operations, no errors in 12.3 s."
    assert not any("failed" in line for line in lines)


def test_what_failed_is_named_with_its_number_and_an_example():
    lines = summary(terminal(), *busy_run())

    heading = lines.index("What failed and why")
    assert lines[heading + 1 : heading + 3] == ["  10 x command: peer", "      The server answered 500."]
    assert lines[-1] == "20 of 2,000 operations failed."


def test_one_operation_is_one_operation_and_its_missing_rate_a_dash():
    lines = summary(terminal(), Exchange("push", 0, START.timestamp(), 0.00123))
    assert lines[-1] == "All good: 1 operation, no errors in 12.3 s."
    [row] = [line.split() for line in lines if line.startswith("push")]
    assert row == ["push", "1", "0", "-", "1.23", "1.23", "1.23", "1.23"]


def test_latencies_that_are_not_there_are_dashes():
    lines = summary(terminal(), Exchange("push", 0, START.timestamp(), 1.0, Failure("peer", "no")))
    [row] = [line.split() for line in lines if line.startswith("push")]
    assert row == ["push", "1", "1", "-", "-", "-", "-", "-"]
    assert lines[-1] == "1 of 1 operation failed."


def test_a_run_in_which_nothing_happened_is_not_called_good():
    assert summary(terminal())[-1] == "Nothing was done: no operation in 12.3 s."


def test_latencies_at_the_limit_are_owned_up_to():
    lines = summary(pipe(), Exchange("push", 0, START.timestamp(), 4000.0))
    assert "Latencies under a microsecond or over an hour, counted as just that: 1." in lines


def test_the_widest_numbers_fit_80_columns():
    slow = [Exchange("lom_device", 0, START.timestamp() + n / 9e3, 3599.9) for n in range(10_000)]
    lines = summary(terminal(80), *slow)
    [row] = [line.split() for line in lines if line.startswith("lom_device")]
    assert row == ["lom_device", "10,000", "0", "2.78", *["3,599,900"] * 4]
    assert max(map(len, lines)) <= 80


def test_outside_a_terminal_lines_are_wider_and_plain():
    console = pipe()
    print_summary(console, Metrics(), RUN, TOOK)
    long_words = " ".join(["certificate"] * 30)
    lines = summary(console, Exchange("push", 0, START.timestamp(), 1.0, Failure("tls", long_words)))

    console.file.flush()
    assert b"\x1b" not in console.file.buffer.getvalue()
    assert 80 < max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)


def test_a_narrow_encoding_gets_escapes_instead_of_an_error():
    console = pipe("ascii")
    lines = summary(console, Exchange("push", 0, START.timestamp(), 1.0, Failure("peer", "Grüße\u2026")))
    console.file.flush()
    assert "      Gr\\xfc\\xdfe\\u2026" in lines
    assert console.file.buffer.getvalue().isascii()


def test_a_peers_text_is_neither_markup_nor_a_command_to_the_terminal():
    nasty = "[bold red]x[/nope] :smile:\r\n\x1b]0;owned\x07\x9b2J\u202e" + "y" * 300
    console = terminal()
    lines = summary(console, Exchange("push", 0, START.timestamp(), 1.0, Failure("pe\ner", nasty)))

    assert "  1 x push: pe\\ner" in lines
    example = "".join(line.removeprefix("      ") for line in lines if line.startswith("      "))
    assert example.replace(" ", "").startswith(
        "[boldred]x[/nope]:smile:\\r\\n\\x1b]0;owned\\x07\\x9b2J\\u202e".replace(" ", "")
    )
    assert example.count("y") == 300
    assert max(map(len, lines)) <= 80
    for sequence in ("\x1b]0;", "\x07", "\x9b", "\u202e", "\r"):
        assert sequence not in console.file.getvalue()


@given(st.text(st.characters()))
def test_visible_text_is_one_printable_line(text):
    assert visible(text).isprintable()
    assert visible(text, "ascii").isascii()
    if text.isprintable():
        assert visible(text) == text


def test_plain_progress_is_a_line_every_five_seconds_and_one_when_a_step_is_done():
    console, clock = pipe(), Seconds()
    display = make_progress(console, quiet=False, clock=clock)
    display.step("enrol", 40)
    for number in range(40):
        clock.now += 0.25
        display.advance("enrol", failed=number == 0)
        display.tick()
    clock.now += 60.0
    display.tick()
    display.close()
    assert console.export_text().splitlines() == [
        "enrol: 20/40 done, 1 failed (5.0 s)",
        "enrol: 40/40 done, 1 failed (10.0 s)",
    ]


def test_plain_progress_shows_that_a_step_is_stuck_and_where_it_was_cut_short():
    console, clock = pipe(), Seconds()
    display = make_progress(console, quiet=False, clock=clock)
    display.tick()
    display.step("enrol", 2)
    display.advance("enrol")
    for _ in range(44):
        clock.now += 0.25
        display.tick()
    display.step("commands", 5)
    clock.now += 2.0
    display.close()
    display.close()
    assert console.export_text().splitlines() == [
        "enrol: 1/2 done, 0 failed (5.0 s)",
        "enrol: 1/2 done, 0 failed (10.0 s)",
        "enrol: 1/2 done, 0 failed (11.0 s)",
        "commands: 0/5 done, 0 failed (2.0 s)",
    ]


def test_a_straggler_of_an_earlier_step_still_counts():
    console, clock = pipe(), Seconds()
    display = make_progress(console, quiet=False, clock=clock)
    display.step("enrol", 1)
    display.step("commands", 1)
    clock.now += 1.0
    display.advance("enrol", failed=True)
    display.advance("enrol")  # more than announced: the line is not printed again
    display.advance("commands")
    display.close()
    assert console.export_text().splitlines() == [
        "enrol: 0/1 done, 0 failed (0.0 s)",
        "enrol: 1/1 done, 1 failed (1.0 s)",
        "commands: 1/1 done, 0 failed (1.0 s)",
    ]


def test_live_progress_ends_with_one_line_a_step_within_80_columns():
    console, clock = terminal(), Seconds()
    threads = threading.active_count()
    display = make_progress(console, quiet=False, clock=clock)
    display.step("enrol", 100_000)
    for number in range(100_000):
        display.advance("enrol", failed=number < 12_345)
    clock.now += 65.0
    display.step("[b]commands", 10)
    display.advance("[b]commands")
    clock.now += 2.0
    display.tick()
    assert threading.active_count() == threads
    display.close()
    display.close()

    enrol, commands = screen(console)
    assert re.fullmatch(r"enrol +━+ 100000/100000 12345 failed 0:00:00 *", enrol)
    assert re.fullmatch(r"\[b\]commands +[━╸╺]+ +1/10 +0 failed +0:00:02 *", commands)
    assert max(len(enrol), len(commands)) <= 80
    assert console.file.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_live_progress_draws_only_when_ticked():
    console, clock = terminal(), Seconds()
    display = make_progress(console, quiet=False, clock=clock)
    display.step("enrol", 10)
    drawn = console.file.getvalue()
    for _ in range(10):
        display.advance("enrol")
    assert console.file.getvalue() == drawn
    display.tick()
    assert "10/10" in console.file.getvalue()[len(drawn) :]
    display.close()


def test_live_progress_leaves_redirected_streams_alone():
    streams = sys.stdout, sys.stderr  # neither is a terminal under pytest
    display = make_progress(terminal(), quiet=False, clock=Seconds())
    display.step("enrol", 10)
    assert (sys.stdout, sys.stderr) == streams
    display.close()


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=False, record=True, color_system=None)
    display = make_progress(console, quiet=False, clock=Seconds())
    display.step("enrol", 1)
    display.advance("enrol")
    display.close()
    assert console.export_text() == "enrol: 1/1 done, 0 failed (0.0 s)\n"


@pytest.mark.parametrize("make_console", [terminal, pipe])
def test_a_note_is_one_whole_line_and_never_markup(make_console):
    console = make_console()
    display = make_progress(console, quiet=False, clock=Seconds())
    display.step("enrol", 1)
    address = "https://[::1]:8443/" + "a" * 120 + "[b]\x1b[2J"
    display.note(address)
    display.close()
    assert address.replace("\x1b", "\\x1b") in screen(console)


@pytest.mark.parametrize("make_console", [terminal, pipe])
def test_a_step_that_was_not_announced_is_misuse(make_console):
    display = make_progress(make_console(), quiet=False, clock=Seconds())
    with pytest.raises(MisuseError, match="'enrol'"):
        display.advance("enrol")
    display.close()


@pytest.mark.parametrize("make_console", [terminal, pipe])
def test_quiet_is_nothing_at_all(make_console):
    console = make_console()
    display = make_progress(console, quiet=True, clock=Seconds())
    display.step("enrol", 1)
    display.note("The lab listens on https://[::1]:8443/.")
    display.advance("enrol", failed=True)
    display.tick()
    display.close()
    assert console.export_text() == ""
