"""Names that vulture reports although something uses them, each with what uses it; last the names to delete."""

from __future__ import annotations

_CLICK = "click calls it by its decorator"
_CLICK_HOOK = "click calls it by its name"
_LAZY = "agent.cli.commands imports it by its name"
_ROUTE = "agent.service.routes names it"
_TWISTED = "Twisted calls or reads it by its name"
_EXPAT = "expat calls or reads it by its name"
_PROTOCOL = "a parameter or method of a typing.Protocol"
_CONTROL = "a control API calls it; part of what a program can do with the rules and exchanges of a fleet"
_TESTS = "the tests judge by it: they read the same facts and counts as the program"

ALLOWED = {
    "cli.apns_identity: apns_identity": _LAZY,
    "cli.commands: format_commands": _CLICK_HOOK,
    "cli.commands: get_command": _CLICK_HOOK,
    "cli.commands: list_commands": _CLICK_HOOK,
    "cli.lom: lom_device": _LAZY,
    "cli.lom: lom_identity": _LAZY,
    "cli.lom: lom_request": _LAZY,
    "cli.scenario_options: format_options": _CLICK_HOOK,
    "cli.serve: serve": _LAZY,
    "net.http.server: noisy": _TWISTED,
    "cli.fleet: fleet_show": _CLICK,
    "cli.scenario: scenario_check": _CLICK,
    "cli.scenario: scenario_doc": _CLICK,
    "cli.scenario: scenario_new": _CLICK,
    "device.packed: reducer_override": "pickle calls it by its name",
    "faults: reset_counts": _CONTROL,
    "fleet.derivation: PRIMARY_ETHERNET": "one of the four port numbers, which are assigned together",
    "fleet.derivation: SECONDARY_ETHERNET": "one of the four port numbers, which are assigned together",
    "lab.api: isLeaf": _TWISTED,
    "lab.server: isLeaf": _TWISTED,
    "lab.server: render_GET": _TWISTED,
    "lab.server: render_POST": _TWISTED,
    "lab.server: render_PUT": _TWISTED,
    "lab.server: serverConnectionForTLS": _TWISTED,
    "plists.lenient_xml: CharacterDataHandler": _EXPAT,
    "plists.lenient_xml: EndElementHandler": _EXPAT,
    "plists.lenient_xml: SkippedEntityHandler": _EXPAT,
    "plists.lenient_xml: StartElementHandler": _EXPAT,
    "plists.lenient_xml: buffer_text": _EXPAT,
    "mdm.facts: deprecated": _TESTS,
    "mdm.facts: is_in": _TESTS,
    "measure.exchanges: last_number": _CONTROL,
    "measure.latencies: max_value": "hdrhistogram reads it",
    "net.apns.connection: local_settings": "h2 reads it",
    "net.apns.connection: max_header_list_size": "hpack reads it",
    "net.apns.gateway: __call__": _PROTOCOL,
    "net.http.connection: handshakes_full": _TESTS,
    "net.http.connection: handshakes_resumed": _TESTS,
    "net.timing: writer": _PROTOCOL,
    "net.transport.listener: connectionLost": _TWISTED,
    "net.transport.listener: logPrefix": _TWISTED,
    "net.transport.resolver: addressResolved": _TWISTED,
    "net.transport.resolver: resolution": _TWISTED,
    "net.transport.resolver: resolutionBegan": _TWISTED,
    "net.transport.resolver: resolutionComplete": _TWISTED,
    "net.transport.stream: connectionLost": _TWISTED,
    "net.transport.stream: doWrite": _TWISTED,
    "net.transport.stream: logPrefix": _TWISTED,
    "net.transport.tls: __call__": _PROTOCOL,
    "net.transport.tls: handshakes_full": _TESTS,
    "net.transport.tls: handshakes_resumed": _TESTS,
    "report.terminal.screen: no_wrap": "rich reads it",
    "report.terminal.screen: overflow": "rich reads it",
    "service.api: add_macs": _ROUTE,
    "service.api: advance_clock": _ROUTE,
    "service.api: mains": _ROUTE,
    "service.api: remove_mac": _ROUTE,
    "service.api: remove_macs": _ROUTE,
    "service.api: remove_rule": _ROUTE,
    "service.api: remove_rules": _ROUTE,
    "service.control: isLeaf": _TWISTED,
    "service.streams: pauseProducing": _TWISTED,
    "service.streams: resumeProducing": _TWISTED,
    "service.prometheus: collect": "prometheus_client calls it by its name",
    "service.prometheus: isLeaf": _TWISTED,
}
