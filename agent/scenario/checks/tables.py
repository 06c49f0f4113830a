"""Checks of tables that types cannot express, and the values of keys that are derived from others.

Each error names its keys. ``check_phases`` has the checks of phases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from urllib.parse import urlsplit

from msgspec import structs

from agent.errors import OperatorError
from agent.faults.decisions import Faults
from agent.fleet.durations import parse_duration
from agent.fleet.models import HARDWARE_BOUND_SINCE, os_from, os_text
from agent.measure.limits import parse_limit
from agent.net.lom.networks import LOOPBACK, MEMORY, parse_network
from agent.net.mac.fleet.keys import MAX_POOL, parse_keys
from agent.net.transport.addresses import parse_address
from agent.scenario.keys import keys_of
from agent.scenario.server_table import ServerPart, WebhookPart, WebRequest
from agent.scenario.types import FleetPart, LoadPart, PushPart, Scenario
from agent.servers.configs import RequestTemplate
from agent.servers.templates import COMMAND_NAMES, LOM_PROFILE_NAMES, LOM_REQUEST_NAMES, MAC_NAMES, Template

LISTEN = "127.0.0.1:0"
AUTOMATED_PATH = "/ade"  # of a lab
ENROLL_PATH = "/enroll"  # of a lab, docs/lab-api.md
_ADAPTER_TABLES = ("lab", "nanomdm", "micromdm", "webhook")


def checked_tables(scenario: Scenario) -> Scenario:
    """The scenario with derived values in its tables; its phases are unchanged. Raises OperatorError."""
    if not scenario.name.isprintable():
        raise OperatorError("name: expected one line of printable text, found control characters or line ends")
    fleet = _checked_fleet(scenario.fleet, scenario.server)
    _check_text("lom.network", scenario.lom.network, parse_network)
    for number, limit in enumerate(scenario.limits):
        _check_text(f"limits[{number}]", limit, parse_limit)
    _check_load(scenario.load)
    server = _checked_server(scenario.server)
    checked = structs.replace(scenario, fleet=fleet, server=server, push=_checked_push(scenario.push, server))
    _check_rules(checked)
    return checked


def has_embedded_lab(server: ServerPart) -> bool:
    """Whether the run has the embedded lab as its server."""
    return server.adapter == "lab" and server.lab is None


def can_push(scenario: Scenario) -> bool:
    """Whether the server of a checked scenario can be asked to push to the run's gateway."""
    server = scenario.server
    asks = server.adapter != "none" and (server.webhook is None or server.webhook.push is not None)
    return asks and bool(scenario.push.enabled)


def _check_rules(scenario: Scenario) -> None:
    """Refuse ids that occur twice, and rules that could never do anything."""
    memory = parse_network(scenario.lom.network).kind == MEMORY
    faults = Faults()
    for number, rule in enumerate(scenario.rules):
        where = f"rule[{number}]"
        try:
            faults.add(rule, 0.0)
        except OperatorError as error:
            raise OperatorError(f"{where}: {error}") from error
        if rule.on == "push" and not scenario.push.enabled:
            raise OperatorError(f'{where} has on = "push", but there is no gateway; set push.listen or push.enabled')
        if rule.on == "lom_link" and rule.do == "delay" and memory:
            raise OperatorError(
                f'{where} delays LOM links, which take no time with lom.network = "{MEMORY}"; use "{LOOPBACK}"'
            )


