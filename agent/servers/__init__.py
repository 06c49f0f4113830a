"""How an MDM server is asked to queue a command, and to push: the side that its operator's tools use, not the Macs.

A ``configs`` object says which server and with which secret; ``opening`` makes a ``server.Server`` of it: ``lab``,
``nanomdm``, ``micromdm``, or ``webhook`` (any API, by ``templates``). Each has a ``pool`` of connections of its own.
"""
