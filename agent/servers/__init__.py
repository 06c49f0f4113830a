"""Clients of the operator APIs of MDM servers: queue a command, send a push.

An object of ``configs`` selects the server and its credentials; ``opening`` creates the ``server.Server`` for it:
``lab``, ``nanomdm``, ``micromdm``, or ``webhook`` (any API, by ``templates``). Each has its own connection ``pool``.
"""
