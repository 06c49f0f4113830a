"""What stands on a terminal while a run goes on."""

import sys
import threading

import documents
import pytest
from consoles import Seconds, many_phases, operation, phase, pipe, screen, terminal, view, written
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from agent.measure.live import LiveView
from agent.measure.records import OPERATIONS
from agent.report.terminal import make_display
from agent.report.terminal.phases import nearest, running, status_of
from agent.report.terminal.screen import FIXED_LINES, LastScreen, Screen, shares

ALL = dict.fromkeys(OPERATIONS, operation())


def shown(shot: LiveView, width: int = 80, height: int = 24, encoding: str = "utf-8") -> list[str]:
    """The lines of the screen."""
    console = terminal(width, height, encoding)
    console.print(Screen(shot))
    return console.export_text().splitlines()


def row(lines: list[str], first: str) -> list[str]:
    [line] = [line for line in lines if line.startswith(first)]
    return line.split()


# The screen


def test_the_screen_has_the_phases_the_operations_and_the_generator():
    lines = shown(
        view(
            phase("joining", started_s=0.0, finished_s=30.0, planned=1200, started=1200, done=1200, failed=3),
            phase("commands", started_s=30.0, planned=100_000, started=640, done=600, late=17, dropped=4),
            phase("reset all", planned=0),
            operations={"session": operation(12_345, 3), "enroll": operation(1200, 0, 0.0)},
            macs={"session": 40, "idle": 1150, "off": 0, "new": 10},
            connections=44,
            pushes_waiting=2,
        )
    )

    assert lines[0] == "0:42  1 of 3 phases done"
    assert row(lines, "phase") == ["phase", "done/planned", "open", "failed", "late", "dropped"]
    joining, commands = row(lines, "joining "), row(lines, "commands")
    assert [joining[1], *joining[-5:]] == ["done", "1,200/1,200", "0", "3", "0", "0"]
    assert [commands[1], *commands[-5:]] == ["running", "600/100,000", "40", "0", "17", "4"]
    assert row(lines, "reset all") == ["reset", "all", "waiting"]
    assert row(lines, "session") == ["session", "12,345", "3", "50.0", "12.3", "98.7"]
    assert lines.index(next(line for line in lines if line.startswith("enroll"))) < lines.index(
        next(line for line in lines if line.startswith("session"))
    )
    assert lines[-3:] == [
        "Macs: 10 new, 1,150 idle, 40 in session",
        "Connections: 44; pushes waiting: 2",
        "Generator: lag 2.3 ms, CPU 41 %",
    ]


def test_the_screen_of_a_paused_run_says_so():
    look = phase("look", started_s=0.0)
    assert shown(view(look, paused=True))[0] == "0:42  paused  0 of 1 phase done"
    assert shown(view(look))[0] == "0:42  0 of 1 phase done"


def test_screen_is_drawn_before_the_first_phase():
    lines = shown(LiveView(0.0))
    assert lines[0] == "0:00  nothing has started"
    assert lines[-3:] == ["Macs: -", "Connections: 0; pushes waiting: 0", "Generator: lag 0.0 ms, CPU 0 %"]


@pytest.mark.parametrize(("lag_ms", "cpu"), [(50.1, 0.0), (812.0, 0.97), (0.0, 0.91)])
def test_overloaded_generator_is_highlighted(lag_ms, cpu):
    console = terminal()
    console.print(Screen(view(lag_ms=lag_ms, cpu=cpu)))
    last = written(console).splitlines()[-1]
    assert "overloaded, latencies include its delays" in last
    assert "41m" in last  # on red


@pytest.mark.parametrize(("lag_ms", "cpu"), [(50.0, 0.9), (0.0, 0.0)])
def test_generator_that_keeps_up_is_not_highlighted(lag_ms, cpu):
    assert "overloaded" not in "".join(shown(view(lag_ms=lag_ms, cpu=cpu)))


