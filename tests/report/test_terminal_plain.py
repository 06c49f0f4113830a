"""What a log has of a run while it goes on."""

import io

import pytest
from consoles import Seconds, operation, phase, pipe, view, written
from rich.console import Console

from agent.measure.live import LiveView
from agent.report.terminal import make_display


class Log:
    """A display that writes to a pipe, and a clock that goes with the views."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._console = pipe(encoding)
        self._clock = Seconds()
        self.display = make_display(self._console, quiet=False, clock=self._clock)

    def look(self, shot: LiveView) -> None:
        self._clock.now = 100.0 + shot.elapsed
        self.display.look(shot)

    @property
    def lines(self) -> list[str]:
        return written(self._console).splitlines()


def test_line_at_start_and_end_of_a_phase_and_every_ten_seconds():
    log = Log()
    for second in range(26):
        began = phase("enroll", started_s=0.0, planned=1200, started=48 * second + 5, done=48 * second)
        log.look(view(began, phase("settle"), elapsed=second + 0.2, operations={"enroll": operation(48 * second)}))
    over = phase("enroll", started_s=0.0, finished_s=26.4, planned=1200, done=1200, failed=3, dropped=2)
    log.look(view(over, phase("settle", started_s=26.5, planned=0), elapsed=27.0))
    log.look(view(over, phase("settle", started_s=26.5, finished_s=28.5, planned=0), elapsed=29.0))
    log.display.close()
    assert log.lines == [
        "0:00 enroll: started",
        "0:10 enroll 480/1,200; enroll 50.0/s p99 98.7 ms; 0 errors",
        "0:20 enroll 960/1,200; enroll 50.0/s p99 98.7 ms; 0 errors",
        "0:26 enroll: finished in 26.4 s, 1,200/1,200 done, 3 failed, 2 dropped",
        "0:26 settle: started",
        "0:28 settle: finished in 2.0 s, 0 failed",
    ]


def test_a_pause_is_printed_at_once_and_in_the_progress():
    log = Log()
    began = phase("look", started_s=0.0, done=1, started=2)
    for second, paused in ((0.0, False), (1.0, True), (11.0, True), (12.0, False)):
        log.look(view(began, elapsed=second, paused=paused))
    assert log.lines == ["0:00 look: started", "0:01 paused", "0:11 paused; look 1/100; 0 errors", "0:12 resumed"]


def test_stuck_run_prints_repeated_lines():
    log = Log()
    for second in (0.0, 11.0, 22.0):
        log.look(view(phase("enroll", started_s=0.0, done=1, started=2), elapsed=second))
    assert log.lines == ["0:00 enroll: started", "0:11 enroll 1/100; 0 errors", "0:22 enroll 1/100; 0 errors"]


def test_events_between_updates_are_printed_in_order():
    log = Log()
    log.look(
        view(
            phase("long", started_s=1.0, finished_s=9.0),
            phase("short", started_s=2.0, finished_s=3.0),
            phase("next", started_s=9.5),
        )
    )
    assert [line.rpartition(":")[0] for line in log.lines[:5]] == [
        "0:01 long", "0:02 short", "0:03 short", "0:09 long", "0:10 next",
    ]  # fmt: skip


def test_cut_short_phases_are_named_once():
    log = Log()
    log.look(view(phase("enroll", started_s=0.0, done=1, late=1), phase("later"), elapsed=7.0))
    log.display.close()
    log.display.close()
    assert log.lines == ["0:00 enroll: started", "0:07 enroll: did not finish, 1/100 done, 0 failed, 1 late"]


def test_line_has_only_the_busiest_operations_and_first_phases():
    log = Log()
    phases = [phase(f"phase {n}", started_s=0.0) for n in range(5)]
    rates = {"enroll": 0.0, "session": 40.0, "command": 50.0, "push": 30.0, "delivery": 20.0}
    operations = {name: operation(rate=rate, errors=name == "command") for name, rate in rates.items()}
    log.look(view(*phases, elapsed=10.0, operations=operations))
    assert log.lines[-1] == (
        "0:10 phase 0 0/100, phase 1 0/100, phase 2 0/100, 2 more phases; command 50.0/s p99 98.7 ms 1 error; "
        "session 40.0/s p99 98.7 ms; push 30.0/s p99 98.7 ms; 1 error"
    )


def test_no_running_phase_is_named_between_phases():
    log = Log()
    log.look(view(phase("later"), elapsed=10.0))
    assert log.lines == ["0:10 no phase is running; 0 errors"]


def test_overload_since_the_last_line_is_reported_once():
    log = Log()
    for second in range(21):
        log.look(view(elapsed=float(second), lag_ms=812.0 if second == 4 else 1.0, cpu=0.95 if second == 6 else 0.5))
    first, second = log.lines
    assert first.endswith("; WARNING: the generator is overloaded, latencies include its delays (lag 812 ms, CPU 95 %)")
    assert "WARNING" not in second


def test_log_has_no_control_characters_and_fits_its_encoding():
    log = Log("ascii")
    log.display.note("K\u00e4lte \x1b[31m")
    log.look(view(phase("[b]Gr\u00fc\u00dfe\n\x07", started_s=0.0), elapsed=10.0, operations={"\x1b[0m": operation()}))
    log.display.close()
    assert log.lines[:2] == ["K\\xe4lte \\x1b[31m", "0:00 [b]Gr\\xfc\\xdfe\\n\\x07: started"]
    assert all(line.isprintable() and line.isascii() for line in log.lines)


def test_a_line_is_never_wrapped():
    log = Log()
    log.look(view(*(phase("x" * 200 + f"{n}", started_s=0.0) for n in range(3)), elapsed=10.0))
    assert len(log.lines) == 4
    assert len(log.lines[-1]) > 600


@pytest.mark.parametrize("quiet", [False, True])
def test_dumb_terminal_gets_plain_lines(quiet):
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=False, color_system=None)
    display = make_display(console, quiet=quiet, clock=Seconds())
    display.look(view(phase("enroll", started_s=0.0)))
    display.close()
    assert written(console).splitlines() == (
        [] if quiet else ["0:00 enroll: started", "0:42 enroll: did not finish, 0/100 done, 0 failed"]
    )