def _checked_fleet(fleet: FleetPart, server: ServerPart) -> FleetPart:
    _check_text("fleet.boot", fleet.boot, parse_duration)
    _check_text("fleet.shutdown", fleet.shutdown, parse_duration)
    _check_text("fleet.update", fleet.update, parse_duration)
    if fleet.network_users and not fleet.users:
        raise OperatorError("fleet.network_users is the share of the Macs of fleet.users, which is 0; set it, too")
    if fleet.supervised != 1.0 and server.enrollment == "ade":
        raise OperatorError(
            'fleet.supervised is the share of the Macs that a profile supervises, but with server.enrollment = "ade" '
            "each is supervised; remove one of them"
        )
    _ = fleet.population  # an unknown version or model
    if not has_embedded_lab(server) or server.identity != "acme":
        return fleet
    try:
        os = os_from(HARDWARE_BOUND_SINCE, os_text(fleet.os), fleet.model)
    except OperatorError as error:
        raise OperatorError(
            f'fleet.os (--os) with server.identity = "acme", whose keys are bound to the hardware: {error}'
        ) from None
    return fleet if os == os_text(fleet.os) else structs.replace(fleet, os=os)


def _check_load(load: LoadPart) -> None:
    if load.rate is not None and load.concurrency is not None:
        raise OperatorError("load has rate and concurrency; give one: arrivals per second, or Macs at a time")
    if load.arrivals == "poisson" and load.concurrency is not None:
        raise OperatorError('load has concurrency and arrivals = "poisson"; give rate instead of concurrency')


def _checked_server(server: ServerPart) -> ServerPart:
    embedded = has_embedded_lab(server)
    for name in _ADAPTER_TABLES:
        if name != server.adapter and getattr(server, name) is not None:
            raise OperatorError(f'server.{name} needs server.adapter = "{name}", found "{server.adapter}"')
    if server.adapter in ("nanomdm", "micromdm", "webhook") and getattr(server, server.adapter) is None:
        raise OperatorError(f'server.adapter is "{server.adapter}", but the table [server.{server.adapter}] is missing')
    if embedded:
        for name in ("enroll", "ca", "insecure"):
            if getattr(server, name):
                raise OperatorError(
                    f'server.{name} is for a server of your own; the embedded lab (adapter = "lab") needs none'
                )
    if server.keys != "unique" and not _is_pool(server.keys):
        raise OperatorError(
            f'server.keys: expected unique or pool:N with N from 1 to {MAX_POOL:,}, found "{server.keys}"'
        )
    if embedded and server.keys != "unique" and server.identity != "scep":
        raise OperatorError(
            "server.keys (--keys) is about keys for SCEP, but the lab uses "
            f"{server.identity}; set "
            'server.identity = "scep" (--identity scep)'
        )
    _check_addresses(server)
    _check_enrollment(server, embedded=embedded)
    if server.lab is not None and server.enroll is None:
        path = AUTOMATED_PATH if server.enrollment == "ade" else ENROLL_PATH
        return structs.replace(server, enroll=server.lab.url.rstrip("/") + path)
    if not embedded and server.enroll is None:
        raise OperatorError(
            f'server.enroll is missing: the URL or the FILE of the enrollment profile (adapter is "{server.adapter}")'
        )
    return server


def _check_enrollment(server: ServerPart, *, embedded: bool) -> None:
    """Check the keys of automated enrollment. Raises OperatorError."""
    if server.enrollment != "ade":
        if server.device_ca is not None:
            raise OperatorError('server.device_ca needs server.enrollment = "ade"')
        if not server.await_configuration:
            raise OperatorError('server.await_configuration = false needs server.enrollment = "ade"')
        return
    if embedded and server.device_ca is not None:
        raise OperatorError("server.device_ca is for a server of your own; the embedded lab has a CA of its own")
    if not embedded and server.device_ca is None:
        raise OperatorError(
            'server.enrollment is "ade", but server.device_ca is missing: the FILE of the test CA that issues the '
            "identities of the Macs, and that your server trusts"
        )
    if server.enroll is not None and "://" not in server.enroll:
        raise OperatorError('server.enrollment is "ade": expected a URL in server.enroll, found a file')


