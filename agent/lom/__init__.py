"""Lights-out management (LOM): addresses, link messages, Device and Controller ends of a link, power state. No I/O."""
