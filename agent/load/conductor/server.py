"""The server of a run: the embedded lab, which is started here, or the operator's own server.

Reads what a scenario refers to (URLs, files, environment variables) and makes plain data of it for the shards' plans.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from agent.errors import OperatorError
from agent.files import read_file
from agent.fleet.population import Population
from agent.lab.stored.keeping import lab_server, listen
from agent.lab.stored.store import LabStore
from agent.lab.web.server import LabServer
from agent.load.control.listening import LOOPBACK, ListenAt
from agent.load.machine.limits import allow_open_files
from agent.load.shard.plan import EnrollAt, EnrollAutomatically, EnrollWith, server_data
from agent.net.http.http1 import split_url
from agent.net.mac.enrollment.device_ca import device_ca_of
from agent.net.transport.anchors import read_anchors
from agent.pki.issuing.authorities import Authorities
from agent.pki.issuing.device_ca import device_ca_pem
from agent.scenario.server_table import WebhookPart, WebRequest
from agent.scenario.types import Scenario
from agent.servers.configs import (
    LabConfig,
    LOMTemplates,
    MicroMDMConfig,
    NanoMDMConfig,
    RequestTemplate,
    ServerConfig,
    Trust,
    WebhookConfig,
)

MAX_PROFILE_BYTES = 8 * 1024 * 1024
MAX_SECRET_BYTES = 4096


class ServerSide:
    """The server side of a run. ``lab`` is the embedded lab, or None; the other attributes are fields of ShardPlan.

    ``state`` is the folder of the embedded lab's state; None: it ends with the process. It listens at ``listen``.
    """

    def __init__(
        self,
        reactor: Any,
        scenario: Scenario,
        population: Population,
        state: Path | None = None,
        listen: ListenAt = LOOPBACK,
    ) -> None:
        self._store: LabStore | None = None
        self.lab: LabServer | None = None
        self.enroll: EnrollAt | EnrollWith | EnrollAutomatically = EnrollAt("")
        self.anchors: tuple[bytes, ...] = ()
        self.config: dict[str, Any] | None = None
        self._server = scenario.server
        self._port = 0
        server = scenario.server
        if server.adapter == "lab" and server.lab is None:
            allow_open_files(len(population))
            if state is not None:
                self._store = _store(state)
            store = self._store
            authorities = Authorities(None if store is None else store.authorities)
            self._port = listen.port
            self.lab = lab_server(
                reactor,
                store,
                authorities,
                scep=server.identity == "scep",
                acme=server.identity == "acme",
                host=listen.host,
                names=listen.names,
            )
        else:
            self.anchors = tuple(anchor.public_bytes(Encoding.DER) for anchor in read_anchors(server.ca))
            config = _config(scenario)
            self.config = None if config is None else server_data(config)
            self.enroll = _enroll(scenario)

    def open(self, note: Callable[[str], None]) -> None:
        """Start the embedded lab, if there is one. Raises OperatorError."""
        lab = self.lab
        if lab is None:
            return
        listen(lab, self._store, self._port)
        note(f"The lab, an embedded MDM server, listens on {lab.url}")
        pem = lab.authorities.anchor.public_bytes(Encoding.PEM).decode("ascii")
        self.anchors = (lab.authorities.anchor.public_bytes(Encoding.DER),)
        self.enroll = EnrollAt(lab.enrollment_url)
        if self._server.enrollment == "ade":
            ca = device_ca_pem(lab.authorities.device_authority)
            self.enroll = EnrollAutomatically(lab.automated_url, ca, self._server.await_configuration)
        self.config = server_data(LabConfig(lab.url, lab.token, Trust(pem, system=False)))

    async def close(self) -> None:
        """Stop the embedded lab."""
        if self.lab is not None:
            await self.lab.close()
        if self._store is not None:
            self._store.close()


def _store(folder: Path) -> LabStore:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"the folder {folder} for the lab's state cannot be made: {error.strerror}") from error
    return LabStore(folder)


def _enroll(scenario: Scenario) -> EnrollAt | EnrollWith | EnrollAutomatically:
    """How the Macs enroll. Raises OperatorError."""
    server = scenario.server
    source = server.enroll
    if source is None:
        if server.lab is None:
            raise OperatorError("the scenario's [server] needs `enroll`, the enrollment profile of the server")
        source = f"{server.lab.url.rstrip('/')}/enroll"
    if source.startswith(("https://", "http://")):
        split_url(source)
        if server.enrollment == "ade" and server.device_ca is not None:
            return EnrollAutomatically(source, device_ca_of(server.device_ca), server.await_configuration)
        return EnrollAt(source)
    profile = read_file(source, "the enrollment profile", MAX_PROFILE_BYTES)
    return EnrollWith(profile)


def _config(scenario: Scenario) -> ServerConfig | None:
    """The configuration of the server's API; None if the scenario has none. Raises OperatorError."""
    server = scenario.server

    def trust(files: tuple[str, ...]) -> Trust:
        anchors = read_anchors(files or server.ca)
        pem = "".join(anchor.public_bytes(Encoding.PEM).decode("ascii") for anchor in anchors)
        return Trust(pem, system=True, insecure=server.insecure)

    if server.adapter == "lab" and server.lab is not None:
        token = read_file(server.lab.token_file, "the token of the lab's API", MAX_SECRET_BYTES)
        return LabConfig(
            server.lab.url.rstrip("/"),
            _text(token, server.lab.token_file),
            trust(server.lab.ca),
            push=bool(scenario.push.enabled),
        )
    if server.adapter == "nanomdm" and server.nanomdm is not None:
        nano = server.nanomdm
        key = _api_key("NanoMDM", nano.api_key_env, nano.api_key_file)
        return NanoMDMConfig(
            nano.url.rstrip("/"),
            key,
            user=nano.user,
            trust=trust(nano.ca),
            push=bool(scenario.push.enabled),
            plain=nano.plain_http,
        )
    if server.adapter == "micromdm" and server.micromdm is not None:
        micro = server.micromdm
        key = _api_key("MicroMDM", micro.api_key_env, micro.api_key_file)
        return MicroMDMConfig(micro.url.rstrip("/"), key, micro.user, trust(micro.ca), plain=micro.plain_http)
    if server.adapter == "webhook" and server.webhook is not None:
        hook = server.webhook
        push = None if hook.push is None else _template(hook.push)
        return WebhookConfig(_template(hook.enqueue), push, trust(hook.ca), plain=hook.plain_http, lom=_lom(hook))
    return None


def _lom(hook: WebhookPart) -> LOMTemplates | None:
    if hook.lom_profile is None or hook.lom_setup is None or hook.lom_request is None:
        return None
    return LOMTemplates(_template(hook.lom_profile), _template(hook.lom_setup), _template(hook.lom_request))


def _template(request: WebRequest) -> RequestTemplate:
    return RequestTemplate(request.method, request.url, tuple(request.headers.items()), request.body)


def _api_key(whose: str, variable: str | None, path: str | None) -> str:
    if path is not None:
        return _text(read_file(path, f"{whose}'s API key", MAX_SECRET_BYTES), path)
    key = os.environ.get(variable or "", "")
    if not key:
        raise OperatorError(f"Expected {whose}'s API key in the environment variable {variable}, found none. Set it.")
    return key


def _text(octets: bytes, path: str) -> str:
    try:
        return octets.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise OperatorError(f"Expected UTF-8 text in {path}, found other bytes.") from error
