"""InstalledApplicationList: the apps that are part of macOS.

Source: apple-schema commands/application.installed.list.yaml. Names, sizes and versions are our estimate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from agent.fleet.population import Mac
from agent.mdm.facts import message, version

_SYSTEM, _UTILITIES, _APPLICATIONS = "/System/Applications", "/System/Applications/Utilities", "/Applications"

# From this release on, BundleSize is left out unless the command asks for it, which it cannot on a Mac. Source:
# apple-schema commands/application.installed.list.yaml, BundleSize and Items.
_WITHOUT_SIZES = version("26")


class _App(NamedTuple):
    """An app of macOS: its version by major version of macOS; one that is not listed has that of the one before."""

    identifier: str
    name: str
    size: int
    """In bytes."""
    build: int
    """Of the bundle in macOS 13; later ones are greater."""
    versions: Mapping[int, str]
    folder: str = _SYSTEM


_APPS = (
    _App("com.apple.AppStore", "App Store", 16_900_000, 3310, {13: "3.0"}),
    _App("com.apple.Automator", "Automator", 7_100_000, 512, {13: "2.10"}),
    _App("com.apple.calculator", "Calculator", 6_400_000, 228, {13: "10.16", 15: "11.0", 26: "12.0", 27: "13.0"}),
    _App("com.apple.iCal", "Calendar", 26_300_000, 2958, {13: "13.0", 14: "14.0", 15: "15.0", 26: "16.0", 27: "17.0"}),
    _App("com.apple.Chess", "Chess", 7_900_000, 438, {13: "3.18"}),
    _App("com.apple.AddressBook", "Contacts", 15_200_000, 2535, {13: "13.0", 14: "14.0"}),
    _App("com.apple.Dictionary", "Dictionary", 5_200_000, 294, {13: "2.3.0"}),
    _App("com.apple.FaceTime", "FaceTime", 11_700_000, 1010, {13: "5.0", 14: "36"}),
    _App("com.apple.mail", "Mail", 26_600_000, 3731, {13: "16.0"}),
    _App("com.apple.Maps", "Maps", 36_900_000, 2866, {13: "3.0"}),
    _App("com.apple.MobileSMS", "Messages", 6_800_000, 1262, {13: "14.0"}),
    _App("com.apple.Notes", "Notes", 26_900_000, 2305, {13: "4.10", 14: "4.11", 15: "4.12", 26: "4.13", 27: "4.14"}),
    _App("com.apple.Photos", "Photos", 40_200_000, 613, {13: "8.0", 14: "9.0", 15: "10.0", 26: "11.0", 27: "12.0"}),
    _App("com.apple.Preview", "Preview", 10_600_000, 1056, {13: "11.0"}),
    _App("com.apple.QuickTimePlayerX", "QuickTime Player", 7_200_000, 1191, {13: "10.5"}),
    _App("com.apple.reminders", "Reminders", 19_300_000, 2070, {13: "7.0"}),
    _App("com.apple.Safari", "Safari", 13_400_000, 18616, {}, _APPLICATIONS),
    _App("com.apple.systempreferences", "System Settings", 8_400_000, 1200, {13: "15.0"}),
    _App("com.apple.TextEdit", "TextEdit", 2_500_000, 391, {13: "1.18", 14: "1.19", 15: "1.20", 26: "1.21"}),
    _App("com.apple.Terminal", "Terminal", 5_400_000, 447, {13: "2.13", 14: "2.14", 26: "2.15"}, _UTILITIES),
)
_MAJORS = (13, 14, 15, 26, 27)


def installed_applications(mac: Mac, identifiers: Collection[str] | None) -> list[dict[str, Any]]:
    """The items of the answer; if ``identifiers`` is given, only these apps."""
    wanted = None if identifiers is None else frozenset(identifiers)
    return [dict(app) for app in _listed(mac.os_version) if wanted is None or app["Identifier"] in wanted]


@lru_cache(maxsize=64)
def _listed(release: str) -> tuple[Mapping[str, Any], ...]:
    """The apps of this release of macOS."""
    return tuple(
        app_item(release, app.identifier, app.name, (_build(app, release), _short_version(app, release)), app.size)
        | ({"Path": f"{app.folder}/{app.name}.app"} if _has_path(release) else {})
        for app in _APPS
    )


def app_item(release: str, identifier: str, name: str, versions: tuple[str, str], size: int) -> dict[str, Any]:
    """The item of one app in ``/Applications``; ``versions`` are Version and ShortVersion."""
    return {
        "Identifier": identifier,
        "Name": name,
        "Version": versions[0],
        "ShortVersion": versions[1],
        **({"BundleSize": size} if version(release) < _WITHOUT_SIZES else {}),
        **({"Path": f"{_APPLICATIONS}/{name}.app"} if _has_path(release) else {}),
        "Installing": False,
    }


@lru_cache(maxsize=64)
def _has_path(release: str) -> bool:
    item = message("command", "InstalledApplicationList").response["InstalledApplicationList"].keys
    return item["InstalledApplicationListItem"].keys["Path"].fact.is_in(release)


def _short_version(app: _App, release: str) -> str:
    major, minor, _ = version(release)
    if not app.versions:  # Safari: 16 in macOS 13, 17 in 14, 18 in 15; from 26 on the version of macOS
        return f"{major + 3 if major < 26 else major}.{minor}"
    return app.versions[max(number for number in app.versions if number <= major)]


def _build(app: _App, release: str) -> str:
    major, minor, patch = version(release)
    generation = sum(number < major for number in _MAJORS)
    return f"{app.build + 100 * generation + minor}.{1 + minor}.{patch}"
