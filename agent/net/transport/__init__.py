"""Byte streams: TCP and TLS in the reactor, TLS contexts, name resolution, listening, addresses."""
