"""The pytest plugin: fixtures that give a test simulated Macs, and their conversation in the report of a failed test.

Idle unless a test uses a fixture of it. One service (``lom-agent serve``) runs for each process of the test session and
kind of clock; every test gets it after a reset, with a seed made from the test's name. A service that has ended is
replaced before the next test.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from agent.client import Device, Fleet, Lab, Start
    from agent.service.types import APNsInfo

MARKER = "lom(devices=0, seed=None, os=None, apns=True, clock='real')"
_FLEET = pytest.StashKey["Fleet"]()


class Services:
    """The services of this process of the test session, each started when a test first needs it."""

    def __init__(self, options: Start) -> None:
        self._options = options
        self._fleets: dict[tuple[str, bool], Fleet] = {}

    def fleet(self, clock: Literal["real", "manual"] = "real", apns: bool = True) -> Fleet:
        """The service with this clock; it has a lab and a gateway, unless ``apns`` is false."""
        found = self._fleets.get((clock, apns))
        if found is not None:
            if found.running:
                return found
            found.close()
        from agent.client import Fleet  # not before a test needs it: an idle plugin costs nothing

        options: Start = {"lab": apns, "apns": apns, "clock": clock, **self._options}
        fleet = self._fleets[clock, apns] = Fleet.start(**options)
        return fleet

    @property
    def apns(self) -> APNsInfo:
        """The gateway of the usual service, for a server that is started once a session."""
        found = self.fleet().apns
        if found is None:
            raise pytest.UsageError("Expected a gateway, found that lom_options turns it off. Remove apns from it.")
        return found

    def close(self) -> None:
        """End them."""
        for fleet in self._fleets.values():
            fleet.close()
        self._fleets.clear()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}: the fleet of a test: how many Macs it has from the start, their seed and macOS, whether it has a "
        "gateway and a lab, and whether its clock is 'real' or 'manual'.",
    )


@pytest.fixture(scope="session")
def lom_options() -> Start:
    """Options of the services of the session; a suite overrides it: ``return {"ca": ["ca.pem"]}``."""
    return {}


@pytest.fixture(scope="session")
def lom_services(lom_options: Start) -> Iterator[Services]:
    """The services of this process of the test session."""
    services = Services(lom_options)
    yield services
    services.close()


@pytest.fixture
def lom_fleet(request: pytest.FixtureRequest, lom_services: Services) -> Fleet:
    """A fleet with the Macs of the marker ``lom``; ``mac()`` and ``segment(devices=2)`` add others."""
    options = _options(request.node)
    fleet = lom_services.fleet(options["clock"], options["apns"])
    fleet.reset(seed=_name(request.node) if options["seed"] is None else options["seed"])
    request.node.stash[_FLEET] = fleet
    if options["devices"]:
        fleet.add(options["devices"], os=options["os"])
    return fleet


@pytest.fixture
def lom_device(request: pytest.FixtureRequest, lom_fleet: Fleet) -> Device:
    """One Mac, not enrolled."""
    return lom_fleet.macs[0] if len(lom_fleet) else lom_fleet.mac(os=_options(request.node)["os"])


@pytest.fixture
def lom_lab(request: pytest.FixtureRequest, lom_options: Start, lom_fleet: Fleet) -> Lab:
    """The lab beside the fleet, as the server under test: ``lom_lab.enroll_url``, ``lom_lab.queue(udid, type)``."""
    if not _options(request.node)["apns"] and not lom_options.get("lab"):
        raise pytest.UsageError(
            "Expected a test with a gateway for lom_lab, found apns=False, without a lab. "
            'Remove apns=False, or let lom_options return {"lab": True}.'
        )
    return lom_fleet.lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add seed, rules and the last exchanges to the report of a test that failed."""
    report = yield
    fleet = item.stash.get(_FLEET, None)
    if fleet is not None and report.failed and call.when in ("setup", "call"):
        report.sections.append(("lom-agent", _conversation(fleet)))
    return report


def _conversation(fleet: Fleet) -> str:
    try:
        return fleet.report()
    except Exception as error:  # noqa: BLE001 - the service has ended, or the test replaced the client's transport
        return fleet.why_ended or f"{type(error).__name__}: {error}"


def _name(node: pytest.Item) -> str:
    """The name of a test, the same with and without xdist, which changes the node id with ``--dist loadgroup``."""
    file, _line, name = node.location
    return f"{file}::{name}"[-200:]


def _options(node: Any) -> dict[str, Any]:
    """The arguments of the marker, the nearest one first. Raises UsageError for an unknown one."""
    options: dict[str, Any] = {"devices": 0, "seed": None, "os": None, "apns": True, "clock": "real"}
    for marker in reversed(list(node.iter_markers("lom"))):
        unknown = set(marker.kwargs) - set(options)
        if unknown or marker.args:
            raise pytest.UsageError(f"Expected @pytest.mark.{MARKER}, found {sorted(unknown) or marker.args}.")
        options.update(marker.kwargs)
    return options
