"""The reference of scenarios, docs/scenario.md, made from the types; ``lom-agent scenario doc`` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from msgspec import Struct

from agent.faults.rules import Rule
from agent.fleet.population import MAX_DEVICES
from agent.scenario.keys import ARRAYS, Key, keys_of, own_keys, tables
from agent.scenario.types import DEFAULT_REQUEST, PHASE_KINDS, ArrivingPhase, Change, PhaseBase, Scenario
from agent.scenario.writing.toml import toml
from agent.settings import LONGEST_SECONDS

EXAMPLE = """\
name = "patch-morning"
limits = ["delivery.p99 < 10s", "session.errors == 0", "command.late <= 1%"]

[fleet]
devices = 1000

[load]
rate = 25                               # for phases that set no rate of their own

[[phase]]
kind = "enroll"

[[phase]]
name = "patch"
kind = "command"
request = { RequestType = "ProfileList" }
arrivals = "ramp"                       # from 5 to 50 commands per second
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

A scenario is a TOML file that describes a load run: the fleet of Macs, the MDM server, the phases of the run, and the
limits that decide whether it passes:

```toml
{EXAMPLE}```

1,000 Macs enroll in the embedded lab at 25 per second. Then commands are queued for them, at a rate that rises from 5
to 50 per second within a minute. Then each Mac opens a session by itself. The run fails if a limit fails.

```sh
lom-agent scenario check patch-morning.toml      # dry run: a summary, or the errors
lom-agent run patch-morning.toml                 # run it
lom-agent run patch-morning.toml --set fleet.devices=20 --set phase.patch.duration=5
lom-agent scenario new mine.toml                 # a new scenario, every key as a comment
```

`fixtures/scenarios/` has ready-made scenarios: an enrollment day, a steady fleet, a profile for all Macs, a power cut,
a wave of LOM resets, a morning of NotNow, a soak test. Each runs against the lab without changes.

Unknown keys are rejected with a suggestion. Keys that contradict each other are rejected too.
"""

_PHASES = """\
## Phases

Each phase is one `[[phase]]` table, in the order in which the phases start. `kind` says what happens in the phase.

A phase starts when the phase before it has finished. If the phase before has `wait = false`, both start together. With
`start_at` a phase starts at that time, or at once if that time has passed; the phase before must then have
`wait = false`. `wait` applies to the next phase only. A phase has finished when all operations that it started have
finished. After the last phase, operations in progress have `load.tail` seconds to finish.

All phases have these keys:
"""

_RULES = """\
## Rules

Each `[[rule]]` table is a fault rule: it makes some Macs misbehave in one operation. [faults.md](faults.md) says what
a rule can do in which operation, and has examples. `on` and `do` are required; the other keys choose the Macs and the
time, or belong to one `do`.
"""

_CHANGES = """\
## Changes

