"""``lom-agent report`` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import documents
import pytest
from command import lom_agent, lom_agent_here

from agent.report.html import MOST_RUNS
from agent.report.results import read_results, write_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of four runs: good, failed, empty, and slower: failed, but by a load generator that kept up."""
    folder = tmp_path_factory.mktemp("runs")
    for make in (documents.good, documents.failed, documents.empty):
        write_results(folder / make.__name__, documents.typed(make()))
    slower = documents.failed() | {"generator": documents.good()["generator"]}
    write_results(folder / "slower", documents.typed(slower))
    return folder


def test_report_is_written_beside_the_results(runs: Path) -> None:
    done = lom_agent("report", str(runs / "failed"))
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "10 operations failed, 3 of 4 limits failed, the load generator was overloaded"
    assert lines[-1] == f"Report: {runs / 'failed' / 'report.html'}"
    assert "3 of 4 limits failed" in (runs / "failed" / "report.html").read_text(encoding="utf-8")


def test_comparison_is_written_to_the_given_file(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "both.html"
    done = lom_agent_here("report", str(runs / "good"), str(runs / "failed" / "results.json"), "--out", str(target))
    assert done.returncode == 0
    assert done.stdout.decode().startswith(
        "Run B is not comparable with run A: in run B the load generator was overloaded"
    )
    assert "Comparison of 2 runs" in target.read_text(encoding="utf-8")


REGRESSIONS: list[tuple[tuple[str, ...], str | None, int]] = [
    (("good", "good"), "regression", 0),
    (("good", "slower"), "regression", 1),
    (("good", "good", "good"), "regression:5%", 0),
    (("good", "slower"), None, 0),
    (("good", "failed"), "regression", 1),  # not comparable: that is no pass
]


@pytest.mark.parametrize(("names", "asked", "status"), REGRESSIONS)
def test_fail_on_regression_sets_the_exit_status(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    asked: str | None,
    status: int,
) -> None:
    # The page takes longer than the judgement, which does not look at it.
    monkeypatch.setattr("agent.cli.results.reporting.write_report", lambda target, *_: target)
    options = [] if asked is None else ["--fail-on", asked]
    done = lom_agent_here("report", *(str(runs / name) for name in names), "--out", str(tmp_path / "x.html"), *options)
    assert done.returncode == status, done.stdout + done.stderr


def test_a_regression_is_the_exit_status_of_the_process(runs: Path, tmp_path: Path) -> None:
    names = [str(runs / "good"), str(runs / "slower")]
    done = lom_agent("report", *names, "--out", str(tmp_path / "both.html"), "--fail-on", "regression")
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["good", "--fail-on", "regression"], "--fail-on compares runs"),
        (["good", "failed", "--merge", "both", "--fail-on", "regression"], "--fail-on compares runs"),
        (["good", "failed", "--fail-on", "regression:0%"], "expected regression"),
        (["good", "failed", "--fail-on", "regression:5"], "expected regression"),
        (["good", "failed", "--fail-on", "progress"], "expected regression"),
    ],
)
def test_invalid_fail_on_is_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(runs)
    done = lom_agent_here("report", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.decode().split())


def test_merge_option_merges_runs(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "both"
    done = lom_agent_here("report", str(runs / "good"), str(runs / "failed"), "--merge", str(target))
    assert done.returncode == 0, done.stderr
    assert (target / "report.html").exists()
    parts, whole = [read_results(runs / name) for name in ("good", "failed")], read_results(target)
    for name, operation in whole.operations.items():
        assert operation.count == sum(part.operations[name].count for part in parts if name in part.operations)
    assert whole.devices == sum(part.devices for part in parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "Expected results"),
        ('{"schema": "lom-agent.results/1"}', "lom-agent.results/1"),
        ('{"schema": "lom-agent.results/2"}', "Expected results"),
    ],
)
def test_file_that_is_not_results_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    done = lom_agent_here("report", str(path))
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()
    assert not (tmp_path / "report.html").exists()


def test_too_many_runs_are_refused(runs: Path) -> None:
    done = lom_agent_here("report", *[str(runs / "empty")] * (MOST_RUNS + 1))
    assert done.returncode == 2
    assert f"at most {MOST_RUNS} runs" in done.stderr.decode()


def test_peer_text_cannot_control_the_terminal(tmp_path: Path) -> None:
    write_results(tmp_path, documents.typed(documents.hostile()))
    done = lom_agent("report", str(tmp_path))
    assert done.returncode == 0
    assert b"\x1b[31m" not in done.stdout
    assert rb"\x1b[31m" in done.stdout
