"""``lom-agent serve``: a fleet that other programs add Macs to, control and watch."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore

from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.signals import Stopping, printing
from agent.errors import LomAgentError, OperatorError
from agent.files import read_file, write_file
from agent.fleet.population import DEFAULT_SEED
from agent.net.mac.behaviour import MacSettings
from agent.net.transport.addresses import parse_address
from agent.net.transport.anchors import read_anchors
from agent.pki.authorities import Authorities
from agent.service.control import ControlServer
from agent.service.fleet import FleetService
from agent.service.groups import MacHandle
from agent.service.parts import ServiceSettings
from agent.service.types import Enroll, ServiceInfo

if TYPE_CHECKING:
    from agent.service.embedded import Embedded

ENROLL_AT_ONCE = 8  # Macs of the start; ours
ENROLL_SECONDS = 600.0  # for each of them; ours
MAX_PROFILE_BYTES = 4 * 1024 * 1024
MAX_TOKEN_BYTES = 1024
_CONTROL_PORT = 7780  # in the error about an address; ours
_URLS = ("http://", "https://")


@click.command()
@click.option(
    "--devices",
    type=click.IntRange(0, 100_000),
    default=0,
    show_default=True,
    metavar="N",
    help="Macs that are there from the start. The control API adds more.",
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
    help="Macs of the start in one segment, of which the first is the LOM Controller.  [default: all]",
)
@click.option(
    "--os",
    "os_version",
    metavar="VERSION",
    help="The macOS of the start's Macs: a release, such as 26.4, or a major version, such as 27.",
)
@click.option("--model", metavar="IDENTIFIER", help="The model of the start's Macs, such as Mac16,10.")
@click.option(
    "--enroll",
    metavar="FILE_OR_URL",
    help="The enrollment profile, or its URL. The start's Macs enroll with it, and Macs that are told to "
    "enroll without a profile.",
)
@click.option(
    "--ca",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Trust this CA of your server, beside those of the system. Repeatable.",
)
@click.option("--insecure", is_flag=True, help="Accept any certificate of your server.")
@click.option(
    "--lab", is_flag=True, help="Run the embedded MDM server beside the Macs, and the APNs gateway for its pushes."
)
@click.option(
    "--lab-identity",
    type=click.Choice(["pkcs12", "scep"]),
    default="pkcs12",
    show_default=True,
    help="How the lab gives a Mac its identity.",
)
@click.option("--apns", is_flag=True, help="Run the APNs gateway, to which your server pushes; docs/push.md.")
@click.option(
    "--apns-listen",
    metavar="ADDRESS:PORT",
    help="The address of the gateway; port 0 is any free one.  [default: 127.0.0.1:0]",
)
@click.option(
    "--apns-provider-ca",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Accept only push certificates of this CA. Repeatable.  [default: any push certificate]",
)
@click.option(
    "--control",
    default="127.0.0.1:0",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="The address of the control API; port 0 is any free one.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The file with the token of the control API; a new token is written to it where it is missing.",
)
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the addresses and the token to this JSON file when everything listens.",
)
@click.option(
    "--clock",
    type=click.Choice(["real", "manual"]),
    default="real",
    show_default=True,
    help="The clock of the Macs. A manual one stands still until the control API advances it: boots, retries, "
    "back-off and pushes wait for it.",
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
    "--poll",
    type=click.FloatRange(min=0.01),
    metavar="SECONDS",
    help="Have each enrolled Mac ask for commands this often by itself, for a server that cannot push to the gateway.",
)
@click.option(
    "--until-eof",
    is_flag=True,
    help="End when standard input ends too, so that the command does not outlive the program that started it.",
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

    For integration tests and for trying things by hand: add Macs, enroll them, make them misbehave, pull their plug,
    and read what was said. docs/control-api.md describes the control API; the address that is printed shows a page
    for people.

    \b
    Three Macs and a server to enroll them in, all in this process:
      lom-agent serve --lab --devices 3
    Macs for your own server, which pushes to the gateway:
      lom-agent serve --devices 3 --enroll https://mdm.example/enroll --ca ca.pem --apns --apns-listen 127.0.0.1:2197
    For a test suite, which reads ready.json for the address and the token:
      lom-agent serve --ready-file ready.json --clock manual

    Exit status: 0 is not used; 2 wrong usage or input; 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    with Stopping() as stopping:
        number = _Serving(options).run(stopping)
    if number is not None:
        sys.exit(128 + number)


class _Serving:
    """One run of the command."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._reactor = the_reactor()
        self._stopped: Deferred[None] = Deferred()
        beside = options["lab"] or options["apns"]
        _check(options)
        authorities = Authorities() if beside else None
        self._service = FleetService(self._reactor, _settings(options, authorities), authorities, _warn)
        self._embedded = _embedded(self._reactor, self._service, options, authorities)
        self._token = _token(options["token_file"])
        host, port = parse_address(options["control"], "--control", _CONTROL_PORT)
        self._control = ControlServer(self._reactor, self._service, host, port, token=self._token)
        self._ready_file = None if options["ready_file"] is None else Path(options["ready_file"])

    def run(self, stopping: Stopping) -> int | None:
        """Serve until a signal comes; returns its number. Raises OperatorError."""
        return run_until_done(self._reactor, self._serve(), self._stop, stopping=stopping)

    async def _serve(self) -> None:
        if self._options["until_eof"]:
            self._reactor.addReader(_EndOfInput(self._reactor, self._stop))
        try:
            if not self._stopped.called:
                self._start()
            await self._stopped
        finally:
            await self._end()

    def _start(self) -> None:
        self._service.open()
        if self._embedded is not None:
            self._embedded.listen()
        self._control.listen()
        info = self._service.info()
        if self._ready_file is not None:
            ready = {"control": self._control.url, "token": self._token, **msgspec.to_builtins(info)}
            write_file(self._ready_file, json.dumps(ready, indent=1).encode(), private=True)
        with printing():
            self._print(info)
        if self._options["enroll"] is not None:
            at_once = DeferredSemaphore(ENROLL_AT_ONCE)
            for handle in self._service.macs():
                at_once.run(self._enroll, handle)

    async def _enroll(self, handle: MacHandle) -> None:
        if self._stopped.called or handle.removed:
            return
        try:
            await self._service.enroll(handle, Enroll(timeout=ENROLL_SECONDS))
        except LomAgentError as error:
            if not self._stopped.called:
                _warn(f"{handle.udid} did not enroll: {error}")

    async def _end(self) -> None:
        if self._ready_file is not None:
            with suppress(OSError):  # it was never written, or somebody removed it
                os.unlink(self._ready_file)
        self._service.close()
        await self._control.close()
        if self._embedded is not None:
            await self._embedded.close()

    def _stop(self) -> None:
        if not self._stopped.called:
            self._stopped.callback(None)

    def _print(self, info: ServiceInfo) -> None:
        token_file = self._options["token_file"] or self._ready_file  # a log of what is printed has no token then
        click.echo(f"Control API:  {self._control.url}")
        click.echo(f"Token:        {self._token if token_file is None else token_file}")
        if info.lab is not None:
            click.echo(f"MDM server:   {info.lab.url}")
            click.echo(f"Enrollment:   {info.lab.enroll_url}")
            click.echo(f"Lab's token:  {self._ready_file or info.lab.token}")
        if info.apns is not None:
            click.echo(f"APNs:         {info.apns.url}")
        click.echo(f"Macs:         {info.macs}")
        click.echo("Ctrl-C ends it.")


