"""Defects of what the lab sends to Macs with macOS 27."""

from __future__ import annotations

from agent.lab.defects.defect import Defect

DEFECTS = (
    Defect("os27-removed-sent", "Commands that macOS 27 has no more are sent.", ("OS27-CMD-01",)),
    Defect("os27-queries-sent", "DeviceInformation has queries that macOS 27 has no more.", ("OS27-CMD-02",)),
    Defect("os27-user-command", "Commands of the user channel are sent to the device channel.", ("OS27-CMD-03",)),
)
