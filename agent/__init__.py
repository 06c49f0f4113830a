"""lom-agent: fleets of simulated Macs with lights-out management, for testing Apple MDM servers.

Read the rooms downwards; each imports only from those above it:
errors, unix, pki, plists, mdm, lom, profiles, fleet, device, net, lab, load, report, cli.
"""

__version__ = "0.1.0"
