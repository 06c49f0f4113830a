"""LOM in the lab: its profiles, and its requests."""
