"""Scenarios: the TOML files that describe a load run.

``types`` and ``server_table`` declare every key; keys that are settings of another module are inherited from it.
``reading`` makes a Scenario from a file and overrides, with ``complaints`` for errors in keys and values,
``check_tables`` and ``check_phases`` for keys that contradict each other; ``redacted`` turns a Scenario back into plain
data without secrets. ``keys`` presents the types as a tree of keys, from which ``reference`` makes docs/scenario.md and
``template`` a new scenario, in ``toml``. For the run, ``targets`` selects the Macs of a phase, ``arrivals`` and
``pacing`` decide when each one starts; ``summary`` is the output of a dry run.
"""
