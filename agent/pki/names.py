"""Names that identify somebody: which texts are names at all, and when two of them are the same.

Names are compared without regard to the case of ASCII letters and of no other character (RFC 4343, section 3). Python's
``lower``, ``upper`` and ``casefold`` know all of Unicode: KELVIN SIGN becomes k, and ``ﬀ`` becomes FF.
"""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)


def ascii_lower(text: str) -> str:
    """``text`` with A to Z in lower case, and everything else as it is."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def ascii_upper(text: str) -> str:
    """``text`` with a to z in upper case, and everything else as it is."""
    return text.upper() if text.isascii() else text.translate(_UPPER)


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same but for the case of ASCII letters."""
    return ascii_lower(one) == ascii_lower(other)


def fault_of_name(name: object) -> str:
    """Why this is no name of anybody, for an error text; empty where it is one."""
    if not isinstance(name, str):
        return "it is no text"
    if not name:
        return "it is empty"
    if name != name.strip():
        return "it begins or ends with a blank"
    if not name.isprintable():  # C0, C1 and NUL, but also marks of direction and other blanks than a space
        return "it has a character that cannot be printed"
    return ""
