"""One defect of the lab."""

from __future__ import annotations

from typing import Literal

import msgspec


class Defect(msgspec.Struct, frozen=True):
    """One behaviour that is wrong on purpose."""

    name: str
    """Lower case, with hyphens: ``lom-version-fixed``."""
    changes: str
    """What the lab then does, as a sentence."""
    fails: tuple[str, ...]
    """The ids of the requirements that fail, and no others."""
    identity: Literal["pkcs12", "scep", "acme"] = "pkcs12"
    """How identities have to come for it to show; by default it shows in any case."""
