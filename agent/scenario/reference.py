"""The reference of scenarios, docs/scenario.md, written from the types; the command ``scenario doc`` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from msgspec import Struct

from agent.fleet.population import MAX_DEVICES
from agent.scenario.keys import Key, keys_of, own_keys, tables
from agent.scenario.toml import toml
from agent.scenario.types import DEFAULT_REQUEST, PHASE_KINDS, ArrivingPhase, PhaseBase, Scenario
from agent.settings import LONGEST_SECONDS

EXAMPLE = """\
name = "patch-morning"
limits = ["delivery.p99 < 10s", "session.errors == 0", "command.late <= 1%"]

[fleet]
devices = 1000

[load]
rate = 25                               # what phases take that say nothing else

[[phase]]
kind = "enroll"

[[phase]]
name = "patch"
kind = "command"
request = { RequestType = "ProfileList" }
arrivals = "ramp"                       # 5 commands a second at first, 50 at the end
rate = 5
to_rate = 50
duration = 60

[[phase]]
name = "wake-up"
kind = "checkin"
by = "self"
"""

_OPENING = f"""\
# Scenarios

A scenario is one TOML file that says who the Macs are, which server they belong to, what happens when, and what has
to hold:

```toml
{EXAMPLE}```

1,000 Macs enrol in the embedded lab, 25 a second; then commands are queued for them, first 5 a second, after a
minute 50; then each Mac opens a session by itself. The run fails where a limit does not hold.

```sh
lom-agent scenario check patch-morning.toml      # what it comes to, or what is wrong with it
lom-agent run patch-morning.toml                 # run it
lom-agent run patch-morning.toml --set fleet.devices=20 --set phase.patch.duration=5
lom-agent scenario new mine.toml                 # a file to begin with, every key as a comment
```

`fixtures/scenarios/` holds ready-made ones: an enrolment day, a steady fleet, a profile for everybody, a power cut,
a wave of LOM resets, a morning of NotNow, a soak. Each runs against the lab as it is.

What nobody knows is refused, with the nearest name that there is. Nothing is guessed: where two keys contradict
each other the file is refused, too.
"""

_PHASES = """\
## Phases

`[[phase]]` stands once for each phase, in the order in which they begin. `kind` says what happens in it.

A phase begins when the one before it is over; with `wait = false` there, together with that one; with `start_at` at
its own time, or at once where that is past, and then the one before must not be waited for. `wait` is about the
phase directly before and no other. A phase is over when all that it began is over. When all phases are, what is
still under way has `load.tail` seconds.

All phases have these keys:
"""

_ARRIVALS = """\
## Arrivals

In `enroll`, `checkin`, `command`, `lom_setup` and `lom` the Macs come one after another. Their order follows from
the seed and the phase's name; when each is due is settled before the run begins and waits for nobody. A Mac that
begins late is counted as late, and its latency counts from the moment at which it was due; one that cannot begin at
all (it is off, not enrolled, or still busy with its last turn) is counted as dropped.

| `arrivals` | when | needs |
| --- | --- | --- |
| `constant` | one every 1/`rate` seconds; without any `rate` all at once | |
| `poisson` | independent of one another, `rate` a second on average | `rate` |
| `ramp` | the rate goes evenly from `rate` to `to_rate` within `duration` | `rate`, `to_rate`, `duration` |
| `step` | one rate after another; the last one holds on | `steps` |
| `burst` | `burst` at once, every `every` seconds | `burst`, `every` |
| `replay` | at recorded moments; lines of a file may have `#` comments | `replay` or `replay_file` |

Without `duration` each chosen Mac comes exactly once. With it they come round and round, always in the same order,
until the time is over; a `replay` ends with its last moment. In `enroll` no Mac comes twice.

`concurrency` is the other way: no schedule, so many at a time, and the next begins when one ends. A slow server
then gets less load, which hides how slow it is. Use it to find what a server can take, and a rate to find how it is
under a load.

What a phase does not say, `[load]` says for it. A phase with a `rate` follows a schedule even where `[load]` has a
`concurrency`, and the other way round.
"""

_LIMITS = """\
## Limits

`limits` is a list of `OPERATION.METRIC COMPARISON VALUE`:

```toml
limits = ["session.p99 < 500ms", "enroll.errors == 0", "delivery.late <= 1%", "push.rate >= 40/s"]
```

