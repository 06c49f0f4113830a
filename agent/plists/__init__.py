"""Property lists: untrusted bytes to plain values and back, with limits on size, depth and number of values.

Commands, results and profiles are XML plists; LOM link frames are binary ones. ``load`` reads both. The result
holds only ``dict`` (with ``str`` keys), ``list``, ``str``, ``bytes``, ``int``, ``float``, ``bool`` and ``datetime``
(UTC, without tzinfo), exceeds none of the limits, and can always be written again.

Both readers are our own and take time in proportion to the bytes. ``plistlib`` reads overlapping binary objects in
quadratic time and memory, accepts numbers and dates that only Python reads, and takes twice the time for an XML plist.
"""

from __future__ import annotations

import struct
from typing import Any
from xml.parsers.expat import ExpatError

from agent.plists.binary_reading import read_binary
from agent.plists.values import MAX_BYTES, MAX_DEPTH, MAX_VALUES, PlistError, Refused, type_name
from agent.plists.writing import dump_binary, dump_xml, xml_text
from agent.plists.xml_reading import read_xml

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_VALUES",
    "PlistError",
    "dump_binary",
    "dump_xml",
    "load",
    "load_dict",
    "type_name",
    "xml_text",
]

_BROKEN = (ExpatError, ValueError, LookupError, OverflowError, struct.error)


def load(data: bytes, *, what: str = "body", max_bytes: int = MAX_BYTES) -> Any:
    """Read an XML or binary plist of at most ``max_bytes`` bytes.

    ``what`` names the bytes in the error. Raises PlistError, and nothing else, for any bytes.
    """
    if len(data) > max_bytes:
        raise PlistError(f"expected at most {max_bytes} bytes for the {what}, found {len(data)}")
    try:
        return read_binary(data) if data.startswith(b"bplist0") else read_xml(data)
    except Refused as refused:
        raise PlistError(f"the {what} {refused}") from None
    except _BROKEN as error:
        raise PlistError(f"the {what} is not a property list: {error or type(error).__name__}") from error


def load_dict(data: bytes, *, what: str = "body", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Like ``load``, for a plist whose root must be a dictionary. Raises PlistError."""
    value = load(data, what=what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise PlistError(f"expected the {what} to be a dictionary, found {type_name(value)}")
    return value
