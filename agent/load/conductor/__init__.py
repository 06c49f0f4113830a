"""The conductor of a run, and what it knows: workers, phases, changes, the server, pushes, the state file."""
