"""The one table of what a fault rule can do in which operation, and of the parameters that belong to it.

The checks of a rule (`agent.faults.rules`) and docs/faults.md are made from it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

On = Literal["command", "checkin", "connect", "session", "lom_link", "push", "scep", "acme", "attestation", "enroll"]
Do = Literal[
    "not_now", "error", "format_error", "delay", "drop", "slow", "certificate", "wrong_udid", "malformed", "refuse",
    "lose", "offline", "crash", "throttle", "store", "away", "falsify",
]  # fmt: skip
At = Literal["before_request", "in_request", "after_request", "in_response"]

_HTTP: tuple[On, ...] = ("command", "checkin", "connect", "session", "scep", "acme", "enroll")


class Effect(NamedTuple):
    """One row of the table: what ``do`` means in the operations ``on``, and its parameters."""

    do: Do
    on: tuple[On, ...]
    needs: tuple[str, ...]
    """Parameters that must be given."""
    takes: tuple[str, ...]
    """Parameters that may be given."""
    meaning: str
    """In Markdown."""


EFFECTS: tuple[Effect, ...] = (
    Effect("not_now", ("command",), (), (), "The Mac answers NotNow, also where Apple does not allow it."),
    Effect("error", ("command",), (), ("errors",), "The Mac answers Error with the chain `errors`."),
    Effect("format_error", ("command",), (), (), "The Mac answers CommandFormatError."),
    Effect(
        "delay",
        ("command", "checkin", "connect", "session", "lom_link", "push", "scep", "acme", "enroll"),
        ("seconds",),
        (),
        "The operation starts `seconds` later: carrying out the command, sending the request, opening the connection, "
        "carrying out the LOM request, delivering the push.",
    ),
    Effect("drop", _HTTP, ("at",), (), "The Mac resets the connection at the point `at`."),
    Effect(
        "drop",
        ("lom_link",),
        (),
        (),
        "The Device resets the link after it has read the request, and does not carry it out. From version 2 on the "
        "Controller connects once more.",
    ),
    Effect("drop", ("push",), (), (), "APNs resets the provider's connection instead of answering."),
    Effect("slow", _HTTP, ("bytes_per_s",), (), "The Mac sends its request at this rate."),
    Effect(
        "certificate",
        ("connect",),
        ("which",),
        (),
        "The Mac shows another client certificate, with its own subject and key, on the new connection until it ends.",
    ),
    Effect(
        "wrong_udid", ("command", "session", "checkin"), (), (), "The message has a UDID that no Mac of the fleet has."
    ),
    Effect(
        "malformed",
        ("command", "session", "checkin"),
        (),
        (),
        "The message is cut off in the middle: it is not a valid plist.",
    ),
    Effect("refuse", ("lom_link",), (), (), "The Device answers with an error, and does not carry out the request."),
    Effect("refuse", ("push",), (), ("reason",), "APNs refuses the push."),
    Effect(
        "throttle",
        ("push",),
        ("limit", "seconds"),
        (),
        "APNs accepts `limit` pushes for the Mac in each interval of `seconds`, and refuses the others with "
        "`TooManyRequests`.",
    ),
    Effect("lose", ("push",), (), (), "APNs accepts the push and never delivers it."),
    Effect(
        "store",
        ("push",),
        ("until",),
        (),
        "APNs cannot reach the Mac before `until`: it stores the push, or drops it if its expiration is 0.",
    ),
    Effect(
        "away",
        ("push",),
        ("until",),
        (),
        "The gateway resets every connection at `after`, and does not listen until `until`. This cannot be limited to "
        "some Macs.",
    ),
    Effect(
        "offline",
        ("command", "session", "push"),
        ("seconds",),
        (),
        "Instead of the operation, the Mac closes its connections to the server and opens none for `seconds`; pushes "
        "are stored. Then it opens a session.",
    ),
    Effect(
        "crash",
        ("command",),
        (),
        (),
        "The Mac loses power after it has received the command and before it carries it out, and boots again.",
    ),
    Effect(
        "falsify",
        ("attestation",),
        ("what",),
        (),
        "The Mac attests something wrong, which `what` names, and does not cache this attestation.",
    ),
)
EXCUSES = frozenset[str]({"drop", "slow", "certificate", "wrong_udid", "malformed", "offline", "crash", "falsify"})
"""What spoils a request or its connection: the failure after it may not be the server's."""
PARAMETERS = tuple(
    dict.fromkeys(name for effect in EFFECTS for name in (*effect.needs, *effect.takes) if name != "until")
)
ROWS: dict[tuple[str, str], Effect] = {(effect.do, on): effect for effect in EFFECTS for on in effect.on}
TYPED: tuple[On, ...] = ("command", "checkin", "scep", "acme", "attestation")  # the operations that have a ``type``
TYPES_OF: dict[str, tuple[str, ...]] = {
    "scep": ("GetCACaps", "GetCACert", "PKIOperation"),
    "acme": (
        "directory",
        "newNonce",
        "newAccount",
        "newOrder",
        "authorization",
        "challenge",
        "order",
        "finalize",
        "certificate",
    ),
    "attestation": ("acme", "DeviceInformation"),
}
"""Every ``type`` of an operation that has no others."""
_COUNTING = ("times", "every", "probability")
WITHOUT: dict[str, tuple[str, ...]] = {
    "throttle": _COUNTING,
    "away": ("macs", "segment", "role", "os", "share", *_COUNTING),
}
"""The keys of a rule that an effect does not allow."""