class _EndOfInput:
    """Reads standard input, ignores what comes, and calls ``ended`` at its end."""

    def __init__(self, reactor: Any, ended: Callable[[], object]) -> None:
        self._reactor = reactor
        self._ended = ended

    def fileno(self) -> int:
        """The descriptor that the reactor watches."""
        return 0

    def doRead(self) -> None:
        """Something came, or the end."""
        try:
            if os.read(0, 4096):
                return
        except OSError:
            pass
        self._reactor.removeReader(self)
        self._ended()

    def connectionLost(self, _reason: object) -> None:
        """The other end of the pipe is closed."""
        self._ended()

    def logPrefix(self) -> str:
        """In the reactor's log lines."""
        return "standard input"


def _check(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that do not go together."""
    if options["lab_identity"] != "pkcs12" and not options["lab"]:
        raise click.UsageError("--lab-identity goes with --lab")
    for name in ("apns_listen", "apns_provider_ca"):
        if options[name] and not options["apns"] and not options["lab"]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --apns or --lab")
    for name in ("segment_size", "os_version", "model"):
        if options[name] is not None and not options["devices"]:
            shown = "os" if name == "os_version" else name.replace("_", "-")
            raise click.UsageError(f"--{shown} is for the Macs of --devices; a request that adds Macs has its own")


def _settings(options: Mapping[str, Any], authorities: Authorities | None) -> ServiceSettings:
    push = None
    if authorities is not None:
        from agent.net.apns.behaviour import PushBehaviour  # only where there is a gateway: a fast start

        push = PushBehaviour()
    anchors = read_anchors(options["ca"])
    if options["lab"] and authorities is not None:
        anchors += (authorities.anchor,)
    behaviour = {name: options[name] for name in ("boot", "shutdown", "not_now_retry") if options[name] is not None}
    return ServiceSettings(
        seed=options["seed"],
        devices=options["devices"],
        segment_size=options["segment_size"],
        os=options["os_version"],
        model=options["model"],
        enroll=_profile(options["enroll"]),
        lom_network=options["lom_network"],
        anchors=anchors,
        insecure=options["insecure"],
        manual_clock=options["clock"] == "manual",
        poll=options["poll"],
        push=push,
        macs=MacSettings(**behaviour),
    )


def _profile(text: str | None) -> str | bytes | None:
    """The URL, or the profile in the file. Raises OperatorError."""
    if text is None or text.startswith(_URLS):
        return text
    return read_file(text, "the enrollment profile", MAX_PROFILE_BYTES)


def _embedded(
    reactor: Any, service: FleetService, options: Mapping[str, Any], authorities: Authorities | None
) -> Embedded | None:
    if authorities is None:
        return None
    from agent.service.embedded import Embedded, EmbeddedChoice  # the same

    host, port = parse_address(options["apns_listen"] or "127.0.0.1:0", "--apns-listen", 2197, names=True)
    anchors = read_anchors(options["apns_provider_ca"])
    choice = EmbeddedChoice(options["lab"], options["lab_identity"] == "scep", host, port, anchors)
    return Embedded(reactor, service, choice, authorities)


def _token(file: str | None) -> str:
    """The token in this file, or a new one, which is written to it. Raises OperatorError."""
    if file is not None and os.path.exists(file):
        token = read_file(file, "the token file", MAX_TOKEN_BYTES).decode("utf-8", "replace").strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise OperatorError(f"Expected a token of printable ASCII in {file}, found none. Delete the file.")
        return token
    token = secrets.token_urlsafe(24)
    if file is not None:
        write_file(Path(file), token.encode("ascii") + b"\n", private=True)
    return token


def _warn(text: str) -> None:
    with printing():
        click.echo(f"Warning: {text}", err=True)
