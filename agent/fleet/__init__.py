"""Who the Macs are: a seed and an index in, one complete Mac out; no I/O.

``derivation`` turns a seed into keyed hashes and permutations, ``models`` holds the Macs and macOS releases that
exist, ``population`` puts both together into the fleet that every later room asks.
"""
