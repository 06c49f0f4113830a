"""Network I/O on Twisted's reactor: TLS, HTTP/1.1, a Mac's MDM client, APNs and the LOM link.

The protocol packages decide what is sent; this package sends and receives it, and keeps the time limits.
"""
