"""Lights-out management: addresses, the link's messages, its Device end and Controller end, the power machine."""
