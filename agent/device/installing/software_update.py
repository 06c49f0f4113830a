"""The pending software update of one Mac; ``agent.device.installing.updates`` has what happens to it."""

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
    started_at: float = 0.0
    """When the download started."""
    failures: int = 0
    failed_at: float = 0.0

    @property
    def installing(self) -> bool:
        """Whether the Mac restarts to install it."""
        return self.state == INSTALLING

    def progress(self, now: float) -> float:
        """The share of the download that is done at ``now``, 0 to 1."""
        seconds = self.prepared_at - self.started_at
        return min(1.0, max(0.0, (now - self.started_at) / seconds)) if seconds > 0 else 1.0
