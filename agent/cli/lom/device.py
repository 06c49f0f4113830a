"""``lom-agent lom-device``: runs LOM Devices until Ctrl-C, and prints each request and each refused connection."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from twisted.internet.defer import Deferred

from agent.cli.lom.identities import source_of
from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.signals import Stopping
from agent.fleet.population import DEFAULT_SEED, DEFAULT_SEGMENT_SIZE, Mac, Population
from agent.net.lom.by_hand_device import (
    BootEnded,
    Cast,
    Event,
    LinkRefused,
    RequestAnswered,
    RequestDeclined,
    StandaloneDevices,
)
from agent.net.transport.addresses import parse_socket_address
from agent.pki.issuing.seeded import SeededIdentities
from agent.pki.verify import common_name
from agent.report.terminal import visible

_NAMES_SHOWN = 10


def run_devices(listen: str, options: Mapping[str, Any], *, boot_seconds: float, as_json: bool) -> None:
    """Run the Devices of the command's options until a signal. Raises OperatorError and UsageError; SystemExit."""
    address = parse_socket_address(listen, "--listen")
    cast = _cast(options)
    reactor = the_reactor()
    stopped: Deferred[None] = Deferred()

    def stop(error: OSError | None = None) -> None:
        if not stopped.called:
            stopped.callback(None) if error is None else stopped.errback(error)

    def tell(event: Event) -> None:
        try:
            (_tell_json if as_json else _tell)(event)
        except OSError as error:  # standard output is closed; the response in progress is sent first
            reactor.callLater(0, stop, error)

    devices = StandaloneDevices(reactor, cast, boot_seconds=boot_seconds, tell=tell)
    devices.listen(address)
    with Stopping() as stopping:  # before the message that Ctrl-C stops the command
        if as_json:
            _echo_json({"event": "listening", "address": devices.address, "devices": devices.names})
        else:
            _introduce(devices, cast.macs)
        signal_number = run_until_done(reactor, _stay(devices, stopped), stop, stopping=stopping)
    if signal_number is not None:
        sys.exit(128 + signal_number)


async def _stay(devices: StandaloneDevices, stopped: Deferred[None]) -> None:
    try:
        await stopped
    finally:
        devices.close()


def _cast(options: Mapping[str, Any]) -> Cast:
    source = source_of(options, "devices", "segment_size")
    if source.side is not None:
        identity = source.side.identity
        mac = replace(Population(DEFAULT_SEED, 1)[0], dns_name=common_name(identity.certificate))
        return Cast([mac], lambda _: identity, source.side.anchors)
    seed = source.seed or ""
    seeded = SeededIdentities(seed)
    return Cast(
        Population(seed, options["devices"] or 1, options["segment_size"] or DEFAULT_SEGMENT_SIZE),
        lambda mac: seeded.device(mac.index, mac.dns_name),
        (seeded.controller_ca,),
    )


def _introduce(devices: StandaloneDevices, macs: Population | Sequence[Mac]) -> None:
    population = macs if isinstance(macs, Population) else None
    click.echo(f"Listening: {devices.address}")
    for index, name in enumerate(devices.names[:_NAMES_SHOWN]):
        whose = "" if population is None else f" (Mac {index}; its Controller is Mac {population.controller_of(index)})"
        click.echo(visible(f"Device:    {name}{whose}"))
    if len(devices.names) > _NAMES_SHOWN:
        click.echo(f"           … {len(devices.names)} Devices; lom-agent fleet show has all their names")
    identities = "--cert FILE --key FILE --ca FILE" if population is None else shlex.join(["--seed", population.seed])
    name, address = shlex.quote(devices.names[0]), shlex.quote(devices.address)
    click.echo(visible(f"Try:       lom-agent lom-request Reset {name} --to {address} {identities}"))
    click.echo("Ctrl-C ends it.")


def _tell(event: Event) -> None:
    match event:
        case RequestAnswered(device, controller, request, error, power):
            text = (
                f"{device}: {request.request.value} from {controller} (request {request.uuid}): {error or 'done'}; "
                f"power: {power.name.lower()}"
            )
        case RequestDeclined(controller, answer):
            text = f"request {answer.uuid} from {controller}: {answer.error}"
        case BootEnded(device):
            text = f"{device}: boot finished; power: on"
        case LinkRefused(peer, "", error):
            text = f"{peer}: no link: {error} ({error.kind})"
        case LinkRefused(peer, controller, error):
            text = f"{peer}: hung up on {controller}: {error} ({error.kind})"
    click.echo(visible(text))


def _tell_json(event: Event) -> None:
    match event:
        case RequestAnswered(device, controller, request, error, power):
            facts: dict[str, Any] = {
                "event": "request",
                "device": device,
                "controller": controller,
                "request": request.request.value,
                "request_uuid": request.uuid,
                "protocol_version": request.version,
                "success": not error,
                "error": error,
                "power": power.name.lower(),
            }
        case RequestDeclined(controller, answer):
            facts = {
                "event": "declined",
                "controller": controller,
                "request_uuid": answer.uuid,
                "error": answer.error,
            }
        case BootEnded(device):
            facts = {"event": "boot_ended", "device": device, "power": "on"}
        case LinkRefused(peer, controller, failure):
            facts = {
                "event": "hung_up" if controller else "no_link",
                "peer": peer,
                "controller": controller,
                "kind": failure.kind,
                "error": str(failure),
            }
    _echo_json(facts)


def _echo_json(facts: dict[str, Any]) -> None:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    click.echo(json.dumps({"at": at, **facts}))