| | |
| --- | --- |
| operations | as in [results.md](results.md#operations), with `enqueue`, `delivery` and `return` |
| stages | `connect`, `handshake`, `handshake_resumed`, `first_byte`, `request`, `key`: only times and `count` |
| times | `p50`, `p90`, `p95`, `p99`, `p99.9`, `max`, `mean`, with `us`, `ms`, `s` or `m` |
| counts | `errors`, `late`, `dropped`: a number, or a share with `%`; `count`: a number; `rate`: a number, `/s` too |
| comparison | `<`, `<=`, `>`, `>=`, `==` |

A limit on an operation that never ran is broken; only one on `count` takes nothing for 0. The whole run is judged,
not each phase.
"""

_OVERRIDES = """\
## Overrides

`--set KEY=VALUE`, as often as you like, puts a value over the file's before anything is checked. The key is the
dotted path from the top; a phase goes by its name, or by its number from 0. The value is TOML; a word that is none
is text:

```sh
--set load.rate=50   --set fleet.seed=monday   --set phase.patch.to_rate=80   --set phase.0.share=0.5
--set 'limits=["session.p99 < 1s"]'
```

## Files and secrets

Files that a scenario names are relative to its own folder, those in `--set` to the working directory. A scenario
holds no secret: API keys come from a file or from an environment variable. `results.json` repeats the scenario as
it ran; header values, texts of a body and values in a command whose names speak of secrets (`Authorization`,
`…token`, `…key`, `PIN`), and the queries of URLs are `***` there, unless they are templates.

## About this page

It is written from the program's own types; `lom-agent scenario doc` prints it.
"""

_WIDTH = 120
_BOUNDS = {
    f" from 0 to {LONGEST_SECONDS:,.0f}": ", 0 or more",
    f" above 0, at most {LONGEST_SECONDS:,.0f}": " above 0",
    f" from 1 to {MAX_DEVICES:,}": ", 1 or more",
    f" from 0 to {MAX_DEVICES:,}": ", 0 or more",
}
_KINDS_NOTE = {
    "command": f"Without `request` it is `{toml(DEFAULT_REQUEST)}`.",
    "lom": "The requests of a segment go in the order of its Macs, its Controller's own last; the seed decides which "
    "segment is next.",
}


def document() -> str:
    """The whole page, in Markdown."""
    parts = [_OPENING, *_tables_part(), _PHASES, _table(keys_of(PhaseBase).values())]
    for kind, table in PHASE_KINDS.items():
        parts += [f"### {kind}\n", _paragraphs(table)]
        own = list(own_keys(table).values())
        if own:
            parts.append(_table(own))
        if issubclass(table, ArrivingPhase):
            parts.append("And the keys of [arrivals](#arrivals).\n")
        if _KINDS_NOTE.get(kind):
            parts.append(_KINDS_NOTE[kind] + "\n")
    parts += [_ARRIVALS, _table(own_keys(ArrivingPhase).values()), _LIMITS, _OVERRIDES]
    return "\n".join(parts)


def _tables_part() -> Iterator[str]:
    yield "## Keys\n"
    yield "`(1/s)` is a second, for the whole fleet. No length of time is over 30 days, no count over 10,000,000.\n"
    for name, table in tables():
        yield f"### `[{name}]`\n" if name else "### At the top, before the first table\n"
        if table is not Scenario:
            yield _paragraphs(table)
        yield _table(key for key in keys_of(table).values() if key.table is None and key.name != "phase")


def _paragraphs(table: type[Struct]) -> str:
    parts = (table.__doc__ or "").split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(part.split()), _WIDTH, break_on_hyphens=False) for part in parts) + "\n"


def _table(keys: Iterable[Key]) -> str:
    lines = ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{key.name}` | {_takes(key)} | {_default(key)} | {key.description} |" for key in keys]
    return "\n".join(lines) + "\n"


def _takes(key: Key) -> str:
    """What a key takes, with its unit, without the bounds that are everybody's."""
    words = key.words.replace("|", "\\|")
    for bounds, short in _BOUNDS.items():
        words = words.replace(bounds, short)
    return words + (f" ({key.unit})" if key.unit else "")


def _default(key: Key) -> str:
    if key.required:
        return "needed"
    return "none" if key.default in (None, [], (), {}, "") else f"`{toml(key.default)}`"
