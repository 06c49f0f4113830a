"""APNs as MDM servers and Macs see it, without I/O.

``requests`` validates a provider's request; it is refused with one of Apple's reasons (``reasons``) or by an injected
fault. ``broker`` delivers an accepted push now or after a delay (``delays``), or stores it (``store``)
until the Mac is online. ``counts`` holds the outcomes. ``wire`` encodes a request for the process that simulates the
Mac. ``agent.net.apns.gateway`` adds HTTP/2.
"""
