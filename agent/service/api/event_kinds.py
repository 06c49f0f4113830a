"""What each kind of event means, for docs/control-api.md."""

from __future__ import annotations

from collections.abc import Mapping

from agent.service.types import EventKind

_COMMAND = "`command_uuid`, `request_type`"

EVENT_KINDS: Mapping[EventKind, tuple[str, str, str]] = {
    "added": ("A Mac was added.", "", ""),
    "removed": ("A Mac was removed.", "", ""),
    "enrolled": ("A Mac is enrolled.", "", "`topic`"),
    "enroll_failed": ("An enrollment failed.", "", "`kind`, `error`"),
    "unenrolled": ("A Mac is no longer enrolled.", "", "`reason`"),
    "pushed": ("A Mac accepted a push.", "", "`apns_id`, `topic`"),
    "session_started": ("A Mac opened a session with the server.", "", ""),
    "session_ended": ("A session ended.", "", "`error`; empty if the session succeeded"),
    "command": ("A Mac received a command.", _COMMAND, ""),
    "answered": (
        "A Mac has carried out a command and has its result.",
        f"{_COMMAND}, `status` (as in the result)",
        "`body`, decoded, without secrets",
    ),
    "delivered": ("The server accepted a result.", f"{_COMMAND}, `status`", ""),
    "refused": ("The server refused a result, and the Mac does not send it again.", f"{_COMMAND}, `status`", "`error`"),
    "power": ("The power of a Mac changed.", "`status` (as `power` of a Mac)", ""),
    "network": ("A Mac was disconnected from every network, or reconnected.", "`status` (`online`, `offline`)", ""),
    "lom_request": ("A Mac received a LOM request, as LOM Device.", "", "`request`, `controller`, `uuid`, `error`"),
    "rule_hit": (
        "A fault rule hit an operation of a Mac.",
        f"`rules`; {_COMMAND} if it is about a command",
        "`exchange`, its number",
    ),
    "protocol_error": ("The server broke the protocol.", "", "`kind`, `error`"),
    "worker_lost": (
        "A worker process of a service with several has ended by itself, and its Macs with it.",
        "",
        "`worker`, its number, `macs`, `error`",
    ),
    "reset": ("Everything was reset, or one Mac (`udid`).", "", ""),
}
"""The meaning, the properties beside `udid`, and the keys of `data`."""
