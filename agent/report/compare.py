"""The differences between runs: slower, faster, more errors. Pure.

Every run is compared with the first one. The result goes to the comparison page and to the terminal.

`agent.report.changes` judges one number; here the judgements become sentences and a headline.

A run is comparable with the first if both finished, did something, had a load generator that kept up and refused no
push, and put the same load on the server, with the same pauses and changed rates. Otherwise the differences are shown,
and none is called worse or better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from agent.errors import MisuseError
from agent.report.altered import same_changes
from agent.report.changes import COUNTED, THRESHOLD, Change, Judgement, Summary, changes
from agent.report.document import Document
from agent.report.flattened import flattened
from agent.report.numbers import NOTHING, count, counted, figures, milliseconds, were
from agent.report.outcome import because_of
from agent.report.percentiles import PERCENTILES
from agent.report.pushes import own_failures
from agent.report.verdict import (
    IN_THE_LAB,
    Level,
    Statement,
    operations_cut_short,
    operations_done,
    overloaded,
    reasons_told,
)

# Settings that may differ between comparable runs: the name, the limits, the server, the seed.
NOT_THE_LOAD = ("scenario.name", "scenario.limits", "scenario.server.", "scenario.fleet.seed")
PLANNED = "change"  # the key of a scenario whose changes are compared as they were made
_CHANGES = (("pause", "pause"), ("rate", "changed rate"))
MOST_NAMED = 4  # settings in one sentence

LATENCIES = tuple(name for name, _ in PERCENTILES)
NOUNS = {"errors": "errors", "late": "late starts", "dropped": "dropped operations"}
WORDS = {"p99_9": "p99.9", "rate_per_s": "rate"}


class Row(msgspec.Struct, frozen=True):
    """One operation or stage in all runs."""

    name: str
    is_stage: bool
    runs: tuple[Summary | None, ...]
    """None for a run without it."""
    changes: tuple[Mapping[str, Change], ...]
    """By run, from the second one on, and by ``what``."""


class Setting(msgspec.Struct, frozen=True):
    """A setting that differs between the runs."""

    name: str
    values: tuple[str, ...]
    """By run."""


class Against(msgspec.Struct, frozen=True):
    """One run compared with the first. Each text is a sentence; the largest change is first."""

    name: str
    worse: tuple[str, ...]
    better: tuple[str, ...]
    late: tuple[str, ...]
    """Changes of late starts, which the load generator causes."""
    missing: tuple[str, ...]
    """Operations that only one of the two has."""
    reasons: tuple[str, ...]
    """Why the two are not comparable; empty if they are."""

    @property
    def comparable(self) -> bool:
        """Whether a difference between the two is a statement about the server."""
        return not self.reasons

    @property
    def headline(self) -> str:
        """The result in a few words."""
        if not self.comparable:
            return f"run {self.name} is not comparable with run A: {'; '.join(self.reasons)}"
        reported = (("worse", self.worse), ("better", self.better))
        parts = [f"{word} in {counted(len(differences), 'figure')}" for word, differences in reported if differences]
        return f"run {self.name} is comparable with run A: {' and '.join(parts) or 'nothing changed'}"

    def statements(self) -> Iterator[Statement]:
        """The result in full."""
        if not self.comparable:
            differences = (*self.worse, *self.better)
            if differences:
                text = f"Run {self.name} differs from run A, but the two are not comparable:"
                yield Statement(Level.NOTE, text, differences)
        else:
            text = f"Runs A and {self.name} finished under the same load, and their load generators kept up."
            yield Statement(Level.GOOD, text)
            if not self.worse and not self.better:
                text = f"Between run A and run {self.name} nothing changed by more than the thresholds."
                yield Statement(Level.GOOD, text)
            if self.worse:
                yield Statement(Level.BAD, f"Worse in run {self.name} than in run A:", self.worse)
            if self.better:
                yield Statement(Level.GOOD, f"Better in run {self.name} than in run A:", self.better)
        if self.late:
            text = f"Between run A and run {self.name} the load generator's own delay changed:"
            yield Statement(Level.NOTE, text, self.late)
        if self.missing:
            yield Statement(Level.NOTE, f"Only one of runs A and {self.name} has {', '.join(self.missing)}.")


class Comparison(msgspec.Struct, frozen=True):
    """All runs compared with the first."""

    threshold: float
    rows: tuple[Row, ...]
    settings: tuple[Setting, ...]
    cautions: tuple[Statement, ...]
    """Statements to read before the changes."""
    against: tuple[Against, ...]
    """By run, from the second one on."""

    @property
    def headline(self) -> str:
        """The result in one line."""
        text = "; ".join(each.headline for each in self.against)
        return text[0].upper() + text[1:]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All statements, cautions first."""
        return (*self.cautions, *(message for each in self.against for message in each.statements()))

    @property
    def regressed(self) -> bool:
        """Whether a run is worse than the first or not comparable with it: not judged is not passed."""
        return any(each.worse or not each.comparable for each in self.against)

    @property
    def level(self) -> Level:
        """The worst level of all statements."""
        return max((each.level for each in self.statements), key=list(Level).index)


