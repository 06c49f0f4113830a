"""The commands that show Macs of a seed without a server: ``answer``, ``attestation-root`` and ``fleet``."""
