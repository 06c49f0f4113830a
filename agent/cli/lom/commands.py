"""``lom-agent lom-device``, ``lom-request``, ``lom-identity``: one end of the LOM link, to test the other by hand.

Their options; each command's own module carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from agent.cli.scenarios.options import scenario_option
from agent.cli.signals import importing
from agent.fleet.population import DEFAULT_SEED, DEFAULT_SEGMENT_SIZE, MAX_DEVICES
from agent.lom.requests import PROTOCOL_VERSION, PowerRequest

Command = TypeVar("Command", bound=Callable[..., Any])

_MAX_DEVICES = 100_000  # their names are derived before the first request, which takes about two seconds
_MAX_VERSION = 2**63 - 1  # what every property list can hold


def identity_options(ours: str, peers: str) -> Callable[[Command], Command]:
    """The options of an end that is ``ours`` and verifies ``peers``; `agent.cli.lom.identities` reads them."""
    file = click.Path(dir_okay=False)

    def decorate(command: Command) -> Command:
        for option in (
            click.option(
                "--seed",
                metavar="TEXT",
                help="Derive the identities from this text, for tests: anyone who knows the text has every key.  "
                f"[default, without files: {DEFAULT_SEED}]",
            ),
            click.option(
                "--ca",
                multiple=True,
                type=file,
                metavar="FILE",
                help=f"A CA certificate that verifies {peers} (PEM or DER). Repeatable.",
            ),
            click.option("--key", type=file, metavar="FILE", help="The private key of --cert (PEM, not encrypted)."),
            click.option(
                "--cert", type=file, metavar="FILE", help=f"The {ours}'s certificate (PEM), then its intermediates."
            ),
        ):
            command = option(command)
        return command

    return decorate


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
    with importing():
        from agent.cli.lom.device import run_devices
    run_devices(listen, options, boot_seconds=boot, as_json=as_json)


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
    with importing():
        from agent.cli.lom.request import send_request
    send_request(request_type, name, to, options, seconds=timeout)


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
    with importing():
        from agent.cli.lom.identity import write_identity
    write_identity(seed, index, role, out)
