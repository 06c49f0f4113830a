"""Checks of the URLs of server APIs, so that no secret is sent in plain text over a network."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from agent.errors import OperatorError
from agent.net.http.http1 import Origin, split_url, without_query
from agent.net.transport.resolver import is_loopback_name


def split_server_url(url: str, *, plain: bool) -> tuple[Origin, str]:
    """Origin and target of an API's URL. Raises OperatorError, also for http to other hosts than loopback.

    ``plain`` allows http to any host.
    """
    origin, target = split_url(url, plain=True)
    if "@" in urlsplit(url).netloc or "#" in url:
        raise OperatorError("the URL of a server's API can have neither a user and password nor a fragment")
    if not origin.secure and not plain and not _is_loopback(origin.host):
        raise OperatorError(
            f"{without_query(url)} would send secrets unencrypted over the network: use https://, "
            "or set plain_http = true"
        )
    return origin, target


def base_of(url: str, *, plain: bool) -> tuple[Origin, str]:
    """Origin and path of an API's base URL, the path without a trailing slash. Raises OperatorError."""
    origin, target = split_server_url(url, plain=plain)
    if "?" in target:
        raise OperatorError(f"the base URL {without_query(url)} of a server's API cannot have a query")
    return origin, target.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return is_loopback_name(host)
