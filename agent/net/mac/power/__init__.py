"""A Mac's power and presence, and its answers to LOM requests."""