def compare(documents: Sequence[Document], threshold: float = THRESHOLD) -> Comparison:
    """Compare every run with the first. ``threshold`` is the smallest change of a latency or a rate, as a share.

    Raises MisuseError for fewer than two documents.
    """
    if len(documents) < 2:
        raise MisuseError(f"Expected at least two runs to compare, found {len(documents)}.")
    rows = tuple(_rows(documents, threshold))
    return Comparison(
        threshold,
        rows,
        tuple(_settings(documents)),
        tuple(_cautions(documents)),
        tuple(_against(rows, index, documents) for index in range(1, len(documents))),
    )


def letter(index: int) -> str:
    """The name of a run: A, B, C."""
    return chr(ord("A") + index)


def _rows(documents: Sequence[Document], threshold: float) -> Iterator[Row]:
    for is_stage in (False, True):
        kinds: list[Mapping[str, Summary]] = [
            document.stages if is_stage else document.operations for document in documents
        ]
        for name in dict.fromkeys(name for kind in kinds for name in kind):
            runs = tuple(kind.get(name) for kind in kinds)
            yield Row(name, is_stage, runs, tuple(changes(runs[0], run, threshold) for run in runs[1:]))


def _settings(documents: Sequence[Document]) -> Iterator[Setting]:
    reported = [_told(document) for document in documents]
    for name in dict.fromkeys(name for each in reported for name in each):
        values = tuple(each.get(name, NOTHING) for each in reported)
        if len(set(values)) > 1:
            yield Setting(name, values)


def _told(document: Document) -> dict[str, str]:
    """The settings of a run by name."""
    scenario = {key: value for key, value in (document.scenario or {}).items() if key != PLANNED}
    return {
        "version": document.version,
        "devices": count(document.devices),
        "seed": str(document.seed),
        "workers": count(document.workers),
        **{f"host.{name}": value for name, value in flattened(document.host or {})},
        **{f"scenario.{name}": value for name, value in flattened(scenario)},
    }


def _cautions(documents: Sequence[Document]) -> Iterator[Statement]:
    for index, document in enumerate(documents):
        run = letter(index)
        if not document.complete:
            yield Statement(Level.WARNING, f"Run {run} did not finish{because_of(document)}.")
        if document.changed is not None:
            yield Statement(Level.NOTE, f"Run {run}: {document.changed}")
        crowded = overloaded(document)
        generator = document.generator
        if crowded is not None:
            yield Statement(Level.WARNING, f"In run {run} {crowded}.", tuple(generator.reasons))
        if generator.embedded_lab:
            reasons = () if generator.trustworthy else tuple(generator.reasons)
            yield Statement(Level.NOTE, f"Run {run}: {IN_THE_LAB}", reasons)
        if cut_short := operations_cut_short(document):
            number = f"{counted(cut_short, 'operation')} {were(cut_short)}"
            text = f"In run {run} {number} cut short: their latencies are missing."
            yield Statement(Level.WARNING, text, reasons_told(document.cut_short))
    names = [setting.name for setting in _settings(documents) if not setting.name.startswith("scenario.name")]
    if names:
        yield Statement(Level.NOTE, f"The runs differ in {_some(names, 6)}.")


