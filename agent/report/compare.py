"""What changed from one run to another: slower, faster, more errors; pure.

Documents come from `agent.report.results`; what is found here goes to the comparison
page and to the terminal. Every run is held against the first one.

A change is called one only where it is larger than a threshold and where there is enough to go by:

- a latency: more than the threshold (10 % unless the operator says) and more than 0.1 ms; and by the number of
  latencies the percentile of the one run cannot be that of the other (their 95 % intervals do not meet), with ten
  latencies or more beyond it in both;
- a rate: more than the threshold, and more than twice the deviation of two counts of that size;
- errors, late and dropped ones: more than twice the deviation of such counts, scaled to as many operations.

That is what chance does within a run. Two runs of one server differ by more: repeat both before believing a little.

A run can be compared with the first where both came to their end, did something, were measured by a load generator that
kept up, and put the same load on the server. Where one of these is not so, the differences are told as what they are,
and none is called worse or better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.errors import MisuseError
from agent.report.document import Document, Operation, Stage
from agent.report.flattened import flattened
from agent.report.numbers import NOTHING, change, count, counted, figures, milliseconds, share
from agent.report.outcome import because_of
from agent.report.percentiles import DEVIATIONS, PERCENTILES, Distribution, enough
from agent.report.verdict import IN_THE_LAB, Level, Statement, operations_done, overloaded

THRESHOLD = 0.10  # of a latency and of a rate
LATENCY_LEAST_MS = 0.1
# What of a scenario says how it is named, judged, and which server it is for: two of these are what one compares.
NOT_THE_LOAD = ("scenario.name", "scenario.limits", "scenario.server.", "scenario.fleet.seed")
MOST_NAMED = 4  # settings in one sentence

COUNTED = ("errors", "late", "dropped")
LATENCIES = tuple(name for name, _ in PERCENTILES)
WORDS = {"p99_9": "p99.9", "rate_per_s": "rate"}


class Judgement(StrEnum):
    """What a difference comes to."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"  # below the threshold
    CHANCE = "chance"  # over it, but so few operations that chance alone could have done it
    UNKNOWN = "unknown"  # one side has no such number


@dataclass(frozen=True, slots=True)
class Change:
    """One number of one operation or stage, in the first run and in another one.

    ``what`` is p50 … p99_9 (ms), rate_per_s, or one of COUNTED. ``ratio`` is after to before, of COUNTED that of the
    shares; None where before was nothing. ``text`` is the size of the change for a person.
    """

    what: str
    before: float | None
    after: float | None
    ratio: float | None
    judgement: Judgement
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One operation or stage over all runs: ``changes[i]`` are those of run i + 1 to the first one, by ``what``."""

    name: str
    is_stage: bool
    runs: tuple[Operation | Stage | None, ...]
    changes: tuple[Mapping[str, Change], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """Something in which the runs were not alike: its name and its value in each."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Against:
    """One run held against the first: what is worse and what is better, the largest change first, one sentence each.

    ``reasons`` say why the two cannot be compared; where there are none, they can. ``missing`` are operations that only
    one of them has. ``late`` has what started late in one more than in the other: that is the load generator's.
    """

    name: str
    worse: tuple[str, ...]
    better: tuple[str, ...]
    late: tuple[str, ...]
    missing: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether a difference between the two says something of the server."""
        return not self.reasons

    @property
    def headline(self) -> str:
        """The whole in a few words."""
        if not self.comparable:
            return f"run {self.name} is not comparable with run A: {'; '.join(self.reasons)}"
        told = (("worse", self.worse), ("better", self.better))
        said = [f"{word} in {counted(len(differences), 'figure')}" for word, differences in told if differences]
        return f"run {self.name} is comparable with run A: {' and '.join(said) or 'nothing changed'}"

    def statements(self) -> Iterator[Statement]:
        """The same in full."""
        if not self.comparable:
            differences = (*self.worse, *self.better)
            if differences:
                text = f"Run {self.name} differs from run A, which says nothing of the server:"
                yield Statement(Level.NOTE, text, differences)
        else:
            text = f"Runs A and {self.name} came to their end under the same load, and their load generators kept up."
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """``against[i]`` is run i + 1 held against the first; ``cautions`` is what is to be known before believing it."""

    threshold: float
    rows: tuple[Row, ...]
    settings: tuple[Setting, ...]
    cautions: tuple[Statement, ...]
    against: tuple[Against, ...]

    @property
    def headline(self) -> str:
        """The whole in one line."""
        text = "; ".join(each.headline for each in self.against)
        return text[0].upper() + text[1:]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Everything there is to say, cautions first."""
        return (*self.cautions, *(said for each in self.against for said in each.statements()))

    @property
    def regressed(self) -> bool:
        """Whether some run is worse than the first, or cannot be compared with it: not judged is not passed."""
        return any(each.worse or not each.comparable for each in self.against)

    @property
    def level(self) -> Level:
        """The worst of everything said."""
        return max((each.level for each in self.statements), key=list(Level).index)