def test_lag_with_the_embedded_lab_is_no_warning():
    assert shown(view(lag_ms=812.0, cpu=0.06, embedded_lab=True))[-1] == "Generator: lag 812 ms, CPU 6 %"


def test_phase_without_operations_has_no_bar():
    lines = shown(view(phase("settle", started_s=1.0, planned=0)))
    assert row(lines, "settle") == ["settle", "running", "-", "0", "0", "0", "0"]


def test_wide_terminal_shows_full_names_and_times():
    name = "a command for every Mac of the fleet, twice"
    shot = view(phase(name, started_s=10.0, started=3, done=1))
    assert name not in "".join(shown(shot, 80))
    wide = shown(shot, 140)
    assert row(wide, "phase")[-1] == "time"
    assert row(wide, name)[-1] == "0:32"


def test_running_phases_and_their_neighbours_are_shown():
    lines = shown(view(*many_phases(100, 41, 60), operations=ALL))
    names = [line.split("  ")[0].strip() for line in lines if line.startswith("phase ")][1:]
    assert names == ["phase 41", "phase 59", "phase 60", "phase 61"]
    assert "and 96 more phases: 41 done, 55 waiting" in lines


def test_least_busy_operations_are_omitted_without_room():
    operations = {name: operation(rate=float(number)) for number, name in enumerate(OPERATIONS)}
    lines = shown(view(*many_phases(100, 5), operations=operations), height=16)
    assert any(line.startswith(OPERATIONS[-1]) for line in lines)
    assert not any(line.startswith(OPERATIONS[0]) for line in lines)
    assert any(line.startswith("and ") and line.endswith("operations less busy") for line in lines)


@given(
    st.integers(60, 250),
    st.integers(FIXED_LINES + 1, 60),
    st.integers(0, 120),
    st.sets(st.integers(0, 119), max_size=20),
    st.integers(0, len(OPERATIONS)),
    st.text(max_size=40),
)
def test_the_screen_never_exceeds_the_terminal(width, height, phases, going, operations, name):
    shot = view(
        *many_phases(phases, *going),
        phase(name, started_s=1.0, planned=10**9, started=10**9, done=10**8, failed=10**8, late=10**7, dropped=10**7),
        operations=dict.fromkeys([*OPERATIONS[:operations], name], operation(10**9, 10**8, 1e6)),
        macs={"new": 10**6, "idle": 10**6, "session": 10**6, "booting": 10**6, "off": 10**6, name: 10**6},
        lag_ms=1e6,
        cpu=1.0,
    )
    for encoding in ("utf-8", "ascii"):
        lines = shown(shot, width, height, encoding)
        assert len(lines) < height
        assert max(map(cell_len, lines)) <= width


@given(st.integers(-5, 60), st.integers(0, 120), st.integers(0, 20))
def test_all_screen_lines_are_used(room, phases, operations):
    for_phases, for_operations = shares(room, phases, operations)
    assert min(for_phases, for_operations) >= 0
    assert for_phases + for_operations == max(0, min(room, phases + operations))
    if operations and room >= 4:
        assert for_operations


@given(st.integers(0, 60), st.integers(1, 120), st.sets(st.integers(0, 119)))
def test_nearest_phases_are_selected(room, count, going):
    phases = many_phases(count, *(each for each in going if each < count))
    shown = nearest(phases, room)
    assert shown == sorted(set(shown))
    assert len(shown) == min(room, count)
    at_work = [position for position, each in enumerate(phases) if status_of(each) == "running"]
    assert len(at_work) == len(running(phases))
    assert set(shown) <= set(at_work) or set(at_work) <= set(shown)


def test_between_phases_the_next_one_is_in_the_middle():
    phases = tuple(phase(f"{n}", started_s=0.0, finished_s=1.0) if n < 5 else phase(f"{n}") for n in range(10))
    assert nearest(phases, 3) == [4, 5, 6]


def test_after_all_phases_the_last_ones_are_shown():
    assert nearest([phase(f"{n}", started_s=0.0, finished_s=1.0) for n in range(10)], 3) == [7, 8, 9]


