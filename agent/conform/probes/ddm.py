"""Probes of declarative management: the endpoints of the check-in message DeclarativeManagement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agent.conform.probes.probe import Probe
from agent.conform.reading.ddm import KINDS
from agent.conform.stage.stage import Stage
from agent.mdm.checkin import declarative_management
from agent.net.http.http1 import Response
from agent.service.macs.groups import MacHandle

MOST_DECLARATIONS = 10  # that a probe fetches; ours
_MISSING = "declaration/configuration/test.lom-agent.conform.no-such-declaration"


async def synchronisation(stage: Stage) -> None:
    """A Mac fetches the tokens, the declaration items, the declarations, and the tokens again."""
    mac = await stage.enrolled()
    await _ask(stage, mac, "tokens")
    items = await _ask(stage, mac, "declaration-items")
    for endpoint, _ in zip(_endpoints(items), range(MOST_DECLARATIONS), strict=False):
        await _ask(stage, mac, endpoint)
    await _ask(stage, mac, "tokens")


async def missing(stage: Stage) -> None:
    """A Mac fetches the tokens, and asks for what does not exist; then it opens a session."""
    mac = await stage.enrolled()
    await _ask(stage, mac, "tokens")
    await _ask(stage, mac, _MISSING)
    await _ask(stage, mac, "no-such-endpoint")
    await stage.session(mac)


async def status(stage: Stage) -> None:
    """A Mac fetches the tokens, and sends a status report."""
    mac = await stage.enrolled()
    await _ask(stage, mac, "tokens")
    device = {"identifier": {"serial-number": mac.mac.serial_number, "udid": mac.udid}}
    await _ask(stage, mac, "status", {"StatusItems": {"device": device}, "Errors": []})


async def command(stage: Stage) -> None:
    """The server queues DeclarativeManagement, and the Mac answers it."""
    mac = await stage.enrolled()
    await stage.result(await stage.declare(mac))


async def _ask(stage: Stage, mac: MacHandle, endpoint: str, report: Any = None) -> Response | None:
    data = None if report is None else json.dumps(report).encode()
    return await stage.raw.check_in(mac, declarative_management(mac.udid, endpoint, data), says=endpoint)


def _endpoints(items: Response | None) -> Iterator[str]:
    """The endpoints of the declarations in the answer to ``declaration-items``, as far as it can be read."""
    try:
        declarations = json.loads(b"" if items is None else items.body)["Declarations"]
        for key, kind in KINDS.items():
            for item in declarations.get(key, ()):
                yield f"declaration/{kind}/{item['Identifier']}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return


PROBES = (
    Probe("ddm-command", "Has the server queue DeclarativeManagement.", command),
    Probe("ddm-missing", "Asks for a declaration and an endpoint that do not exist.", missing),
    Probe("ddm-status", "Sends a status report.", status),
    Probe("ddm-sync", "Fetches the tokens, the declaration items and the declarations.", synchronisation),
)
