"""The Macs of one process, and what they share."""
