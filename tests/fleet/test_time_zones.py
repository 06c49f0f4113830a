"""The rules of the Macs' time zones are those of the database of this machine, where it has one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest

from agent.fleet.population import Population
from agent.fleet.time_zones import RULES, time_zone


@pytest.mark.parametrize("name", RULES)
def test_offsets_of_a_year(name: str) -> None:
    try:
        known = ZoneInfo(name)
    except ZoneInfoNotFoundError:
        pytest.skip("this machine has no database of time zones")
    for hours in range(0, 24 * 366, 5):
        moment = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
        assert moment.astimezone(time_zone(name)).utcoffset() == moment.astimezone(known).utcoffset(), moment


def test_each_time_zone_of_a_fleet_has_a_rule() -> None:
    assert {mac.time_zone for mac in Population("zones", 300, 3)} == set(RULES)
