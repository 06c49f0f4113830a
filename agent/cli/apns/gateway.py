"""The APNs gateway of a run, from the table ``[push]``: its address, certificate and behaviour."""

from __future__ import annotations

import os
from pathlib import Path

from agent.cli.results.outputs import make_folder
from agent.errors import OperatorError
from agent.files import write_file
from agent.load.conductor.gateway import APNsPlan
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.gateway import NAMES
from agent.net.transport.addresses import parse_address
from agent.net.transport.anchors import read_anchors, read_identity
from agent.pki.identity import Identity
from agent.pki.issuing.authority import SERVER_USAGE, Authority
from agent.pki.pem import certificate_pem, key_pem
from agent.scenario.types import PushPart, Scenario


def apns_plan(scenario: Scenario) -> APNsPlan | None:
    """The gateway of the scenario, or None. Raises OperatorError."""
    push = scenario.push
    if not push.enabled or push.listen is None:
        return None
    host, port = parse_address(push.listen, "push.listen (--apns)", 2197, names=True)
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
        behaviour=PushBehaviour.of(push),
    )


def _identity(push: PushPart, host: str) -> Identity | None:
    if push.cert is not None and push.key is not None:
        return read_identity(push.cert, push.key)
    if push.tls is None:
        return None
    return gateway_authority(Path(push.tls)).issue(NAMES[0], SERVER_USAGE, names=[*NAMES, "127.0.0.1", "::1", host])


def gateway_authority(folder: Path) -> Authority:
    """The CA in a folder, made if it is missing and then kept, since servers trust it. Raises OperatorError."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    there = [path for path in (certificate, key) if path.exists()]
    if len(there) == 2:
        return Authority(read_identity(str(certificate), str(key)))
    if there:
        raise OperatorError(
            f"Expected ca.pem and ca.key in {folder}, found only {there[0].name}. Restore the other file, or name "
            "another folder: servers would have to trust a new CA."
        )
    make_folder(str(folder))
    authority = Authority.create(f"lom-agent APNs CA {os.urandom(4).hex()}")
    write_file(key, key_pem(authority.identity.key), private=True)
    write_file(certificate, certificate_pem(authority.certificate))
    return authority
