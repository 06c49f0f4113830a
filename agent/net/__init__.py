"""Saying it: TLS, the HTTP/1.1 client, a Mac's MDM client and the LOM link, on Twisted's reactor.

The protocol rooms above decide what is said; this room carries it over sockets and times it.
"""
