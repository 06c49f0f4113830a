"""Tables of the Mac models that support lights-out management and of the macOS releases that run on them.

``population`` draws from a `Mix` of both with 64-bit numbers of a keyed hash. The weights are our estimate of a typical
fleet.
Sources: Apple's deployment guide (which models support LOM), Apple's support pages "Identify your Mac" (identifiers,
Ethernet ports), the public AppleDB (builds, and the models each was released for).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, Protocol, TypeVar

import msgspec

from agent.errors import MisuseError, OperatorError


class Model(msgspec.Struct, frozen=True):
    """One LOM-capable model of Mac."""

    identifier: str
    """What a Mac reports as Model and ProductName."""
    name: str
    """What a Mac reports as ModelName."""
    year: int
    """Year of release."""
    weight: int
    """Share of the fleet, relative to the other models."""
    lom_ports: int
    """Number of built-in 10 Gb Ethernet ports: 1 or 2. On the Mac mini the port is an option at purchase."""
    chip: Literal["apple-silicon", "intel"]
    earliest_macos: tuple[int, int]
    """First macOS (major, minor), from 11 on, whose general build runs on this model."""
    latest_major: int | None
    """Last major version of macOS that runs on this model; None if no last version is known."""
    chip_id: int
    """Of the system on a chip, as in the ProvisioningUDID of a Mac with Apple silicon; 0 for Intel."""
    serial_prefix: str
    """First characters of the serial number, before the ten generated ones."""


class Release(msgspec.Struct, frozen=True):
    """One build of macOS."""

    version: str
    build: str
    weight: int
    """Share of the fleet, relative to the other releases for the same model; 0: only where it is asked for."""
    only_for: tuple[str, ...] = ()
    """Identifiers of the models that a build for new hardware supports; empty for a general build."""

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version: ``15.3.2`` is (15, 3)."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


# Serial numbers have ten random characters since 2021. Those of the two older models have twelve characters; the
# first two identify the factory.
_MINI, _STUDIO, _PRO = "Mac mini", "Mac Studio", "Mac Pro"
MODELS: tuple[Model, ...] = (
    Model("Macmini9,1", _MINI, 2020, 12, 1, "apple-silicon", (11, 0), None, 0x8103, "C0"),
    Model("Mac14,3", _MINI, 2023, 10, 1, "apple-silicon", (13, 2), None, 0x8112, ""),
    Model("Mac14,12", _MINI, 2023, 8, 1, "apple-silicon", (13, 2), None, 0x6020, ""),
    Model("Mac16,10", _MINI, 2024, 16, 1, "apple-silicon", (15, 2), None, 0x8132, ""),
    Model("Mac16,11", _MINI, 2024, 10, 1, "apple-silicon", (15, 2), None, 0x6040, ""),
    Model("Mac13,1", _STUDIO, 2022, 10, 1, "apple-silicon", (12, 3), None, 0x6001, ""),
    Model("Mac13,2", _STUDIO, 2022, 4, 1, "apple-silicon", (12, 3), None, 0x6002, ""),
    Model("Mac14,13", _STUDIO, 2023, 9, 1, "apple-silicon", (13, 5), None, 0x6021, ""),
    Model("Mac14,14", _STUDIO, 2023, 5, 1, "apple-silicon", (13, 5), None, 0x6022, ""),
    Model("Mac16,9", _STUDIO, 2025, 8, 1, "apple-silicon", (15, 4), None, 0x6041, ""),
    Model("Mac15,14", _STUDIO, 2025, 4, 1, "apple-silicon", (15, 4), None, 0x6032, ""),
    Model("MacPro7,1", _PRO, 2019, 2, 2, "intel", (11, 0), 26, 0, "F5"),
    Model("Mac14,8", _PRO, 2023, 2, 2, "apple-silicon", (13, 5), None, 0x6022, ""),
)

# The weights are those of a fleet of late 2026: about a quarter of the Macs on macOS 27, half on 26, the rest older.
RELEASES: tuple[Release, ...] = (
    Release("13.6", "22G120", 1),
    Release("14.4", "23E214", 1),
    Release("14.5", "23F79", 1),
    Release("15.0", "24A335", 1),
    Release("15.1", "24B83", 1),
    Release("15.1", "24B2083", 1, ("Mac16,10", "Mac16,11")),
    Release("15.2", "24C101", 1),
    Release("15.3", "24D60", 1),
    Release("15.3.2", "24D2082", 1, ("Mac15,14", "Mac16,9")),
    Release("15.4", "24E248", 1),
    Release("15.5", "24F74", 5),
    Release("26.0", "25A354", 1),
    Release("26.1", "25B78", 1),
    Release("26.2", "25C56", 2),
    Release("26.3", "25D125", 1),
    Release("26.4", "25E246", 3),
    Release("26.5", "25F71", 4),
    Release("26.6", "25G72", 8),
    Release("27.0", "26A428", 4),
    Release("27.0.1", "26A434", 6),
)

OSChoice = str | Sequence[str] | Mapping[str, float]
"""The macOS of a fleet: a release (``26.4``), a major version (``27``), several of them, or several with weights.

