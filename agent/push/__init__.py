"""APNs as an MDM server and its Macs see it, without I/O.

A provider's request (``requests``) is judged, and refused with a reason of Apple's (``reasons``) or by a rule for
faults (``rules``); what is accepted goes through ``broker``: delivered now or after a delay (``delays``), or kept in
``store`` until the Mac is back; ``counts`` says what became of it. ``wire`` is a request on its way to the process that
owns the Mac. ``agent.net.apns.gateway`` carries all that over HTTP/2.
"""
