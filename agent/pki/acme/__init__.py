"""ACME (RFC 8555) with the challenge device-attest-01: signatures, messages, steps, attestations. No I/O."""
