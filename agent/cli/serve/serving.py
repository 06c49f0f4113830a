"""Carries out ``lom-agent serve``: a fleet that other programs add Macs to, control and watch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore

from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.signals import Stopping, printing
from agent.cli.tokens import control_token
from agent.errors import LomAgentError, OperatorError
from agent.files import read_file, write_file
from agent.fleet.models import HARDWARE_BOUND_SINCE, os_from
from agent.net.mac.fleet.behaviour import MacSettings
from agent.net.transport.addresses import parse_address
from agent.net.transport.anchors import read_anchors
from agent.pki.issuing.authorities import Authorities
from agent.service.api.control import ControlServer
from agent.service.fleet import FleetService
from agent.service.macs.groups import MacHandle
from agent.service.macs.parts import ServiceSettings
from agent.service.types import Enroll, ServiceInfo

if TYPE_CHECKING:
    from agent.lab.stored.store import LabStore
    from agent.service.embedded import Embedded
    from agent.state.fleet import FleetState

ENROLL_AT_ONCE = 8  # Macs of the start; ours
ENROLL_SECONDS = 600.0  # for each of them; ours
MAX_PROFILE_BYTES = 4 * 1024 * 1024
_CONTROL_PORT = 7780  # in the error about an address; ours
_URLS = ("http://", "https://")


def run_service(options: Mapping[str, Any]) -> int | None:
    """Serve until a signal comes; returns its number. ``options`` are those of the command. Raises OperatorError."""
    with Stopping() as stopping:
        return _Serving(options).run(stopping)


class _Serving:
    """One run of the command."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._reactor = the_reactor()
        self._stopped: Deferred[None] = Deferred()
        beside = options["lab"] or options["apns"]
        _check(options)
        self._failure: OperatorError | None = None
        self._state, self._lab_store = _opened(self._reactor, options["state"])
        if self._state is not None:
            self._state.on_failure = self._fail
        kept = None if self._lab_store is None else self._lab_store.authorities
        authorities = Authorities(kept) if beside or kept is not None else None
        settings = _settings(options, authorities)
        self._service = FleetService(self._reactor, settings, authorities, _warn, self._state)
        self._embedded = _embedded(self._reactor, self._service, options, authorities, self._lab_store)
        self._token = control_token(options["token_file"])
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
        if self._failure is not None:
            raise self._failure

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
                if handle.client.enrolled:
                    continue
                at_once.run(self._enroll, handle)

    async def _enroll(self, handle: MacHandle) -> None:
        if self._stopped.called or handle.removed or handle.client.enrolled:
            return
        try:
            await self._service.actions.enroll(handle, Enroll(timeout=ENROLL_SECONDS))
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
        if self._lab_store is not None:
            self._lab_store.close()

    def _fail(self, error: OperatorError) -> None:
        """The state file cannot be written: end, before anything happens that is not in it."""
        self._failure = error
        self._stop()

    def _stop(self) -> None:
        if not self._stopped.called:
            self._stopped.callback(None)

    def _print(self, info: ServiceInfo) -> None:
        token_file = self._options["token_file"] or self._ready_file  # a log of what is printed has no token then
        click.echo(f"Control API:  {self._control.url}")
        click.echo(f"Token:        {self._token if token_file is None else token_file}")
        click.echo(f"Page:         {self._control.url}/{'' if token_file else f'#token={self._token}'}")
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
    if options["lab"] or options["apns"]:
        from agent.net.apns.behaviour import PushBehaviour  # only where there is a gateway: a fast start

        push = PushBehaviour()
    anchors = read_anchors(options["ca"])
    if options["lab"] and authorities is not None:
        anchors += (authorities.anchor,)
    behaviour = {
        name: options[name]
        for name in ("boot", "shutdown", "not_now_retry", "per_user_connections")
        if options[name] is not None
    }
    return ServiceSettings(
        seed=options["seed"],
        devices=options["devices"],
        segment_size=options["segment_size"],
        os=_os(options),
        model=options["model"],
        enroll=_profile(options["enroll"]),
        lom_network=options["lom_network"],
        anchors=anchors,
        insecure=options["insecure"],
        http=options["http"],
        tls_floor=options["tls_floor"],
        manual_clock=options["clock"] == "manual",
        poll=options["poll"],
        push=push,
        macs=MacSettings(**behaviour),
    )


def _os(options: Mapping[str, Any]) -> str | None:
    """The macOS of the Macs: one that takes the identities of the lab. Raises OperatorError."""
    asked: str | None = options["os_version"]
    if options["lab_identity"] != "acme" or not options["devices"]:
        return asked
    try:
        return os_from(HARDWARE_BOUND_SINCE, asked, options["model"])
    except OperatorError as error:
        raise OperatorError(f"--os with --lab-identity acme, whose keys are bound to the hardware: {error}") from None


def _profile(text: str | None) -> str | bytes | None:
    """The URL, or the profile in the file. Raises OperatorError."""
    if text is None or text.startswith(_URLS):
        return text
    return read_file(text, "the enrollment profile", MAX_PROFILE_BYTES)


def _embedded(
    reactor: Any,
    service: FleetService,
    options: Mapping[str, Any],
    authorities: Authorities | None,
    store: LabStore | None,
) -> Embedded | None:
    if authorities is None or not (options["lab"] or options["apns"]):
        return None
    from agent.service.embedded import Embedded, EmbeddedChoice  # the same

    host, port = parse_address(options["apns_listen"] or "127.0.0.1:0", "--apns-listen", 2197, names=True)
    anchors = read_anchors(options["apns_provider_ca"])
    identity = options["lab_identity"]
    choice = EmbeddedChoice(options["lab"], identity == "scep", host, port, store, anchors, acme=identity == "acme")
    return Embedded(reactor, service, choice, authorities)


def _opened(reactor: Any, file: str | None) -> tuple[FleetState | None, LabStore | None]:
    """The state file, and the store of the lab in the folder beside it. Raises OperatorError."""
    if file is None:
        return None, None
    from agent.cli.results.outputs import make_folder  # only where it is asked for: a fast start
    from agent.lab.stored.store import LabStore
    from agent.state.fleet import FleetState

    state = FleetState(Path(file), reactor)
    folder = f"{file}.lab"
    make_folder(folder)
    return state, LabStore(Path(folder))


def _warn(text: str) -> None:
    with printing():
        click.echo(f"Warning: {text}", err=True)
