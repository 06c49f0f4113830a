"""Declarative management of one Mac: declarations, predicates, assets, effects, status. No I/O."""
