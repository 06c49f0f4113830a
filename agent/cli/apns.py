"""The options of the APNs gateway, and what they come to: its address, its certificate, its behaviour."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.cli.options import make_folder
from agent.errors import OperatorError
from agent.files import write_file
from agent.load.gateway import APNsPlan
from agent.net.apns.behaviour import AT_ONCE, PushBehaviour
from agent.net.apns.gateway import NAMES
from agent.net.transport.anchors import read_anchors, read_identity
from agent.pki.authority import SERVER_USAGE, Authority
from agent.pki.identity import Identity
from agent.pki.pem import certificate_pem, key_pem
from agent.scenario.types import PushPart, Scenario

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--apns",
        metavar="ADDRESS:PORT",
        help="Open the push gateway (APNs) here: a server pushes to it, and the push wakes the Mac. docs/push.md.",
    ),
    click.option(
        "--apns-tls",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="The folder of the gateway's CA, ca.pem and ca.key, which are made where they are missing.",
    ),
    click.option(
        "--apns-cert",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="The gateway's own certificate (PEM, with its chain), instead of --apns-tls; with --apns-key.",
    ),
    click.option("--apns-key", type=click.Path(dir_okay=False), metavar="FILE", help="The key of --apns-cert (PEM)."),
    click.option(
        "--apns-provider-ca",
        multiple=True,
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Take only push certificates of this CA. Repeatable; without it any certificate is taken at its word.",
    ),
    click.option("--apns-strict", is_flag=True, help="Refuse pushes without apns-topic or apns-push-type: mdm."),
    click.option(
        "--apns-delay",
        metavar="DURATION",
        help="How long a push takes: constant:SECONDS, uniform:SHORTEST,LONGEST or lognormal:MEDIAN,SIGMA.",
    ),
    click.option(
        "--apns-power-saving",
        type=click.FloatRange(min=0),
        default=0.0,
        metavar="SECONDS",
        help="Hold pushes of priority 5 back to windows this far apart, of priority 1 to every fourth of them.",
    ),
    click.option(
        "--apns-rule",
        multiple=True,
        metavar="RULE",
        help='What goes wrong on purpose, such as "429 share=0.05" or "away from=20 for=5". Repeatable; docs/push.md.',
    ),
)


def apns_options(command: CommandT) -> CommandT:
    """Give a command every option of the gateway."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def apns_plan(scenario: Scenario) -> APNsPlan | None:
    """The gateway that the scenario asks for; None where it asks for none. Raises OperatorError."""
    push = scenario.push
    if not push.enabled or push.listen is None:
        return None
    host, port = _address(push.listen)
    identity = _identity(push, host)
    if identity is None and (scenario.server.adapter != "lab" or scenario.server.lab is not None):
        raise OperatorError(
            "the push gateway needs a certificate: give push.tls (--apns-tls DIR), or push.cert and push.key; only the "
            "embedded lab can issue one"
        )
    return APNsPlan(
        host=host,
        port=port,
        identity=identity,
        provider_anchors=read_anchors(push.provider_ca),
        behaviour=PushBehaviour(
            strict=push.strict,
            delay=push.delay or AT_ONCE,
            power_saving=push.power_saving,
            rules=push.rules,
        ),
    )


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise OperatorError(f"push.listen (--apns) should be ADDRESS:PORT, such as 127.0.0.1:2197, but is {text!r}")
    return host, int(port)


def _identity(push: PushPart, host: str) -> Identity | None:
    if push.cert is not None and push.key is not None:
        return read_identity(push.cert, push.key)
    if push.tls is None:
        return None
    return gateway_authority(Path(push.tls)).issue(NAMES[0], SERVER_USAGE, names=[*NAMES, "127.0.0.1", "::1", host])


def gateway_authority(folder: Path) -> Authority:
    """The CA in a folder, made where there is none: a server has to trust it only once. Raises OperatorError."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    there = [path for path in (certificate, key) if path.exists()]
    if len(there) == 2:
        return Authority(read_identity(str(certificate), str(key)))
    if there:
        raise OperatorError(
            f"Expected ca.pem and ca.key in {folder}; found only {there[0].name}. Bring the other one back, or name "
            "another folder: a new CA has to be trusted anew."
        )
    make_folder(str(folder))
    authority = Authority.create(f"lom-agent APNs CA {os.urandom(4).hex()}")
    write_file(key, key_pem(authority.identity.key), private=True)
    write_file(certificate, certificate_pem(authority.certificate))
    return authority
