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
from twisted.internet.defer import CancelledError, Deferred

from agent.cli.reactor import run_until_done, the_reactor
from agent.cli.serve.forms import Form, OneProcess, Workers, workers_of
from agent.cli.signals import Stopping, printing
from agent.cli.tokens import control_token
from agent.errors import OperatorError
from agent.files import write_file
from agent.net.transport.addresses import parse_address
from agent.net.transport.anchors import read_anchors
from agent.pki.issuing.authorities import Authorities
from agent.service.errors import WorkersLost
from agent.service.settings import is_url, settings_of
from agent.service.types import ServiceInfo

if TYPE_CHECKING:
    from agent.lab.stored.store import LabStore
    from agent.service.embedded import Embedded, PushedService
    from agent.state.fleet import FleetState

_CONTROL_PORT = 7780  # in the error about an address; ours


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
        self._starting: Deferred[None] | None = None
        self._state, self._lab_store = _opened(self._reactor, options["state"])
        if self._state is not None:
            self._state.on_failure = self._fail
        kept = None if self._lab_store is None else self._lab_store.authorities
        authorities = Authorities(kept) if beside or kept is not None else None
        self._form = self._made(authorities)
        self._embedded = _embedded(self._reactor, self._form.service, options, authorities, self._lab_store)
        self._token = control_token(options["token_file"])
        host, port = parse_address(options["control"], "--control", _CONTROL_PORT)
        self._control = self._form.server(host, port, self._token)
        self._ready_file = None if options["ready_file"] is None else Path(options["ready_file"])

    def run(self, stopping: Stopping) -> int | None:
        """Serve until a signal comes; returns its number. Raises OperatorError."""
        return run_until_done(self._reactor, self._serve(), self._stop, stopping=stopping)

    def _made(self, authorities: Authorities | None) -> Form:
        """The form that the options ask for. Raises OperatorError and UsageError."""
        options = self._options
        workers = workers_of(options, self._state)
        anchor = authorities.anchor if options["lab"] and authorities is not None else None
        made = self._reactor, settings_of(options, anchor), authorities, _warn, self._state
        if workers == 1:
            return OneProcess(*made)
        several = Workers(*made, workers, options)
        several.service.on_failure = self._fail
        return several

    async def _serve(self) -> None:
        if self._options["until_eof"]:
            self._reactor.addReader(_EndOfInput(self._reactor, self._stop))
        try:
            if not self._stopped.called:
                self._starting = Deferred.fromCoroutine(self._start())
                await self._starting
            await self._stopped
        except CancelledError:  # stopped while it started
            pass
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure
        if lost := self._form.lost():
            raise WorkersLost(lost)

    async def _start(self) -> None:
        await self._form.open()
        if self._embedded is not None:
            self._embedded.listen()
        self._control.listen()
        info = await self._form.info()
        if self._ready_file is not None:
            ready = {"control": self._control.url, "token": self._token, **msgspec.to_builtins(info)}
            write_file(self._ready_file, json.dumps(ready, indent=1).encode(), private=True)
        with printing():
            self._print(info)
        if self._options["enroll"] is not None:
            self._form.enroll_start(lambda: self._stopped.called)

    async def _end(self) -> None:
        if self._ready_file is not None:
            with suppress(OSError):  # it was never written, or somebody removed it
                os.unlink(self._ready_file)
        await self._form.close()
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
        if self._starting is not None and not self._starting.called:
            self._starting.cancel()

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
    if options["enrollment"] == "ade" and options["device_ca"] is None and not options["lab"]:
        raise click.UsageError("--enrollment ade needs --device-ca or --lab")
    if options["enrollment"] == "ade" and options["enroll"] is not None and not is_url(options["enroll"]):
        raise click.UsageError("--enrollment ade needs a URL in --enroll")
    if options["network_users"] and not options["users"]:
        raise click.UsageError("--network-users is a share of the Macs with a user: it goes with --users")
    for name in ("apns_listen", "apns_provider_ca"):
        if options[name] and not options["apns"] and not options["lab"]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --apns or --lab")
    for name in ("segment_size", "os_version", "model"):
        if options[name] is not None and not options["devices"]:
            shown = "os" if name == "os_version" else name.replace("_", "-")
            raise click.UsageError(f"--{shown} is for the Macs of --devices; a request that adds Macs has its own")


def _embedded(
    reactor: Any,
    service: PushedService,
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
    from agent.service.workers.files import check_is_whole
    from agent.state.fleet import FleetState

    state = FleetState(Path(file), reactor)
    check_is_whole(state)
    folder = f"{file}.lab"
    make_folder(folder)
    return state, LabStore(Path(folder))


def _warn(text: str) -> None:
    with printing():
        click.echo(f"Warning: {text}", err=True)
