"""Scenarios: the TOML files that describe a load run.

``types`` and ``server_table`` declare every key; keys that are settings of another module are inherited from it.
``reading`` makes a Scenario from a file and overrides, with ``checks.complaints`` for errors in keys and values,
``checks.tables`` and ``checks.phases`` for keys that contradict each other; ``writing.redacted`` turns a Scenario back
into plain data without secrets. ``keys`` presents the types as a tree of keys, from which ``writing.reference`` makes
docs/scenario.md and ``writing.template`` a new scenario, in ``writing.toml``. For the run, ``targets`` selects the Macs
of a phase, ``arrivals`` and ``pacing`` decide when each one starts; ``writing.summary`` is the output of a dry run.
"""
