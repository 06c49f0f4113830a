"""InstalledApplicationList: the apps that are part of macOS.

Source: apple-schema commands/application.installed.list.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.fleet.population import Mac

# Identifier, name, size in bytes. The version of each app is that of macOS.
_APPLICATIONS = (
    ("com.apple.AppStore", "App Store", 16_900_000),
    ("com.apple.Automator", "Automator", 7_100_000),
    ("com.apple.calculator", "Calculator", 6_400_000),
    ("com.apple.iCal", "Calendar", 26_300_000),
    ("com.apple.Chess", "Chess", 7_900_000),
    ("com.apple.AddressBook", "Contacts", 15_200_000),
    ("com.apple.Dictionary", "Dictionary", 5_200_000),
    ("com.apple.FaceTime", "FaceTime", 11_700_000),
    ("com.apple.mail", "Mail", 26_600_000),
    ("com.apple.Maps", "Maps", 36_900_000),
    ("com.apple.MobileSMS", "Messages", 6_800_000),
    ("com.apple.Notes", "Notes", 26_900_000),
    ("com.apple.Photos", "Photos", 40_200_000),
    ("com.apple.Preview", "Preview", 10_600_000),
    ("com.apple.QuickTimePlayerX", "QuickTime Player", 7_200_000),
    ("com.apple.reminders", "Reminders", 19_300_000),
    ("com.apple.Safari", "Safari", 13_400_000),
    ("com.apple.systempreferences", "System Settings", 8_400_000),
    ("com.apple.TextEdit", "TextEdit", 2_500_000),
    ("com.apple.Terminal", "Terminal", 5_400_000),
)


def installed_applications(mac: Mac, identifiers: Sequence[str] | None) -> list[dict[str, Any]]:
    """The items of the answer; if ``identifiers`` is given, only these apps."""
    return [
        {
            "Identifier": identifier,
            "Name": name,
            "Version": mac.os_version,
            "ShortVersion": mac.os_version,
            "BundleSize": size,
            "Installing": False,
        }
        for identifier, name, size in _APPLICATIONS
        if identifiers is None or identifier in identifiers
    ]