def _some(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _against(rows: Sequence[Row], index: int, documents: Sequence[Document]) -> Against:
    # Stages are parts of operations, whose changes are listed.
    operations = [row for row in rows if not row.is_stage]
    return Against(
        letter(index),
        _told_of(operations, index, Judgement.WORSE),
        _told_of(operations, index, Judgement.BETTER),
        tuple(_late(operations, index)),
        tuple(row.name for row in operations if (row.runs[0] is None) != (row.runs[index] is None)),
        tuple(_reasons(documents[0], documents[index], letter(index))),
    )


def _reasons(first: Document, other: Document, name: str) -> Iterator[str]:
    """Why two runs are not comparable."""
    for document, run in ((first, "A"), (other, name)):
        if not operations_done(document):
            yield f"in run {run} no operation ended"
        if not document.complete or document.signal is not None:
            yield f"run {run} did not finish"
        if own_failures(document.errors):
            yield f"in run {run} operations failed because of lom-agent's own push gateway"
        generator = document.generator
        if not generator.trustworthy and operations_done(document):
            yield f"in run {run} {overloaded(document) or 'the load generator and its embedded lab were overloaded'}"
    if not same_changes(first.changes, other.changes):
        yield f"the runs were not changed alike ({_changed(first, 'A')}, {_changed(other, name)})"
    load = [setting.name for setting in _settings([first, other]) if _is_load(setting.name)]
    if load:
        yield f"the load on the server differs ({_some(load, MOST_NAMED)})"


def _changed(document: Document, run: str) -> str:
    """How a run was changed while it ran, in a few words."""
    changes = document.changes
    told = [(sum(change.what == what for change in changes), words) for what, words in _CHANGES]
    return f"{run}: {' and '.join(counted(number, words) for number, words in told if number) or 'no change'}"


def _is_load(setting: str) -> bool:
    """Whether a setting determines the load on the server."""
    return setting == "devices" or (setting.startswith("scenario.") and not setting.startswith(NOT_THE_LOAD))


def _late(rows: Sequence[Row], index: int) -> Iterator[str]:
    for row in rows:
        change = row.changes[index - 1].get("late")
        if change is not None and change.judgement in (Judgement.WORSE, Judgement.BETTER):
            yield from (text for _, text in _sentences(row.name, [change]))


def _told_of(rows: Sequence[Row], index: int, judgement: Judgement) -> tuple[str, ...]:
    reported: list[tuple[float, str]] = []
    for row in rows:
        found = [
            each
            for each in row.changes[index - 1].values()
            if each.judgement is judgement and each.what != "late"  # the load generator causes late starts
        ]
        reported += _sentences(row.name, found)
    return tuple(text for _, text in sorted(reported, key=lambda each: -each[0]))


def _sentences(name: str, found: Sequence[Change]) -> Iterator[tuple[float, str]]:
    """One sentence for the latencies and one for each other number, with the size of the change to sort by."""
    latencies = [each for each in found if each.what in LATENCIES]
    if latencies:
        verb = "slower" if latencies[0].judgement is Judgement.WORSE else "faster"
        # p50 and p99 suffice; the others are named only if neither of these changed.
        message = [each for each in latencies if each.what in ("p50", "p99")] or latencies
        yield max(_size(each) for each in latencies), f"{name} is {verb}: {', '.join(map(_latency_text, message))}."
    for each in found:
        if each.what == "rate_per_s":
            yield _size(each), f"{name}: {figures(each.before)} → {figures(each.after)} per second ({each.text})."
        elif each.what in COUNTED:
            more = "more" if each.judgement is Judgement.WORSE else "fewer"
            was, now = int(each.before or 0), int(each.after or 0)
            yield _size(each), f"{name} has {more} {NOUNS[each.what]}: {was:,} → {now:,} ({each.text})."


def _latency_text(each: Change) -> str:
    return f"{WORDS.get(each.what, each.what)} {milliseconds(each.before)} → {milliseconds(each.after)} ({each.text})"


def _size(each: Change) -> float:
    """The size of a change, the same for a factor of 2 and of 1/2; a change from 0 is the largest."""
    if not each.ratio:
        return 1e9
    return max(each.ratio, 1 / each.ratio)
