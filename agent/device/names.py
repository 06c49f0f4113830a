"""The local host name that macOS makes from the name of the computer."""

from __future__ import annotations

import unicodedata

_MAX_LABEL = 63  # Source: RFC 1035, 2.3.4; Bonjour names are DNS labels (RFC 6762, 3)
_LEFT_OUT = "'\u2019"  # apostrophes


def local_host_name_of(computer_name: str) -> str:
    """A DNS label of ASCII letters, digits and hyphens; empty if the name has no letter and no digit.

    Accents and apostrophes are left out, and every other run of characters becomes a hyphen, as macOS does it:
    ``Ana's Mac Studio`` gives ``Anas-Mac-Studio``.
    """
    words, word = [], ""
    for character in unicodedata.normalize("NFKD", computer_name):
        if character.isascii() and character.isalnum():
            word += character
        elif character not in _LEFT_OUT and not unicodedata.combining(character):
            words.append(word)
            word = ""
    return "-".join(each for each in [*words, word] if each)[:_MAX_LABEL].rstrip("-")
