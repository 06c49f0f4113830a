"""``lom-agent lom-device``, ``lom-request``, ``lom-identity``: one end of the LOM link, to test the other by hand."""

from __future__ import annotations

import json
import shlex
import sys
import uuid as uuids
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import Deferred

from agent.cli.lom_identities import identity_options, source_of
from agent.cli.outputs import make_folder
from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.scenario_options import scenario_option
from agent.cli.signals import Stopping
from agent.errors import PeerError
from agent.files import write_file
from agent.fleet.population import DEFAULT_SEED, DEFAULT_SEGMENT_SIZE, MAX_DEVICES, Mac, Population
from agent.lom.endpoint import LinkSide
from agent.lom.link import LinkRequest
from agent.lom.requests import MAX_DNS_NAME_LENGTH, MAX_UUID_LENGTH, PROTOCOL_VERSION, PowerRequest
from agent.net.lom.by_hand_controller import Asking, RequestResult, Step
from agent.net.lom.by_hand_device import BootEnded, Cast, Event, LinkRefused, RequestAnswered, StandaloneDevices
from agent.net.lom.controller import RelayAbandoned
from agent.net.transport.addresses import parse_socket_address, socket_address_text
from agent.pki.pem import certificate_pem, key_pem
from agent.pki.seeded import SeededIdentities
from agent.pki.verify import common_name
from agent.report.terminal import visible

_MAX_DEVICES = 100_000  # their names are derived before the first request, which takes about two seconds
_NAMES_SHOWN = 10
_MAX_VERSION = 2**63 - 1  # what every property list can hold
_OCTETS_A_LINE = 16


@click.command("lom-device")
@click.option(
    "--listen",
    default="[::1]:0",
    show_default=True,
    metavar="[ADDRESS]:PORT",
    help="The address to listen on; port 0: a free port. For other machines: [::]:PORT or [fe80::1%eth0]:PORT.",
)
@identity_options("Device", "Controllers")
@click.option(
    "--devices",
    type=click.IntRange(1, _MAX_DEVICES),
    metavar="N",
    help="With --seed: how many of its Macs are Devices.  [default: 1]",
)
@click.option(
    "--segment-size",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"With --seed: Macs in one segment, of which the first is the Controller.  [default: {DEFAULT_SEGMENT_SIZE}]",
)
@click.option(
    "--boot",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each boot takes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line instead of text.")
def lom_device(listen: str, boot: float, as_json: bool, **options: Any) -> None:
    """Run LOM Devices in the foreground until Ctrl-C, to test your own Controller.

    Each request prints a line: the Device, the request, the Controller, the result and the power state afterwards. Each
    refused connection prints a line with the reason. A Device is on at the start. Several Devices are distinguished by
    the server name (SNI) of the Controller's TLS ClientHello; a single Device accepts any name.

    \b
    Try it with two terminals:
      lom-agent lom-device --seed trial --listen "[::1]:6230"
      lom-agent lom-request Reset NAME --to "[::1]:6230" --seed trial

    docs/lom-link.md describes the link, docs/lom-by-hand.md how to test it by hand.
    """
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

    devices = StandaloneDevices(reactor, cast, boot_seconds=boot, tell=tell)
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


@click.command("lom-request")
@click.argument("request_type", metavar="TYPE", type=click.Choice([request.value for request in PowerRequest]))
@click.argument("name", metavar="NAME")
@click.option(
    "--to",
    required=True,
    metavar="[ADDRESS]:PORT",
    help="The address of the Device: [::1]:623; on another machine [fe80::1%eth0]:623, with the interface of this one.",
)
@identity_options("Controller", "the Device")
@click.option(
    "--controller",
    type=click.IntRange(0, MAX_DEVICES - 1),
    metavar="INDEX",
    help="With --seed: which of its Macs sends the request.  [default: 0, the Controller of the first segment]",
)
@click.option("--uuid", metavar="TEXT", help="DeviceRequestUUID, which the response repeats.  [default: a new UUID]")
@click.option(
    "--protocol-version",
    type=click.IntRange(0, _MAX_VERSION),
    default=PROTOCOL_VERSION,
    show_default=True,
    metavar="N",
    help="LOMProtocolVersion.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="The time-out for each of TCP connection, TLS handshake and response.",
)
@click.option("--verbose", is_flag=True, help="Print each step on standard error, with all bytes of the frames.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, also for a failure.")
def lom_request(request_type: str, name: str, to: str, timeout: float, **options: Any) -> None:
    """Send one power request to the LOM Device NAME, to test your own Device.

    TYPE is PowerON, PowerOFF or Reset. NAME is the CommonName required in the Device's certificate, and the server name
    (SNI) of the TLS ClientHello.

    Exit status: 0 success, 1 the Device refused or the link failed (standard error has the reason), 2 wrong usage or
    files.
    """
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
        reactor, address, request, side, seconds=timeout, tell=_tell_step if options["verbose"] else lambda _: None
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


@click.command("lom-identity")
@scenario_option("--seed")
@click.option(
    "--index", type=click.IntRange(0, MAX_DEVICES - 1), default=0, show_default=True, metavar="N", help="Which Mac."
)
@click.option("--role", type=click.Choice(["device", "controller"]), required=True, help="Which of its two identities.")
@click.option("--out", type=click.Path(file_okay=False), required=True, metavar="DIR", help="The folder to write into.")
def lom_identity(seed: str, index: int, role: str, out: str) -> None:
    """Write a LOM identity of a seed as PEM files, for OpenSSL and for your own programs.

    cert.pem and key.pem are the identity, ca.pem is the CA that verifies the peer. lom-device and lom-request use the
    same ones with --seed. Anyone who knows the seed can make them: use them for tests only.
    """
    name = Population(seed, index + 1)[index].dns_name
    seeded = SeededIdentities(seed)
    device = role == "device"
    identity = seeded.device(index, name) if device else seeded.controller(index, name)
    make_folder(out)
    folder = Path(out)
    write_file(folder / "key.pem", key_pem(identity.key), private=True)
    for file, certificate in (
        ("cert.pem", identity.certificate),
        ("ca.pem", seeded.controller_ca if device else seeded.device_ca),
    ):
        write_file(folder / file, certificate_pem(certificate))
    click.echo(f"Certificate: {folder / 'cert.pem'} ({name}, {role})")
    click.echo(f"Key:         {folder / 'key.pem'}")
    click.echo(f"CA:          {folder / 'ca.pem'} (verifies {'Controllers' if device else 'Devices'})")


def _cast(options: dict[str, Any]) -> Cast:
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


def _controller_side(options: dict[str, Any]) -> LinkSide:
    source = source_of(options, "controller")
    if source.side is not None:
        return source.side
    seed, index = source.seed or "", options["controller"] or 0
    seeded = SeededIdentities(seed)
    return LinkSide(seeded.controller(index, Population(seed, index + 1)[index].dns_name), (seeded.device_ca,))


def _check_text(what: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest or not text.isprintable():
        raise click.UsageError(f"Expected 1 to {longest} printable characters for {what}, found {text[:80]!r}.")


# What the commands print.


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


def _echo_json(facts: dict[str, Any]) -> None:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    click.echo(json.dumps({"at": at, **facts}))
