"""What a Mac asks of an enrollment profile, as far as it is a setting."""

from __future__ import annotations

from typing import Literal

PerUserConnections = Literal["required", "optional"]
"""Whether a profile for Macs must name the server capability com.apple.mdm.per-user-connections."""
