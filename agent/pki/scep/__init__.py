"""SCEP (RFC 8894): a Mac requests its identity from a CA, and the embedded lab issues it. No I/O.

``caps`` and ``cacert`` read the answers to GetCACaps and GetCACert; ``csr`` writes the certificate request from a
profile's values; ``client`` wraps it (``envelope`` encrypts, ``messages`` signs) and reads the answer; ``ca`` is the
CA's side. ``agent.net`` and ``agent.lab`` send the messages.
"""