Each `[[change]]` table changes the running scenario, as somebody can do by hand through
[the control API of a run](run-api.md). `results.json` records the changes that were made under
[`changes`](results.md#changes); `lom-agent run SCENARIO.toml --replay DIR` makes them again at the same times, in place
of those in the file:

```toml
[[phase]]
kind = "enroll"
rate = 20

[[change]]                              # 12 s after the start of the phase
at = 12.0
what = "rate"
phase = "enroll"
rate = 50

[[change]]                              # 30 s after the start of the run, for 10 s
at = 30.0
what = "pause"

[[change]]
at = 40.0
what = "resume"
```

In a pause nothing is due: no operation, no phase. Operations in progress go on, and so do their time limits, boots, the
times of fault rules and `fleet.not_now_for`. What is due later moves by the length of the pause, also `start_at` of a
phase and the end of its `duration`. What was due before the pause and had not started yet starts in it, and is late as
without a pause. [load.md](load.md#changing-a-run) says what a pause does to the results.

A changed rate is for `constant` and `poisson` arrivals. `factor` is for every shape of arrivals, and relative to the
scenario: 1 is the planned rate again. The phase goes through its arrivals faster by it: with 2 a ramp or a step takes
half the time, the bursts and the times of a replay are twice as close. `duration` does not change. Phases with
`concurrency`, without a rate, and of the kinds `power_cut` and `idle` have no rate that can be changed.
"""

_ARRIVALS = """\
## Arrivals

In `enroll`, `checkin`, `command`, `lom_setup` and `lom` the Macs start one after another. Their order is derived from
the seed and the name of the phase. The time at which each Mac is due is computed before the run and does not depend on
responses (an open model). A Mac that starts late is counted as late, and its latency is measured from the time at which
it was due. A Mac that cannot start (it is off, not enrolled, or its previous operation is still in progress) is counted
as dropped.

| `arrivals` | when | needs |
| --- | --- | --- |
| `constant` | one every 1/`rate` seconds; without a `rate` all at once | |
| `poisson` | independent arrivals, `rate` per second on average | `rate` |
| `ramp` | the rate changes linearly from `rate` to `to_rate` within `duration` | `rate`, `to_rate`, `duration` |
| `step` | one rate after another; the last rate continues | `steps` |
| `burst` | `burst` Macs at once, every `every` seconds | `burst`, `every` |
| `replay` | at recorded times; lines of a file may have `#` comments | `replay` or `replay_file` |

Without `duration` each chosen Mac starts exactly once. With `duration` the Macs repeat in the same order until the time
is over; a `replay` ends with its last time. In `enroll` each Mac starts at most once.

`concurrency` is a closed model without a schedule: a fixed number of Macs is active, and the next starts when one
finishes. A slow server then gets less load, which hides how slow it is. Use `concurrency` to find the capacity of a
server, and a rate to measure its latency under a load.

`[load]` has the defaults of all phases. A phase with a `rate` follows a schedule even if `[load]` has a `concurrency`,
and a phase with a `concurrency` ignores the `rate` of `[load]`.
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

A limit on an operation that never ran fails, except a limit on `count`, which is then 0. Limits apply to the whole
run, not to single phases.
"""

_OVERRIDES = """\
## Overrides

`--set KEY=VALUE` (repeatable) replaces a value of the file before the scenario is checked. The key is the dotted path
from the top of the file; a phase is named by its name, or by its number from 0. The value is TOML; a value that is not
valid TOML is text:

```sh
--set load.rate=50   --set fleet.seed=monday   --set phase.patch.to_rate=80   --set phase.0.share=0.5
--set 'limits=["session.p99 < 1s"]'
```

## Files and secrets

File names in a scenario are relative to the folder of the scenario, those in `--set` to the working directory. A
scenario contains no secrets: API keys come from a file or an environment variable. `results.json` includes the scenario
as it ran. In it, header values, texts of a body and values of a command whose names suggest secrets (`Authorization`,
`…token`, `…key`, `PIN`), and the queries of URLs are replaced by `***`, unless they are templates.

## About this page

It is generated from the types of the program: `lom-agent scenario doc` prints it.
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
    "lom": "The requests of a segment are sent in the order of its Macs, the Controller's own last; the seed decides "
    "which segment is next.",
}


def document() -> str:
    """The whole page, in Markdown."""
    parts = [_OPENING, *_tables_part(), _PHASES, table_of(keys_of(PhaseBase).values())]
    for kind, table in PHASE_KINDS.items():
        parts += [f"### {kind}\n", _paragraphs(table)]
        own = list(own_keys(table).values())
        if own:
            parts.append(table_of(own))
        if issubclass(table, ArrivingPhase):
            parts.append("And the keys of [arrivals](#arrivals).\n")
        if _KINDS_NOTE.get(kind):
            parts.append(_KINDS_NOTE[kind] + "\n")
    parts += [_ARRIVALS, table_of(own_keys(ArrivingPhase).values())]
    parts += [_RULES, table_of(keys_of(Rule).values()), _LIMITS]
    parts += [_CHANGES, table_of(keys_of(Change).values()), _OVERRIDES]
    return "\n".join(parts)


def _tables_part() -> Iterator[str]:
    yield "## Keys\n"
    yield "`(1/s)` is per second, for the whole fleet. No duration is over 30 days, no count over 10,000,000.\n"
    for name, table in tables():
        yield f"### `[{name}]`\n" if name else "### At the top, before the first table\n"
        if table is not Scenario:
            yield _paragraphs(table)
        yield table_of(key for key in keys_of(table).values() if key.table is None and key.name not in ARRAYS)


def _paragraphs(table: type[Struct]) -> str:
    parts = (table.__doc__ or "").split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(part.split()), _WIDTH, break_on_hyphens=False) for part in parts) + "\n"


def table_of(keys: Iterable[Key]) -> str:
    lines = ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{key.name}` | {_takes(key)} | {_default(key)} | {key.description} |" for key in keys]
    return "\n".join(lines) + "\n"


def _takes(key: Key) -> str:
    """The values of a key with their unit, without the upper bounds that all keys share."""
    words = key.words.replace("|", "\\|")
    for bounds, short in _BOUNDS.items():
        words = words.replace(bounds, short)
    return words + (f" ({key.unit})" if key.unit else "")


def _default(key: Key) -> str:
    if key.required:
        return "required"
    return "none" if key.default in (None, [], (), {}, "") else f"`{toml(key.default)}`"