def compare(documents: Sequence[Document], threshold: float = THRESHOLD) -> Comparison:
    """Hold every run against the first; ``threshold`` is the least change of a latency or a rate that is one, as a
    share. Raises MisuseError for fewer than two."""
    if len(documents) < 2:
        raise MisuseError(f"Expected two runs or more to compare; found {len(documents)}.")
    rows = tuple(_rows(documents, threshold))
    return Comparison(
        threshold,
        rows,
        tuple(_settings(documents)),
        tuple(_cautions(documents)),
        tuple(_against(rows, index, documents) for index in range(1, len(documents))),
    )


def letter(index: int) -> str:
    """What a run is called: A, B, C."""
    return chr(ord("A") + index)


def _rows(documents: Sequence[Document], threshold: float) -> Iterator[Row]:
    for is_stage in (False, True):
        kinds: list[Mapping[str, Operation | Stage]] = [
            document.stages if is_stage else document.operations for document in documents
        ]
        for name in dict.fromkeys(name for kind in kinds for name in kind):
            runs = tuple(kind.get(name) for kind in kinds)
            yield Row(name, is_stage, runs, tuple(changes(runs[0], run, threshold) for run in runs[1:]))


def changes(
    before: Operation | Stage | None, after: Operation | Stage | None, threshold: float = THRESHOLD
) -> dict[str, Change]:
    """Every change of one operation or stage, by its name; none where one of the runs did not have it."""
    if before is None or after is None:
        return {}
    found = [_latency(name, quantile, before, after, threshold) for name, quantile in PERCENTILES]
    if isinstance(before, Operation) and isinstance(after, Operation):  # stages have neither rates nor errors
        found += [_rate(before, after, threshold), *(_counted(what, before, after) for what in COUNTED)]
    return {each.what: each for each in found}


def _latency(
    what: str, quantile: float, before: Operation | Stage, after: Operation | Stage, threshold: float
) -> Change:
    old: float | None = getattr(before.latency_ms, what)
    new: float | None = getattr(after.latency_ms, what)
    if old is None or new is None:
        return Change(what, old, new, None, Judgement.UNKNOWN, "")
    ratio = new / old if old else None
    if ratio is None or abs(ratio - 1) <= threshold or abs(new - old) <= LATENCY_LEAST_MS:
        judgement = Judgement.SAME
    elif not _apart(before, after, quantile):
        judgement = Judgement.CHANCE
    else:
        judgement = Judgement.WORSE if new > old else Judgement.BETTER
    return Change(what, old, new, ratio, judgement, change(ratio))


def _apart(before: Operation | Stage, after: Operation | Stage, quantile: float) -> bool:
    """Whether a percentile differs by more than chance does."""
    if not (enough(before.timed, quantile) and enough(after.timed, quantile)):
        return False
    if before.histogram is None or after.histogram is None:
        return False
    one, other = (Distribution(each).spread(quantile) for each in (before.histogram, after.histogram))
    return one is not None and other is not None and (one.high < other.low or other.high < one.low)


def _rate(before: Operation, after: Operation, threshold: float) -> Change:
    old, new = before.rate_per_s, after.rate_per_s
    if not old or not new or not before.count or not after.count:
        return Change("rate_per_s", old, new, None, Judgement.UNKNOWN, "")
    ratio = new / old
    if abs(ratio - 1) <= threshold:
        judgement = Judgement.SAME
    elif abs(ratio - 1) <= DEVIATIONS * (1 / before.count + 1 / after.count) ** 0.5:
        judgement = Judgement.CHANCE
    else:
        judgement = Judgement.BETTER if ratio > 1 else Judgement.WORSE
    return Change("rate_per_s", old, new, ratio, judgement, change(ratio))


def _counted(what: str, before: Operation, after: Operation) -> Change:
    old, new = getattr(before, what), getattr(after, what)
    # Dropped ones never started: they are no part of the count.
    old_whole = before.count + (old if what == "dropped" else 0)
    new_whole = after.count + (new if what == "dropped" else 0)
    if not old_whole or not new_whole:
        return Change(what, old, new, None, Judgement.UNKNOWN, "")
    scale = new_whole / old_whole
    expected = old * scale
    # The variance of a count is the count; scaled, it is that times the scale squared.
    chance = DEVIATIONS * (new + old * scale * scale) ** 0.5
    ratio = new / expected if expected else None
    text = change(ratio) if ratio is not None else f"+{share(new, new_whole)}" if new else ""
    if new == expected:
        judgement = Judgement.SAME
    elif abs(new - expected) <= chance:
        judgement = Judgement.CHANCE
    else:
        judgement = Judgement.WORSE if new > expected else Judgement.BETTER
    return Change(what, old, new, ratio, judgement, text)


