"""Names of peers: which texts are valid, and when two of them are equal.

Names are compared without regard to the case of ASCII letters and of no other character (RFC 4343, section 3). Python's
``lower``, ``upper`` and ``casefold`` convert all of Unicode: KELVIN SIGN becomes k, and ``ﬀ`` becomes FF.
"""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)


def ascii_lower(text: str) -> str:
    """``text`` with A to Z in lower case; other characters are unchanged."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def ascii_upper(text: str) -> str:
    """``text`` with a to z in upper case; other characters are unchanged."""
    return text.upper() if text.isascii() else text.translate(_UPPER)


def same_name(one: str, other: str) -> bool:
    """Whether two names are equal apart from the case of ASCII letters."""
    return ascii_lower(one) == ascii_lower(other)


def fault_of_name(name: object) -> str:
    """Why this is not a valid name, for an error text; empty for a valid one."""
    if not isinstance(name, str):
        return "it is not a string"
    if not name:
        return "it is empty"
    if name != name.strip():
        return "it begins or ends with white space"
    if not name.isprintable():  # C0, C1 and NUL, but also direction marks and spaces other than U+0020
        return "it has a character that is not printable"
    return ""
