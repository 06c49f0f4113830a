"""What a request to enroll a Mac does not name: the profile or its URL, and the CA of the Macs' own identities."""

from __future__ import annotations

from collections.abc import Callable

from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.authority import Authority
from agent.pki.issuing.device_ca import read_device_ca
from agent.service.macs.parts import ServiceSettings
from agent.service.types import LabInfo


class EnrollmentDefaults:
    """Those of the settings, or of the lab with its ``authorities``; ``lab`` tells where it is."""

    def __init__(
        self, settings: ServiceSettings, authorities: Authorities | None, lab: Callable[[], LabInfo | None]
    ) -> None:
        self.automated = settings.automated
        """Whether enrollments are as in Setup Assistant."""
        self._settings = settings
        self._authorities = authorities
        self._lab = lab

    def source(self) -> str | bytes | None:
        """The enrollment profile, or its URL."""
        lab = self._lab()
        return self._settings.enroll or (None if lab is None else lab.enroll_url)

    def automated_url(self) -> str | bytes | None:
        """The URL of automated enrollments."""
        lab = self._lab()
        return self._settings.enroll or (None if lab is None else lab.automated_url)

    def device_authority(self) -> Authority | None:
        """The CA of the identities that sign MachineInfo: that of the settings, or the lab's. Raises OperatorError."""
        if self._settings.device_ca:
            return read_device_ca(self._settings.device_ca, "the service's settings")
        return None if self._lab() is None or self._authorities is None else self._authorities.device_authority
