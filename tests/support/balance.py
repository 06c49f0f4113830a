"""Invariants of the results and the trace of every run: each operation that started ends exactly once."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any


def check_balance(document: Any, trace: Path, junit: Path | None = None) -> None:
    """For every operation and phase, started = succeeded + failed + cut short, also in the trace."""
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {line["operation"] for line in lines} == {
        name for name, each in document["operations"].items() if each["started"]
    }
    for name, each in document["operations"].items():
        mine = [line for line in lines if line["operation"] == name]
        assert each["started"] == each["count"] + each["cut_short"] == len(mine), name
        assert each["errors"] == sum("error" in line for line in mine), name
        assert each["cut_short"] == sum("cut_short" in line for line in mine), name
        assert each["count"] - each["errors"] == sum(line["ok"] for line in mine), name
        cuts = sum(cut["count"] for cut in document["cut_short"] if cut["operation"] == name)
        errors = sum(error["count"] for error in document["errors"] if error["operation"] == name)
        assert (cuts, errors) == (each["cut_short"], each["errors"]), name
    if junit is not None:
        reported = {each.get("name"): each.get("value") for each in ET.parse(junit).findall(".//property")}
        for name, each in document["operations"].items():
            good = each["count"] - each["errors"]
            counts = (each["started"], good, each["errors"], each["cut_short"])
            assert reported[name] == "{} started, {} succeeded, {} failed, {} cut short".format(*counts)
    check_sums(document)


def check_sums(document: Any) -> None:
    """What holds without a trace too, and after a worker was lost."""
    for name, each in document["operations"].items():
        assert each["started"] == each["count"] + each["cut_short"], name
    for phase in document["phases"]:
        assert phase["started"] == phase["done"] + phase["cut_short"], phase
        assert phase["planned"] == phase["started"] + phase["dropped"], phase
