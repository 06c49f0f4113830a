"""Authorities, and the certificates that they issue: the lab's, a seed's, push certificates, invalid ones. No I/O."""
