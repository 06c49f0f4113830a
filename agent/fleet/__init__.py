"""The identities of the Macs: from a seed and an index, one complete Mac. No I/O.

``derivation`` turns a seed into keyed hashes and permutations, ``models`` has the tables of Mac models and macOS
releases, and ``population`` combines them into the fleet.
"""
