"""``lom-agent lom-request``: sends one power request, and prints its result."""

from __future__ import annotations

import json
import sys
import uuid as uuids
from collections.abc import Mapping
from typing import Any

import click

from agent.cli.lom.identities import source_of
from agent.cli.reactor import run_until_done, the_reactor
from agent.errors import PeerError
from agent.fleet.population import Population
from agent.lom.endpoint import LinkSide
from agent.lom.link import LinkRequest
from agent.lom.requests import MAX_DNS_NAME_LENGTH, MAX_UUID_LENGTH, PowerRequest
from agent.net.lom.by_hand_controller import Asking, RequestResult, Step
from agent.net.lom.controller import RelayAbandoned
from agent.net.transport.addresses import parse_socket_address, socket_address_text
from agent.pki.issuing.seeded import SeededIdentities
from agent.report.terminal import visible

_OCTETS_A_LINE = 16


def send_request(request_type: str, name: str, to: str, options: Mapping[str, Any], *, seconds: float) -> None:
    """Send the request of the command's options. Raises OperatorError and UsageError; SystemExit unless it succeeds."""
    address = parse_socket_address(to, "--to")
    if address[1] == 0:
        raise click.UsageError("--to needs the port that the Device listens on, not 0")
    uuid = str(uuids.uuid4()).upper() if options["uuid"] is None else options["uuid"]
    _check_text("NAME", name, MAX_DNS_NAME_LENGTH)
    _check_text("--uuid", uuid, MAX_UUID_LENGTH)
    request = LinkRequest(uuid, name, PowerRequest(request_type), options["protocol_version"])
    side = _controller_side(options)
    reactor = the_reactor()
    asking = Asking(
        reactor, address, request, side, seconds=seconds, tell=_tell_step if options["verbose"] else lambda _: None
    )
    results: list[RequestResult] = []

    async def ask() -> None:
        asking.start()
        results.append(await asking.done)

    def interrupt() -> None:
        asking.give_up(RelayAbandoned("stopped before the Device responded"))

    signal_number = run_until_done(reactor, ask(), interrupt)
    _report(results[0], request, socket_address_text(address), as_json=options["as_json"])
    if signal_number is not None:
        sys.exit(128 + signal_number)
    if results[0].failure is not None:
        sys.exit(1)


def _controller_side(options: Mapping[str, Any]) -> LinkSide:
    source = source_of(options, "controller")
    if source.side is not None:
        return source.side
    seed, index = source.seed or "", options["controller"] or 0
    seeded = SeededIdentities(seed)
    return LinkSide(seeded.controller(index, Population(seed, index + 1)[index].dns_name), (seeded.device_ca,))


def _check_text(what: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest or not text.isprintable():
        raise click.UsageError(f"Expected 1 to {longest} printable characters for {what}, found {text[:80]!r}.")


def _tell_step(step: Step) -> None:
    click.echo(visible(step.text), err=True)
    for at in range(0, len(step.octets), _OCTETS_A_LINE):
        click.echo("    " + step.octets[at : at + _OCTETS_A_LINE].hex(" "), err=True)


def _report(asked: RequestResult, request: LinkRequest, to: str, *, as_json: bool) -> None:
    failure = asked.failure
    if as_json:
        click.echo(json.dumps(_as_json(asked, failure, request, to)))
    elif failure is None:
        click.echo(visible(f"{request.dns_name}: {request.request.value} done"))
    if failure is not None:
        click.echo(visible(f"lom-agent: {request.dns_name}: {failure}"), err=True)


def _as_json(asked: RequestResult, failure: PeerError | None, request: LinkRequest, to: str) -> dict[str, Any]:
    return {
        "device": request.dns_name,
        "to": to,
        "request": request.request.value,
        "request_uuid": request.uuid,
        "protocol_version": request.version,
        "success": failure is None,
        "kind": None if failure is None else failure.kind,
        "error": "" if failure is None else str(failure),
        "sent": asked.sent,
        "tls": asked.tls,
        "cipher": asked.cipher,
        "peer": asked.peer,
        "seconds": round(asked.seconds, 6),
    }
