"""Scenarios: what a load run does, written down in TOML.

``types`` has every key, ``phase_types`` those of the phases, ``values`` what they are made of. ``reading`` makes a
Scenario of a file and ``overrides``, with ``complaints`` about keys and values, ``check_tables`` and ``check_phases``
about what does not go together; ``shown`` is the way back, without secrets. ``keys`` knows the types as a tree of keys,
from which ``document`` writes the reference and ``template`` a file to begin with, in ``toml``. For the run ``targets``
says which Macs a phase is for and ``pacing`` how they come; ``summary`` is what a person reads of it before.
"""