As text they are separated by commas, a weight after ``=``: ``26.4,27`` or ``26=3,27=1``.
"""

HARDWARE_BOUND_SINCE = 14
"""The macOS whose ACME payload may ask for a key that is bound to the hardware."""

_MAX_CHOICES = 50
_MAX_WEIGHT = 1e6
_NUMBERS = 1 << 64  # a draw is by one of so many numbers


class _Weighted(Protocol):
    @property
    def weight(self) -> int: ...


_Row = TypeVar("_Row", bound=_Weighted)


def runs_on(release: Release, model: Model) -> bool:
    """Whether this build of macOS was released for ``model``."""
    if release.only_for:
        return model.identifier in release.only_for
    if release.number < model.earliest_macos:
        return False
    return model.latest_major is None or release.number[0] <= model.latest_major


def model_named(identifier: str) -> Model:
    """The model with this identifier. Raises MisuseError if MODELS has none."""
    try:
        return _BY_IDENTIFIER[identifier]
    except KeyError:
        raise MisuseError(
            f"Expected the identifier of a LOM-capable model (see MODELS), found {identifier!r}."
        ) from None


class Mix:
    """The models and releases of one fleet. ``os`` is the text of an `OSChoice`; None is the usual mix.

    A version of which no release has a weight means its newest release. Of several versions, a model has those that run
    on it. Raises OperatorError for an unknown version or model, and for a model on which no version runs.
    """

    __slots__ = ("_models", "_releases")

    def __init__(self, os: str | None = None, model: str | None = None) -> None:
        choices = [(RELEASES, 1.0)] if os is None else [(_releases_of(each), share) for each, share in _choices(os)]
        models = MODELS if model is None else (_model_asked_for(model),)
        self._releases = {each.identifier: shares for each in models if (shares := _shares(choices, each))}
        self._models = _tickets([each for each in models if each.identifier in self._releases])
        if not self._models:
            runs = ", ".join(dict.fromkeys(each.version for each in RELEASES if runs_on(each, models[0])))
            raise OperatorError(
                f"Expected a release of macOS that runs on {model}, found {os!r}. Choose another model, or one of "
                f"{runs}."
            )

    @property
    def versions(self) -> list[str]:
        """The releases that a Mac may have, the oldest first."""
        drawn = {each for shares in self._releases.values() for share in shares for each in share.tickets}
        return list(dict.fromkeys(each.version for each in RELEASES if each in drawn))

    def draw_model(self, number: int) -> Model:
        """The model selected by ``number``, a uniform random integer much larger than the sum of the weights."""
        return self._models[number % len(self._models)]

    def draw_release(self, model: Model, number: int) -> Release:
        """The release of ``model`` selected by ``number``, a uniform random integer below 2 ** 64."""
        shares = self._releases[model.identifier]
        share = number * shares[-1].bound / _NUMBERS
        tickets = next((each.tickets for each in shares if share < each.bound), shares[-1].tickets)
        return tickets[number % len(tickets)]


def os_from(major: int, os: str | None, model: str | None = None) -> str | None:
    """``os`` for a fleet whose Macs all need this major version of macOS: the usual mix loses what is older.

    Raises OperatorError for an ``os`` that has an older release.
    """
    older = [each for each in Mix(os, model).versions if int(each.partition(".")[0]) < major]
    if not older:
        return os
    weights: dict[int, int] = {}
    for release in RELEASES:
        if release.number[0] >= major:
            weights[release.number[0]] = weights.get(release.number[0], 0) + release.weight
    newer = ",".join(f"{number}={weight}" for number, weight in weights.items())
    if os is None:
        return newer
    raise OperatorError(
        f"Expected releases from macOS {major} on, found {', '.join(older)} in {os[:200]!r}. Choose newer ones, such "
        f"as {newer}."
    )


def os_text(choice: OSChoice | None) -> str | None:
    """An `OSChoice` as text; None for None."""
    if choice is None or isinstance(choice, str):
        return choice
    if isinstance(choice, Mapping):
        return ",".join(f"{version}={weight!r}" for version, weight in choice.items())
    return ",".join(choice)


class _Share(msgspec.Struct, frozen=True):
    """Some releases, each as often as its weight says; they are drawn by numbers up to ``bound``."""

    bound: float
    tickets: tuple[Release, ...]


def _shares(choices: Sequence[tuple[Sequence[Release], float]], model: Model) -> list[_Share]:
    shares: list[_Share] = []
    bound = 0.0
    for releases, weight in choices:
        tickets = _tickets([release for release in releases if runs_on(release, model)])
        if tickets:
            bound += weight
            shares.append(_Share(bound, tickets))
    return shares


def _choices(os: str) -> list[tuple[str, float]]:
    """The versions of an `OSChoice` as text, with their weights. Raises OperatorError."""
    found: dict[str, float] = {}
    for each in os.split(",", _MAX_CHOICES):
        version, given, weight = (part.strip() for part in each.partition("="))
        try:
            share = float(weight) if given else 1.0
        except ValueError:
            share = 0.0
        if version in found or not 0 < share <= _MAX_WEIGHT:
            raise OperatorError(
                f"Expected versions of macOS that differ, each alone or with a weight above 0 and up to "
                f"{_MAX_WEIGHT:,.0f}, such as 26.4,27 or 26=3,27=1, found {os[:200]!r}."
            )
        found[version] = share
    return list(found.items())


def _releases_of(os: str) -> list[Release]:
    """The releases with this version or major version. Raises OperatorError."""
    found = [release for release in RELEASES if os in (release.version, str(release.number[0]))]
    if found:
        return found
    major = os.partition(".")[0]
    same_major = [release.version for release in RELEASES if release.version.partition(".")[0] == major]
    known = same_major or [str(number) for number in dict.fromkeys(release.number[0] for release in RELEASES)]
    raise OperatorError(
        f"Expected a known release of macOS, such as 26.4, or a major version, such as 27, found {os[:200]!r}. "
        f"Choose one of {', '.join(dict.fromkeys(known))}."
    )


def _model_asked_for(identifier: str) -> Model:
    """The model with this identifier. Raises OperatorError."""
    model = _BY_IDENTIFIER.get(identifier)
    if model is not None:
        return model
    near = get_close_matches(identifier, _BY_IDENTIFIER, 3)
    raise OperatorError(
        f"Expected the identifier of a model with LOM, found {identifier!r}. Choose one of "
        f"{', '.join(near or _BY_IDENTIFIER)}."
    )


def _tickets(rows: Sequence[_Row]) -> tuple[_Row, ...]:
    """Each row repeated ``weight`` times, so that a weighted draw is one look-up; the last row if none has a weight."""
    return tuple(row for row in rows for _ in range(row.weight)) or tuple(rows[-1:])


_BY_IDENTIFIER = {model.identifier: model for model in MODELS}
USUAL_MIX = Mix()
