"""The pending software update of one Mac; ``agent.device.updating`` has what happens to it."""

from __future__ import annotations

from msgspec import Struct

DECLARATION, COMMAND = "declaration", "mdm"  # values of softwareupdate.install-reason
DOWNLOADING, PREPARED, INSTALLING, FAILED, NONE = "downloading", "prepared", "installing", "failed", "none"


class Update(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The pending update of a Mac, or the one that failed last."""

    version: str
    build: str
    reason: str
    """DECLARATION or COMMAND: what asked for it."""
    declaration: str = ""
    """The Identifier of the declaration that enforces it."""
    local_time: str = ""
    """When it is enforced, as the declaration has it."""
    install_at: float | None = None
    """When it is installed; 0 is as soon as it is prepared, None never: only downloaded."""
    state: str = DOWNLOADING
    prepared_at: float = 0.0
    """When the download ends."""
    failures: int = 0
    failed_at: float = 0.0

    @property
    def installing(self) -> bool:
        """Whether the Mac restarts to install it."""
        return self.state == INSTALLING
