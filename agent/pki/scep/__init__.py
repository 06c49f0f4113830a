"""SCEP (RFC 8894): how a Mac gets its identity from a server, and how the embedded server gives one.

Bytes and keys in, bytes or certificates out; sending them is the work of ``net`` and ``lab``. Data goes through the
modules like this: ``caps`` and ``cacert`` read what the CA can do and who it is; ``csr`` writes the request for a
certificate from a profile's values; ``client`` wraps it (``envelope`` encrypts, ``messages`` signs) and reads the
answer; ``ca`` is the other side of the same.
"""
