"""docs/releases.md: the releases of macOS in a fleet, and what differs between two of them by Apple's schema.

``python -m agent.fleet.releases > docs/releases.md``; with two releases, such as ``15.5 27.0``, it prints what differs
between them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from agent.errors import MisuseError
from agent.fleet.models import MODELS, RELEASES, Release, runs_on
from agent.mdm.facts import Fact, Key, Message, messages, version

_OPENING = """\
# Releases of macOS

Each simulated Mac has a release of macOS and behaves as that release does: it has the commands, queries, settings,
status items, declarations, payload keys and check-in keys that [Apple's
schema](https://github.com/apple/device-management) gives to it. A command that the release does not have, or does not
have on the channel, is answered like an unknown one: `Error` with `MCMDMErrorDomain` 12021. The same applies to an
item of `Settings`. A query of `DeviceInformation` that the release does not have is left out of the answer. Apple
documents none of these three answers; they are our choice. What Apple says only in words, such as that
`InstalledApplicationList` has no `BundleSize` from macOS 26 on, is in [modelled.md](modelled.md#commands).

## The macOS of a fleet

`fleet.os` in a scenario, `--os`, and the argument `os` of the Python client and of the pytest marker set the macOS of
the Macs:

| value | the Macs have |
| --- | --- |
| `"26.4"` | this release |
| `"27"` | the releases of this major version, by their weights |
| `"26.4,27"` or `["26.4", "27"]` | each of these with the same share |
| `"26=3,27=1"` or `{ 26 = 3, 27 = 1 }` | these with shares by their weights |
| none | the usual mix: all releases of the table, by their weights |

Models are drawn first. A Mac then has a release that runs on its model; a model on which none of the versions runs is
not in the fleet. The weights are our estimate for late 2026. A later version of this program may have other releases
and weights: a Mac keeps its index, UDID, serial number, model and addresses for a seed, but may have another release.
New models come with a build of their own, which is a row of its own.

| macOS | build | weight | runs on |
| --- | --- | --- | --- |
"""

_CHANGES = """
## What changes with each release

What Apple's schema says for Macs, from the oldest release of the table on. A new message has all its keys, which are
not listed again. The last column has the channels on which a message exists; it is empty where the schema has none.
`python -m agent.fleet.releases 15.5 27.0` prints what differs between any two releases.
"""

_COLUMNS = "| | name | change | channel |\n| --- | --- | --- | --- |\n"
_KINDS = {
    "check-in": "check-in",
    "command": "command",
    "declaration": "declaration",
    "error": "error body",
    "other": "other document",
    "payload": "profile payload",
    "protocol": "declarative management",
    "status": "status item",
}


def document() -> str:
    """The page."""
    return "".join([_OPENING, *map(_release_row, RELEASES), _CHANGES, *_sections()])


def differences(earlier: str, later: str) -> str:
    """A table of what differs between two releases. Raises MisuseError for a text that is not a release."""
    return _COLUMNS + "".join(_rows(version(earlier), version(later)))


def _sections() -> Iterator[str]:
    first = version(RELEASES[0].version)
    found = {version(number): number for fact in _facts() for number in _numbers(fact)}
    before = first
    for release in sorted(number for number in found if number > first):
        yield f"\n### macOS {found[release]}\n\n{_COLUMNS}"
        yield from _rows(before, release)
        before = release


def _release_row(release: Release) -> str:
    runs = [model.identifier for model in MODELS if runs_on(release, model)]
    without = [model.identifier for model in MODELS if not runs_on(release, model)]
    shown = "all models" if not without else f"all but {', '.join(without)}"
    models = ", ".join(runs) if len(runs) < len(without) else shown
    return f"| {release.version} | {release.build} | {release.weight} | {models} |\n"


def _numbers(fact: Fact) -> Iterator[str]:
    yield from (number for number in (fact.introduced, fact.deprecated, fact.removed) if number)


def _facts() -> Iterator[Fact]:
    for message in messages().values():
        yield message.fact
        yield from _of_keys(_keys(message))


def _keys(message: Message) -> Iterator[Key]:
    for part in (message.request, message.response, message.reasons):
        yield from part.values()


def _of_keys(keys: Iterable[Key]) -> Iterator[Fact]:
    for key in keys:
        yield key.fact
        yield from _of_keys(key.keys.values())


def _rows(earlier: tuple[int, ...], later: tuple[int, ...]) -> Iterator[str]:
    for (kind, name), message in messages().items():
        changed = _change(message.fact, earlier, later)
        if changed:
            yield _row(_KINDS[kind], f"`{name}`", changed, message.fact.channels)
        if changed not in ("new", "removed"):
            yield from _key_rows(message, earlier, later)


def _key_rows(message: Message, earlier: tuple[int, ...], later: tuple[int, ...]) -> Iterator[str]:
    waiting = list(_keys(message))
    while waiting:
        key = waiting.pop(0)
        fact = key.fact
        changed = _change(fact, earlier, later)
        if changed:
            name = f"`{fact.message}`, {fact.part}: `{fact.path}`"
            yield _row(f"{_KINDS[fact.kind]}, key", name, changed, fact.channels)
        if changed not in ("new", "removed"):
            waiting = [*key.keys.values(), *waiting]


def _change(fact: Fact, earlier: tuple[int, ...], later: tuple[int, ...]) -> str:
    """What happened to a fact after ``earlier``, up to ``later``; empty for nothing."""
    for number, what in ((fact.removed, "removed"), (fact.introduced, "new"), (fact.deprecated, "deprecated")):
        if number and earlier < version(number) <= later:
            return what
    return ""


def _row(what: str, name: str, changed: str, channels: str) -> str:
    return f"| {what} | {name} | {changed} | {channels.replace('|', ', ')} |\n"


def main(arguments: Sequence[str]) -> int:
    """Print the page, or what differs between two releases. Returns the exit status."""
    if not arguments:
        sys.stdout.write(document())
        return 0
    try:
        earlier, later = arguments
        sys.stdout.write(differences(earlier, later))
    except (ValueError, MisuseError):
        sys.stderr.write(f"Expected two releases of macOS, such as 15.5 27.0, found {' '.join(arguments)}.\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