def _check_addresses(server: ServerPart) -> None:
    if server.enroll is not None and "://" in server.enroll:
        _check_url("server.enroll", server.enroll)
    if server.lab is not None:
        _check_url("server.lab.url", server.lab.url)
    for name, api in (("nanomdm", server.nanomdm), ("micromdm", server.micromdm)):
        if api is not None:
            _check_url(f"server.{name}.url", api.url)
            if (api.api_key_env is None) == (api.api_key_file is None):
                raise OperatorError(f"server.{name} needs one of api_key_env and api_key_file")
    if server.webhook is not None:
        hook = server.webhook
        _check_request("server.webhook.enqueue", hook.enqueue, MAC_NAMES + COMMAND_NAMES, plain=hook.plain_http)
        if hook.push is not None:
            _check_request("server.webhook.push", hook.push, MAC_NAMES, plain=hook.plain_http)
        _check_lom_requests(hook)


def _check_lom_requests(hook: WebhookPart) -> None:
    requests: dict[str, tuple[WebRequest | None, tuple[str, ...]]] = {
        "lom_profile": (hook.lom_profile, LOM_PROFILE_NAMES),
        "lom_setup": (hook.lom_setup, ()),
        "lom_request": (hook.lom_request, LOM_REQUEST_NAMES),
    }
    missing = [name for name, (request, _) in requests.items() if request is None]
    if 0 < len(missing) < len(requests):
        raise OperatorError(
            f"server.webhook needs lom_profile, lom_setup and lom_request, or none of them; {missing[0]} is missing"
        )
    for name, (request, names) in requests.items():
        if request is not None:
            _check_request(f"server.webhook.{name}", request, MAC_NAMES + names, plain=hook.plain_http)


def _check_request(where: str, request: WebRequest, names: tuple[str, ...], *, plain: bool) -> None:
    """Refuse a request whose templates cannot be filled in; environment variables may be set later, for the run."""
    template = RequestTemplate(request.method, request.url, tuple(request.headers.items()), request.body)
    try:
        Template(template, names, _Anything(lambda: "x"), plain=plain)
    except OperatorError as error:
        raise OperatorError(f"{where}: {error}") from None


class _Anything(defaultdict[str, str]):
    """An environment in which every variable is set."""

    def __contains__(self, _name: object) -> bool:
        return True


def _checked_push(push: PushPart, server: ServerPart) -> PushPart:
    embedded = has_embedded_lab(server)
    enabled = (embedded or push.listen is not None) if push.enabled is None else push.enabled
    if push.delay is not None:
        _check_text("push.delay", push.delay, parse_duration)
    if push.listen is not None:
        parse_address(push.listen, "push.listen (--apns)", 2197, names=True)
    if (push.cert is None) != (push.key is None):
        raise OperatorError("push.cert and push.key need each other; give both")
    if push.cert is not None and push.tls is not None:
        raise OperatorError("push.tls and push.cert are alternatives; give one of them")
    if not enabled:
        given = next((name for name in keys_of(PushPart) if name != "enabled" and getattr(push, name)), None)
        if given is not None:
            raise OperatorError(
                f"push.{given} is for the gateway, but there is none; set push.listen or push.enabled = true"
            )
    elif not embedded and push.cert is None and push.tls is None:
        raise OperatorError(
            "push needs tls, or cert and key: the certificate of the gateway, which your server must trust"
        )
    return structs.replace(push, enabled=enabled, listen=(push.listen or LISTEN) if enabled else None)


def _check_url(key: str, text: str) -> None:
    try:
        parts = urlsplit(text)
        secret = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise OperatorError(f"{key} is not a valid URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.netloc:
        found = f"the scheme {parts.scheme}" if parts.scheme else "no scheme"  # not the text: it may hold a password
        raise OperatorError(f"{key}: expected a URL with http:// or https:// and a host, found one with {found}")
    if secret:
        raise OperatorError(f"{key} has a user or a password; scenarios contain no secrets: use a file or {{env:NAME}}")


def _is_pool(text: str) -> bool:
    try:
        return parse_keys(text) is not None
    except OperatorError:
        return False


def _check_text(key: str, text: str, parse: Callable[[str], object]) -> None:
    """Parse ``text``; an OperatorError begins with the key."""
    try:
        parse(text)
    except OperatorError as error:
        raise OperatorError(f"{key}: {error}") from error