def test_names_are_neither_markup_nor_terminal_commands():
    nasty = f"[bold]{documents.HOSTILE}"
    console = terminal(200)
    console.print(Screen(view(phase(nasty, started_s=0.0), operations={nasty: operation()}, macs={nasty: 1})))
    lines = console.export_text().splitlines()
    assert any(line.startswith("[bold]</script>") for line in lines)
    assert all(line.isprintable() for line in lines)


# The display


def test_screen_is_redrawn_in_place_and_only_phases_remain():
    console, clock = terminal(), Seconds()
    threads = threading.active_count()
    display = make_display(console, quiet=False, clock=clock)
    for second in range(5):
        display.look(view(phase("joining", started_s=0.0, done=20 * second), elapsed=float(second), operations=ALL))
        clock.now += 1.0
    [line] = [line for line in screen(console) if line.startswith("joining ")]
    assert "80/100" in line
    assert any(line.startswith("Generator: ") for line in screen(console))
    assert threading.active_count() == threads

    display.look(view(phase("joining", started_s=0.0, finished_s=5.0, done=100), elapsed=5.0, operations=ALL))
    display.close()
    display.close()
    title, header, joining = [line for line in screen(console) if line]
    assert title == "0:05  1 of 1 phase done"
    assert header.startswith("phase")
    assert "100/100" in joining
    assert written(console).endswith("\x1b[?25h")  # the cursor is back


def test_screen_is_drawn_at_most_four_times_per_second():
    console, clock = terminal(), Seconds()
    display = make_display(console, quiet=False, clock=clock)
    display.look(view(elapsed=1.0))
    drawn = written(console)
    display.look(view(elapsed=2.0))
    assert written(console) == drawn
    clock.now += 0.25
    display.look(view(elapsed=3.0))
    assert "0:03" in written(console)[len(drawn) :]
    display.look(view(elapsed=4.0))
    display.close()
    assert screen(console)[0] == "0:04  nothing has started"


def test_unstarted_run_leaves_no_screen():
    console = terminal()
    make_display(console, quiet=False, clock=Seconds()).close()
    assert written(console) == ""


def test_last_screen_of_many_phases_fits():
    console = terminal()
    console.print(LastScreen(view(*many_phases(100, 50))))
    lines = console.export_text().splitlines()
    assert len(lines) < 24
    assert lines[-2:] == ["and 81 more phases: 41 done, 40 waiting", ""]


@pytest.mark.parametrize("make_console", [terminal, pipe])
@pytest.mark.parametrize("is_open", [False, True])
def test_note_is_one_line_without_markup(make_console, is_open):
    console = make_console()
    display = make_display(console, quiet=False, clock=Seconds())
    if is_open:
        display.look(view(phase("joining", started_s=0.0)))
    address = "https://[::1]:8443/" + "a" * 120 + "[b]\x1b[2J"
    display.note(address)
    display.close()
    assert address.replace("\x1b", "\\x1b") in screen(console)


def test_notes_are_printed_above_the_screen():
    console = terminal()
    display = make_display(console, quiet=False, clock=Seconds())
    display.look(view(phase("joining", started_s=0.0), operations=ALL))
    display.note("The lab listens.")
    assert screen(console)[:2] == ["The lab listens.", "0:42  0 of 1 phase done"]
    display.close()


def test_redirected_streams_are_unchanged():
    streams = sys.stdout, sys.stderr  # neither is a terminal under pytest
    display = make_display(terminal(), quiet=False, clock=Seconds())
    display.look(view())
    assert (sys.stdout, sys.stderr) == streams
    display.close()


@pytest.mark.parametrize("make_console", [terminal, pipe])
def test_quiet_prints_nothing(make_console: type[Console]):
    console = make_console()
    display = make_display(console, quiet=True, clock=Seconds())
    display.note("The lab listens on https://[::1]:8443/.")
    display.look(view(phase("joining", started_s=0.0, finished_s=1.0)))
    display.close()
    assert written(console) == ""
