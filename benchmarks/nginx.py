"""An MDM server with minimal cost: nginx with client certificates and fixed answers, on a core of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.pki.identity import Identity
from agent.pki.issuing.authority import SERVER_USAGE, Authority

HOST = "127.0.0.1"
_STARTS_WITHIN = 10.0  # seconds

# A report of IDLE_LENGTH bytes is Idle; /command answers it with the command, and the result with an empty body.
# "return" answers before the body is read, which in HTTP/2 ends in RST_STREAM; below /read/ the body is read first.
# /mdm is one of the others while a file of that name exists in the folder.
_CONFIGURATION = """
worker_processes 1;
worker_cpu_affinity {affinity};
daemon off;
pid {folder}/pid;
error_log {folder}/error.log crit;
worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/1; fastcgi_temp_path {folder}/2;
    uwsgi_temp_path {folder}/3; scgi_temp_path {folder}/4;
    keepalive_requests 1000000000; keepalive_timeout 600s;
    server {{
        listen {host}:{port} ssl backlog=4096;
        listen {host}:{http2_port} ssl http2 backlog=4096;
        ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;
        ssl_client_certificate {folder}/ca.pem; ssl_verify_client on;
        ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets on;
        location /nothing {{ return 200 ""; }}
        location /command {{
            if ($content_length = {idle_length}) {{ return 200 '{command}'; }}
            return 200 "";
        }}
        location /once {{ keepalive_timeout 0; return 200 ""; }}
        location /checkin {{ return 200 ""; }}
        location /mdm {{
            if (-f {folder}/once) {{ rewrite ^ /once last; }}
            if (-f {folder}/command) {{ rewrite ^ /command last; }}
            return 200 "";
        }}
        location /read/ {{ proxy_pass http://unix:{folder}/plain:/; }}
    }}
    server {{
        listen unix:{folder}/plain;
        location /repeated {{ return 200 '{command}'; }}
        location /unique {{ add_header X-Request-Id $request_id; return 200 '{command}'; }}
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """Its address, and the authority of its own certificate; ``folder`` has the CA of the Macs' certificates.

    On ``http2_port`` it speaks HTTP/2 with clients that offer it.
    """

    port: int
    authority: Authority
    folder: Path
    http2_port: int

    def url(self, path: str) -> str:
        """A URL of this server."""
        return f"https://{HOST}:{self.port}/{path}"


def cores() -> tuple[int, int]:
    """The cores of the client and of the server; the same on a machine with one core."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


@contextlib.contextmanager
def server(
    folder: Path,
    command: bytes,
    idle_length: int,
    connections: int = 8192,
    *,
    authority: Authority | None = None,
    macs: Authority | None = None,
) -> Iterator[Server]:
    """Start it. At /command it answers a report of ``idle_length`` bytes with ``command``.

    ``authority`` issues its certificate, ``macs`` those of the Macs; by default one new CA issues both.
    """
    authority = authority or Authority.create("Benchmark CA")
    (folder / "ca.pem").write_bytes((macs or authority).certificate.public_bytes(Encoding.PEM))
    write_identity(folder / "server.pem", authority.issue("server", SERVER_USAGE, names=[HOST, "localhost"]))
    port, http2_port = _unused_port(), _unused_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(
        affinity=f"{1 << cores()[1]:b}", folder=folder, host=HOST, port=port, http2_port=http2_port,
        idle_length=idle_length,
        connections=connections, files=connections + 64, command=command.decode().replace("'", "\\'").replace("$", ""),
    ))  # fmt: skip
    nginx = subprocess.Popen([_program(), "-p", folder, "-e", f"{folder}/error.log", "-c", configuration])
    try:
        _wait_for(port)
        yield Server(port, authority, folder, http2_port)
    finally:
        nginx.terminate()
        nginx.wait(_STARTS_WITHIN)


def write_identity(path: Path, identity: Identity) -> None:
    """Write a certificate and its key as PEM."""
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(identity.certificate.public_bytes(Encoding.PEM) + key)


def skip_without(*programs: str) -> None:
    """End the benchmark with a message if a program that it needs is missing."""
    wanted = {"nginx": "nginx (Debian package nginx-light)", "cc": "a C compiler (Debian packages gcc, libssl-dev)"}
    for program in programs:
        if _found(program) is None:
            print(f"skipped: {wanted[program]} is missing")
            sys.exit(0)


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _program() -> str:
    found = _found("nginx")
    assert found is not None
    return found


def _unused_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def _wait_for(port: int) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
