"""The app extensions of macOS that a simulated Mac has. Source: apple-schema commands/application.extensions.*.yaml."""

from __future__ import annotations

import msgspec


class Extension(msgspec.Struct, frozen=True):
    """One app extension."""

    identifier: str
    point: str
    name: str
    path: str

    @property
    def listed(self) -> dict[str, str]:
        """The keys that both commands answer."""
        return {"Identifier": self.identifier, "ExtensionPoint": self.point, "DisplayName": self.name}


_SYSTEM = "/System/Library/CoreServices"
_SHARING = "com.apple.share-services"
EXTENSIONS = (
    Extension("com.apple.share.Mail.compose", _SHARING, "Mail", "/System/Applications/Mail.app"),
    Extension("com.apple.share.AirDrop.send", _SHARING, "AirDrop", f"{_SYSTEM}/Sharing.app"),
    Extension("com.apple.share.Messages.window", _SHARING, "Messages", "/System/Applications/Messages.app"),
    Extension("com.apple.Notes.SharingExtension", _SHARING, "Notes", "/System/Applications/Notes.app"),
    Extension("com.apple.finder.MarkupUI", "com.apple.ui-services", "Markup", f"{_SYSTEM}/Finder.app"),
)
