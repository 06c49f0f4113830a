"""``lom-agent serve``: its options. `agent.cli.serve.serving` carries it out, imported when it runs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from agent.cli.signals import importing
from agent.fleet.population import DEFAULT_SEED


@click.command()
@click.option(
    "--devices",
    type=click.IntRange(0, 100_000),
    default=0,
    show_default=True,
    metavar="N",
    help="How many Macs to create at the start. The control API adds more.",
)
@click.option(
    "--seed",
    default=DEFAULT_SEED,
    show_default=True,
    metavar="TEXT",
    help="All Macs are derived from this text: the same seed and requests give the same Macs.",
)
@click.option(
    "--segment-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Macs of --devices in one segment (subnet). The first Mac of each segment is its LOM Controller.  "
    "[default: all in one]",
)
@click.option(
    "--os",
    "os_version",
    metavar="VERSION",
    help="The macOS of the Macs of --devices: a release, such as 26.4, a major version, such as 27, or several, such "
    "as 26.4,27 or 26=3,27=1.",
)
@click.option("--model", metavar="IDENTIFIER", help="The model of the Macs of --devices, such as Mac16,10.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Have the Macs in N processes, whole segments in each.  [default: one for every 10,000 Macs of --devices, at "
    "most one for each core and each segment]",
)
@click.option(
    "--enroll",
    metavar="FILE_OR_URL",
    help="The enrollment profile of your server, a file or a URL. The Macs of --devices enroll with it at the start, "
    "later ones when the control API asks for it without naming a profile.",
)
@click.option(
    "--enrollment",
    type=click.Choice(["profile", "ade"]),
    default="profile",
    show_default=True,
    help="How the Macs enroll where a request does not say it: with the enrollment profile, or as in Setup Assistant "
    "(Automated Device Enrollment), with their MachineInfo.",
)
@click.option(
    "--device-ca",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The test CA of the identities that sign MachineInfo, certificate and key in PEM; if the file does not exist, "
    "a new CA is written to it. Have your server trust it. With --lab it is not needed.",
)
@click.option(
    "--ca",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Trust this CA for your server, in addition to those of the system. Repeatable.",
)
@click.option("--insecure", is_flag=True, help="Accept any server certificate. For experiments only.")
@click.option(
    "--http",
    type=click.Choice(["auto", "1.1"]),
    default="auto",
    show_default=True,
    help="The HTTP version of the Macs: auto, HTTP/2 if the server chooses it by ALPN and otherwise HTTP/1.1, or 1.1, "
    "always HTTP/1.1.",
)
@click.option(
    "--lab", is_flag=True, help="Run the embedded MDM server in this process, with an APNs gateway for its pushes."
)
@click.option(
    "--lab-identity",
    type=click.Choice(["pkcs12", "scep", "acme"]),
    default="pkcs12",
    show_default=True,
    help="How the lab gives a Mac its identity; the Macs of --devices have macOS 14 or later with acme.",
)
@click.option("--apns", is_flag=True, help="Run an APNs gateway, to which your server pushes; docs/push.md.")
@click.option(
    "--apns-listen",
    metavar="ADDRESS:PORT",
    help="The address of the APNs gateway; port 0: a free port.  [default: 127.0.0.1:0]",
)
@click.option(
    "--apns-provider-ca",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Accept only push certificates of this CA. Repeatable.  [default: any push certificate]",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the Macs in this file (and the CAs and the lab in the folder FILE.lab), and continue with those that it "
    "has; docs/state.md.",
)
@click.option(
    "--control",
    default="127.0.0.1:0",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="The address of the control API; port 0: a free port.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Read the token of the control API from this file; if it does not exist, write a new token to it.",
)
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the addresses and the tokens to this JSON file when every port is open; remove it at the end.",
)
@click.option(
    "--clock",
    type=click.Choice(["real", "manual"]),
    default="real",
    show_default=True,
    help="The clock of the Macs, which times boots, retries, back-off and pushes. A manual clock changes only when the "
    "control API advances it.",
)
@click.option(
    "--boot",
    metavar="DURATION",
    help="How long a boot takes: constant:N, uniform:SHORTEST,LONGEST or "
    "lognormal:MEDIAN,SIGMA, in seconds.  [default: uniform:1,3]",
)
@click.option("--shutdown", metavar="DURATION", help="How long an orderly shutdown takes.  [default: uniform:0.2,1]")
@click.option(
    "--not-now-retry",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long after NotNow a Mac opens a session by itself.",
)
@click.option(
    "--users",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="The share of Macs with a logged-in user, and so with a user channel, from 0 to 1.  [default: 0]",
)
@click.option(
    "--network-users",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="The share of these users with an account of a directory service, whom the server authenticates; their "
    "password is lom-agent.  [default: 0]",
)
@click.option(
    "--supervised",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="The share of Macs that an enrollment with a profile supervises; Automated Device Enrollment supervises all.  "
    "[default: 1]",
)
@click.option(
    "--tls-floor",
    type=click.Choice(["apple-2026", "warn", "off"]),
    default="warn",
    show_default=True,
    help="What Macs with macOS 27 or later do about a server below the TLS that Apple asks for from 2026 on.",
)
@click.option(
    "--per-user-connections",
    type=click.Choice(["required", "optional"]),
    metavar="WORD",
    help="Whether a Mac with macOS 15.1 or later refuses an enrollment profile without the server capability "
    "com.apple.mdm.per-user-connections: required or optional.  [default: required]",
)
@click.option(
    "--poll",
    type=click.FloatRange(min=0.01),
    metavar="SECONDS",
    help="Have each enrolled Mac ask for commands this often by itself, for a server that cannot push to the gateway.",
)
@click.option(
    "--until-eof",
    is_flag=True,
    help="Also end at the end of standard input, so that the command does not outlive the program that started it.",
)
@click.option(
    "--lom-network",
    default="loopback",
    show_default=True,
    metavar="NETWORK",
    help="What carries the LOM link: loopback (TLS on [::1]), memory, or interface:NAME[,NAME…][:PORT].",
)
def serve(**options: Any) -> None:
    """Run Macs that other programs control over HTTP, until Ctrl-C.

    For integration tests and for experiments: add Macs, enroll them, make them misbehave, cut their power, and read
    their messages. docs/control-api.md describes the control API. Open the printed address of the page in a browser to
    do the same by hand.

    \b
    Three Macs and a server to enroll them in, all in this process:
      lom-agent serve --lab --devices 3
    Macs for your own server, which pushes to the gateway:
      lom-agent serve --devices 3 --enroll https://mdm.example/enroll --ca ca.pem --apns --apns-listen 127.0.0.1:2197
    For a test suite, which reads the address and the token from ready.json:
      lom-agent serve --ready-file ready.json --clock manual
    Macs whose state is kept when the command is stopped or killed, and started again:
      lom-agent serve --devices 3 --enroll https://mdm.example/enroll --state fleet.sqlite

    Exit status: 0 standard input ended (--until-eof); 1 a worker of --workers had ended by itself; 2 wrong usage or
    input; 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    with importing():
        from agent.cli.serve.serving import run_service
        from agent.service.errors import WorkersLost

        import_module("klein")  # the control API's, which imports it only when it opens
    try:
        number = run_service(options)
    except WorkersLost as error:
        click.echo(f"lom-agent: {error}", err=True)
        sys.exit(1)
    if number is not None:
        sys.exit(128 + number)
