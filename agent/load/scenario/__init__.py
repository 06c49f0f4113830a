"""Scenarios: what a load run does, written down in TOML.

``types`` has every key; ``reading`` makes a Scenario of a file and the operator's overrides and checks it, with
``overrides``, ``checks`` and ``complaints``; ``keys`` knows the types as a tree of keys, from which ``document``
writes the reference and ``template`` a file to begin with; ``targets`` says which Macs a phase is for, ``pacing`` how
they come, ``summary`` what a person reads of it.
"""
