"""``lom-agent conform`` and ``lom-agent lab --defect`` as commands."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from command import COMMAND, lom_agent, lom_agent_here
from conform_runs import header
from forked import Forked

from agent import __version__
from agent.conform.requirements import requirements
from agent.conform.trace.records import ExchangeRecord, ProbeRecord, Trace, write_trace
from agent.lab.defects import all_defects


def status(*arguments: str) -> tuple[int, str]:
    done: subprocess.CompletedProcess[bytes] = lom_agent_here("conform", *arguments)
    return done.returncode, done.stdout.decode() + done.stderr.decode()


def test_a_run_writes_every_file_and_its_trace_is_judged_again(tmp_path: Path) -> None:
    names = {each: str(tmp_path / f"r.{each}") for each in ("trace", "json", "junit", "html", "markdown")}
    files = [part for name, path in names.items() for part in (f"--{name}", path)]
    done = lom_agent("conform", "--only", "MDM-SESSION", "--seed", "once", *files)
    assert done.returncode == 0, done.stderr
    assert b"11 requirements: 11 pass, 0 fail, 0 warn, 0 not applicable, 0 not tested." in done.stdout
    report = json.loads(Path(names["json"]).read_bytes())
    assert (report["version"], report["seed"], report["exit_status"]) == (1, "once", 0)
    assert report["server"]["software"] == f"lom-agent/{__version__} lab"
    suite = ElementTree.parse(names["junit"]).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("11", "0")
    page = Path(names["html"]).read_text()
    assert "<details>" in page
    assert "http://" not in page
    assert "<script" not in page
    assert "| 11 | 0 | 0 | 0 | 0 |" in Path(names["markdown"]).read_text()
    code, said = status("--from-trace", names["trace"], "--json", names["trace"])
    assert (code, "a file of its own for --json" in said) == (2, True)
    again = tmp_path / "again.json"
    assert status("--from-trace", names["trace"], "--json", str(again))[0] == 0
    assert json.loads(again.read_bytes()) == report
    code, said = status("--from-trace", names["trace"], "--software", "Vendor MDM 5.1")
    assert (code, "Server software: Vendor MDM 5.1." in said) == (0, True)

    # A waiver for what passes fails; one with a past day counts no more.
    waivers = tmp_path / "waivers.toml"
    waivers.write_text('[[waiver]]\nid = "MDM-SESSION-01"\nreason = "known"\n')
    code, said = status("--from-trace", names["trace"], "--waivers", str(waivers))
    assert code == 4
    assert "MDM-SESSION-01 passed, but a waiver expects it to fail." in said


def test_files_that_cannot_be_written_are_found_before_the_run(tmp_path: Path) -> None:
    trace = str(tmp_path / "trace.jsonl")
    taken, folder = str(tmp_path / "taken"), str(tmp_path)
    Path(taken).write_text("kept")
    for files, said in (
        (("--json", f"{tmp_path}/one", "--html", f"{tmp_path}/one"), "a file of its own for --html"),
        (("--trace", trace, "--junit", folder), "is a directory"),
        (("--trace", trace, "--markdown", f"{taken}/below"), "cannot be made"),
    ):
        code, text = status("--only", "MDM-SESSION-01", *files)
        assert (code, said in text, "1/1" in text) == (2, True, False), text
    assert not Path(trace).exists()
    assert Path(taken).read_text() == "kept"


def test_a_file_that_cannot_be_written_takes_nothing_else_with_it(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = lom_agent("conform", "--only", "MDM-SESSION-01", "--trace", "/dev/full", "--html", str(page))
    assert done.returncode == 2
    assert b"/dev/full cannot be written" in done.stderr
    assert b"1 requirement: 1 pass" in done.stdout
    assert "<details>" in page.read_text()


def test_a_report_on_standard_output_is_before_the_text_also_in_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    into_file = f"import os\nos.dup2(os.open({str(out)!r}, os.O_WRONLY | os.O_CREAT), 1)\n"
    line = ["conform", "--only", "MDM-SESSION-01", "--quiet", "--markdown", "/dev/stdout"]
    assert lom_agent(*line, patch=into_file).returncode == 0
    text = out.read_text()
    assert text.startswith("## MDM conformance\n")
    assert "1 requirement: 1 pass" in text


@contextmanager
def lab(folder: Path, *arguments: str) -> Iterator[list[str]]:
    """A lab as another process; the options of `lom-agent conform` for it."""
    with Forked("lab", "--out", str(folder), *arguments) as running:
        printed = {}
        for text in map(bytes.decode, running.stdout):
            key, _, value = text.partition(":")
            printed[key] = value.strip()
            if text.startswith("Ctrl-C"):
                break
        yield ["--enroll", printed["Enrollment profile"], "--ca", str(folder / "ca.pem")]


def test_a_defect_of_another_server_is_1_and_with_its_waiver_4(tmp_path: Path) -> None:
    folder, waivers = tmp_path / "lab", tmp_path / "waivers.toml"
    with lab(folder, "--defect", "session-error-refused") as options:
        url = options[1].removesuffix("/enroll")
        api = ["--server", "lab", "--set", f"server.lab.url={url}", "--set", f"server.lab.token_file={folder}/token"]
        line = ["conform", "--only", "MDM-SESSION-07", *options[2:], *api]
        failed = lom_agent(*line)
        assert failed.returncode == 1, failed.stderr
        assert b"expected: status 200 for a result with Error" in failed.stdout
        assert b"seen:     status 500" in failed.stdout
        written = lom_agent(*line, "--seed", "second", "--write-waivers")
        assert written.returncode == 1
        waivers.write_bytes(written.stdout)
        waived = lom_agent(*line, "--seed", "third", "--waivers", str(waivers))
        assert waived.returncode == 4, waived.stderr
        unseen = lom_agent("conform", "--only", "MDM-PUSH-01", *line[3:], "--seed", "fourth")
        assert unseen.returncode == 2, unseen.stderr  # nothing was judged
        assert b"No requirement was judged" in unseen.stdout
        assert b"NOT TESTED     MDM-PUSH-01" in unseen.stdout
        assert b"there is no gateway for them. Give --apns." in unseen.stdout


def test_the_operator_is_told_what_to_do_and_ctrl_c_gives_the_verdicts_so_far(tmp_path: Path) -> None:
    trace = str(tmp_path / "trace.jsonl")
    with lab(tmp_path) as options:
        line = [COMMAND, "conform", "--server", "manual", "--only", "MDM-SESSION", "--trace", trace, *options]
        with subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            assert process.stdout is not None
            _read_until(process.stderr, "Queue ProfileList for the Mac")
            _read_until(process.stderr, "Press Enter when it is done.")
            process.stdin.write("\n")
            process.stdin.flush()
            _read_until(process.stderr, "Queue DeviceInformation for the Mac")
            process.send_signal(signal.SIGINT)
            said = process.stdout.read()
        assert process.returncode == 130
    again, said_again = status("--from-trace", trace)
    assert (again, "The run was stopped" in said_again) == (130, True)
    assert "The run was stopped" in said
    assert "1 fail, 0 warn, 0 not applicable, 10 not tested." in said  # nobody queued ProfileList


def test_the_operator_is_asked_for_a_renewal_and_nothing_is_judged_without_one(tmp_path: Path) -> None:
    with lab(tmp_path) as options:
        done = lom_agent("conform", "--server", "manual", "--only", "MDM-RENEW", *options)  # its standard input ends
        assert done.returncode == 2, done.stderr
    assert b"Have the server renew the MDM identity of the Mac" in done.stderr
    assert b"0 fail, 0 warn, 0 not applicable, 5 not tested." in done.stdout


def _read_until(stream: IO[str], text: str) -> None:
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"not printed: {text}")


def test_a_server_that_cannot_be_reached_is_3(tmp_path: Path) -> None:
    done = lom_agent("conform", "--enroll", "https://127.0.0.1:1/enroll", "--only", "MDM-SESSION-01")
    assert done.returncode == 3, done.stderr
    assert b"could not be reached" in done.stderr


def test_what_the_server_does_not_have_is_not_applicable(tmp_path: Path) -> None:
    capabilities, trace = tmp_path / "capabilities.toml", tmp_path / "trace.jsonl"
    capabilities.write_text("[capabilities]\nbootstraptoken = false\n")
    with lab(tmp_path / "lab", "--defect", "enroll-no-bootstrap") as options:
        line = ["conform", "--only", "MDM-ENROLL-10", *options, "--trace", str(trace)]
        lacking = lom_agent(*line)
        assert lacking.returncode == 0, lacking.stderr
        assert b"0 pass, 0 fail, 1 warn, 0 not applicable, 0 not tested." in lacking.stdout
    code, said = status("--from-trace", str(trace), "--capabilities", str(capabilities))
    assert code == 2  # nothing that applies
    assert "0 pass, 0 fail, 0 warn, 1 not applicable, 0 not tested." in said
    capabilities.write_text("[capabilities]\nbootstrap = false\n")
    code, said = status("--from-trace", str(trace), "--capabilities", str(capabilities))
    assert code == 2
    assert "bootstraptoken" in said


def test_a_trace_is_judged_as_far_as_it_goes_and_what_it_was_not_asked_is_said(tmp_path: Path) -> None:
    exchange = ExchangeRecord(number=1, probe="session-quiet", at=0.0, seconds=0.1, udid="A", kind="report", status=500)
    ended = ProbeRecord(number=2, probe="session-quiet", at=0.0, outcome="done")
    file, taken = tmp_path / "trace.jsonl", tmp_path / "taken"
    write_trace(file, Trace(header(), [exchange, ended]))
    line = ("--from-trace", str(file))
    code, said = status(*line, "--only", "MDM-SESSION-01")
    assert (code, "1 fail" in said) == (1, True)
    # A file that cannot be written does not hide the failure.
    code, said = status(*line, "--only", "MDM-SESSION-01", "--json", "/dev/full")
    assert (code, "/dev/full cannot be written" in said) == (1, True)
    # Nothing of what is asked for is in the trace.
    code, said = status(*line, "--only", "MDM-RENEW", "--only", "LOM")
    assert (code, "No requirement was judged" in said) == (2, True)
    # The end is cut off: it cannot be known what is missing.
    taken.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    code, said = status("--from-trace", str(taken), "--only", "MDM-SESSION-01")
    assert (code, "The trace has no end" in said) == (130, True)
    # The options of a run are of no use.
    code, said = status(*line, "--enroll", "https://mdm.example", "--seed", "1", "--set", "a=b", "--insecure")
    assert (code, "found --set, --enroll, --insecure, --seed." in said) == (2, True), said
    waivers = tmp_path / "waivers.toml"
    waivers.write_text('[[waiver]]\nid = "MDM-SESSION-01"\nreason = "known"\nuntil = 2026-09-21\n')
    code, said = status(*line, "--only", "MDM-SESSION-01", "--waivers", str(waivers))
    assert (code, "in force on 2026-09-21, the day of the trace" in said) == (4, True)


def test_wrong_usage_is_2(tmp_path: Path) -> None:
    assert status("--profile", "other")[0] == 2
    assert status("--only", "NONE")[0] == 2
    assert status("--from-trace", str(tmp_path / "none"))[0] == 2


def test_the_list_has_every_requirement() -> None:
    code, said = status("--list", "--profile", "all")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()] == [each.id for each in requirements()]


def test_the_lab_lists_its_defects_and_refuses_others() -> None:
    done = lom_agent_here("lab", "--defect", "list")
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == [each.name for each in all_defects()]
    refused = lom_agent_here("lab", "--defect", "none-of-them")
    assert (refused.returncode, b"Expected the name of a defect" in refused.stderr) == (2, True)