def _settings(documents: Sequence[Document]) -> Iterator[Setting]:
    told = [_told(document) for document in documents]
    for name in dict.fromkeys(name for each in told for name in each):
        values = tuple(each.get(name, NOTHING) for each in told)
        if len(set(values)) > 1:
            yield Setting(name, values)


def _told(document: Document) -> dict[str, str]:
    """How a run was run, line by line."""
    return {
        "version": document.version,
        "devices": count(document.devices),
        "seed": str(document.seed),
        "workers": count(document.workers),
        **{f"host.{name}": value for name, value in flattened(document.host)},
        **{f"scenario.{name}": value for name, value in flattened(document.scenario)},
    }


def _cautions(documents: Sequence[Document]) -> Iterator[Statement]:
    for index, document in enumerate(documents):
        if not document.complete:
            text = f"Run {letter(index)} did not come to its end{because_of(document)}."
            yield Statement(Level.WARNING, text)
        generator = document.generator
        crowded = overloaded(document)
        if crowded is not None and generator is not None:
            yield Statement(Level.WARNING, f"In run {letter(index)} {crowded}.", tuple(generator.reasons))
        if generator is not None and generator.embedded_lab:
            reasons = () if generator.trustworthy else tuple(generator.reasons)
            yield Statement(Level.NOTE, f"Run {letter(index)}: {IN_THE_LAB}", reasons)
    names = [setting.name for setting in _settings(documents) if not setting.name.startswith("scenario.name")]
    if names:
        text = f"The runs were not run alike; they differ in {_some(names, 6)}."
        yield Statement(Level.NOTE, text)


def _some(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _against(rows: Sequence[Row], index: int, documents: Sequence[Document]) -> Against:
    # Stages are parts of the operations, whose change is said already.
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
    """Why two runs cannot be compared."""
    for document, run in ((first, "A"), (other, name)):
        if not operations_done(document):
            yield f"in run {run} nothing was done"
        if not document.complete or document.signal is not None:
            yield f"run {run} did not come to its end"
        generator = document.generator
        if generator is not None and not generator.trustworthy and operations_done(document):
            yield f"in run {run} {overloaded(document) or 'the load generator and its embedded lab were overloaded'}"
    load = [setting.name for setting in _settings([first, other]) if _is_load(setting.name)]
    if load:
        yield f"another load was put on the server ({_some(load, MOST_NAMED)})"


def _is_load(setting: str) -> bool:
    """Whether a setting says how much is asked of the server, and what."""
    return setting == "devices" or (setting.startswith("scenario.") and not setting.startswith(NOT_THE_LOAD))


def _late(rows: Sequence[Row], index: int) -> Iterator[str]:
    for row in rows:
        change = row.changes[index - 1].get("late")
        if change is not None and change.judgement in (Judgement.WORSE, Judgement.BETTER):
            yield from (text for _, text in _sentences(row.name, [change]))


def _told_of(rows: Sequence[Row], index: int, judgement: Judgement) -> tuple[str, ...]:
    told: list[tuple[float, str]] = []
    for row in rows:
        found = [
            each
            for each in row.changes[index - 1].values()
            if each.judgement is judgement and each.what != "late"  # that is no doing of the server
        ]
        told += _sentences(row.name, found)
    return tuple(text for _, text in sorted(told, key=lambda each: -each[0]))


def _sentences(name: str, found: Sequence[Change]) -> Iterator[tuple[float, str]]:
    """One sentence for the latencies, one for each other thing; with its weight, to sort by."""
    latencies = [each for each in found if each.what in LATENCIES]
    if latencies:
        verb = "slower" if latencies[0].judgement is Judgement.WORSE else "faster"
        # p50 and p99 say it; the others speak where these are silent.
        said = [each for each in latencies if each.what in ("p50", "p99")] or latencies
        yield max(_size(each) for each in latencies), f"{name} is {verb}: {', '.join(map(_latency_text, said))}."
    for each in found:
        if each.what == "rate_per_s":
            yield _size(each), f"{name}: {figures(each.before)} → {figures(each.after)} a second ({each.text})."
        elif each.what in COUNTED:
            more = "more" if each.judgement is Judgement.WORSE else "fewer"
            noun = each.what if each.what == "errors" else f"{each.what} ones"
            was, now = int(each.before or 0), int(each.after or 0)
            yield _size(each), f"{name} has {more} {noun}: {was:,} → {now:,} ({each.text})."


def _latency_text(each: Change) -> str:
    return f"{WORDS.get(each.what, each.what)} {milliseconds(each.before)} → {milliseconds(each.after)} ({each.text})"


def _size(each: Change) -> float:
    """How large a change is, the same for twice as much and half as much; one from nothing is the largest."""
    if not each.ratio:
        return 1e9
    return max(each.ratio, 1 / each.ratio)
