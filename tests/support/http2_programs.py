"""nginx and nghttpd as servers that speak HTTP/2 over mutual TLS. They skip the test where they are missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from servers import AUTHORITY, HOST, IDENTITY, unused_port

from agent.net.http.http1 import Origin

_STARTS_WITHIN = 30.0  # seconds
_NGINX = """
{user}
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen {host}:{port} ssl{http2};
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        ssl_client_certificate {folder}/ca.pem;
        ssl_verify_client on;
        ssl_session_cache shared:mdm:1m;
        client_max_body_size 1m;
        {directives}
        location /mdm {{ return 200 "$server_protocol $ssl_client_s_dn $http_mdm_signature"; }}
        location /moved {{ return 307 https://$host:$server_port/mdm; }}
        location /large {{ alias {folder}/large; error_page 405 =200 $uri; }}
    }}
}}
"""


@dataclass
class Program:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def origin(self) -> Origin:
        """Its origin."""
        return Origin(HOST, self.port)

    def reload(self) -> None:
        """Have it read its configuration again: its old workers leave."""
        self.process.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def nginx(folder: Path, directives: str = "", *, http2: bool = True) -> Iterator[Program]:
    """nginx that answers /mdm with the version of HTTP, the certificate's name and the signature."""
    program = _program("nginx")
    _certificates(folder)
    (folder / "large").write_bytes(b"y" * 3_000_000)
    port = unused_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _NGINX.format(
            user="" if os.getuid() else "user root;",  # else its workers could not read the folder
            folder=folder,
            host=HOST,
            port=port,
            http2=" http2" if http2 else "",
            directives=directives,
        )
    )
    with _running([program, "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(configuration)], port) as found:
        yield found


@contextlib.contextmanager
def nghttpd(folder: Path, *options: str) -> Iterator[Program]:
    """nghttpd that answers with what was uploaded."""
    program = _program("nghttpd")
    _certificates(folder)
    port = unused_port()
    files = [str(folder / "server.pem")] * 2
    arguments = ["--echo-upload", "--verify-client", f"--address={HOST}", *options, str(port), *files]
    with _running([program, *arguments], port) as found:
        yield found


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _certificates(folder: Path) -> None:
    key = IDENTITY.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(IDENTITY.certificate.public_bytes(Encoding.PEM) + key)
    (folder / "ca.pem").write_bytes(AUTHORITY.certificate.public_bytes(Encoding.PEM))


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[Program]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield Program(port, process)
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            assert time.monotonic() < until, "the server does not listen"
            time.sleep(0.02)
        else:
            return
