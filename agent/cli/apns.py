"""The APNs gateway of a run, from the table ``[push]``: its address, certificate and behaviour."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from agent.cli.outputs import make_folder
from agent.errors import OperatorError
from agent.files import write_secret
from agent.load.gateway import APNsPlan
from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.gateway import NAMES
from agent.net.transport.anchors import read_anchors
from agent.pki.authority import SERVER_USAGE, Authority
from agent.pki.identity import Identity
from agent.scenario.types import PushPart, Scenario


def apns_plan(scenario: Scenario) -> APNsPlan | None:
    """The gateway of the scenario, or None. Raises OperatorError."""
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
        behaviour=PushBehaviour.of(push),
    )


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise OperatorError(f"Expected push.listen (--apns) as ADDRESS:PORT, such as 127.0.0.1:2197, found {text!r}.")
    return host, int(port)


def _identity(push: PushPart, host: str) -> Identity | None:
    if push.cert is not None and push.key is not None:
        own, *chain = read_anchors((push.cert,))
        return Identity(own, _read_key(Path(push.key)), tuple(chain))
    if push.tls is None:
        return None
    return gateway_authority(Path(push.tls)).issue(NAMES[0], SERVER_USAGE, names=[*NAMES, "127.0.0.1", "::1", host])


def gateway_authority(folder: Path) -> Authority:
    """The CA in a folder, made if it is missing and then kept, since servers trust it. Raises OperatorError."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    there = [path for path in (certificate, key) if path.exists()]
    if len(there) == 2:
        return Authority(Identity(read_anchors((str(certificate),))[0], _read_key(key)))
    if there:
        raise OperatorError(
            f"Expected ca.pem and ca.key in {folder}, found only {there[0].name}. Restore the other file, or name "
            "another folder: servers would have to trust a new CA."
        )
    make_folder(str(folder))
    authority = Authority.create(f"lom-agent APNs CA {os.urandom(4).hex()}")
    pem = authority.identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        write_secret(key, pem)
        certificate.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    except OSError as error:
        raise OperatorError(f"the gateway's CA cannot be written to {folder}: {error.strerror}") from error
    return authority


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise OperatorError(f"the key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise OperatorError(f"Expected an unencrypted private key in PEM in {path}, found: {error}.") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise OperatorError(f"Expected an RSA or elliptic curve key in {path}, found {type(key).__name__}.")
    return key
